"""Workloads that write all the time and remember what was acknowledged; and the runtime that starts and stops them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from drover.agent.workloads.base import Condition, Exited, NotAllowedNow, Running, WorkloadError, fingerprint
from drover.coordinator.specs import WorkloadSpec

if TYPE_CHECKING:
    from tests.sim.guard import SimGuard
    from tests.sim.machine import Machine


class Writer:
    """One process. It outlives the agent."""

    def __init__(self, machine: Machine, name: str, spec: WorkloadSpec) -> None:
        self.machine, self.name, self.datasets = machine, name, spec.datasets
        self.condition: Condition = Running(1, machine.clock().boot, fingerprint(spec))
        self.alive = True
        self._again()

    def process_gone(self) -> None:
        self.alive = False

    def kill(self) -> None:
        self.end(-9)

    def end(self, status: int) -> None:
        if isinstance(running := self.condition, Running):
            now = self.machine.clock().boot
            self.condition = Exited(status, now, now - running.since, running.fingerprint)
        self.alive = False

    def _again(self) -> None:
        world = self.machine.world
        world.after(world.rng.uniform(0.1, 0.9), self._write)

    def _write(self) -> None:
        if not self.alive:
            return
        machine = self.machine
        if (later := max(machine.unkillable, machine.asleep) - machine.world.loop.now) > 0:
            machine.world.after(later + 0.001, self._write)
            return
        for dataset in self.datasets:
            mount = machine.mounts.get(dataset)
            if mount is not None:
                machine.world.checks.wrote(machine, dataset, mount)
        self._again()


class SimRuntime:
    """A `Runtime` of kind `process`."""

    kind = "process"

    def __init__(self, machine: Machine, guard: SimGuard) -> None:
        self._machine, self._guard = machine, guard
        self._wake: Callable[[str], None] = lambda name: None

    async def look(self) -> Mapping[str, Condition]:
        return {name: writer.condition for name, writer in self._machine.workloads.items()}

    def on_change(self, wake: Callable[[str], None]) -> None:
        self._wake = wake

    def ended(self, name: str) -> None:
        """The kernel says that its cgroup is empty."""
        self._wake(name)

    async def run(self) -> None:
        pass

    async def prepare(self, name: str, spec: WorkloadSpec) -> None:
        return None

    async def unprepare(self, name: str) -> None:
        return None

    async def start(self, name: str, spec: WorkloadSpec, paths: Mapping[str, Path]) -> None:
        machine, round_ = self._machine, self._guard.round
        await asyncio.sleep(machine.world.rng.uniform(0.005, 0.1))
        if round_ is None or not machine.page.admits(round_, machine.clock()):
            raise NotAllowedNow("the gate is closed")
        known = machine.workloads.get(name)
        if known is not None and known.alive:
            return
        machine.workloads[name] = Writer(machine, name, spec)
        machine.world.say(machine.name, f"workload {name} starts")
        self._wake(name)

    async def stop(self, name: str, grace: float) -> None:
        machine = self._machine
        writer = machine.workloads.get(name)
        if writer is None:
            return
        await asyncio.sleep(machine.world.rng.uniform(0.005, 0.3))
        for _ in range(40):
            if machine.world.loop.now >= machine.unkillable:
                break
            await asyncio.sleep(0.5)
        else:
            raise WorkloadError(f"{name} cannot be killed")
        writer.process_gone()
        if machine.workloads.get(name) is writer:
            del machine.workloads[name]
        machine.world.say(machine.name, f"workload {name} stopped")

    def kill(self, names: Sequence[str]) -> list[str]:
        left = []
        for name in names:
            writer = self._machine.workloads.get(name)
            if writer is not None and writer.alive:
                left.append(f"workload {name}")
            else:
                self._machine.workloads.pop(name, None)
        return left

    def kill_all(self) -> list[str]:
        return self.kill(list(self._machine.workloads))

    def close(self) -> None:
        return None
