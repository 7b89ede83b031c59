"""Where a dataset is in a folder, and what is there of it. Standard library only.

    <folder>/<uid>/volume.json        whose it is, and the fencing token (sidecar.py)
    <folder>/<uid>/copies.json        what the tree here is worth: see `State`
    <folder>/<uid>/live               the working copy: the only tree that is ever mounted for a workload
    <folder>/<uid>/copy               the tree as its epoch ended here, or as it was received
    <folder>/<uid>/lock               held by whatever writes to `copy`, and by what that has started
    <folder>/<uid>/diverged-<epoch>   a working copy that a later epoch has left behind; only people delete it

A plain file system has no snapshots. What is called one here is a mark: everything that was written before it is in the
tree. Of a tree that is in use more may be in it, and more of the next one when that has begun to come; the one that is
sealed is exactly that.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

from drover.agent.storage import btrfs_place
from drover.agent.storage.base import Busy, Damaged, Diverged, Snapshot
from drover.agent.storage.btrfs_place import DIVERGED, room
from drover.agent.storage.loopdev import until
from drover.agent.storage.sidecar import sync_directory
from drover.agent.storage.snapshot_names import order

PATIENCE = 20.0
"""Seconds that a receive which was cut off may take to end."""
PAST = 100
"""Epochs that are remembered."""
_STEPPED = 0.5
"""Seconds by which a clock that was slewed may have gone another way than the one that counts."""
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Place(btrfs_place.Place):
    """pool: the folder, absolute, without symbolic links."""

    @property
    def copy(self) -> str:
        return os.path.join(self.directory, "copy")

    @property
    def state(self) -> str:
        return os.path.join(self.directory, "copies.json")

    @property
    def lock(self) -> str:
        return os.path.join(self.directory, "lock")

    @property
    def tree(self) -> str:
        """The one that is here."""
        return self.live if os.path.lexists(self.live) else self.copy


@dataclass(frozen=True)
class Mark:
    """at: seconds of this machine's clock, before which everything is in it. ahead, boot: how far that clock was ahead
    of the one that counts from the boot, and which boot: whether it was set since. sealed: the end of an epoch."""

    guid: str
    name: str
    sealed: bool
    at: float
    ahead: float
    boot: str

    @property
    def since(self) -> float | None:
        """What was changed after it has a later time; None: nobody can tell, since the clock was set."""
        now = mark("", "", False)
        return self.at if self.boot == now.boot and abs(now.ahead - self.ahead) < _STEPPED else None


def mark(guid: str, name: str, sealed: bool) -> Mark:
    """Of this moment."""
    at = time.time()
    with open("/proc/sys/kernel/random/boot_id") as file:
        return Mark(guid, name, sealed, at, at - time.clock_gettime(time.CLOCK_BOOTTIME), file.read().strip())


@dataclass(frozen=True)
class State:
    """marks: of the tree that is here, oldest first. torn: more has begun to come since the last one. arrived:
    guid of what came last by a command that ended well. past: guids of the ends that earlier epochs began with: what
    this tree has come from."""

    marks: tuple[Mark, ...] = ()
    torn: bool = False
    arrived: str = ""
    past: tuple[str, ...] = ()

    @classmethod
    def read(cls, at: Place) -> State:
        """Raises Damaged, OSError."""
        try:
            with open(at.state, "rb") as file:
                stored = json.load(file)
            marks = tuple(Mark(**one) for one in stored["marks"])
            return cls(marks, stored["torn"], stored["arrived"], tuple(stored["past"]))
        except FileNotFoundError:
            return cls()
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(
                f"{at.state} cannot be read ({error!r}), so nobody can tell what the copy beside it is worth; nothing "
                "was touched: put the file back from a backup, or move it away to have all of it compared again"
            ) from error

    def write(self, at: Place) -> None:
        """Durable when it returns, and whole at any time. Raises OSError."""
        with open(f"{at.state}.tmp", "wb") as file:
            file.write(json.dumps(asdict(self), indent=1).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{at.state}.tmp", at.state)
        sync_directory(at.directory)

    def marked(self, at: Place, guid: str, sealed: bool, name: str = "", epoch: int = 0) -> State:
        """With one more. name: "" for the next of this epoch."""
        if not name:
            last = max((order(one.name)[1] for one in self.marks if order(one.name)[0] == epoch), default=0)
            name = f"{epoch:06d}.{last + 1:06d}"
        rest = tuple(one for one in self.marks if one.guid != guid)
        return replace(self, marks=(*rest, mark(guid, name, sealed)))

    def mark(self, guid: str) -> Mark | None:
        return next((one for one in self.marks if one.guid == guid), None)

    @property
    def snapshots(self) -> list[Snapshot]:
        return [Snapshot(one.guid, one.name) for one in self.marks]


def diverged(at: Place) -> list[Diverged]:
    """What was set aside, in order of epochs. Raises StorageError."""
    found = []
    with room(at):
        for name in os.listdir(at.directory) if os.path.isdir(at.directory) else ():
            path = os.path.join(at.directory, name)
            if known := DIVERGED.fullmatch(name):
                found.append(Diverged(int(known[1]), f"{name}.{os.lstat(path).st_ino}", path))
    return sorted(found, key=lambda one: (one.epoch, one.path))


def whole(at: Place) -> list[Snapshot]:
    """What the tree here is known to have, oldest first. Raises Damaged, OSError."""
    state = State.read(at)
    return state.snapshots if os.path.lexists(at.tree) else []


def sync(path: str) -> None:
    """Everything written to its whole file system is durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
    finally:
        os.close(descriptor)


@contextmanager
def alone(at: Place) -> Iterator[int]:
    """Nothing that was started earlier writes to the copy any more. Gives a descriptor that is to be handed on to what
    is started for it. Raises Busy, OSError."""
    descriptor = os.open(at.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not until(lambda: _locked(descriptor), PATIENCE):
            raise Busy(f"what was received for {at.dataset} before is still being written", "an earlier receive")
        yield descriptor
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
