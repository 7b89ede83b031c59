"""File systems of a frozen machine: held still, and let go again.

A machine whose processes are frozen still writes: the kernel flushes its dirty pages for it. Freezing each file system
(FIFREEZE) writes what is dirty once and then nothing more until it is thawed; unlike a cut it can be undone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from drover.coordinator.cli.playground import syscalls
from drover.coordinator.cli.playground.blockdev import Loop, loops

_KINDS = ("ext4", "xfs", "btrfs")
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


def release_lost(loop: Loop) -> None:
    """As `release`, for a file system that no process has mounted any more: mounting the device again finds it, as the
    kernel still has it. Raises OSError."""
    with tempfile.TemporaryDirectory() as directory:
        for kind in _KINDS:
            with suppress(OSError):
                syscalls.mount(str(loop.device), Path(directory), kind)
                break
        else:
            raise OSError(errno.EINVAL, f"{loop.device} holds none of {', '.join(_KINDS)}")
        try:
            _request(Path(directory), _FITHAW)
        finally:
            syscalls.unmount(Path(directory))


def mounted_by(pids: Iterable[int]) -> list[Loop]:
    """Loop devices that processes have mounted and this process has not: those of a machine whose directory is gone."""
    ours = {source for source, _ in _mounts(Path("/proc/self"))}
    sources = {source for pid in _namespaces(pids) for source, _ in _mounts(pid)} - ours
    return [loop for loop in loops() if str(loop.device) in sources]


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
    for process in _namespaces(pids):
        for source, target in _mounts(process):
            if source in devices and source not in found:
                found[source] = process / "root" / target.lstrip("/")
    return list(found.values())


def _namespaces(pids: Iterable[int]) -> list[Path]:
    """/proc/PID of one process in each mount namespace."""
    found: dict[str, Path] = {}
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            process = Path("/proc", str(pid))
            found.setdefault(os.readlink(process / "ns/mnt"), process)
    return list(found.values())


def _mounts(process: Path) -> list[tuple[str, str]]:
    """(source, where) of each mount that a process sees; [] where it has ended."""
    try:
        lines = (process / "mountinfo").read_text().splitlines()
    except OSError:
        return []
    halves = [line.partition(" - ") for line in lines]
    return [(right.split()[1], _unescaped(left.split()[4])) for left, _, right in halves]


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), path)
