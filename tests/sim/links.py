"""The links between machines, as agents use them to ask each other for promises: instead of gRPC."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING

from drover.coordinator.promising import Ask, NotPromised
from drover.coordinator.protocol.promises import Asked
from tests.sim.loop import PROCESS, Process

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.world import World


class Links:
    """cut: until when nothing comes from one machine to the other. lossy, slow: until when some of what a machine sends
    is lost, or comes late; it happens all the same."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.cut: dict[tuple[str, str], float] = {}
        self.lossy: dict[str, float] = {}
        self.slow: dict[str, float] = {}
        self.free = 0.0
        """When everybody has etcd again, and has had it for a while."""

    def mend(self) -> None:
        self.cut.clear()
        self.lossy.clear()
        self.slow.clear()

    def asking(self, machine: Machine) -> Ask:
        """For an agent on this machine."""

        async def ask(node: str, address: str, asked: Asked) -> str:
            loop = self._world.loop
            answered: asyncio.Future[str] = loop.create_future()
            me, other = loop.process, self._world.machines[node]

            def arrive() -> None:
                if other.agent_process is not None:
                    self._run(other.agent_process, 0.0, lambda: give(other.agent_process))

            def give(process: Process | None) -> None:
                agent = other.agent
                if agent is None or other.agent_process is not process:
                    return
                try:
                    given = agent._promiser.give(asked)
                except NotPromised as why:
                    answer(str(why), None)
                else:
                    answer("", given)

            def answer(why: str, given: str | None) -> None:
                def settle() -> None:
                    if not answered.done():
                        answered.set_result(given) if given else answered.set_exception(NotPromised(why))

                self._send(other, machine, lambda: self._run(me, 0.0, settle))

            self._send(machine, other, arrive)
            return await answered

        return ask

    def _send(self, one: Machine, other: Machine, arrive: Callable[[], None]) -> None:
        """From one machine to the other; it arrives, or not."""
        world, rng = self._world, self._world.rng
        now = world.loop.now
        takes = rng.uniform(0.0005, 0.004)
        if self.slow.get(one.name, 0.0) > now:
            takes += rng.uniform(0.1, 5.0)
        if self.lossy.get(one.name, 0.0) > now and rng.random() < 0.4:
            return
        boot = other.boot

        def there() -> None:
            if self.cut.get((one.name, other.name), 0.0) <= world.loop.now and other.up and other.boot == boot:
                arrive()

        world.after(takes, there)

    def _run(self, process: Process, seconds: float, call: Callable[[], None]) -> None:
        """In that process, when it runs."""
        context = contextvars.Context()
        context.run(PROCESS.set, process)
        self._world.loop.call_later(seconds, call, context=context)
