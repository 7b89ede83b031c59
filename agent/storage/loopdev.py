"""Loop devices by ioctl and sysfs: 0.2 ms where losetup(8) needs 2. Standard library only; nothing here waits for
storage, but for `attach`, `cut_off` and `set_capacity`, which the kernel makes wait for I/O in flight.

Numbers: linux/loop.h, linux/fs.h. `losetup --nooverlap` guards nothing (a second attach of an image succeeds), so whose
device it is must be looked up: by the path that its image was opened by (`Loop.backing`), by inode (`backed_by`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

CONTROL = "/dev/loop-control"
BLOCK = "/sys/block"
PARTITIONS = "/proc/partitions"

_CLR_FD, _SET_STATUS64, _GET_STATUS64, _SET_CAPACITY = 0x4C01, 0x4C04, 0x4C05, 0x4C07
_CONFIGURE, _GET_FREE = 0x4C0A, 0x4C82
_DIRECT_IO = 16
_INFO_SIZE, _CONFIG_SIZE = 232, 304
_OFFSET, _SIZE_LIMIT = 24, 32  # in loop_info64
_SECTOR = 512
_PAGE = 4096
"""Bytes: no attribute in sysfs is longer."""
_TRIES = 64

CUT_SIZE = _SECTOR
"""Bytes of the device that can still be reached after `cut_off`: 0 would mean no limit."""


@dataclass(frozen=True)
class Loop:
    """An attached loop device. backing: the image's path, as seen in the mount namespace that attached it; the kernel
    appends ` (deleted)` where the file is gone."""

    name: str
    backing: str

    @property
    def path(self) -> str:
        return f"/dev/{self.name}"

    @property
    def image(self) -> str:
        return self.backing.removesuffix(" (deleted)")

    def number(self) -> str:
        """`major:minor`, as in mountinfo."""
        return _read(self.name, "dev")

    def size(self) -> int:
        """Bytes."""
        return int(_read(self.name, "size")) * _SECTOR

    def direct_io(self) -> bool:
        return _read(self.name, "loop/dio") == "1"

    def attached(self) -> bool:
        """Still the same image on the same device."""
        return _backing(self.name) == self.backing

    def alive(self) -> bool:
        """A file system on it is in memory: mounted in some namespace, or unmounted and still in use. Read from sysfs,
        since opening the device exclusively would make somebody's mount fail meanwhile."""
        return any(os.path.exists(f"/sys/fs/{fs}/{self.name}") for fs in ("xfs", "ext4"))


def scan() -> list[Loop]:
    """All attached loop devices, of this and all other nodes on this kernel."""
    return [Loop(name, backing) for name in _names() if (backing := _backing(name)) is not None]


def backed_by(image: int) -> list[Loop]:
    """The devices that this open file is attached to, under whatever path."""
    status = os.fstat(image)
    names = [name for name in _names() if _inode(name) == (status.st_dev, status.st_ino)]
    return [Loop(name, backing) for name in names if (backing := _backing(name)) is not None]


def attach(image: int, direct_io: bool) -> Loop:
    """Attach an open file to a free device, without autoclear: detaching is a step of its own that is verified. Where
    direct I/O is refused, buffered; `Loop.direct_io` tells. Raises OSError."""
    with _opened(CONTROL, os.O_RDWR) as control:
        for _ in range(_TRIES):
            name = f"loop{fcntl.ioctl(control, _GET_FREE)}"
            try:
                with _device(f"/dev/{name}", os.O_RDWR) as device:
                    _configure(device, image, direct_io)
            except OSError as error:
                if error.errno in (errno.EBUSY, errno.ENOENT, errno.ENXIO):  # somebody took or removed it meanwhile
                    continue
                raise
            return Loop(name, _backing(name) or "")
    raise OSError(errno.EBUSY, f"no free loop device after {_TRIES} tries")


