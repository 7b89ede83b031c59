"""System calls that Python 3.11 does not offer. Standard library only: the processes inside a node use this."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SHARED = 0x100000
MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Raises OSError."""
    arguments = [text.encode() or None for text in (source, str(target), kind)]
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None), f"mount {source} on {target}")


def bind(source: Path, target: Path) -> None:
    """Raises OSError."""
    mount(str(source), target, flags=MS_BIND)


def unmount(target: Path, flags: int = 0) -> None:
    """Raises OSError."""
    _check(_libc.umount2(str(target).encode(), flags), f"unmount {target}")


def unshare(flags: int) -> None:
    """Raises OSError."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """Raises OSError."""
    _check(_libc.setns(descriptor, kind), "setns")


def die_with_parent(signal: int) -> None:
    """The calling process gets `signal` when the thread that forked it ends. Raises OSError."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal), 0, 0, 0), "prctl")


def in_thread(work: Callable[[], T]) -> T:
    """Runs it in a thread of its own, which ends: for what changes the calling thread's namespaces."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def in_network(namespace: Path, work: Callable[[], T]) -> T:
    """Runs it inside a network namespace, named by a file. Raises OSError."""

    def run() -> T:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(descriptor, CLONE_NEWNET)
        finally:
            os.close(descriptor)
        return work()

    return in_thread(run)
