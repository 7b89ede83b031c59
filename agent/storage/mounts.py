"""The mount table, mounting by libc, and who holds a file system. The standard library only."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drover.agent.storage.base import Capacity, StorageError, Usage

MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_NOATIME, MS_BIND = 2, 4, 32, 1024, 4096
MS_PRIVATE, MS_SHARED = 1 << 18, 1 << 20
MNT_DETACH = 2

_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Mount:
    """One line of a mount table (proc(5), mountinfo). device: `major:minor`. root: what of the file system."""

    id: int
    parent: int
    device: str
    root: str
    path: str
    fs: str
    source: str


def capacity(path: str | Path) -> Capacity:
    """Of the file system that a pool is in, as df counts: without what is reserved. Raises StorageError."""
    try:
        found = os.statvfs(path)
    except OSError as error:
        raise StorageError(f"{path} does not tell how full it is: {error.strerror}; see the kernel's log") from error
    size = (found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize
    inodes = (found.f_files, found.f_ffree) if found.f_files else (None, None)  # btrfs makes them as they are needed
    return Capacity(size, found.f_bavail * found.f_frsize, *inodes)


def usage(path: Path) -> Usage:
    """Of the file system that is mounted there. Raises OSError; hangs where the file system does."""
    found = os.statvfs(path)
    return Usage(
        size=found.f_blocks * found.f_frsize,
        used=(found.f_blocks - found.f_bfree) * found.f_frsize,
        inodes=found.f_files,
        inodes_used=found.f_files - found.f_ffree,
        free=found.f_bavail * found.f_frsize,
    )


def table(pid: int | str = "thread-self") -> list[Mount]:
    """In the order of mounting. Raises OSError where the process is gone."""
    with open(f"/proc/{pid}/mountinfo", errors="surrogateescape") as file:
        return [_parsed(line) for line in file]


def of_device(device: str) -> list[Mount]:
    """In this mount namespace."""
    return [mount for mount in table() if mount.device == device]


def mount(source: str, path: str, fs: str, flags: int = 0, data: str = "") -> None:
    """Raises OSError."""
    source_, path_, fs_, data_ = map(os.fsencode, (source, path, fs, data))
    if _libc.mount(source_, path_, fs_, ctypes.c_ulong(flags), data_) != 0:
        raise _error(path)


def unmount(path: str, flags: int = 0) -> None:
    """Raises OSError: EBUSY while in use, EINVAL where nothing is mounted."""
    if _libc.umount2(os.fsencode(path), flags) != 0:
        raise _error(path)


def unmounted(mount: Mount) -> bool:
    """Takes it out where that can be done; False: it is busy. Raises OSError."""
    if not leads_to(mount.path, mount):  # something is mounted over it, or it has gone
        return mount not in table()
    try:
        unmount(mount.path)
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise
    return True


def leads_to(path: str, mount: Mount) -> bool:
    """Whether the path ends on this mount, and not on one that was put over it. Asks no file system."""
    return _mount_id(path) == mount.id


def elsewhere(device: str) -> list[tuple[int, Mount]]:
    """As `all_elsewhere`, of one device."""
    return [(pid, mount) for pid, mount in all_elsewhere() if mount.device == device]


def all_elsewhere() -> Iterator[tuple[int, Mount]]:
    """Mounts in the other mount namespaces that are visible here, each with one process of that namespace. A table a
    namespace: 0.1 ms each."""
    for pid in _namespaces():
        with suppress(OSError):
            yield from [(pid, mount) for mount in table(pid)]


def same_root(pid: int) -> bool:
    """Whether a process has our root directory: it is no container. False where it is gone."""
    with suppress(OSError):
        theirs, ours = os.stat(f"/proc/{pid}/root"), os.stat("/")
        return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
    return False


def unmount_elsewhere(pid: int, path: str, flags: int = 0) -> None:
    """Unmount in the mount namespace of another process. Raises OSError."""

    def act() -> None:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.unshare(_CLONE_FS) != 0 or _libc.setns(namespace, _CLONE_NEWNS) != 0:
                raise _error(path)
        finally:
            os.close(namespace)
        unmount(path, flags)

    _in_thread(act)


def holders(device: str, ids: Collection[int] = ()) -> list[str]:
    """`name (pid)` of each process that has a file, a directory or the device itself open, mapped or as its own.
    Looks at all processes: for when something is busy. ids: of mounts that its files may lie on; a file system that was
    shut down tells nothing else."""
    return [f"{_command(pid)} ({pid})" for pid in _pids() if pid != os.getpid() and _holds(pid, device, ids)]


def outsiders(paths: Sequence[Path], ours: Callable[[int], bool]) -> list[str]:
    """`name (pid)` of each process that uses what is mounted there, is not ours, and sees the machine as we do or as
    its init does: it is in no container. Takes as long as the storage takes to answer."""
    views = {_namespace("thread-self"), _namespace("1")}
    devices, ids = set(), set[int]()
    for path in paths:
        number = os.stat(path).st_dev
        device = f"{os.major(number)}:{os.minor(number)}"
        if shared := _shared(path, device):
            ids |= shared
        else:
            devices.add(device)
    pids = [pid for pid in _pids() if _namespace(str(pid)) in views and not ours(pid)]
    holding = [
        pid for pid in pids if any(_holds(pid, device, ()) for device in devices) or (ids and _on_mount(pid, ids))
    ]
    return [f"{_command(pid)} ({pid})" for pid in holding]


def _shared(path: Path, device: str) -> set[int]:
    """Where only a part of a file system is mounted at `path`, and others use the rest: the mounts of that part, here
    and in the namespace of the machine's init. Else nothing."""
    here = [mount for mount in table() if mount.device == device]
    part = next((mount.root for mount in reversed(here) if mount.path == str(path)), None)
    if part is None or all(mount.root == part for mount in here):
        return set()
    return {mount.id for mount in (*here, *table(1)) if (mount.device, mount.root) == (device, part)}


