"""The transactions on tenures: what each compares and what it puts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pytest

from drover.coordinator.protocol import ownership
from drover.coordinator.protocol.dataset import Dataset, Invalid
from drover.coordinator.protocol.observer import stand_in
from drover.coordinator.protocol.ownership import Seat
from drover.coordinator.records import Answers, Evidence, Fence, HistoryEntry, Holder, LeaseRecord, Phase, State, Status
from drover.coordinator.txn import CreateRevision, Delete, ModRevision, OnLease, Txn, absent
from tests.unit.making import (
    DESIRED_CREATED,
    KEYS,
    SPEC_REVISION,
    TENURE_REVISION,
    cluster,
    dataset,
    dead,
    fence,
    holder,
    node,
    puts,
    seat,
    spec,
    tenure,
    wants,
    written,
)

STATUS = Status(phase=Phase.ACTIVE)


def claim(d: Dataset | Sequence[Dataset], by: Seat | None = None, *dead_nodes: str) -> Txn:
    datasets = [d] if isinstance(d, Dataset) else list(d)
    fences = dead(*dead_nodes)
    return ownership.claim(
        by or seat("b"),
        datasets,
        cluster("b", fences=fences),
        {d.name: "new uid" for d in datasets},
        "why",
        Evidence.SILENCE if dead_nodes else None,
        dict.fromkeys(fences, 80),
    )


ASSIGNED = dataset(tenure=tenure(state=State.ASSIGNED))
DOOMED = dataset(spec=None, tenure=tenure(reclaim="delete"))
EVERY = {
    "claim": claim(dataset(), seat("b"), "a"),
    "activate": ownership.activate(seat("b"), ASSIGNED),
    "born": ownership.born(seat("b"), dataset(), "object"),
    "refresh": ownership.refresh(seat("b"), dataset()),
    "touch": ownership.touch(seat("b"), dataset()),
    "cleared": ownership.cleared(seat("b"), dataset(), []),
    "handover": ownership.handover(seat("b"), [dataset()], "c", node("c"), "why"),
    "release": ownership.release(seat("b"), [dataset()], "why"),
    "condemn": ownership.condemn(seat("b"), DOOMED),
    "destroyed": ownership.destroyed(seat("b"), dataset()),
    "reput": ownership.reput(seat("b"), dataset()),
    "report": ownership.report(seat("b"), dataset(), STATUS),
}


@pytest.mark.parametrize("revision", [0, 70])
def test_a_claim_compares_the_record_of_the_last_holders_node(revision: int) -> None:
    fences = dead("a")
    known, seen = cluster("b", fences=fences), dict.fromkeys(fences, 80)
    txn = ownership.claim(
        seat("b"), [dataset()], known, {"d": "uid"}, "why", Evidence.REBOOT, seen, homes={"a": revision}
    )
    assert ModRevision(KEYS.node("a"), revision) in txn.compare


@pytest.mark.parametrize("name", EVERY)
def test_every_transaction_compares_its_senders_fence_and_the_tenure_as_read(name: str) -> None:
    compare = EVERY[name].compare
    assert absent(KEYS.fence("b.1")) in compare
    assert ModRevision(KEYS.owner("d"), TENURE_REVISION) in compare


def test_fences_and_placeholders_are_not_put_by_who_is_fenced() -> None:
    beat = stand_in("a.1")
    for txn in (ownership.fence(seat("b"), "a", beat, 5, fence("a")), ownership.placeholder(seat("b"), "a", beat, 0)):
        assert absent(KEYS.fence("b.1")) in txn.compare


@pytest.mark.parametrize("name", ["touch", "activate", "born", "refresh", "cleared", "release", "condemn", "destroyed"])
def test_what_is_no_change_of_incarnation_keeps_the_epoch(name: str) -> None:
    assert written(EVERY[name]).epoch == 3


@pytest.mark.parametrize("name", ["claim", "handover"])
def test_a_change_of_incarnation_is_one_epoch_more_and_stands_in_the_history(name: str) -> None:
    new = written(EVERY[name])
    assert new.epoch == 4
    line = HistoryEntry.decode(puts(EVERY[name])["history/d/00000004"].value)
    assert (line.epoch, line.node, line.because) == (4, new.node, "why")


class TestHistory:
    """Who asked, who had it before, and how long nobody could write."""

    def line(self, txn: Txn, epoch: int = 4) -> HistoryEntry:
        return HistoryEntry.decode(puts(txn)[f"history/d/{epoch:08d}"].value)

    def test_names_whoever_put_desired(self) -> None:
        d = dataset(**wants("c", desired_by="ann, drover move"))
        line = self.line(ownership.handover(seat(), [d], "c", node("c"), "why"))
        assert (line.asked, line.before, line.node) == ("ann, drover move", "a", "c")

    def test_says_put_desired_where_nobody_said_who_it_was(self) -> None:
        d = dataset(**wants("c"))
        assert self.line(ownership.handover(seat(), [d], "c", node("c"), "why")).asked == "put desired"

    def test_a_wish_for_one_of_a_unit_is_who_asked_for_all(self) -> None:
        unit = [dataset(**wants("c", desired_by="ann")), dataset("e")]
        written = puts(ownership.handover(seat(), unit, "c", node("c"), "why"))
        assert HistoryEntry.decode(written["history/e/00000004"].value).asked == "ann"

    def test_nobody_asks_for_a_fail_over_or_for_being_refused(self) -> None:
        assert self.line(claim(dataset(), None, "a")).asked == "drover"
        d = dataset(**wants("b", desired_by="ann"), tenure=tenure("b", state=State.ASSIGNED))
        assert self.line(ownership.handover(seat("b"), [d], "a", node("a"), "no room", refused=True)).asked == "drover"

    def test_a_fail_over_counts_from_the_last_heartbeat_of_the_dead(self) -> None:
        died = Fence(node="a", by="z", evidence=Evidence.SILENCE, at="2026-01-02T03:04:07.000Z", still=7.0)
        txn = ownership.claim(
            seat("b"), [dataset()], cluster("b", fences={"a.1": died}), {"d": ""}, "", Evidence.SILENCE, {"a.1": 8}
        )
        assert written(txn).down == datetime.fromisoformat("2026-01-02T03:04:00Z").timestamp()

    def test_the_gap_is_added_once_it_is_over(self) -> None:
        d = dataset(tenure=tenure(because="why", asked="ann", before="c", since="then", evidence=Evidence.REBOOT))
        line = self.line(ownership.report(seat(), d, Status(phase=Phase.ACTIVE, cutover_ms=58)), 3)
        assert line == HistoryEntry(
            epoch=3,
            node="a",
            before="c",
            because="why",
            asked="ann",
            evidence=Evidence.REBOOT,
            at="then",
            gap_ms=58,
        )

    def test_a_report_without_a_gap_leaves_the_history_alone(self) -> None:
        assert set(puts(EVERY["report"])) == {"status/d"}


@pytest.mark.parametrize("name", EVERY)
def test_each_rewrite_has_a_new_random_id(name: str) -> None:
    if "owners/d" in puts(EVERY[name]):
        assert written(EVERY[name]).txn == "mine"


@pytest.mark.parametrize("name", ["claim", "activate", "born", "refresh", "touch", "handover", "release", "destroyed"])
def test_every_transaction_carries_on_who_may_still_write(name: str) -> None:
    left = (holder("x"),)
    d = dataset(tenure=tenure(unfenced=left))
    txns = {
        "claim": lambda: claim(d, seat("b"), "a"),
        "born": lambda: ownership.born(seat("a"), d, "o"),
        "refresh": lambda: ownership.refresh(seat("a"), d),
        "touch": lambda: ownership.touch(seat("a"), d),
        "handover": lambda: ownership.handover(seat("a"), [d], "c", node("c"), "why"),
        "release": lambda: ownership.release(seat("a"), [d], "why"),
        "destroyed": lambda: ownership.destroyed(seat("a"), d),
    }
    if name not in txns:
        with pytest.raises(ValueError, match="not cut off"):
            ownership.activate(seat("a"), dataset(tenure=tenure(state=State.ASSIGNED, unfenced=left)))
    else:
        assert written(txns[name]()).unfenced[:1] == left


class TestClaim:
    def test_compares_all_that_it_decided_on(self) -> None:
        compare = claim(dataset(), seat("b"), "a").compare
        assert ModRevision(KEYS.desired("d"), DESIRED_CREATED) in compare
        assert ModRevision(KEYS.dataset("d"), SPEC_REVISION) in compare
        assert ModRevision(KEYS.fence("a.1"), 80) in compare

    def test_of_a_held_dataset_needs_the_holders_fence(self) -> None:
        with pytest.raises(ValueError, match="held by a, which is not fenced"):
            claim(dataset())

    def test_adds_the_dead_holder_to_those_who_may_still_write_even_if_it_was_never_active(self) -> None:
        for state in (State.ACTIVE, State.ASSIGNED):
            d = dataset(tenure=tenure(state=state, unfenced=(holder("x"),)))
            assert written(claim(d, seat("b"), "a")).unfenced == (holder("x"), holder("a"))

    def test_of_what_was_released_suspects_nobody(self) -> None:
        new = written(claim(dataset(tenure=tenure(state=State.RELEASED))))
        assert (new.state, new.unfenced, new.node) == (State.ASSIGNED, (), "b")

    def test_answers_the_wish_as_it_read_it(self) -> None:
        d = dataset(tenure=tenure(state=State.RELEASED), desired="b", desired_revision=75, desired_created=70)
        assert written(claim(d)).answers == Answers(value="b", revision=70)

    def test_keeps_the_volume_of_an_old_dataset_and_takes_a_new_uid_for_a_new_one(self) -> None:
        assert written(claim(dataset(), seat("b"), "a")).uid == "uid"
        new = written(claim(dataset(tenure=None)))
        assert (new.epoch, new.uid, new.born, new.object) == (1, "new uid", False, "")

    @pytest.mark.parametrize("state", [State.RELEASED, State.DESTROYED])
    def test_of_a_spec_put_again_goes_on_counting_epochs_with_a_new_uid(self, state: State) -> None:
        again = dataset(tenure=tenure(state=state, epoch=17), spec_created=90, spec=spec(reclaim="delete"))
        new = written(claim(again))
        assert (new.epoch, new.uid, new.created, new.born, new.reclaim) == (18, "new uid", 90, False, "delete")

    def test_of_what_was_to_be_destroyed_keeps_the_old_volume_until_it_is(self) -> None:
        again = dataset(tenure=tenure(state=State.RELEASED, reclaim="delete"), spec_created=90)
        kept = written(claim(again))
        assert (kept.uid, kept.created, kept.reclaim) == ("uid", 40, "delete")

    def test_needs_data_or_a_usable_spec(self) -> None:
        for d in (dataset(tenure=None, spec=None), dataset(tenure=None, spec=Invalid("no"))):
            with pytest.raises(ValueError, match="neither data nor a usable spec"):
                claim(d)

    def test_empties_the_source_of_the_handover_before_and_remembers_since_when_nobody_writes(self) -> None:
        old = tenure(state=State.ASSIGNED, source="x", down=12.0)
        new = written(claim(dataset(tenure=old), seat("b"), "a"))
        assert (new.source, new.down) == ("", 12.0)

    def test_binds_the_lease_record_to_my_lease(self) -> None:
        put = puts(claim(dataset(), seat("b", lease=33), "a"))["leases/d"]
        assert put.lease == 33
        assert LeaseRecord.decode(put.value) == LeaseRecord(node="b", incarnation="b.1", epoch=4)


class TestActivate:
    def test_empties_the_list_of_refusers(self) -> None:
        d = dataset(tenure=tenure(state=State.ASSIGNED, refused=("x",)))
        active = written(ownership.activate(seat(), d))
        assert (active.state, active.refused) == (State.ACTIVE, ())

    def test_is_for_assigned_tenures_only(self) -> None:
        for state in (State.ACTIVE, State.RELEASED, State.DESTROYED):
            with pytest.raises(ValueError, match="cannot be activated"):
                ownership.activate(seat(), dataset(tenure=tenure(state=state)))

    def test_forgets_all_epochs_but_the_last_hundred(self) -> None:
        d = dataset(tenure=tenure(state=State.ASSIGNED, epoch=105))
        assert Delete(KEYS.history("d", 0), KEYS.history("d", 6)) in ownership.activate(seat(), d).then


class TestCleared:
    def test_takes_out_those_who_stopped_and_nobody_else(self) -> None:
        d = dataset(tenure=tenure(unfenced=(holder("x"), holder("x", 2), holder("y"))))
        left = written(ownership.cleared(seat(), d, [holder("x", 2), holder("z")])).unfenced
        assert left == (holder("x"), holder("y"))

    @pytest.mark.parametrize("evidence", [e for e in Evidence if e is not Evidence.SILENCE])
    def test_is_allowed_by_any_positive_evidence(self, evidence: Evidence) -> None:
        assert ownership.may_clear(holder("x"), dataset(), fence("x", evidence))

    def test_is_allowed_by_silence_only_where_a_reset_was_armed_or_the_spec_settles_for_cooperation(self) -> None:
        assert not ownership.may_clear(holder("x"), dataset(), None)
        assert not ownership.may_clear(holder("x"), dataset(), fence("x"))
        assert ownership.may_clear(holder("x"), dataset(), fence("x", armed=True))
        assert ownership.may_clear(holder("x"), dataset(spec=spec(fencing="cooperative")), fence("x"))
        for unknown in (None, Invalid("no")):
            assert not ownership.may_clear(holder("x"), dataset(spec=unknown), fence("x"))


class TestHandover:
    def test_compares_the_target_as_it_was_read(self) -> None:
        compare = ownership.handover(seat(), [dataset()], "c", node("c"), "why").compare
        assert CreateRevision(KEYS.node("c"), 9) in compare
        assert OnLease(KEYS.node("c"), 7) in compare
        assert absent(KEYS.fence("c.1")) in compare
        assert ModRevision(KEYS.desired("d"), DESIRED_CREATED) in compare

    def test_binds_to_the_targets_lease_without_a_moment_in_between(self) -> None:
        txn = ownership.handover(seat(), [dataset()], "c", node("c"), "why", down=12.5)
        new = written(txn)
        assert (new.node, new.incarnation, new.state, new.source) == ("c", "c.1", State.ASSIGNED, "a")
        assert (new.uid, new.born, new.down, new.evidence) == ("uid", True, 12.5, None)
        assert puts(txn)["leases/d"].lease == 7

    def test_by_a_node_that_refuses_names_it_once_and_is_no_source_to_go_back_to(self) -> None:
        d = dataset(tenure=tenure(state=State.ASSIGNED, refused=("a",), source="b"))
        new = written(ownership.handover(seat("a"), [d], "c", node("c"), "why", refused=True))
        assert (new.refused, new.source) == (("a",), "")


class TestRelease:
    def test_keeps_the_record_and_deletes_the_lease(self) -> None:
        txn = ownership.release(seat(), [dataset()], "why")
        assert written(txn).state is State.RELEASED
        assert Delete(KEYS.lease("d")) in txn.then

    def test_by_a_node_that_refuses_names_it_once(self) -> None:
        d = dataset(tenure=tenure(state=State.ASSIGNED, refused=("x",)))
        first = ownership.release(seat("a"), [d], "why", refused=True)
        assert written(first).refused == ("x", "a")
        again = dataset(tenure=written(first))
        assert written(ownership.release(seat("a"), [again], "why", refused=True)).refused == ("x", "a")


class TestRefresh:
    def test_copies_reclaim_and_answers_the_wish(self) -> None:
        d = dataset(spec=spec(reclaim="delete"), desired_created=70)
        new = written(ownership.refresh(seat(), d))
        assert (new.reclaim, new.answers.revision) == ("delete", 70)

    def test_is_due_when_reclaim_changed_or_a_wish_that_is_fulfilled_is_not_answered(self) -> None:
        assert not ownership.stale_copy(dataset(), True)
        assert ownership.stale_copy(dataset(spec=spec(reclaim="delete")), False)
        assert ownership.stale_copy(dataset(desired_created=70), True)
        assert not ownership.stale_copy(dataset(desired_created=70), False)

    def test_takes_nothing_from_another_datasets_spec_of_the_same_name(self) -> None:
        again = dataset(spec=spec(reclaim="delete"), spec_created=90)
        assert not ownership.stale_copy(again, True)
        assert written(ownership.refresh(seat(), again)).reclaim == "retain"


def test_data_is_condemned_only_where_the_spec_is_as_read() -> None:
    assert ModRevision(KEYS.dataset("d"), DOOMED.spec_revision) in ownership.condemn(seat(), DOOMED).compare
    with pytest.raises(ValueError, match="not to be destroyed"):
        ownership.condemn(seat(), dataset(tenure=tenure(reclaim="delete")))


def test_a_destroyed_dataset_keeps_its_epoch_and_forgets_its_volume() -> None:
    txn = ownership.destroyed(seat(), dataset())
    gone = written(txn)
    assert (gone.state, gone.epoch, gone.born, gone.object) == (State.DESTROYED, 3, False, "")
    assert Delete(KEYS.lease("d")) in txn.then


def test_a_tenure_knows_its_holder() -> None:
    assert tenure("b").holder == Holder(node="b", incarnation="b.1")
