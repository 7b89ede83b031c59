"""Who holds what after etcd went back, by what nodes report of the tokens stored with the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.coordinator.protocol.dataset import Dataset, Invalid
from drover.coordinator.protocol.recovery import ROOM, Plan, Restored, plan
from drover.coordinator.records import Holder, State, Tenure
from drover.coordinator.reports import NodeReport, VolumeReport
from drover.coordinator.specs import DatasetSpec

SPEC = DatasetSpec.model_validate({"backend": "loopback", "size": "1GiB", "failover": "any"})


def volume(name: str = "d", epoch: int = 7, uid: str = "u1", node: str = "b", **changes: Any) -> VolumeReport:
    made = {
        "dataset": name,
        "uid": uid,
        "backend": "loopback",
        "object": f"{uid}.img",
        "cluster": "c",
        "epoch": epoch,
        "incarnation": f"{node}.1",
        "node": node,
        "born": True,
        "size": 2**30,
        "fs": "xfs",
    }
    return VolumeReport.model_validate(made | changes)


def dataset(epoch: int = 3, uid: str = "u1", state: State = State.ACTIVE, **changes: Any) -> Dataset:
    made = {
        "node": "a",
        "incarnation": "a.1",
        "epoch": epoch,
        "state": state,
        "uid": uid,
        "created": 5,
        "backend": "loopback",
        "born": True,
        "txn": "t",
    }
    return Dataset("d", SPEC, 5, 5, tenure=Tenure.model_validate(made | changes), tenure_revision=9)


def planned(
    *volumes: VolumeReport,
    d: Dataset | None = None,
    expected: tuple[str, ...] = (),
    use: Mapping[str, str] | None = None,
) -> Plan:
    reports = [NodeReport(node="a", volumes=volumes), NodeReport(node="b", volumes=volumes)]
    return plan({"d": d} if d else {}, reports, "c", expected, use or {}, "life", "now")


def only(made: Plan) -> Restored:
    assert made.problems == ()
    (restored,) = made.restored
    return restored


def test_the_token_says_who_had_it_last_and_etcd_what_it_is() -> None:
    restored = only(planned(volume(epoch=7), d=dataset(epoch=3)))
    tenure = restored.tenure
    assert (tenure.node, tenure.state, tenure.uid, tenure.created, tenure.born) == ("b", State.ACTIVE, "u1", 5, True)
    assert restored.notes == ("etcd had lost epochs after 3",)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_epoch_is_above_all_that_was_stored_anywhere(stored: int, known: int) -> None:
    assert only(planned(volume(epoch=stored), d=dataset(epoch=known))).tenure.epoch == max(stored, known) + ROOM


def test_the_epoch_belongs_to_nobody_who_ever_lived_and_all_others_are_to_be_cut_off() -> None:
    d = dataset(unfenced=(Holder(node="z", incarnation="z.1"),))
    tenure = only(planned(volume(), d=d)).tenure
    assert tenure.incarnation == "b.recovered.life"
    assert {holder.incarnation for holder in tenure.unfenced} == {"a.1", "b.1", "z.1"}


def test_what_was_given_up_stays_so_unless_the_data_is_newer() -> None:
    released = dataset(epoch=7, state=State.RELEASED)
    assert only(planned(volume(epoch=7), d=released)).tenure.state is State.RELEASED
    assert only(planned(volume(epoch=8), d=released)).tenure.state is State.ACTIVE


def test_what_was_destroyed_stays_destroyed_with_a_higher_epoch() -> None:
    tenure = only(planned(d=dataset(state=State.DESTROYED))).tenure
    assert (tenure.state, tenure.epoch) == (State.DESTROYED, 3 + ROOM)


def test_a_dataset_that_etcd_lost_is_declared_again_with_the_volume_that_it_had() -> None:
    restored = only(planned(volume()))
    assert restored.spec is not None
    assert (restored.spec.backend, restored.spec.size, restored.spec.fs, restored.spec.failover) == (
        "loopback",
        2**30,
        "xfs",
        "none",
    )
    assert (restored.tenure.uid, restored.tenure.object, restored.tenure.reclaim) == ("u1", "u1.img", "retain")


def test_a_lost_dataset_whose_back_end_tells_no_file_system_is_declared_with_the_usual_one() -> None:
    restored = only(planned(volume(fs="")))
    assert restored.spec is not None
    assert restored.spec.fs is None


def test_a_new_volume_under_the_name_of_one_that_is_gone_is_taken_and_kept_by_the_spec_that_is_there() -> None:
    restored = only(planned(volume(uid="u2"), d=dataset(uid="u1", reclaim="delete")))
    assert (restored.tenure.uid, restored.tenure.created, restored.tenure.reclaim) == ("u2", 5, "retain")
    assert restored.spec is None


@pytest.mark.parametrize("d", [dataset(uid="u1"), None])
def test_of_several_volumes_a_person_says_which(d: Dataset | None) -> None:
    two = (volume(uid="u1", epoch=3), volume(uid="u2", epoch=1))
    made = planned(*two, d=d)
    assert made.restored == ()
    assert "--use d=UID" in made.problems[0]
    assert "u1 (epoch 3, last on b)" in made.problems[0]
    assert only(planned(*two, d=d, use={"d": "u2"})).tenure.uid == "u2"
    assert planned(*two, d=d, use={"d": "u3"}).problems


@pytest.mark.parametrize("spec", [SPEC, Invalid("the value is not JSON")])
def test_a_dataset_that_nobody_ever_had_stands_in_nobodys_way(spec: DatasetSpec | Invalid) -> None:
    made = plan({"new": Dataset("new", spec, 5, 5), "d": dataset()}, [], "c", (), {}, "life", "now")
    assert only(made).dataset.name == "d"


def test_volumes_of_other_clusters_are_left_alone() -> None:
    assert planned(volume(cluster="another")) == Plan((), ())


def test_data_that_nobody_reports_is_told_and_not_forgotten() -> None:
    restored = only(planned(d=dataset()))
    assert (restored.tenure.born, restored.notes) == (True, ("no node has reported its data",))


def test_every_node_must_have_reported_and_let_go() -> None:
    assert planned(expected=("a", "b")).problems == ()
    assert "node gone has not reported" in planned(expected=("a", "gone")).problems[0]
    assert "a still has d" in planned(volume(here=True), d=dataset()).problems[0]


def test_of_two_reports_of_one_volume_the_higher_epoch_counts() -> None:
    reports = [NodeReport(node="a", volumes=(volume(epoch=4),)), NodeReport(node="b", volumes=(volume(epoch=9),))]
    made = plan({}, reports, "c", (), {}, "life", "now")
    assert only(made).tenure.epoch == 9 + ROOM


@pytest.mark.parametrize("known", [None, dataset(epoch=3, copies=("a",), written=3, base="snapshot")])
def test_only_the_node_with_the_newest_copy_goes_on_with_a_dataset_that_each_node_has_for_itself(
    known: Dataset | None,
) -> None:
    older = volume(epoch=3, node="a", local=True, backend="btrfs")
    newest = volume(epoch=7, node="b", local=True, backend="btrfs")
    reports = [NodeReport(node="a", volumes=(older,)), NodeReport(node="b", volumes=(newest,))]
    tenure = only(plan({"d": known} if known else {}, reports, "c", (), {}, "life", "now")).tenure
    assert (tenure.copies, tenure.written, tenure.base) == (("b",), 7, None)


@pytest.mark.parametrize("reported", [("a", "b"), ("a",)])
def test_a_copy_on_its_way_carries_the_senders_token_and_goes_on_only_where_the_sender_is_gone(
    reported: tuple[str, ...],
) -> None:
    """`a` was being sent what `b` went on to write."""
    sent = volume(epoch=7, node="a", incarnation="b.boot.1", local=True, backend="btrfs")
    written = volume(epoch=7, node="b", incarnation="b.boot.1", local=True, backend="btrfs")
    volumes = {"a": sent, "b": written}
    reports = [NodeReport(node=node, volumes=(volumes[node],)) for node in reported]
    tenure = only(plan({}, reports, "c", (), {}, "life", "now")).tenure
    assert (tenure.node, tenure.copies) == (reported[-1], (reported[-1],))
