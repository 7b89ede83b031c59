"""What runs in a virtual machine with a watchdog: an agent's side of a real guard. What happens is said in the kernel's
log, which has the kernel's own time in front of each line.

Arguments: the story, D_soft, D_io, D_hard.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from drover.agent.guard.client import Guard
from drover.agent.guard.ladder import Cut
from drover.agent.guard.page import Page
from drover.agent.guard.settings import Files, GuardSettings
from drover.coordinator.clock import read_clock

RUN_DIR = Path("/run")
DEVICE = Path("/run/device")
LONG = 10.0
"""Seconds: many times the watchdog's time-out."""


def cut() -> list[str]:
    """A back end whose device cannot be cut off while this file is there."""
    return [f"{DEVICE} is still there"] if DEVICE.exists() else []


def say(text: str) -> None:
    Path("/dev/kmsg").write_text(f"<2>{text}\n")


def kernel_says(attribute: str) -> str:
    return Path(f"/sys/class/watchdog/watchdog0/{attribute}").read_text().strip()


def settings(reset_within: float) -> GuardSettings:
    cgroups, cut = "/sys/fs/cgroup/drover", Cut("softdog_machine:cut")
    return GuardSettings(cgroups, (cut,), "/dev/watchdog", reset_within, ("/bin/busybox", "true"), "1")


class Machine:
    def __init__(self, guard: Guard, d_soft: float, d_io: float) -> None:
        self.guard, self._d_soft, self._d_io = guard, d_soft, d_io

    def beat(self) -> None:
        self.guard.extend(read_clock(), self._d_soft, self._d_io)

    async def opens(self) -> None:
        while True:
            self.beat()
            self.guard.ask_open()
            if await self.guard.opened(1.0):
                return

    async def beats(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while loop.time() < ends:
            self.beat()
            await asyncio.sleep(0.5)

    def pid(self) -> int:
        with Page(Files(RUN_DIR).page) as page:
            return page.guard_pid


async def stopped(machine: Machine) -> None:
    say("the guard is stopped")
    os.kill(machine.pid(), signal.SIGSTOP)
    await machine.beats(LONG)


async def cut_off(machine: Machine) -> None:
    """Once with everything verified, and once without."""
    say("cut off")
    machine.beat()
    await asyncio.sleep(LONG)
    say(f"the machine stays up, its watchdog is {kernel_says('state')}")
    await machine.opens()
    DEVICE.touch()
    say("cut off with a device that stays")
    machine.beat()
    await asyncio.sleep(LONG)


async def ended(machine: Machine) -> None:
    machine.guard.close()
    assert await machine.guard.stopped(5) == []
    say("the guard is ended")
    os.kill(machine.pid(), signal.SIGTERM)
    await asyncio.sleep(LONG)
    say(f"the machine stays up, its watchdog is {kernel_says('state')}")


async def killed(machine: Machine) -> None:
    say("the guard is killed")
    os.kill(machine.pid(), signal.SIGKILL)
    await machine.beats(LONG)


async def begun_anew(machine: Machine) -> None:
    """By an agent that starts, with another time-out."""
    before = machine.pid()
    for seconds in (3, 1):
        await machine.guard.start(settings(seconds))
        assert machine.pid() == before
        assert machine.guard.round is not None
        say(f"the guard began anew, time-out {kernel_says('timeout')} s")
        await machine.beats(LONG / 2)
    await killed(machine)


STORIES: dict[str, Callable[[Machine], Awaitable[None]]] = {
    story.__name__: story for story in (stopped, cut_off, ended, begun_anew)
}


async def main(story: str, d_soft: float, d_io: float, d_hard: float) -> None:
    with Guard(RUN_DIR) as guard:
        await guard.start(settings(d_hard - d_io))
        machine = Machine(guard, d_soft, d_io)
        await machine.opens()
        say(f"armed {guard.armed}, {kernel_says('identity')}, time-out {kernel_says('timeout')} s")
        await machine.beats(LONG)
        say("the guard has petted it")
        await STORIES[story](machine)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(float, sys.argv[2:])))
