"""What a worker's steps are part of, for traces (pure).

A move lasts since somebody wished for it, a fail-over since the fence. Either goes on at the new holder, until the
dataset is active there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from drover.agent.plan import Plan
from drover.agent.situation import Situation
from drover.agent.steps import Activate, Clear, TakeClaim
from drover.coordinator import trace
from drover.coordinator.protocol import placement
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.records import Phase, Tenure
from drover.coordinator.trace import NOTHING, Cause


@dataclass(frozen=True)
class Whole:
    """The span that covers a whole change of epoch, which has come to its end here. under: the traceparent of the fence
    that it is part of; "": of none."""

    name: str
    cause: Cause
    under: str
    attributes: Mapping[str, list[str]]


class Causes:
    """Of one unit."""

    def __init__(self) -> None:
        self._cause, self._under = NOTHING, ""
        self._asked = 0
        """The revision of the `desired` that a move answers."""

    def of(self, s: Situation, decided: Plan, now: float) -> Cause:
        """What these steps are part of. now: Unix time."""
        if decided.leaving:
            asking = placement.newest_desired(s.unit)
            revision = asking.desired_revision if asking else 0
            if not self._cause.parent or revision != self._asked:
                self._asked, self._cause = revision, _wished(asking, now)
        elif (claim := next((step.claim for step in decided.steps if isinstance(step, TakeClaim)), None)) is not None:
            taken = [d for d in s.unit if d.name in claim.datasets]
            self._cause = (
                self._fenced(s, taken, now) if claim.evidence else _wished(placement.newest_desired(taken), now)
            )
        elif any(isinstance(step, Clear | Activate) for step in decided.steps):
            self._cause = next((c for d in s.mine if d.tenure and (c := _told(d.tenure)).parent), NOTHING)
        return self._cause

    def ended(self, s: Situation, decided: Plan) -> Whole | None:
        """Called when there is nothing to do; what only waits goes on."""
        cause, under = self._cause, self._under
        mine = [d.tenure for d in s.mine if d.tenure and cause.parent and d.tenure.trace == cause.parent]
        told = [decided.statuses[d.name].phase for d in s.mine if d.name in decided.statuses]
        if mine and any(phase is not Phase.ACTIVE for phase in told):
            return None
        self._cause, self._under = NOTHING, ""
        if not mine:
            return None
        first = mine[0]
        name = "Failover" if first.evidence else "Move" if first.source else "Claim"
        names = sorted(d.name for d in s.mine)
        about = {"datasets": names, "from": [first.before], "to": [first.node], "epoch": [str(first.epoch)]}
        return Whole(name, cause, under, about)

    def _fenced(self, s: Situation, taken: list[Dataset], now: float) -> Cause:
        held = [d.tenure.incarnation for d in taken if d.tenure]
        fences = [s.cluster.fences[one] for one in held if one in s.cluster.fences]
        self._under = next((fence.trace for fence in fences if trace.trace_id(fence.trace)), "")
        began = [at for fence in fences if (at := fence.when) is not None]
        return Cause(trace.child(self._under), min(began, default=now))


def _wished(asking: Dataset | None, now: float) -> Cause:
    """What follows from a wish; one that nobody gave a trace begins its own, now."""
    told = asking.desired_trace if asking and not asking.answered else ""
    if not asking or not trace.trace_id(told):
        return Cause(trace.new(), now)
    return Cause(told, now if asking.desired_at is None else asking.desired_at)


def _told(tenure: Tenure) -> Cause:
    return Cause(tenure.trace, tenure.begun) if trace.trace_id(tenure.trace) else NOTHING
