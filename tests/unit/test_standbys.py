"""Which nodes keep copies, and when one of them may go on from its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.coordinator.protocol import ignored, ownership, placement
from drover.coordinator.protocol.dataset import Cluster, Dataset, Node
from drover.coordinator.protocol.leaving import heir
from drover.coordinator.protocol.placement import Claim, Nothing
from drover.coordinator.protocol.standbys import choose
from drover.coordinator.record import InvalidRecord
from drover.coordinator.records import Accepted, Copies, Copy, Evidence, Fence, State, refusal
from drover.coordinator.specs import DatasetSpec, Limits
from drover.coordinator.txn import ModRevision
from tests.unit.making import (
    KEYS,
    cluster,
    dataset,
    fence,
    holder,
    incarnation,
    node,
    seat,
    spec,
    tenure,
    wants,
    written,
)

DIED = 100.0
"""When a has written for the last time, by its own clock."""


def copy(taken: float, guid: str = "g") -> Copy:
    return Copy(guid=guid, name=f"{taken:06.0f}", taken=taken, at="12:03:04")


def kept(*, epoch: int = 3, standbys: tuple[str, ...] = (), **nodes: Copy) -> Copies:
    return Copies(epoch=epoch, uid="uid", standbys=standbys or tuple(nodes), nodes=nodes)


def local(**changes: Any) -> Dataset:
    """Active on a, and only there."""
    made: dict[str, Any] = {"tenure": tenure(copies=("a",), written=3), "copies_revision": 80}
    return dataset(**made | changes)


def wanted(**changes: Any) -> DatasetSpec:
    made: dict[str, Any] = {"failover": "any", "replicas": 1, "replicate_every": 5, "max_data_loss": 30}
    return spec(**made | changes)


def died(evidence: Evidence = Evidence.SILENCE, armed: bool = True, until: float | None = DIED) -> dict[str, Fence]:
    return {incarnation("a"): fence("a", evidence, armed).model_copy(update={"until": until})}


def decide(me: str, d: Dataset, known: Cluster) -> placement.Decision:
    return placement.decide(me, incarnation(me), (d,), known)


def claimed(me: str, d: Dataset, known: Cluster) -> Claim:
    decided = decide(me, d, known)
    assert isinstance(decided, Claim)
    return decided


# Placement.


def names(*nodes: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(nodes), unique=True)


@given(st.integers(0, 4), names("b", "c", "d", "e"), names("b", "c", "d", "e"), names("b", "c", "d", "e", "f"))
def test_as_many_as_can_be_had_never_the_holder_and_whoever_is_one_stays_one(
    replicas: int, here: list[str], cordoned: list[str], before: list[str]
) -> None:
    known = cluster("a", *(node(n, cordoned=n in cordoned) for n in here))
    d = local(spec=wanted(replicas=replicas), copies=kept(standbys=tuple(before[:replicas])))
    chosen = choose("a", d, (d,), known)
    assert "a" not in chosen
    assert set(before[:replicas]) <= set(chosen)
    assert len(chosen) == min(replicas, len(set(before[:replicas]) | (set(here) - set(cordoned))))
    assert choose("a", local(spec=d.spec, copies=kept(standbys=chosen)), (d,), known) == chosen


@given(st.integers(1, 3), names("b", "c", "d"))
def test_one_that_is_given_up_is_replaced_if_there_is_another_and_else_stays(replicas: int, others: list[str]) -> None:
    d = local(spec=wanted(replicas=replicas), copies=kept(standbys=("away",)))
    chosen = choose("a", d, (d,), cluster("a", *others), frozenset({"away"}))
    assert ("away" in chosen) == (len(others) < replicas)


def test_those_that_failover_lists_come_first_and_then_who_had_it_before() -> None:
    known = cluster("a", "b", "c", "d", "e")
    listed = local(spec=wanted(failover=["d"], replicas=1))
    assert choose("a", listed, (listed,), known) == ("d",)
    moved = local(spec=wanted(replicas=1), tenure=tenure(copies=("a",), written=3, before="e"))
    assert choose("a", moved, (moved,), known) == ("e",)


def test_who_offers_no_such_back_end_or_shuts_down_is_none() -> None:
    d = local(spec=wanted(replicas=3))
    assert choose("a", d, (d,), cluster("a", node("b", backends=("other",)), "c")) == ("c",)


def test_all_of_a_unit_have_the_same_standbys() -> None:
    known = cluster("a", *(f"n{i}" for i in range(9)))
    unit = [local(name=name, spec=wanted(group="g")) for name in ("one", "two", "three")]
    assert len({choose("a", d, unit, known) for d in unit}) == 1


def test_people_are_told_why_there_are_fewer_than_they_want() -> None:
    d = local(spec=wanted(replicas=2))
    assert ignored.warning((d,), cluster("a", "b")) == "replicas: 2 wanted, 1 other node with back end loopback"
    assert ignored.warning((d,), cluster("a", "b", "c")) == ""
    shared = node("a").record.model_copy(update={"limits": {"loopback": Limits(fs="xfs", minimum={}, shared=True)}})
    assert "keeps no copies" in ignored.warning((d,), cluster(Node(shared, 1, 1), "b", "c"))


def test_a_loss_that_can_never_be_met_is_refused_in_the_spec() -> None:
    raw = {"backend": "btrfs", "size": "1GiB", "replicate_every": 60}
    with pytest.raises(InvalidRecord, match="can never be met"):
        DatasetSpec.decode(DatasetSpec.model_validate(raw).encode()[:-1] + b',"max_data_loss":30}')
    DatasetSpec.model_validate(raw | {"max_data_loss": 90})


# Promotion.


def test_of_copies_that_are_of_no_single_moment_nobody_goes_on_from_one_by_itself() -> None:
    b = node("b")
    limits = {name: it.model_copy(update={"moments": False}) for name, it in b.record.limits.items()}
    plain = replace(b, record=b.record.model_copy(update={"limits": limits}))
    d = local(spec=wanted(), copies=kept(b=copy(95)))
    assert isinstance(decide("b", d, cluster("b", fences=died())), Claim)
    assert isinstance(decide("b", d, cluster(plain, fences=died())), Nothing)
    assert "max_data_loss must be 0" in refusal(wanted(), [plain.record])
    assert refusal(wanted(max_data_loss=0), [plain.record]) == refusal(wanted(), [plain.record, b.record]) == ""


def test_the_newest_copy_within_max_data_loss_is_promoted_and_the_transaction_compares_what_was_acknowledged() -> None:
    d = local(spec=wanted(), copies=kept(b=copy(80, "old"), c=copy(95, "new")))
    known = cluster("b", "c", fences=died())
    first, second = claimed("c", d, known), claimed("b", d, known)
    assert first.delay < second.delay
    txn = ownership.claim(
        seat("c"), [d], known, {"d": "x"}, first.because, None, {incarnation("a"): 5}, promoted=first.promoted
    )
    assert ModRevision(KEYS.copies("d"), 80) in txn.compare
    new = written(txn)
    assert (new.node, new.base, new.copies, new.promoted) == ("c", "new", ("c", "a"), 5.0)
    assert new.unfenced == (holder("a"),)
    assert "up to 5 s older" in first.because


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spec": wanted(max_data_loss=0)}, ("40 s older", "max_data_loss is 0 s", "drover resolve d --keep b")),
        ({"spec": wanted()}, ("12:03:04, up to 40 s older", "max_data_loss is 30 s")),
        ({"spec": wanted(max_data_loss=50, failover="none")}, ("failover: none",)),
        ({"spec": wanted(max_data_loss=50, failover=["c"])}, ("failover: c",)),
        ({"spec": wanted(max_data_loss=50), "copies": kept(epoch=2, b=copy(60))}, ()),
    ],
)
def test_without_leave_nobody_is_promoted_and_the_reason_says_what_a_person_could_do(
    changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    d = local(**{"copies": kept(b=copy(60))} | changes)
    decided = decide("b", d, cluster("b", "c", fences=died()))
    assert isinstance(decided, Nothing)
    assert decided.reason.startswith("waits for a, which has the data")
    assert all(word in decided.reason for word in words)


def test_nobody_is_promoted_while_the_holder_may_still_write() -> None:
    d = local(spec=wanted(), copies=kept(b=copy(90)))
    decided = decide("b", d, cluster("b", fences=died(armed=False)))
    assert isinstance(decided, Nothing)
    assert "nothing proves that it has stopped" in decided.reason
    cooperative = local(spec=wanted(fencing="cooperative"), copies=kept(b=copy(90)))
    assert isinstance(decide("b", cooperative, cluster("b", fences=died(armed=False))), Claim)


def test_a_loss_that_is_not_known_is_never_within_it() -> None:
    d = local(spec=wanted(), copies=kept(b=copy(90)))
    assert isinstance(decide("b", d, cluster("b", fences=died(until=None))), Nothing)


def test_the_holder_goes_first_as_soon_as_it_is_back() -> None:
    d = local(spec=wanted(), copies=kept(b=copy(90)))
    known = cluster("b", node("a", 2), fences=died(Evidence.REBOOT))
    assert isinstance(decide("b", d, known), Nothing)
    assert isinstance(placement.decide("a", incarnation("a", 2), (d,), known), Claim)


def test_a_persons_word_promotes_what_it_names_and_only_in_that_epoch() -> None:
    word: dict[str, Any] = wants("b", desired_accepts=Accepted(epoch=3, guid="g"))
    d = local(spec=wanted(max_data_loss=0), copies=kept(b=copy(60)), **word)
    known = cluster("b", "c", fences=died())
    decided = claimed("b", d, known)
    assert decided.promoted["d"].base == "g"
    assert isinstance(decide("c", d, known), Nothing)
    stale = local(
        spec=wanted(max_data_loss=0), copies=kept(b=copy(60)), **word | {"desired_accepts": Accepted(epoch=2, guid="g")}
    )
    assert isinstance(decide("b", stale, known), Nothing)


def test_an_earlier_holder_of_what_was_promoted_counts_as_stopped_only_where_that_is_proven() -> None:
    d = local(tenure=tenure("b", copies=("b", "a"), base="g", promoted=5.0, state=State.ASSIGNED))
    assert not ownership.may_clear(holder("a"), d, fence("a"))
    assert ownership.may_clear(holder("a"), d, fence("a", armed=True))


@given(
    st.dictionaries(st.sampled_from(["b", "c", "d"]), st.floats(0, DIED), max_size=3),
    st.sampled_from([0.0, 20.0, 60.0]),
    st.sampled_from(["none", "any", ("b",)]),
    st.sampled_from(list(Evidence)),
    st.booleans(),
    names("b", "c", "d"),
    st.integers(2, 4),
)
def test_whoever_is_promoted_has_acknowledged_in_this_epoch_and_loses_no_more_than_was_allowed(
    taken: dict[str, float],
    most: float,
    failover: Any,
    evidence: Evidence,
    armed: bool,
    here: list[str],
    epoch: int,
) -> None:
    copies = Copies(epoch=epoch, uid="uid", nodes={n: copy(at, n) for n, at in taken.items()})
    d = local(spec=wanted(max_data_loss=most, failover=failover), copies=copies)
    known = cluster(*here, fences=died(evidence, armed))
    for me in here:
        if isinstance(decided := decide(me, d, known), Claim):
            assert epoch == 3
            assert DIED - taken[me] <= most
            assert failover == "any" or me in failover
            assert armed or evidence is not Evidence.SILENCE
            assert decided.promoted["d"].base == me


def test_no_word_promotes_while_the_holder_may_still_write() -> None:
    d = local(spec=wanted(), **wants("b", desired_accepts=Accepted(epoch=3, guid="g")))
    assert isinstance(decide("b", d, cluster("b", fences=died(armed=False))), Nothing)


def test_a_node_that_shuts_down_hands_over_to_a_standby_if_it_may() -> None:
    known = cluster("a", "b", "c", "d", "e")
    for standby in ("b", "c", "d", "e"):
        d = local(spec=wanted(), copies=Copies(epoch=3, uid="uid", nodes={standby: copy(90)}))
        assert heir("a", (d,), (d,), known) == standby
    d = local(spec=wanted(failover=["b"]), copies=kept(c=copy(90)))
    assert heir("a", (d,), (d,), known) == "b"


def test_a_unit_is_promoted_as_a_whole_where_all_of_it_is_and_by_nobody_else() -> None:
    def of(name: str, **nodes: Copy) -> Dataset:
        copies = Copies(epoch=3, uid="uid", standbys=tuple(nodes), nodes=nodes)
        return local(name=name, spec=wanted(group="g"), copies=copies)

    unit = (of("one", b=copy(80, "1b"), c=copy(95, "1c")), of("two", c=copy(90, "2c")))
    known = cluster("b", "c", fences=died())
    decided = placement.decide("c", incarnation("c"), unit, known)
    assert isinstance(decided, Claim)
    assert {name: promoted.base for name, promoted in decided.promoted.items()} == {"one": "1c", "two": "2c"}
    assert isinstance(placement.decide("b", incarnation("b"), unit, known), Nothing)
