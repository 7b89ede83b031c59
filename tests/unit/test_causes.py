"""What a worker does is part of one trace: of the wish that moves a dataset, or of the fence that frees it."""

from __future__ import annotations

from typing import Any

from drover.agent.causes import Causes
from drover.agent.plan import plan
from drover.agent.situation import Situation
from drover.coordinator import trace
from drover.coordinator.records import Evidence
from drover.coordinator.trace import Cause
from tests.unit.making import cluster, dataset, fence, incarnation, tenure, wants
from tests.unit.planning import NOW, assigned, situation

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ID = trace.trace_id(PARENT)


def cause(causes: Causes, s: Situation) -> Cause:
    return causes.of(s, plan(s), NOW)


def test_a_move_belongs_to_its_wish_from_the_first_step_to_the_last() -> None:
    causes = Causes()
    wanted = dataset(**wants("b", desired_trace=PARENT, desired_at=5.0))
    assert cause(causes, situation(wanted)) == Cause(PARENT, 5.0)
    assert cause(causes, situation(wanted, here={})) == Cause(PARENT, 5.0)


def test_a_wish_that_nobody_gave_a_trace_begins_its_own_when_it_is_seen() -> None:
    causes = Causes()
    s = situation(dataset(**wants("b")))
    begun = cause(causes, s)
    assert begun.begun == NOW
    assert trace.trace_id(begun.parent)
    assert cause(causes, s) == begun, "and stays in it"


def test_the_target_goes_on_and_tells_the_whole_when_the_dataset_is_active_there() -> None:
    causes = Causes()
    told: dict[str, Any] = {"source": "b", "before": "b", "trace": PARENT, "begun": 5.0}
    assert cause(causes, situation(assigned(**told), here={})) == Cause(PARENT, 5.0)
    done = situation(dataset(tenure=tenure(**told)))
    whole = causes.ended(done, plan(done))
    assert whole is not None
    assert (whole.name, whole.cause, whole.under) == ("Move", Cause(PARENT, 5.0), "")
    assert (whole.attributes["from"], whole.attributes["to"]) == (["b"], ["a"])
    assert causes.ended(done, plan(done)) is None, "once"


def test_a_source_whose_move_is_put_off_tells_no_end_of_it() -> None:
    causes = Causes()
    cause(causes, situation(dataset(**wants("b", desired_trace=PARENT, desired_at=5.0))))
    stays = situation()
    assert causes.ended(stays, plan(stays)) is None


def test_a_fail_over_is_part_of_the_fence_and_begins_with_it() -> None:
    causes = Causes()
    written = fence("b", Evidence.REBOOT).model_copy(update={"trace": PARENT, "at": "1970-01-01T00:00:07Z"})
    lost = dataset(tenure=tenure("b"), spec=dataset().spec.model_copy(update={"failover": "any"}))  # type: ignore[union-attr]
    s = situation(lost, here={}, cluster=cluster("a", fences={incarnation("b"): written}), claim_since=0.0)
    begun = cause(causes, s)
    assert (trace.trace_id(begun.parent), begun.begun) == (ID, 7.0)
    assert begun.parent != PARENT
    taken = tenure(trace=begun.parent, begun=7.0, before="b", evidence=Evidence.REBOOT)
    done = situation(dataset(tenure=taken))
    whole = causes.ended(done, plan(done))
    assert whole is not None
    assert (whole.name, whole.cause, whole.under) == ("Failover", begun, PARENT)
