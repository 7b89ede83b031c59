"""What is written down of a workload beside its cgroup, and work on it that is not left half done."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read(path: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return record


def write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


async def whole(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """In a thread; a caller that is cancelled waits until it is done, so that nothing starts or ends unnoticed."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise
