"""What the receiver's helper calls in tests of the data path."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from drover.agent.storage.base import NoRoom, StorageError


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def slowly(path: str, seconds: float) -> str:
    time.sleep(seconds)
    return digest(path)


def not_there() -> None:
    raise StorageError("the snapshot is not there")


def full() -> None:
    raise NoRoom("the pool is full")


def broken() -> None:
    raise KeyError("surprise")


def nothing() -> None:
    """All is well."""


def talkative() -> str:
    return "x" * 100_000
