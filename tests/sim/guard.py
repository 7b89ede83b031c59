"""The guard: the real rules (`duty`) and the agent's real side of it, on a ladder that takes its virtual time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from drover.agent import testify
from drover.agent.guard.client import ALIVE, LOOKS, Guard
from drover.agent.guard.duty import SILENT, Climb, Open, Stand, Swear, duty, is_late
from drover.agent.guard.main import AGAIN, TICK
from drover.agent.guard.settings import LadderRecord
from drover.coordinator.etcd import Etcd
from drover.coordinator.join import Saved
from drover.coordinator.store import StoreError
from tests.sim.machine import MachineProcess

if TYPE_CHECKING:
    from tests.sim.machine import Machine


class GuardProcess:
    """What `drover.agent.guard.main` does."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.process = MachineProcess(machine, "guard")
        self.died = asyncio.Event()
        self._poked = asyncio.Event()
        self._climbing = False
        self._next = 0.0
        machine.page.guard_starts(machine.armed, 1)
        machine.world.spawn(self.process, self._run())

    @property
    def looks(self) -> bool:
        return not (self.process.dead or self.process.stopped)

    def kill(self) -> None:
        machine = self.machine
        machine.page.guard_is_seen(machine.clock())
        self.process.dead = True
        machine.guard = None
        self.died.set()
        self.unpetted()

    def stop(self, seconds: float) -> None:
        self.machine.page.guard_is_seen(self.machine.clock())
        self.machine.stop(self.process, seconds)
        self.unpetted()

    def unpetted(self) -> None:
        """The watchdog bites where nobody pets it for as long as lies between D_io and D_hard."""
        machine, boot = self.machine, self.machine.boot
        if not machine.armed:
            return
        timings = machine.world.timings
        asked = machine.world.loop.now

        def bites() -> None:
            if machine.asleep > machine.world.loop.now:
                return  # a watchdog stands still, too; it is armed anew when the machine goes on
            if machine.up and machine.boot == boot and not (machine.guard and machine.guard.pets_since(asked)):
                machine.world.say(machine.name, "its watchdog resets it")
                machine.power_off(machine.world.rng.uniform(1.0, 5.0))

        machine.world.after((timings.d_hard - timings.d_io) / machine.rates[1], bites)

    def pets_since(self, then: float) -> bool:
        return self.looks and not is_late(self.machine.page.seen(), self.machine.clock())

    def poke(self) -> None:
        self._poked.set()

    async def _run(self) -> None:
        machine, page, rng = self.machine, self.machine.page, self.machine.world.rng
        told = False
        while True:
            now, seen = machine.clock(), page.seen()
            if is_late(seen, now) and not told:
                told = True
                self.unpetted()
            told = told and is_late(seen, now)
            wait: float | None = None
            if not self._climbing:
                match duty(seen, now):
                    case Open():
                        page.open()
                        machine.world.say(machine.name, "gate open")
                        machine.world.guard_moved(machine)
                        continue
                    case Swear():
                        page.swear()
                        machine.world.spawn(MachineProcess(machine, "testify"), self._testify())
                        continue
                    case Climb(reason) if seen.open or now.raw >= self._next:
                        page.begin_round(machine.clock)
                        machine.world.say(machine.name, f"gate closed: {reason}")
                        self._climbing = True
                        await self._climb(reason)
                        self._climbing = False
                        continue
                    case Climb():
                        wait = self._next - now.raw
                    case Stand():
                        wait = None
            if seen.open:
                wait = max(0.0, seen.soft.remaining(now))
            elif not seen.verified and seen.sent.boot > 0 and not told:
                left = max(0.0, seen.io().remaining(now))
                wait = left if wait is None else min(wait, left)
            elif seen.clean and seen.sworn != seen.round:
                wait = max(0.0, seen.agent_seen + SILENT - now.boot)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if wait is None else wait + rng.uniform(0.0, TICK)):
                    await self._poked.wait()
            self._poked.clear()

    async def _climb(self, reason: str) -> None:
        machine, world = self.machine, self.machine.world
        began = machine.clock().raw
        self._watch_lateness()
        await asyncio.sleep(world.rng.uniform(0.005, 0.3))
        left = self._kill()
        await asyncio.sleep(world.rng.uniform(0.005, 0.3))
        left += world.storage.cut(machine)
        now = machine.clock()
        saved = Saved.load(machine.files.session)
        incarnation = saved.incarnation if saved else ""
        seen = machine.page.seen()
        record = LadderRecord(seen.round, reason, tuple(left), now.raw - began, now.boot, incarnation)
        record.save(machine.files.record)
        self._next = now.raw + AGAIN
        machine.page.end_round(len(left))
        world.say(machine.name, f"ladder: {'; '.join(left) or 'nothing is left'}")
        world.guard_moved(machine)

    def _watch_lateness(self) -> None:
        """It looks at the page while it climbs, too, and pets no watchdog once D_io has passed."""
        machine, seen = self.machine, self.machine.page.seen()
        left = seen.io().remaining(machine.clock())
        if seen.open or seen.sent.boot <= 0 or not machine.armed:
            return

        def look() -> None:
            if self.looks and machine.up and is_late(machine.page.seen(), machine.clock()):
                self.unpetted()

        machine.world.after(max(0.0, left / min(machine.rates)) + TICK, look)

    def _kill(self) -> list[str]:
        machine = self.machine
        if machine.world.loop.now < machine.unkillable:
            return ["processes that cannot be killed"] if machine.jobs or machine.workloads else []
        for job in list(machine.jobs):
            job.kill()
        for writer in machine.workloads.values():
            writer.kill()
        return []

    async def _testify(self) -> None:
        machine, boot = self.machine, self.machine.boot
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(testify.LIMIT), Etcd(machine.world.endpoints, timeout=2.0) as store:
                while machine.boot == boot and machine.up:
                    try:
                        said = await testify.say_stopped(store, machine.world.keys, machine.name, machine.files)
                    except StoreError:
                        await asyncio.sleep(0.2)
                    else:
                        machine.world.say(machine.name, f"its guard testifies: {said}")
                        return


class SimGuard(Guard):
    """The agent's side: the real one, but for how it waits and signals."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._files, self._clock = machine.files, machine.clock
        self._settings = None
        self._page = machine.page
        self._process = None
        self._pidfd = -1
        self._asked = 0

    async def begin(self) -> None:
        self._page.agent_is_seen(self._machine.clock())
        if self._machine.guard is None:
            await asyncio.sleep(self._machine.world.rng.uniform(0.02, 0.2))
            self._machine.start_guard()

    async def keep(self, closed: Callable[[], None]) -> None:
        """As `Guard.keep`, with fewer looks."""
        machine, missed = self._machine, 0
        while True:
            self._page.agent_is_seen(machine.clock())
            guard = machine.guard
            if guard is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0 if self.answers and self.round is not None else ALIVE):
                        await guard.died.wait()
            if self.round is None:
                closed()
            if machine.guard is None:
                missed = 0
                await self.begin()
                continue
            missed = 0 if self.answers else missed + 1
            if missed > LOOKS:
                machine.guard.kill()

    async def _until(self, condition: Callable[[], bool], timeout: float) -> bool:
        moved = self._machine.world.guard_moves(self._machine)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not condition():
                    moved.clear()
                    await moved.wait()
        return condition()

    def _signal(self, number: Any) -> None:
        if self._machine.guard is not None:
            self._machine.guard.poke()
