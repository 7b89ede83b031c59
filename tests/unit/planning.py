"""Situations for the planner: node a, live, with dataset d."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drover.agent.plan import plan
from drover.agent.situation import Situation
from drover.agent.steps import (
    Step,
)
from drover.agent.storage.base import Mounted
from drover.agent.workloads.base import Condition, Exited, Running, fingerprint
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.records import State
from drover.coordinator.specs import WorkloadSpec
from tests.unit.making import (
    cluster,
    dataset,
    tenure,
    workload,
)

NOW = 1000.0
HERE = Mounted("/dev/loop0", Path("/mnt/d"), 2**30)
W = workload("d")


def situation(*unit: Dataset, **changes: Any) -> Situation:
    """Node a, live; dataset d active, mounted, and nothing to do."""
    made: dict[str, Any] = {
        "node": "a",
        "incarnation": "a.1",
        "now": NOW,
        "life": 1,
        "gate": True,
        "unit": unit or (dataset(),),
        "cluster": cluster("a", "b"),
        "here": {"d": HERE},
        "allowed": frozenset({"process"}),
    }
    return Situation(**made | changes)


def running(w: WorkloadSpec = W) -> Condition:
    return Running(pid=7, since=NOW - 60, fingerprint=fingerprint(w))


def exited(w: WorkloadSpec = W, status: int = 1, at: float = NOW - 60, ran: float = 60.0) -> Condition:
    return Exited(status=status, at=at, ran=ran, fingerprint=fingerprint(w))


def using(**changes: Any) -> Situation:
    """Workload w uses d."""
    made: dict[str, Any] = {"cluster": cluster("a", "b", workloads={"w": W}), "conditions": {"w": running()}}
    return situation(**made | changes)


def steps(s: Situation) -> tuple[Step, ...]:
    return plan(s).steps


def assigned(**changes: Any) -> Dataset:
    return dataset(tenure=tenure(state=State.ASSIGNED, **changes))
