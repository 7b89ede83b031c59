"""One machine: its clocks, what runs on it, what it has mounted, and how it stops, dies and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from drover.agent.guard.page import MAGIC, SIZE, Field, Page
from drover.agent.guard.settings import Files
from drover.coordinator.protocol.clock import Instant
from drover.coordinator.protocol.session import Ended, Lapsed
from tests.sim.etcd import Sender
from tests.sim.loop import Process

if TYPE_CHECKING:
    from tests.sim.agent import SimAgent
    from tests.sim.guard import GuardProcess
    from tests.sim.storage import Job, Mount
    from tests.sim.workload import Writer
    from tests.sim.world import World


ASHORE = 1.0
"""Seconds in which a guard that runs has looked, and run its ladder."""


class MachineProcess(Process):
    """A process on a machine. It sees the machine's slewed clock."""

    def __init__(self, machine: Machine, name: str) -> None:
        super().__init__(f"{machine.name}/{name}", machine.rates[0], machine.epochs[0])
        self.machine, self.kind = machine, name
        machine.processes.append(self)


def here() -> Machine:
    """The machine whose process runs."""
    return asyncio.get_running_loop().process.machine  # type: ignore[attr-defined,no-any-return]


class MemoryPage(Page):
    """The gate's page, in memory. guard: whether one looks at it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.path = Path("gate")
        self._bytes = memoryview(bytearray(SIZE))
        self._numbers, self._times = self._bytes.cast("Q"), self._bytes.cast("d")
        self._numbers[Field.ROUND] = 1
        self._numbers[Field.MAGIC] = MAGIC

    @property
    def guard_seen(self) -> float:
        """The guard looks ten times a second: that costs nothing here."""
        guard = self._machine.guard
        if guard is not None and guard.looks:
            return self._machine.clock().boot
        return self._times[Field.GUARD_SEEN]

    def guard_starts(self, armed: bool, loaded: int) -> None:
        self._numbers[Field.ARMED], self._numbers[Field.LOADED] = armed, loaded

    def close(self) -> None:
        """It is as long there as the machine is up."""


@dataclass(eq=False)
class Machine:
    """rates, epochs: of the slewed clock and the raw one, in true seconds. armed: a watchdog resets it."""

    world: World
    name: str
    armed: bool
    rates: tuple[float, float]
    epochs: tuple[float, float]
    directory: Path
    up: bool = False
    boot: int = 0
    mounts: dict[str, Mount] = field(default_factory=dict)
    helpers: list[Job] = field(default_factory=list)
    """All that have a job."""
    jobs: list[Job] = field(default_factory=list)
    """Those that have entered a cgroup, where they are found."""
    late: set[str] = field(default_factory=set)
    """Datasets of helpers that were killed and hung."""
    workloads: dict[str, Writer] = field(default_factory=dict)
    mount_events: list[Callable[[], None]] = field(default_factory=list)
    agent: SimAgent | None = None
    agent_process: MachineProcess | None = None
    guard: GuardProcess | None = None
    unkillable: float = 0.0
    """Until when processes that are killed are not gone: storage hangs under them."""
    lives: int = 0
    processes: list[MachineProcess] = field(default_factory=list)
    asleep: float = 0.0
    """Until when all of it stands still."""
    adrift: bool = False
    """It was suspended for longer than the promise covers, and its guard has not had the time yet to stop it."""
    page: MemoryPage = field(init=False)

    @property
    def boot_id(self) -> str:
        return f"{self.name}{self.boot:07}"

    @property
    def lease(self) -> int:
        """Its agent's; 0: it has none."""
        member = self.agent._member if self.agent is not None else None
        return member.lease if member is not None else 0

    @property
    def files(self) -> Files:
        return Files(self.directory / f"{self.name}{self.boot}")

    def clock(self) -> Instant:
        now = self.world.loop.now
        return Instant(self.epochs[0] + self.rates[0] * now, self.epochs[1] + self.rates[1] * now)

    def sender(self) -> Sender:
        process = self.world.loop.process
        kind = process.kind if isinstance(process, MachineProcess) else ""
        incarnation = self.agent.incarnation if self.agent and kind == "agent" else ""
        return Sender(self.name, incarnation, kind)

    @property
    def session(self) -> str:
        """In one word, for the count of states."""
        if not self.up:
            return "down"
        if self.agent is None or self.agent_process is None:
            return "no agent"
        if self.agent_process.stopped:
            return "asleep" if self.asleep > self.world.loop.now else "stopped"
        state = self.agent.session_state
        if state is None:
            return "joining"
        if isinstance(state, Ended):
            return "ended"
        if isinstance(state, Lapsed):
            return "lapsed"
        if self.agent.halted:
            return "halted"
        return "live" if self.page.seen().open else "shut"

    # Its life.

    def power_on(self) -> None:
        if self.up:
            return
        self.up, self.boot = True, self.boot + 1
        self.files.run_dir.mkdir()
        self.page = MemoryPage(self)
        self.guard = None
        self.world.say(self.name, f"boots ({self.boot_id})")
        self.start_agent()

    def power_off(self, back: float) -> None:
        """Everything is gone at once, but for what storage has been asked already. back: seconds until it is on."""
        if not self.up:
            return
        self.world.say(self.name, f"is off for {back:.1f} s")
        self.up, self.adrift, self.asleep = False, False, 0.0
        self.end_agent()
        self.agent = None
        if self.guard is not None:
            self.guard.process.dead = True
            self.guard = None
        for job in list(self.helpers):
            job.kill()
        for writer in self.workloads.values():
            writer.process_gone()
        self.workloads.clear()
        self.mounts.clear()
        self.world.storage.machine_off(self.name)
        self.mount_events.clear()
        self.world.after(back, self.power_on)

    def start_agent(self) -> None:
        from tests.sim.agent import SimAgent

        if not self.up or self.agent_process is not None:
            return
        self.lives += 1
        process = self.agent_process = MachineProcess(self, "agent")
        self.mount_events.clear()
        self.world.say(self.name, "its agent starts")

        async def live() -> None:
            agent = self.agent = SimAgent(self)
            await agent.run()

        self.world.spawn(process, live())

    def end_agent(self) -> None:
        """SIGKILL."""
        if self.agent_process is not None:
            self.agent_process.dead = True
            self.agent_process = None

    def stop(self, process: Process, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        process.stopped = True
        self.world.after(seconds, lambda: self._go_on(process))

    def _go_on(self, process: Process) -> None:
        if (left := self.asleep - self.world.loop.now) > 0:
            self.world.after(left + 0.001, lambda: self._go_on(process))
        else:
            self.world.loop.go_on(process)

    def suspend(self, seconds: float, adrift: bool) -> None:
        """All of it stands still, as when its virtual machine is paused. CLOCK_BOOTTIME goes on; the raw clock does
        not. adrift: for longer than the promise covers."""
        self.asleep, self.adrift = self.world.loop.now + seconds, adrift
        self.processes = [process for process in self.processes if not process.dead]
        still = [process for process in self.processes if not process.stopped]
        boot = self.boot
        for process in still:
            process.stopped = True

        def resume() -> None:
            if self.boot != boot or not self.up:
                return
            self.epochs = (self.epochs[0], self.epochs[1] - self.rates[1] * seconds)
            self.world.say(self.name, "goes on")
            for process in still:
                self.world.loop.go_on(process)
            if self.guard is not None:
                self.guard.unpetted()
            if adrift:
                self.world.after(ASHORE, lambda: ashore(0))

        def ashore(looked: int) -> None:
            """Once its guard has had the time that it needs."""
            if self.boot != boot or not self.up:
                return
            ready = self.guard is not None and self.guard.looks and self.world.loop.now > self.unkillable
            if ready and looked:
                self.adrift = False
                self.world.check()
            else:
                self.world.after(ASHORE, lambda: ashore(looked + ready))

        self.world.after(seconds, resume)

    def start_guard(self) -> None:
        from tests.sim.guard import GuardProcess

        self.guard = GuardProcess(self)

    # What it writes to.

    def mount_table_changed(self) -> None:
        for call in list(self.mount_events):
            call()
