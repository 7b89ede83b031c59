"""One agent at a time on a node."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class AlreadyRunning(Exception):
    """Another agent of this node runs on this machine."""


@contextlib.contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """One agent at a time has this node's run_dir; a second one is told so: raises AlreadyRunning."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / "agent.lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise AlreadyRunning(f"an agent of this node runs already (pid {pid} holds {run_dir}/agent.lock)") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
