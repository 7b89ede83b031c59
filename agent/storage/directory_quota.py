"""Project quotas of ext4 and xfs, by ioctl and quotactl_fd (Linux 5.14): a tree has a project of its own, and that a
limit. Where the file system has none, nothing is limited, and the functions say so. Standard library only.

Constants and layouts: linux/fs.h (fsxattr), linux/dqblk_xfs.h (fs_disk_quota).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_GET, _SET, _INHERIT = 0x801C581F, 0x401C5820, 0x200
_FSXATTR = struct.Struct("=5I8x")
_QUOTACTL_FD = 443
_PROJECT = 2
_SET_LIMIT, _GET_QUOTA = 0x5804, 0x5803
_QUOTA = struct.Struct("=bbHI6QiiHHbbbb3QiHh8s")
_HARD = 1 << 3
_BLOCK = 512
_NONE = {errno.ENOSYS, errno.ESRCH, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOENT}
_libc = ctypes.CDLL(None, use_errno=True)


def project(uid: str) -> int:
    """Above what people give by hand in /etc/projid."""
    return 0x4000_0000 | (int(uid[:8], 16) & 0x3FFF_FFFF)


def limit(path: str, uid: str, size: int) -> bool:
    """What is made in this tree from now on counts for its project, which may have so many bytes; False: the file
    system has no project quotas. Raises OSError."""
    with _opened(path) as descriptor:
        try:
            flags, extent, extents, _, cow = _FSXATTR.unpack(fcntl.ioctl(descriptor, _GET, bytes(_FSXATTR.size)))
            if _quota(descriptor, project(uid)) is None:
                return False
            fcntl.ioctl(descriptor, _SET, _FSXATTR.pack(flags | _INHERIT, extent, extents, project(uid), cow))
        except OSError as error:
            if error.errno in _NONE:
                return False
            raise
        wanted = _QUOTA.pack(1, _PROJECT, _HARD, project(uid), -(-size // _BLOCK), *[0] * 19, bytes(8))
        return _call(descriptor, _SET_LIMIT, project(uid), ctypes.create_string_buffer(wanted, len(wanted)))


def used(path: str, uid: str) -> int | None:
    """Bytes that its project has; None: the file system does not count them. Raises OSError."""
    with _opened(path) as descriptor:
        return _quota(descriptor, project(uid))


def measured(path: str) -> int:
    """Bytes of a tree, by a look at each file. Raises OSError."""
    found = 0
    for directory, names, files in os.walk(path):
        for name in (*names, *files):
            found += os.lstat(os.path.join(directory, name)).st_blocks * _BLOCK
    return found


def counts(path: str) -> bool:
    """Whether this file system has project quotas that are enforced. Raises OSError."""
    with _opened(path) as descriptor:
        return _quota(descriptor, 0x4000_0000) is not None


def _quota(descriptor: int, number: int) -> int | None:
    answer = ctypes.create_string_buffer(_QUOTA.size)
    if _call(descriptor, _GET_QUOTA, number, answer):
        return int(_QUOTA.unpack(answer.raw)[8]) * _BLOCK
    return 0 if ctypes.get_errno() == errno.ENOENT else None  # nothing was ever counted for this project


def _call(descriptor: int, command: int, number: int, answer: ctypes.Array[ctypes.c_char]) -> bool:
    """Raises OSError where it is for another reason than that there are no such quotas."""
    if _libc.syscall(_QUOTACTL_FD, descriptor, command << 8 | _PROJECT, number, answer) == 0:
        return True
    if (why := ctypes.get_errno()) in _NONE:
        return False
    raise OSError(why, os.strerror(why))


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
