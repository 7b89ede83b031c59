"""What tests of the guard need in other processes: a device to cut, another agent."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from drover.agent.guard.client import Guard
from drover.agent.guard.settings import GuardSettings
from drover.coordinator.clock import read_clock


def cut(device: str) -> list[str]:
    if os.path.isdir(device):
        return [f"{device} is still there"]
    if os.path.exists(device):
        os.unlink(device)
    return []


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def agent(run_dir: str, settings: str) -> None:
    with Guard(Path(run_dir)) as guard:
        await guard.start(GuardSettings.parse(settings))
        await beat(guard)


async def beat(guard: Guard) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(guard.keep(lambda: None))
        await guard.stopped(5)
        guard.extend(read_clock(), 0.6, 1.2)
        guard.ask_open()
        await guard.opened(5)
        say("open")
        while True:
            guard.extend(read_clock(), 0.6, 1.2)
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(agent(*sys.argv[1:]))