def detach(loop: Loop, timeout: float) -> bool:
    """Whether it is gone within `timeout` seconds: while somebody has the device open, the kernel only marks it.
    Raises OSError EBUSY while a file system is mounted from it."""
    try:
        with _device(loop.path, os.O_RDONLY | os.O_EXCL) as device:
            fcntl.ioctl(device, _CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:  # detached already
            raise
    return until(lambda: not loop.attached(), timeout)


def clear(loop: Loop) -> None:
    """Detach, or have it detached as soon as the last user is gone: what a device that was cut off gets."""
    try:
        with _device(loop.path, os.O_RDONLY) as device:
            fcntl.ioctl(device, _CLR_FD)
    except OSError as error:
        if error.errno not in (errno.ENXIO, errno.EBUSY):
            raise


def set_capacity(loop: Loop) -> None:
    """Take over the image's size."""
    with _device(loop.path, os.O_RDWR) as device:
        fcntl.ioctl(device, _SET_CAPACITY)


def cut_off(loop: Loop) -> None:
    """From now on I/O beyond the first sector fails, also that of a mounted file system; what was in flight has ended.
    Raises OSError."""
    with _device(loop.path, os.O_RDONLY) as device:
        for tries in range(_TRIES):
            info = _status(device)
            struct.pack_into("<Q", info, _SIZE_LIMIT, CUT_SIZE)
            try:
                fcntl.ioctl(device, _SET_STATUS64, bytes(info))
                return
            except OSError as error:
                if error.errno != errno.EAGAIN or tries == _TRIES - 1:  # pages were dirtied meanwhile (Linux < 6.2)
                    raise


def is_cut(loop: Loop) -> bool:
    """It shows only a part of its image."""
    with _device(loop.path, os.O_RDONLY) as device:
        offset, limit = struct.unpack_from("<QQ", _status(device), _OFFSET)
    return bool(offset or limit)


def until(condition: Callable[[], bool], timeout: float) -> bool:
    """Whether it became true within `timeout` seconds. For what the kernel finishes soon and tells nobody."""
    deadline, pause = time.monotonic() + timeout, 0.0005
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
    return True


def _configure(device: int, image: int, direct_io: bool) -> None:
    config = bytearray(_CONFIG_SIZE)
    struct.pack_into("<II", config, 0, image, _SECTOR)
    struct.pack_into("<I", config, 8 + 52, _DIRECT_IO if direct_io else 0)
    try:
        fcntl.ioctl(device, _CONFIGURE, bytes(config))
    except OSError as error:
        if not direct_io or error.errno != errno.EINVAL:
            raise
        _configure(device, image, direct_io=False)


def _names() -> list[str]:
    """Loop devices with capacity: attached, and able to take a write. From the kernel's list of partitions, which has
    just these: where 200 that are free are left, to look at each costs 2 ms."""
    with open(PARTITIONS) as file:
        names = [line.rpartition(" ")[2].strip() for line in file]
    return sorted(name for name in names if name.startswith("loop") and name[4:].isdigit())


def _read(name: str, attribute: str) -> str:
    """By system calls: many are read in a move, and a text file costs three times as many. Raises OSError."""
    descriptor = os.open(f"{BLOCK}/{name}/{attribute}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.fsdecode(os.read(descriptor, _PAGE)).removesuffix("\n")
    finally:
        os.close(descriptor)


def _backing(name: str) -> str | None:
    try:
        return _read(name, "loop/backing_file")
    except OSError:  # not attached
        return None


def _inode(name: str) -> tuple[int, int] | None:
    """Device and inode of its image."""
    try:
        with _device(f"/dev/{name}", os.O_RDONLY) as device:
            found: tuple[int, int] = struct.unpack_from("<QQ", _status(device), 0)
            return found
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):  # detached meanwhile
            return None
        raise


def _status(device: int) -> bytearray:
    info = bytearray(_INFO_SIZE)
    fcntl.ioctl(device, _GET_STATUS64, info)
    return info


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _device(path: str, flags: int) -> Iterator[int]:
    """Only if it is a block device: a tool that wrote to a device that was gone leaves a plain file in /dev."""
    with _opened(path, flags) as descriptor:
        if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOTBLK, "not a block device; remove it", path)
        yield descriptor
