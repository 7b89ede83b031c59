"""Local copies: who has the data decides who claims; a move sends first and stops last."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.agent.plan import plan
from drover.agent.rounds import Again, Copying, CutOver
from drover.agent.steps import (
    Handover,
    LastIncrement,
    Publish,
    Replicate,
    StartWorkload,
    StopReplicating,
    StopWorkload,
    Unpublish,
)
from drover.agent.storage.base import Away
from drover.coordinator.protocol import ownership, placement
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.protocol.placement import Claim, Give, Nothing
from drover.coordinator.records import State
from tests.unit.making import (
    cluster,
    dataset,
    dead,
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
from tests.unit.planning import W, running, situation, steps

READY = CutOver(0.05, "")


def local(**changes: Any) -> Dataset:
    """Active on a, and only there."""
    return dataset(tenure=tenure(copies=("a",), written=3), **changes)


def decide(me: str, d: Dataset, *here: str, **known: Any) -> placement.Decision:
    return placement.decide(me, incarnation(me), (d,), cluster(*here, **known))


def copying(**changes: Any) -> dict[str, Copying]:
    made: dict[str, Any] = {"to": "b", "epoch": 3}
    return {"d": Copying(**made | changes)}


def moving(**changes: Any) -> Any:
    made: dict[str, Any] = {"cluster": cluster("a", "b", workloads={"w": W}), "conditions": {"w": running()}}
    return situation(local(**wants("b")), **made | changes)


def test_a_dead_holders_copy_is_claimed_by_nobody_who_has_none_whatever_failover_says() -> None:
    d = local(spec=spec(failover="any"))
    for me in ("b", "c"):
        decided = decide(me, d, "b", "c", fences=dead("a"))
        assert decided == Nothing("waits for a, which has the data")


def test_a_holder_that_comes_back_claims_its_own_and_goes_on_with_its_working_copy() -> None:
    d = local()
    decided = placement.decide("a", incarnation("a", 2), (d,), cluster(node("a", 2), "b", fences=dead("a")))
    assert isinstance(decided, Claim)
    fences = {incarnation("a"): 5}
    known = cluster(node("a", 2), fences=dead("a"))
    new = written(ownership.claim(seat("a", 2), [d], known, {"d": "x"}, "", None, fences))
    assert (new.base, new.copies, new.written) == (None, ("a",), 3)


def test_of_a_target_that_died_before_it_was_active_the_source_takes_it_back_with_nothing_lost() -> None:
    has: dict[str, Any] = {"state": State.ASSIGNED, "copies": ("a", "b"), "base": "g"}
    d = dataset(tenure=tenure("b", **has), **wants("b"))
    decided = decide("a", d, "a", "c", fences=dead("b"))
    assert isinstance(decided, Claim)
    assert decided.delay == 0
    assert isinstance(decide("c", d, "a", "c", fences=dead("b")), Nothing)
    known = cluster("a", fences=dead("b"))
    new = written(ownership.claim(seat("a"), [d], known, {"d": "x"}, "", None, {incarnation("b"): 5}))
    assert (new.base, new.copies) == ("g", ("a", "b"))


def test_what_was_released_where_it_is_not_wanted_is_claimed_there_to_be_sent_on() -> None:
    d = dataset(tenure=tenure(state=State.RELEASED, copies=("a",), written=3), **wants("b"))
    assert isinstance(decide("b", d, "a", "b"), Nothing)
    assert isinstance(decide("a", d, "a", "b"), Claim)
    new = written(ownership.claim(seat("a"), [d], cluster("a", "b"), {"d": "x"}, "", None, {}))
    held = dataset(tenure=new, **wants("b"))
    assert decide("a", held, "a", "b") == Give("b", "desired says b")


def test_an_earlier_holder_counts_as_stopped_as_soon_as_it_is_fenced() -> None:
    d = local()
    assert ownership.may_clear(holder("a"), d, fence("a"))
    assert not ownership.may_clear(holder("a"), d, None)


def test_a_handover_without_what_the_target_has_received_is_refused() -> None:
    with pytest.raises(ValueError, match="no copy of d"):
        ownership.handover(seat("a"), [local()], "b", node("b"), "")
    new = written(ownership.handover(seat("a"), [local()], "b", node("b"), "", bases={"d": "g"}))
    assert (new.base, new.copies, new.state) == ("g", ("a", "b"), State.ASSIGNED)
    active = written(ownership.activate(seat("b"), dataset(tenure=new)))
    assert (active.copies, active.written, active.base) == (("b",), new.epoch, "g")


def test_it_is_sent_while_its_workload_goes_on() -> None:
    assert steps(moving()) == (Replicate("d", "b"),)
    assert steps(moving(copying=copying())) == ()
    assert steps(moving(copying=copying(), conditions={})) == (StartWorkload("w"),)
    assert steps(moving(copying=copying(), conditions={}, here={"d": Away()})) == (Publish("d"),)


def test_then_the_workload_stops_the_rest_is_sent_and_only_then_it_is_handed_over() -> None:
    ready = copying(verdict=READY)
    assert steps(moving(copying=ready)) == (StopWorkload("w", moving=True),)
    assert steps(moving(copying=ready, conditions={})) == (Unpublish("d"),)
    gone: dict[str, Any] = {"conditions": {}, "here": {"d": Away()}}
    assert steps(moving(copying=ready, **gone)) == (LastIncrement("d"),)
    sent = copying(verdict=READY, base="g")
    assert steps(moving(copying=sent, **gone)) == (Handover(("d",), "b", "desired says b"),)


def test_who_changes_his_mind_stops_the_copying() -> None:
    back = situation(local(), copying=copying())
    assert StopReplicating("d") in steps(back)
    elsewhere = moving(copying=copying(to="c"))
    assert StopReplicating("d") in steps(elsewhere)
    assert StopReplicating("d") in steps(moving(copying=copying(epoch=2)))


@given(
    st.sampled_from(["b", "c"]),
    st.integers(2, 4),
    st.sampled_from([Again(), READY]),
    st.sampled_from([None, "g"]),
    st.booleans(),
    st.booleans(),
)
def test_never_handed_over_before_the_target_has_the_end_of_this_epoch(
    to: str, epoch: int, verdict: Again | CutOver, base: str | None, mounted: bool, runs: bool
) -> None:
    changes: dict[str, Any] = {"copying": copying(to=to, epoch=epoch, verdict=verdict, base=base)}
    changes |= {} if mounted else {"here": {"d": Away()}}
    changes |= {"conditions": {"w": running()} if runs else {}}
    planned = plan(moving(**changes)).steps
    if any(isinstance(step, Handover) for step in planned):
        assert (to, epoch, base, mounted, runs) == ("b", 3, "g", False, False)
    if any(isinstance(step, LastIncrement) for step in planned):
        assert (mounted, runs) == (False, False)
