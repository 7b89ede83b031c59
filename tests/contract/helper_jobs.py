"""What the tests of the helper pool let helpers do."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from drover.agent.storage.base import Busy, StorageError


class Special(StorageError):
    """A class that a back end brings along."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def where() -> dict[str, object]:
    return {"pid": os.getpid(), "cgroup": Path("/proc/self/cgroup").read_text().rpartition("0::")[2].strip()}


def touch(path: str, after: float = 0.0, stop: bool = False) -> None:
    """after: seconds that a program takes first, as mkfs would. stop: until somebody lets this process go on."""
    if stop:
        os.kill(os.getpid(), signal.SIGSTOP)
    if after:
        subprocess.run(["sleep", str(after)], check=True)
    Path(path).touch()


def busy() -> None:
    raise Busy("it is in use", by="somebody")


def special() -> None:
    raise Special("it is special", 7)


def fault() -> None:
    raise ZeroDivisionError("nobody foresaw this")
