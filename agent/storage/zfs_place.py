"""Where a dataset is in a ZFS pool, and what is there of it. Standard library only.

    <root>                      the node's own; readonly=on here, and nothing below can be written (the guard's means)
    <root>/<uid>                drover:volume says whose it is, with the fencing token; readonly=on: no working copy
    <root>/<uid>/data           the working copy, or where snapshots are received
    <root>/<uid>/data@<name>    name: see snapshot_names.py; GUIDs are the same on every node that has it
    <root>/<uid>/next           on its way to become `data`
    <root>/<uid>/old            was `data`, and nothing that its sender has is in it; goes when `data` has arrived
    <root>/<uid>/diverged-<epoch>   a working copy that a later epoch has left behind; only people delete it

`data` is one file system that takes both parts in turn: read-only and never mounted while it receives, so the newest
snapshot in it is what it holds, and the next increment fits. Where it cannot go on from its newest snapshot it is
renamed, and a clone of the snapshot to go on from takes its place and is promoted; nothing is ever rolled back that
anybody has written. `data` inherits readonly, so one property at the root stops all.
"""

from __future__ import annotations

import fcntl
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from drover.agent.storage import snapshot_names
from drover.agent.storage.base import Diverged, Foreign, NotFound, Snapshot
from drover.agent.storage.sidecar import Sidecar
from drover.agent.storage.snapshot_names import END, is_name, order
from drover.agent.storage.zfs_command import Failed, Zfs

RECORD = "drover:volume"
_LOCK = "/run/lock/drover-zfs"
_DIVERGED = re.compile(r"diverged-(\d+)(-\d+)?")
_SEEN = ("guid", "createtxg", "used", "referenced", "readonly", "mountpoint", "canmount", "refquota", RECORD)


@dataclass(frozen=True)
class Place:
    """root: a ZFS file system that is this node's own. programs: see `Zfs`."""

    root: str
    dataset: str
    uid: str
    programs: str = ""

    @property
    def zfs(self) -> Zfs:
        return Zfs(self.programs)

    @property
    def pool(self) -> str:
        return self.root.partition("/")[0]

    @property
    def top(self) -> str:
        return f"{self.root}/{self.uid}"

    @property
    def data(self) -> str:
        return f"{self.top}/data"

    @property
    def next(self) -> str:
        return f"{self.top}/next"

    @property
    def old(self) -> str:
        return f"{self.top}/old"

    def snapshot(self, name: str) -> str:
        return f"{self.data}@{name}"


@dataclass
class Dataset:
    """properties: value and source. taken: all snapshots, oldest first; those of other programs, too."""

    properties: dict[str, tuple[str, str]] = field(default_factory=dict)
    taken: list[Snapshot] = field(default_factory=list)

    def get(self, name: str) -> str:
        return self.properties.get(name, ("", ""))[0]

    def local(self, name: str) -> str:
        value, source = self.properties.get(name, ("", ""))
        return value if source in ("local", "received") else ""


@dataclass(frozen=True)
class Seen:
    """What is there, at one look. all: by full name."""

    at: Place
    all: Mapping[str, Dataset]

    @property
    def there(self) -> bool:
        return self.at.top in self.all

    @property
    def record(self) -> Sidecar | None:
        if not self.there or not (text := self.all[self.at.top].local(RECORD)):
            return None
        return Sidecar.parse(text, f"{RECORD} of {self.at.top}")

    @property
    def data(self) -> Dataset | None:
        return self.all.get(self.at.data)

    @property
    def live(self) -> bool:
        """There is a working copy: what could be written to, and may have been."""
        return self.data is not None and self.all[self.at.top].local("readonly") != "on"

    @property
    def snapshots(self) -> list[Snapshot]:
        """Ours in `data`, oldest first."""
        return ours(self.data) if self.data else []

    @property
    def newest(self) -> Snapshot | None:
        """In `data`, whoever took it."""
        return self.data.taken[-1] if self.data and self.data.taken else None

    def ended(self, epoch: int) -> Snapshot | None:
        """What this epoch has ended with here; None: it has not."""
        newest = self.newest
        if self.live or newest is None or not newest.name.endswith(END) or not is_name(newest.name):
            return None
        return newest if order(newest.name)[0] == epoch else None

    def next_name(self, epoch: int) -> str:
        return snapshot_names.next_name((one.name for one in self.data.taken) if self.data else (), epoch)

    def diverged(self, epoch: int) -> str:
        """A name that is free."""
        name, more = f"{self.at.top}/diverged-{epoch}", 1
        while name in self.all:
            more += 1
            name = f"{self.at.top}/diverged-{epoch}-{more}"
        return name


def ours(dataset: Dataset) -> list[Snapshot]:
    return [one for one in dataset.taken if is_name(one.name)]


def diverged(seen: Seen) -> list[Diverged]:
    """What was set aside, in order of epochs. Raises ValueError."""
    found = []
    for name, its in seen.all.items():
        if (known := _DIVERGED.fullmatch(name.removeprefix(f"{seen.at.top}/"))) is not None:
            found.append(Diverged(int(known[1]), its.get("guid"), name, int(its.get("used"))))
    return sorted(found, key=lambda one: (one.epoch, one.path))


def look(at: Place) -> Seen:
    """One command. Raises Failed, StorageError."""
    found: dict[str, Dataset] = {}
    taken: dict[str, list[tuple[int, Snapshot]]] = {}
    details: dict[str, dict[str, str]] = {}
    try:
        for name, key, value, source in at.zfs.properties(_SEEN, at.top, deep=True):
            if "#" in name:
                continue  # a bookmark
            if "@" in name:
                details.setdefault(name, {})[key] = value
            else:
                found.setdefault(name, Dataset()).properties[key] = (value, source)
    except Failed as error:
        if not error.absent:
            raise
    for full, its in details.items():
        dataset, _, name = full.partition("@")
        taken.setdefault(dataset, []).append((int(its["createtxg"]), Snapshot(its["guid"], name)))
    for dataset, those in taken.items():
        found[dataset].taken = [one for _, one in sorted(those, key=lambda each: each[0])]
    return Seen(at, found)


def record(seen: Seen) -> Sidecar:
    """Raises NotFound, Foreign, Damaged."""
    found = seen.record
    if found is None:
        raise unknown(seen.at) if seen.there else missing(seen.at)
    if not found.formatted:
        raise NotFound(f"{seen.at.top} was never finished: the volume must be created first")
    return found


def missing(at: Place) -> NotFound:
    return NotFound(
        f"{at.data} is not there: look whether the pool is the right one and imported (zpool import); Drover never "
        "makes an empty file system in its place"
    )


def unknown(at: Place) -> Foreign:
    return Foreign(f"{at.top} has no record of whose it is (the property {RECORD}): nothing was touched; put it back")


def store(seen: Seen, new: Sidecar) -> None:
    """Durable when it returns. The caller has the lock. Raises Failed, NoRoom."""
    if new != seen.record:
        seen.at.zfs.set(seen.at.top, RECORD, new.text())


@contextmanager
def alone(at: Place) -> Iterator[None]:
    """Nobody else on this machine changes this dataset's record or copies: one file, a byte of it a dataset."""
    os.makedirs(os.path.dirname(_LOCK), exist_ok=True)
    with open(_LOCK, "a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, zlib.crc32(at.top.encode()))
        yield
