"""What is planned about containers: a move waits until its next node is ready, and what does not start may go back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from drover.agent.plan import READY_LOOK, plan
from drover.agent.situation import Ready, Situation
from drover.agent.steps import AskReady, Handover, StartWorkload, StopWorkload, Unpublish
from drover.agent.storage.base import Away
from drover.agent.workloads.base import fingerprint
from drover.coordinator.containers import ContainerSpec
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.protocol.leaving import Leaving
from drover.coordinator.records import Answers, Phase
from tests.unit.making import DESIRED_CREATED, cluster, dataset, tenure, wants
from tests.unit.planning import NOW, running, situation, steps

C = ContainerSpec.model_validate({"image": "busybox", "volumes": ["d:/data"]})
B = C.model_copy(update={"on_start_failure": "back"})


def container(spec: ContainerSpec = C, *unit: Any, **changes: Any) -> Situation:
    """Dataset d with container w, on node a."""
    made: dict[str, Any] = {
        "cluster": cluster("a", "b", workloads={"w": spec}),
        "conditions": {"w": running(spec)},
        "allowed": frozenset({"docker"}),
    }
    return situation(*unit, **made | changes)


def moving(**changes: Any) -> Situation:
    return container(C, dataset(**wants("b")), **changes)


def said(to: str = "b", at: float = NOW - 1, **changes: Any) -> dict[str, Ready]:
    return {"w": Ready(to, fingerprint(C), at, **changes)}


def test_it_runs_on_until_its_next_node_has_said_that_it_is_ready() -> None:
    assert steps(moving()) == (AskReady("w", "b"),)
    assert steps(moving(ready=said())) == (AskReady("w", "b"),)
    assert steps(moving(ready=said(done=True))) == (StopWorkload("w", moving=True),)


def test_what_was_said_of_another_node_or_another_spec_says_nothing() -> None:
    assert steps(moving(ready=said("c", done=True))) == (AskReady("w", "b"),)
    other = {"w": replace(said(done=True)["w"], fingerprint="other")}
    assert steps(moving(ready=other)) == (AskReady("w", "b"),)


def test_where_it_cannot_be_run_it_stays_says_why_and_asks_again() -> None:
    planned = plan(moving(ready=said(trouble="image busybox is not there")))
    assert planned.steps == ()
    assert planned.wake == NOW - 1 + READY_LOOK
    status = planned.statuses["d"]
    assert status.phase is Phase.MOVING
    assert "b cannot run w now: image busybox is not there" in status.reason
    again = moving(ready=said(at=NOW - READY_LOOK, trouble="image busybox is not there"))
    assert steps(again) == (AskReady("w", "b"),)


def test_one_that_does_not_run_waits_for_nobody() -> None:
    assert steps(moving(conditions={})) == (Unpublish("d"),)


def test_a_node_that_shuts_down_has_no_time_to_ask() -> None:
    leaving = container(C, dataset(), leaving=Leaving("move"))
    assert not any(isinstance(step, AskReady) for step in steps(leaving))


def came(desired: str = "a") -> Dataset:
    """It was handed over by node b, and `desired` was answered by that."""
    answers = Answers(value=desired, revision=DESIRED_CREATED)
    return dataset(desired=desired, desired_created=DESIRED_CREATED, tenure=tenure(source="b", answers=answers))


def failing(spec: ContainerSpec, unit: Dataset, **changes: Any) -> Situation:
    return container(spec, unit, conditions={}, unstartable={"w": "no such user"}, **changes)


def test_one_that_does_not_start_after_a_move_goes_back_where_its_spec_says_so() -> None:
    assert steps(failing(B, came())) == (Unpublish("d"),)
    gone = failing(B, came(), here={"d": Away()})
    assert steps(gone) == (Handover(("d",), "b", "workload w does not start on a: no such user"),)


def test_otherwise_it_is_tried_here_again_and_again() -> None:
    assert steps(failing(C, came())) == (StartWorkload("w"),)


def test_it_goes_back_once_for_each_wish_and_is_not_sent_to_and_fro() -> None:
    assert steps(failing(B, came("b"))) == (StartWorkload("w"),)