def _namespace(pid: str) -> int:
    """The mount namespace of a process; 0: it is gone, or we may not know."""
    with suppress(OSError):
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    return 0


def holders_by_mount(ids: Collection[int]) -> list[str]:
    """As `holders`, of what lies on these mounts: for what shares its device with other things. Looks at each open file
    of all processes."""
    return [f"{_command(pid)} ({pid})" for pid in _pids() if pid != os.getpid() and _on_mount(pid, ids)]


def below(device: str) -> list[str]:
    """Paths where something else is mounted inside this file system, in this mount namespace."""
    mounts = table()
    own = {mount.id for mount in mounts if mount.device == device}
    return [mount.path for mount in mounts if mount.parent in own and mount.id not in own]


def _parsed(line: str) -> Mount:
    left, _, right = line.partition(" - ")
    id, parent, device, root, path, *_ = left.split(" ")
    fs, source, *_ = right.split(" ")
    return Mount(int(id), int(parent), device, _plain(root), _plain(path), fs, _plain(source))


def _plain(text: str) -> str:
    if "\\" not in text:
        return text
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def _error(path: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def _number(device: str) -> int:
    major, minor = device.split(":")
    return os.makedev(int(major), int(minor))


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _namespaces() -> Iterator[int]:
    """One process of each mount namespace but our own."""
    seen = {os.stat("/proc/thread-self/ns/mnt").st_ino}
    for pid in _pids():
        with suppress(OSError):
            inode = os.stat(f"/proc/{pid}/ns/mnt").st_ino
            if inode not in seen:
                seen.add(inode)
                yield pid


def _mount_id(path: str) -> int | None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            with open(f"/proc/thread-self/fdinfo/{descriptor}") as file:
                return int(file.read().partition("mnt_id:")[2].split()[0])
        finally:
            os.close(descriptor)
    return None


def _holds(pid: int, device: str, ids: Collection[int]) -> bool:
    number = _number(device)
    names = ["cwd", "root", "exe"]
    with suppress(OSError):
        names += [f"fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
    for name in names:
        try:
            status = os.stat(f"/proc/{pid}/{name}")
        except OSError as error:
            if error.errno == errno.EIO and _mount_id(f"/proc/{pid}/{name}") in ids:
                return True
            continue
        if status.st_dev == number or (stat.S_ISBLK(status.st_mode) and status.st_rdev == number):
            return True
    major, minor = device.split(":")
    mapped = f" {int(major):02x}:{int(minor):02x} "
    with suppress(OSError), open(f"/proc/{pid}/maps", errors="surrogateescape") as file:
        return any(mapped in line for line in file)
    return False


def _on_mount(pid: int, ids: Collection[int]) -> bool:
    names = ["cwd", "root", "exe"]
    for inside in ("fd", "map_files"):
        with suppress(OSError):
            names += [f"{inside}/{name}" for name in os.listdir(f"/proc/{pid}/{inside}")]
    return any(_mount_id(f"/proc/{pid}/{name}") in ids for name in names)


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "?"


def _in_thread(act: Callable[[], None]) -> None:
    """In a thread of its own, which ends in whatever namespace it went to."""
    errors: list[OSError] = []

    def run() -> None:
        try:
            act()
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
