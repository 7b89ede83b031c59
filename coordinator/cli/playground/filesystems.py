"""File systems of a frozen machine: held still, and let go again.

A machine whose processes are frozen still writes: the kernel flushes its dirty pages for it. Freezing each file system
(FIFREEZE) writes what is dirty once and then nothing more until it is thawed; unlike a cut it can be undone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from drover.coordinator.cli.playground.blockdev import Loop

_FIFREEZE, _FITHAW = 0xC0045877, 0xC0045878


def hold(pids: Iterable[int], devices: Iterable[Loop]) -> None:
    """Nothing is written to the devices when this returns, as long as the processes stay frozen. Idempotent.

    Raises OSError.
    """
    devices = list(devices)
    _each(pids, devices, _FIFREEZE)
    for loop in devices:  # what was written to the device itself
        with suppress(FileNotFoundError):
            descriptor = os.open(loop.device, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def release(pids: Iterable[int], devices: Iterable[Loop]) -> None:
    """Idempotent. Raises OSError."""
    _each(pids, devices, _FITHAW)


def _each(pids: Iterable[int], devices: Iterable[Loop], request: int) -> None:
    roots = _mounted(pids, {str(loop.device) for loop in devices})
    if not roots:
        return
    with ThreadPoolExecutor(len(roots)) as pool:
        for result in [pool.submit(_request, root, request) for root in roots]:
            result.result()


def _request(root: Path, request: int) -> None:
    descriptor = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, request, 0)
    except OSError as error:
        # Already so, or a file system that has nothing to hold.
        if error.errno not in (errno.EBUSY, errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def _mounted(pids: Iterable[int], devices: set[str]) -> list[Path]:
    """One path to each file system on the devices, through a process that has it mounted."""
    found: dict[str, Path] = {}
    seen: set[str] = set()
    for pid in pids:
        process = Path("/proc", str(pid))
        with suppress(FileNotFoundError, ProcessLookupError):
            namespace = os.readlink(process / "ns/mnt")
            if namespace in seen:
                continue
            seen.add(namespace)
            for line in (process / "mountinfo").read_text().splitlines():
                left, _, right = line.partition(" - ")
                source = right.split()[1]
                if source in devices and source not in found:
                    found[source] = process / "root" / _unescaped(left.split()[4]).lstrip("/")
    return list(found.values())


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path)
