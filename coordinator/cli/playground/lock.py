"""One command at a time changes a playground."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drover.coordinator.cli.errors import NotPossible

_PATIENCE = 30.0


@contextmanager
def locked(directory: Path, patience: float = _PATIENCE, inherited: bool = True) -> Iterator[None]:
    """Holds the lock of a playground: a flock on its directory, so there is no file to be left behind.

    inherited: what the command has started holds the lock until it is done, even where the command itself was killed,
    so nobody cleans up under the hands of a node that is just starting. patience: seconds.

    Raises NotPossible when another command keeps it.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise NotPossible(
                        f"another command has been changing {directory} for {patience:.0f} s{_who(descriptor)}",
                        "Wait for it, or end it and try again.",
                    ) from None
            time.sleep(0.01)  # flock has no time limit of its own
        os.set_inheritable(descriptor, inherited)
        yield
    finally:
        os.close(descriptor)


def _who(descriptor: int) -> str:
    """By /proc/locks, which names who took it first."""
    inode = os.fstat(descriptor).st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
            return f" (process {fields[4]})"
    return ""
