"""Where a dataset is in a btrfs pool, and what is there of it. Standard library only.

    <pool>/<uid>/volume.json           whose it is, and the fencing token (sidecar.py)
    <pool>/<uid>/live                  the working copy: the only subvolume that is ever mounted for a workload
    <pool>/<uid>/snapshots/<name>/data      read-only; name: <epoch>.<sequence>, made in that epoch, here or elsewhere
    <pool>/<uid>/snapshots/<name>.end/data  the working copy itself, as its epoch ended: read-only, and the last
    <pool>/<uid>/incoming/data              what is being received; removed before the next one comes
    <pool>/<uid>/next                       made of the newest snapshot: the working copy, should this node be the next
    <pool>/<uid>/named/<name>/data          a snapshot that a user has asked for; read-only
    <pool>/<uid>/diverged-<epoch>           a working copy that a later epoch has left behind; only people delete it

What has arrived, is whole and durable becomes a snapshot by renaming `incoming`: a read-only subvolume itself cannot be
moved to another directory. A working copy is always made as a writable snapshot of a read-only one, so it never says
that it was received, and the read-only ones on two nodes can each be the other's parent.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from drover.agent.storage import btrfs_ioctl, snapshot_names
from drover.agent.storage.base import Diverged, Foreign, NoRoom, NotFound, Snapshot, StorageError
from drover.agent.storage.btrfs_ioctl import Subvolume
from drover.agent.storage.sidecar import Sidecar
from drover.agent.storage.snapshot_names import is_name, order
from drover.coordinator.sizes import format_size

_DATA = "data"
UID = re.compile(r"[0-9a-f]{4,64}")
DIVERGED = re.compile(r"diverged-(\d+)(-\d+)?")


@dataclass(frozen=True)
class Place:
    """pool: a directory of a mounted btrfs, absolute, without symbolic links."""

    pool: str
    dataset: str
    uid: str

    @property
    def directory(self) -> str:
        return os.path.join(self.pool, self.uid)

    @property
    def sidecar(self) -> str:
        return os.path.join(self.directory, "volume.json")

    @property
    def live(self) -> str:
        return os.path.join(self.directory, "live")

    @property
    def next(self) -> str:
        return os.path.join(self.directory, "next")

    @property
    def snapshots(self) -> str:
        return os.path.join(self.directory, "snapshots")

    @property
    def incoming(self) -> str:
        return os.path.join(self.directory, "incoming")

    @property
    def arriving(self) -> str:
        return os.path.join(self.incoming, _DATA)

    @property
    def named(self) -> str:
        return os.path.join(self.directory, "named")

    def named_snapshot(self, name: str) -> str:
        return os.path.join(self.named, name, _DATA)

    def snapshot(self, name: str) -> str:
        return os.path.join(self.snapshots, name, _DATA)

    def diverged(self, epoch: int) -> str:
        """A name that is free."""
        path, more = os.path.join(self.directory, f"diverged-{epoch}"), 1
        while os.path.lexists(path):
            more += 1
            path = os.path.join(self.directory, f"diverged-{epoch}-{more}")
        return path


def changed(at: Place, name: str) -> int | None:
    """See `TellsChanges.changed`. A working copy that nobody has written to since its newest snapshot was last changed
    in the same transaction as that. Raises StorageError."""
    with room(at):
        live, snapshot = btrfs_ioctl.info(at.live), btrfs_ioctl.info(at.snapshot(name))
        if live is None or snapshot is None:
            return None
        return 0 if live.changed == snapshot.changed else btrfs_ioctl.exclusive(at.live)


@contextmanager
def spared(path: str) -> Iterator[None]:
    """A snapshot that is being read: a shared lock, which ends with whoever holds it. Raises NotFound."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"{path} is not there (any more)") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotFound(f"{path} is being removed") from None
        yield
    finally:
        os.close(descriptor)


def being_read(path: str) -> bool:
    """Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def diverged(at: Place) -> list[Diverged]:
    """What was set aside, in order of epochs. Raises StorageError."""
    found = []
    with room(at):
        for name in os.listdir(at.directory) if os.path.isdir(at.directory) else ():
            path = os.path.join(at.directory, name)
            if (known := DIVERGED.fullmatch(name)) and (subvolume := btrfs_ioctl.info(path)) is not None:
                found.append(Diverged(int(known[1]), subvolume.uuid, path, btrfs_ioctl.exclusive(path)))
    return sorted(found, key=lambda one: (one.epoch, one.path))


def subvolumes(at: Place) -> list[tuple[str, Subvolume]]:
    """The read-only snapshots that are whole, oldest first, by name."""
    try:
        names = [name for name in os.listdir(at.snapshots) if is_name(name)]
    except FileNotFoundError:
        return []
    found = []
    for name in sorted(names, key=order):
        subvolume = btrfs_ioctl.info(at.snapshot(name))
        if subvolume is not None and subvolume.read_only:
            found.append((name, subvolume))
    return found


def snapshots(at: Place) -> list[Snapshot]:
    return [Snapshot(subvolume.guid, name) for name, subvolume in subvolumes(at)]


def next_name(at: Place, epoch: int) -> str:
    return snapshot_names.next_name(os.listdir(at.snapshots), epoch)


def make_directories(at: Place) -> None:
    """Raises OSError."""
    for path in (at.directory, at.snapshots, at.incoming):
        os.makedirs(path, mode=0o700, exist_ok=True)


def stranger(at: Place) -> bool:
    """Whether something is there that is not ours, while there is no record of whose it is."""
    if not os.path.exists(at.directory):
        return False
    ours = {os.path.basename(path) for path in (at.snapshots, at.incoming, f"{at.sidecar}.tmp")}
    inside = [os.listdir(path) for path in (at.snapshots, at.incoming) if os.path.isdir(path)]
    return bool(set(os.listdir(at.directory)) - ours or any(inside))


def record(at: Place) -> Sidecar:
    """Raises NotFound, Foreign, Damaged."""
    found = Sidecar.read(at.sidecar)
    if found is None:
        raise unknown(at) if os.path.exists(at.directory) else missing(at)
    if not found.formatted:
        raise NotFound(f"{at.directory} was never finished: the volume must be created first")
    return found


def missing(at: Place) -> NotFound:
    return NotFound(
        f"{at.directory} is not there: look whether the pool is the right one and mounted; Drover never makes an empty "
        "file system in its place"
    )


def unknown(at: Place) -> Foreign:
    return Foreign(
        f"{at.directory} has no record of whose it is ({at.sidecar} is missing): nothing was touched; put it back"
    )


@contextmanager
def room(at: Place) -> Iterator[None]:
    """A full pool becomes NoRoom; what else the kernel says is said with the place."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            found = os.statvfs(at.pool)
            free = format_size(found.f_bavail * found.f_frsize)
            raise NoRoom(
                f"no room in {at.pool} ({error.strerror}; {free} free): delete something or enlarge it"
            ) from error
        raise StorageError(f"{at.dataset} in {at.pool}: {error.strerror} ({error.filename or 'ioctl'})") from error
