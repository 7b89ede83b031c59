"""Waiting for a cgroup in the event loop. Apart from cgroups.py, which helpers import: they do without asyncio."""

from __future__ import annotations

import asyncio

from drover.agent.cgroups import Cgroups


async def wait_empty(cgroups: Cgroups, path: str, timeout: float) -> bool:
    """Until no process is in it, at most `timeout` seconds; whether it is empty."""
    try:
        watch = cgroups.watch(path)
    except FileNotFoundError:
        return True
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    with watch:
        loop.add_reader(watch.fileno(), changed.set)
        try:
            async with asyncio.timeout(timeout):
                while watch.populated():
                    await changed.wait()
                    changed.clear()
            return True
        except TimeoutError:
            return not watch.populated()
        finally:
            loop.remove_reader(watch.fileno())
