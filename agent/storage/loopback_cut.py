"""The last means: nothing more of these images reaches the disk. For the deadline: blocking, without helper, event loop
or a look at the shared directory, which may hang. Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
import time
from contextlib import suppress

from drover.agent.storage import loopdev, mounts
from drover.agent.storage.loopdev import Loop
from drover.agent.storage.mounts import Mount

_SHUTDOWN, _NO_LOG_FLUSH = 0x8004587D, 2  # FS_IOC_SHUTDOWN: linux/fs.h, xfs and ext4
_GONE = 0.3
"""Seconds that a device may take to vanish after its last user."""


def cut(directory: str, timeout: float = 1.0) -> list[str]:
    """Cuts all devices that stand for images in this directory at the same time (15 to 25 ms each); at most `timeout`
    seconds.

    Returns a line for each that is not certain to be gone. Empty: all are detached.
    """
    loops = [loop for loop in loopdev.scan() if os.path.dirname(loop.image) == directory]
    results: dict[Loop, str | None] = {}
    deadline = time.monotonic() + timeout

    def run(loop: Loop) -> None:
        try:
            results[loop] = _cut(loop)
        except OSError as error:
            results[loop] = f"cannot be cut off ({error})"

    threads = [threading.Thread(target=run, args=(loop,), daemon=True) for loop in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    unsure = {loop: results.get(loop, "does not answer: its I/O hangs") for loop in loops}
    return [f"{loop.image} on {loop.path} {why}" for loop, why in unsure.items() if why is not None]


def _cut(loop: Loop) -> str | None:
    """What is not certain of it; None: it is gone."""
    number = loop.number()
    wrong = ""
    try:
        loopdev.cut_off(loop)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        wrong = f"cannot be cut off ({error.strerror}) and "
    here = mounts.of_device(number)
    silent = any(_shut_down(mount.path, mount) for mount in here)
    if wrong and here and not silent:  # an unmount would write
        return f"{wrong}its file system cannot be shut down"
    for mount in reversed(here):
        _unmount(mount)
    away = mounts.elsewhere(number) if loop.alive() else []
    for pid, mount in reversed(away):
        _shut_down(f"/proc/{pid}/root{mount.path}", mount)
        with suppress(OSError):
            mounts.unmount_elsewhere(pid, mount.path, mounts.MNT_DETACH)
    loopdev.clear(loop)
    if loopdev.until(lambda: not loop.attached(), _GONE):
        return None
    ids = {mount.id for mount in here} | {mount.id for _, mount in away}
    by = ", ".join(mounts.holders(number, ids)) or "the kernel"
    return f"{wrong or 'is cut off, but '}is still held by {by}"


def _shut_down(path: str, mount: Mount) -> bool:
    """What the file system has in memory stays there."""
    if not mounts.leads_to(path, mount):
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _unmount(mount: Mount) -> None:
    """Lazily where it is in use: the device is cut off already."""
    for flags in (0, mounts.MNT_DETACH):
        if mounts.leads_to(mount.path, mount):
            with suppress(OSError):
                mounts.unmount(mount.path, flags)
