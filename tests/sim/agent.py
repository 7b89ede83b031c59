"""An agent: the real one (`drover.agent.app`), with its own parts, on a simulated machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from drover.agent.alone import Name
from drover.agent.app import Agent
from drover.agent.config import Docker, EtcdAway, Listen, Settings, Workloads
from drover.agent.gatekeeper import Gatekeeper
from drover.agent.helper.pool import HelperPool
from drover.agent.leave import Leave
from drover.agent.promise import Promiser
from drover.agent.receiving import Receiver
from drover.agent.sight import Sight
from drover.agent.spans import Spans
from drover.agent.storage.base import LocalCopies
from drover.agent.telemetry import Telemetry
from drover.agent.workloads.base import Runtime
from drover.coordinator.etcd import Etcd
from drover.coordinator.mark import MarkFile
from drover.coordinator.promising import Ask
from drover.coordinator.protocol.clock import Instant
from drover.coordinator.protocol.leaving import OnShutdown
from drover.coordinator.protocol.session import Ended, State
from drover.coordinator.records import Evidence, Fence
from tests.sim.copies import SimCopies
from tests.sim.guard import SimGuard
from tests.sim.storage import BLOCK, LOCAL, SHARED, SimBackend
from tests.sim.transfer import SimPath
from tests.sim.workload import SimRuntime

if TYPE_CHECKING:
    from tests.sim.machine import Machine

ETCD_TIMEOUT = 2.0
AT_MOST = 40.0
"""Seconds for which a node goes on by promises, at most."""


class _AnyName(Name):
    def hold(self, cluster: str) -> None:
        """All machines are in one process."""


class _NoTelemetry(Telemetry):
    """Counts nothing."""

    def __init__(self) -> None:
        self.spans = Spans(None)

    def moved(self, cutover: float) -> None:
        return None

    def move_failed(self) -> None:
        return None

    def failed_over(self, evidence: Evidence) -> None:
        return None

    def heartbeat(self, outcome: str, seconds: float) -> None:
        return None

    def session_lost(self, reason: str) -> None:
        return None

    def step(self, name: str, outcome: str, seconds: float) -> None:
        return None

    def ignored(self, kind: str) -> None:
        return None

    def workload_restarted(self) -> None:
        return None

    @contextmanager
    def etcd_call(self, call: str) -> Iterator[None]:
        yield

    @contextmanager
    def span(self, name: str, **attributes: Sequence[str]) -> Iterator[None]:
        yield

    def client_gap(self, seconds: float) -> None:
        return None

    def failover_gap(self, seconds: float) -> None:
        return None

    def fenced(self, fence: Fence, asked: float) -> None:
        pass

    def watch_lag(self, seconds: float) -> None:
        return None


class _NoHelpers(HelperPool):
    """The back ends here have helpers of their own."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.late = machine.late

    def stuck(self, dataset: str) -> bool:
        return any(job.dataset == dataset for job in self._machine.helpers)

    async def prepare(self, dataset: str) -> None:
        return None

    def unprepare(self, dataset: str) -> None:
        return None


class _Gatekeeper(Gatekeeper):
    """Says what promises are good for."""

    def __init__(
        self,
        machine: Machine,
        guard: SimGuard,
        runtimes: Mapping[str, Runtime],
        telemetry: Telemetry,
        ring: Callable[[], None],
    ) -> None:
        super().__init__(guard, runtimes, machine.world.timings, telemetry, ring)
        self._machine, self._told_until = machine, 0.0

    def goes_on_from(self, since: Instant) -> None:
        super().goes_on_from(since)
        world = self._machine.world
        if world.loop.now >= self._told_until:
            world.say(self._machine.name, "goes on by promises")
        self._told_until = world.loop.now + 5.0


class SimAgent(Agent):
    """One process of an agent."""

    def __init__(self, machine: Machine) -> None:
        world = machine.world
        self._machine = machine
        self._settings = Settings.model_construct(
            node=machine.name,
            machine_id=f"machine {machine.name}",
            run_dir=machine.files.run_dir,
            mount_root=Path("/mnt"),
            timings=world.timings,
            workloads=Workloads.model_construct(allow=("process",)),
            compact="auto",
            address=f"{machine.name}.example",
            listen=Listen(),
            etcd_away=EtcdAway(promises=world.promises, at_most=AT_MOST),
            docker=Docker(),
        )
        self._keys = world.keys
        self._telemetry = _NoTelemetry()
        self._name = _AnyName(machine.name, "")
        self._sight = Sight(machine.name)
        self._member = None
        self._workers = None
        self._reporter = None
        self._leave = Leave(world.keys, "move", 60.0, 300.0)
        machine_id = self._settings.machine_id
        self._promiser = Promiser(
            machine.name, machine_id, lambda: self._member, lambda: self._sight.halted, machine.clock
        )
        self._marks = MarkFile(machine.directory / f"{machine.name}.mark")
        guard = self._sim_guard = SimGuard(machine)
        copies = SimCopies(machine, guard)
        assert isinstance(copies, LocalCopies)
        self._backends = {**{name: SimBackend(name, machine, guard) for name in (SHARED, BLOCK)}, LOCAL: copies}
        self._data_path = SimPath(machine, copies)  # type: ignore[assignment]
        self.receiver = self._receiver = Receiver(lambda: self._member, self._backends, lambda: self._data_path)
        self._preparer = None
        self._runtime = SimRuntime(machine, guard)
        self._runtimes = {"process": self._runtime}
        self._gatekeeper = self._keeper = _Gatekeeper(machine, guard, self._runtimes, self._telemetry, self._sight.ring)

    @property
    def incarnation(self) -> str:
        """Which it acts as; "" while it has none."""
        member = self._member
        return "" if member is None or isinstance(member._state, Ended) else member.incarnation

    @property
    def halted(self) -> bool:
        return bool(self._sight.halted)

    @property
    def session_state(self) -> State | None:
        return self._member._state if self._member is not None else None

    def gate_has_moved(self) -> None:
        self._keeper.turned()

    def workload_ended(self, name: str) -> None:
        self._runtime.ended(name)

    async def run(self) -> None:
        machine = self._machine
        while machine.jobs and machine.world.loop.now < machine.unkillable:
            await asyncio.sleep(0.5)  # as a real one refuses to start, and is started again
        for job in list(machine.helpers):
            job.kill()
        await self._sim_guard.begin()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._sim_guard.keep(self._keeper.turned))
            living = group.create_task(self._live(self._sim_guard, self._keeper, _NoHelpers(self._machine)))
            group.create_task(self._leave_if_asked(living, self._keeper))

    @property
    def leaves(self) -> bool:
        """Its machine shuts down."""
        return self._leave.now is not None

    def shut_down(self, policy: OnShutdown, timeout: float, grace: float) -> None:
        """As its unit asks for it. timeout, grace: seconds."""
        if self._leave.now is None:
            self._leave._policy, self._leave._timeout, self._leave._grace = policy, timeout, grace
            self._leave._asked.set()

    def _outsiders(self, paths: Sequence[Path]) -> list[str]:
        return []  # nobody has a shell there

    def _ask(self) -> Ask:
        return self._machine.world.links.asking(self._machine)

    def _etcd(self) -> Etcd:
        return Etcd(self._machine.world.endpoints, timeout=ETCD_TIMEOUT, own_key=self._keys.cluster)
