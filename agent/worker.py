"""One worker a unit of datasets: look, plan, run the steps, look again. Level-triggered: an event only wakes it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from drover.agent import logs
from drover.agent.causes import Causes
from drover.agent.execute import Executor
from drover.agent.leave import Leave
from drover.agent.plan import Plan, plan
from drover.agent.reporter import Reporter
from drover.agent.situation import TRIES, Blocked, Situation, Trouble
from drover.agent.steps import AT_STORAGE, LastIncrement, StartWorkload, Step, StopWorkload, Unpublish
from drover.agent.storage.base import Busy, StorageError
from drover.agent.users import Users
from drover.agent.workloads.base import Absent, Condition, Exited, WorkloadError
from drover.agent.workloads.restart import restarts
from drover.coordinator import trace
from drover.coordinator.member import Member
from drover.coordinator.protocol import placement
from drover.coordinator.protocol.dataset import Cluster, Dataset
from drover.coordinator.protocol.leaving import Leaving
from drover.coordinator.protocol.placement import Claim
from drover.coordinator.store import StoreError
from drover.coordinator.verbs import NotLive

log = logging.getLogger(__name__)

_FIRST, _LONGEST = 0.2, 30.0
"""Seconds before a step that failed is tried again: doubled each time."""
_BLOCK, _LONGEST_BLOCK = 10.0, 300.0
"""Seconds for which a move that found the dataset in use is given up, so that its workload runs meanwhile."""


@dataclass(frozen=True)
class Shared:
    """What all workers of one incarnation share. allowed: kinds of workloads that this node's settings allow. leave:
    whether this node shuts down."""

    member: Member
    execute: Executor
    reporter: Reporter
    allowed: frozenset[str]
    leave: Leave
    users: Users | None = None
    """None: no engine asks this node for volumes."""


def pause_after(tries: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(_FIRST * 2.0 ** min(tries - 1, 16), _LONGEST)


class Worker:
    """Works on one unit until it is retired; a step that has begun is finished first."""

    def __init__(self, names: frozenset[str], shared: Shared) -> None:
        self.names = names
        self._shared = shared
        self._wake = asyncio.Event()
        self._retired = False
        self.parted = False
        """This node shuts down, and nothing of the unit is in use here any more."""
        self._leaving: Leaving | None = None
        self._claim: tuple[tuple[object, ...], float] | None = None
        self._trouble: Trouble | None = None
        self._trouble_about: tuple[tuple[int, int], ...] = ()
        """Spec revisions and epochs: with another one, what went wrong before does not count."""
        self._blocked: Blocked | None = None
        self._blocks = 0
        self._failures: dict[str, int] = {}
        self._unstarted: dict[str, tuple[int, str]] = {}
        """By workload: how often in a row it could not be started, and why not."""
        self._causes = Causes()

    def wake(self) -> None:
        self._wake.set()

    def retire(self) -> None:
        """End after the step that is running: the unit has changed."""
        self._retired = True
        self._wake.set()

    async def run(self) -> None:
        while not self._retired:
            self._wake.clear()
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            try:
                situation = await self._look(now)
            except (StorageError, WorkloadError) as error:
                self._failed(now, str(error))
                await self._sleep(_FIRST)
                continue
            decided = plan(situation)
            self._tell(situation, decided)
            if not decided.leaving:  # what another node has got ready it may have given up by the next move
                for name in situation.conditions:
                    self._shared.execute.ready.pop(name, None)
            if decided.parted != self.parted:
                self.parted = decided.parted
                self._shared.leave.changed.set()
            if decided.steps:
                cause = self._causes.of(situation, decided, time.time())
                with logs.about(situation.unit), trace.because(cause):
                    await self._run(situation, decided)
            else:
                if (whole := self._causes.ended(situation, decided)) is not None:
                    self._shared.execute.telemetry.covered(whole.name, whole.cause, whole.under, **whole.attributes)
                wait = None if decided.wake is None else decided.wake - time.clock_gettime(time.CLOCK_BOOTTIME)
                await self._sleep(wait)

    async def _sleep(self, seconds: float | None) -> None:
        """Until something happens, or for so long."""
        if seconds is not None and seconds <= 0:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _look(self, now: float) -> Situation:
        shared, view = self._shared, self._shared.member.view
        unit = tuple(view.dataset(n) for n in sorted(self.names) if view.unreadable(n) is None)
        cluster = view.cluster
        here = await shared.execute.local.look(unit)
        conditions: dict[str, Condition] = {}
        for name, spec in cluster.workloads.items():
            if self.names & set(spec.datasets) and spec.kind in shared.execute.runtimes:
                found = await shared.execute.runtimes[spec.kind].look()
                conditions[name] = found.get(name, Absent())
        users = {d.name: await shared.users.of(d.name, here.get(d.name)) for d in unit} if shared.users else {}
        leaving = shared.leave.now
        about = tuple((d.spec_revision, d.tenure.epoch if d.tenure else 0) for d in unit)
        if about != self._trouble_about or leaving != self._leaving:
            self._trouble, self._trouble_about, self._leaving = None, about, leaving
            self._unstarted.clear()
            self._failures.clear()
        return Situation(
            node=shared.member.node,
            incarnation=shared.member.incarnation,
            now=now,
            life=shared.member.life,
            gate=shared.member.live,
            held=shared.member.held,
            unit=unit,
            cluster=cluster,
            here=here,
            conditions=conditions,
            failures=self._failures,
            allowed=shared.allowed,
            claim_since=self._claim_since(now, unit, cluster),
            trouble=self._trouble,
            blocked=self._blocked,
            leaving=leaving,
            copying={n: c for n, c in shared.execute.copying.items() if n in self.names},
            users=users,
            ready=shared.execute.ready,
            unstartable=self._unstartable(),
            starts={
                d.name: known[1]
                for d in unit
                if d.tenure and (known := shared.execute.starts.get(d.name)) and known[0] == d.tenure.epoch
            },
            cutovers={
                d.name: known[1]
                for d in unit
                if d.tenure and (known := shared.execute.cutovers.get(d.name)) and known[0] == d.tenure.epoch
            },
        )

    def _claim_since(self, now: float, unit: tuple[Dataset, ...], cluster: Cluster) -> float | None:
        """When the claim that is open was first decided on: its delay counts from there."""
        member = self._shared.member
        decision = placement.decide(member.node, member.incarnation, unit, cluster)
        if not isinstance(decision, Claim):
            self._claim = None
            return None
        about = (decision.datasets, decision.because)
        if self._claim is None or self._claim[0] != about:
            self._claim = (about, now)
        return self._claim[1]

    def _tell(self, situation: Situation, decided: Plan) -> None:
        for d in situation.unit:
            if (status := decided.statuses.get(d.name)) is not None:
                self._shared.reporter.tell(d, status)

    async def _run(self, situation: Situation, decided: Plan) -> None:
        """All steps of a plan side by side; what one raises does not stop the others."""
        unit = {d.name: d for d in situation.unit}
        errors: list[tuple[Step, Exception]] = []

        async def one(step: Step) -> None:
            if (error := await self._step(step, unit, situation.conditions)) is not None:
                errors.append((step, error))

        async with asyncio.TaskGroup() as group:
            for step in decided.steps:
                group.create_task(one(step))
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if not errors:
            self._trouble = None
            return
        step, error = errors[0]
        moving = (isinstance(step, Unpublish) and step.leaving) or (isinstance(step, StopWorkload) and step.moving)
        in_use = moving and isinstance(error, Busy)
        if in_use or isinstance(step, LastIncrement):
            self._block(now, unit, str(error))
        else:
            self._failed(now, str(error), decided.leaving)

    async def _step(
        self, step: Step, unit: Mapping[str, Dataset], conditions: Mapping[str, Condition]
    ) -> Exception | None:
        name, began = type(step).__name__, time.monotonic()
        try:
            with self._shared.execute.telemetry.span(name, datasets=sorted(unit)):
                await self._shared.execute.run(step, unit)
        except NotLive:
            return None
        except (StorageError, WorkloadError, StoreError) as error:
            log.warning("%s: %s failed: %s", ", ".join(sorted(self.names)), name, error)
            self._shared.execute.telemetry.step(name, "failed", time.monotonic() - began)
            if isinstance(step, StartWorkload):
                tries, _ = self._unstarted.get(step.workload, (0, ""))
                self._unstarted[step.workload] = tries + 1, str(error)
            return error
        finally:
            if isinstance(step, AT_STORAGE):
                for dataset in unit:
                    self._shared.execute.local.forget(dataset)
        self._shared.execute.telemetry.step(name, "ok", time.monotonic() - began)
        if isinstance(step, StartWorkload):
            self._unstarted.pop(step.workload, None)
        if isinstance(step, StartWorkload) and isinstance(ended := conditions.get(step.workload), Exited):
            self._shared.execute.telemetry.workload_restarted()
            self._failures[step.workload] = restarts(ended, self._failures.get(step.workload, 0))
        return None

    def _unstartable(self) -> dict[str, str]:
        found = {name: why for name, (tries, why) in self._unstarted.items() if tries >= TRIES}
        ends = {name: "it ends soon after each start" for name, n in self._failures.items() if n > TRIES}
        return ends | found

    def _failed(self, now: float, reason: str, leaving: bool = False) -> None:
        tries = self._trouble.tries + 1 if self._trouble else 1
        self._trouble = Trouble(reason, now + pause_after(tries), tries, leaving)

    def _block(self, now: float, unit: Mapping[str, Dataset], reason: str) -> None:
        asking = placement.newest_desired(tuple(unit.values()))
        asked = asking.desired_revision if asking else 0
        self._blocks = self._blocks + 1 if self._blocked and self._blocked.asked == asked else 1
        pause = min(_BLOCK * 2 ** (self._blocks - 1), _LONGEST_BLOCK)
        self._blocked = Blocked(asked, f"the move waits: {reason}", now + pause)
