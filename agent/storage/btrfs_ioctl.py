"""btrfs by ioctl (linux/btrfs.h): what would cost a process each time, or whose answer would have to be parsed.
Standard library only.

Measured beside the btrfs program: a snapshot 1.2 ms, not 2.2; what a subvolume is 0.01 ms, not 1.9; a deletion 0.02 ms,
not 1.3.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_SNAP_CREATE_V2, _SUBVOL_CREATE_V2, _SNAP_DESTROY_V2 = 0x50009417, 0x50009418, 0x5000943F
_SUBVOL_SETFLAGS, _GET_SUBVOL_INFO = 0x4008941A, 0x81F8943C
_SYNC, _START_SYNC = 0x9408, 0x80089418
_QGROUP_LIMIT, _TREE_SEARCH = 0x8030942B, 0xD0009411

_READ_ONLY = 2
"""In what SNAP_CREATE_V2 and SUBVOL_SETFLAGS are asked; in a root's own flags it is 1."""
_ROOT_READ_ONLY = 1
_FIRST_INODE = 256
"""The inode of a subvolume's root directory."""
_INFO_SIZE, _GENERATION, _UUID, _CHANGED = 504, 280, 296, 344
"""Bytes of btrfs_ioctl_get_subvol_info_args, and where generation and flags, the UUIDs and ctransid stand in it."""
_QUOTA_TREE, _QGROUP_INFO = 8, 242
_LIMIT_REFERENCED = 1
_REFERENCED, _EXCLUSIVE = 8, 24
"""Where these stand in btrfs_qgroup_info_item: generation, referenced, the same compressed, exclusive."""


@dataclass(frozen=True)
class Subvolume:
    """guid: the same on every node that has it: that of the snapshot it was received from, else its own UUID.
    received: it came here whole; of a writable one never true. parent: UUID of what it is a snapshot of. changed:
    number of the transaction that last changed what is in it: making a snapshot of it does not, fsync in it does."""

    id: int
    uuid: str
    guid: str
    received: bool
    read_only: bool
    parent: str
    changed: int = 0


def info(path: str) -> Subvolume | None:
    """None: no subvolume is there. Raises OSError."""
    try:
        with _opened(path) as descriptor:
            if os.fstat(descriptor).st_ino != _FIRST_INODE:
                return None
            found = fcntl.ioctl(descriptor, _GET_SUBVOL_INFO, bytes(_INFO_SIZE))
    except (FileNotFoundError, NotADirectoryError):
        return None
    (number,) = struct.unpack_from("=Q", found)
    _, flags = struct.unpack_from("=QQ", found, _GENERATION)
    (changed,) = struct.unpack_from("=Q", found, _CHANGED)
    own, parent, received = (uuid.UUID(bytes=found[at : at + 16]) for at in range(_UUID, _UUID + 48, 16))
    return Subvolume(
        id=number,
        uuid=str(own),
        guid=str(received if received.int else own),
        received=bool(received.int),
        read_only=bool(flags & _ROOT_READ_ONLY),
        parent=str(parent),
        changed=changed,
    )


def create(path: str) -> None:
    """An empty subvolume. Raises OSError."""
    with _opened(os.path.dirname(path)) as parent:
        fcntl.ioctl(parent, _SUBVOL_CREATE_V2, _arguments(os.path.basename(path)))


def snapshot(source: str, path: str, read_only: bool) -> None:
    """Writes what is dirty in `source` (of no other subvolume), and commits: both are durable then, with whatever was
    renamed before. Raises OSError."""
    with _opened(source) as descriptor, _opened(os.path.dirname(path)) as parent:
        flags = _READ_ONLY if read_only else 0
        fcntl.ioctl(parent, _SNAP_CREATE_V2, _arguments(os.path.basename(path), descriptor, flags))


def delete(path: str) -> None:
    """Its name is gone at once; its room comes back when the kernel likes (within a commit or two, 30 s each): nobody
    should wait for that. Gone is fine. Raises OSError."""
    try:
        with _opened(os.path.dirname(path)) as parent:
            fcntl.ioctl(parent, _SNAP_DESTROY_V2, _arguments(os.path.basename(path)))
    except FileNotFoundError:
        return


def set_read_only(path: str) -> None:
    """Durable when it returns; dirty data is not: the next snapshot or send of it writes that. Raises OSError."""
    with _opened(path) as descriptor:
        fcntl.ioctl(descriptor, _SUBVOL_SETFLAGS, struct.pack("=Q", _READ_ONLY))


def sync(path: str) -> None:
    """Everything written to the whole file system is durable. Raises OSError."""
    with _opened(path) as descriptor:
        fcntl.ioctl(descriptor, _SYNC)


def start_sync(path: str) -> None:
    """Begins to; does not wait. Raises OSError."""
    with _opened(path) as descriptor:
        fcntl.ioctl(descriptor, _START_SYNC, bytes(8))


def limit(path: str, size: int) -> bool:
    """Limits what a subvolume refers to, in bytes; False: the file system has no quotas. Raises OSError."""
    with _opened(path) as descriptor:
        try:
            fcntl.ioctl(descriptor, _QGROUP_LIMIT, struct.pack("=6Q", 0, _LIMIT_REFERENCED, size, 0, 0, 0))
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.EINVAL, errno.ENOENT):
                return False
            raise
    return True


def referenced(path: str) -> int | None:
    """Bytes that a subvolume refers to, as of the last commit; None: the file system counts nothing. Raises OSError."""
    return _counted(path, _REFERENCED)


def exclusive(path: str) -> int | None:
    """As `referenced`: bytes that nothing else refers to."""
    return _counted(path, _EXCLUSIVE)


def _counted(path: str, place: int) -> int | None:
    found = info(path)
    if found is None:
        return None
    key = struct.pack("=7Q4I32x", _QUOTA_TREE, 0, 0, found.id, found.id, 0, 2**64 - 1, _QGROUP_INFO, _QGROUP_INFO, 1, 0)
    with _opened(path) as descriptor:
        answer = bytearray(key + bytes(4096 - len(key)))
        try:
            fcntl.ioctl(descriptor, _TREE_SEARCH, answer)
        except FileNotFoundError:
            return None
    (items,) = struct.unpack_from("=I", answer, 64)
    return int(struct.unpack_from("=Q", answer, 104 + 32 + place)[0]) if items else None


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _arguments(name: str, descriptor: int = 0, flags: int = 0) -> bytearray:
    """btrfs_ioctl_vol_args_v2. Mutable, since fcntl.ioctl copies at most 1024 bytes of what is not."""
    return bytearray(struct.pack("=qQQ32x4040s", descriptor, 0, flags, os.fsencode(name)))
