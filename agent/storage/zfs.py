"""ZFS: each node keeps copies of its own below a file system of a pool, and sends its peers what has changed.

Settings, [backends.zfs]: `root` (a ZFS file system that is this node's own, `tank/drover`; see zfs_place.py), and
`programs` (absolute; the directory of zfs and zpool where they are not where programs are).

Its suite runs on zfs-fuse 0.7, not on OpenZFS 2 yet; what a release lacks is found by running it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from drover.agent.guard.ladder import Cut
from drover.agent.storage import mounts, zfs_mounts, zfs_place
from drover.agent.storage.base import (
    Away,
    Capacity,
    Diverged,
    Family,
    Here,
    Mounted,
    Runner,
    Sending,
    Snapshot,
    StorageError,
    Stored,
    Token,
    Usage,
    Volume,
)
from drover.agent.storage.mounts import Mount
from drover.agent.storage.sidecar import Sidecar
from drover.agent.storage.snapshot_names import UID
from drover.agent.storage.zfs_command import Failed, Zfs
from drover.agent.storage.zfs_place import RECORD, Place
from drover.coordinator.specs import Limits

log = logging.getLogger("drover.storage")

_VERBS, _COPIES = "drover.agent.storage.zfs_io", "drover.agent.storage.zfs_copies"
_TIMEOUT = 300.0
"""Seconds that a verb may take in the helper: dirty data of a whole pool to write."""
_LOOK = 10.0
"""Seconds that a command which only looks may take."""
_ROOT = re.compile(r"[A-Za-z][\w.:-]*(/[\w.:-]+)*")


class ZfsBackend:
    """See `LocalCopies`. What can write runs in a helper; looking runs in a thread."""

    name: str = "zfs"
    family: Family = Family.LOCAL_COPIES
    limits: Limits = Limits(fs="zfs", minimum={"zfs": 1 << 20})
    both_ways: bool = False

    def __init__(self, settings: Mapping[str, Any], node: str, runner: Runner) -> None:
        """Raises ValueError with one line that names the key."""
        if unknown := sorted(set(settings) - {"root", "programs"}):
            raise ValueError(f"{unknown[0]}: unknown key; there are root and programs")
        root, programs = settings.get("root"), settings.get("programs", "")
        if not isinstance(root, str) or not _ROOT.fullmatch(root):
            raise ValueError(f"root: must be the name of a ZFS file system such as tank/drover, not {root!r}")
        if not isinstance(programs, str) or (programs and not os.path.isabs(programs)):
            raise ValueError(f"programs: must be an absolute path, not {programs!r}")
        self._root, self._programs = root, programs
        self._zfs = Zfs(programs)
        for program in ("zfs", "zpool"):
            try:
                self._zfs.find(program)
            except StorageError as error:
                raise ValueError(f"programs: {error}") from None
        self._node, self._runner = node, runner
        self._sizes: dict[Mount, int] = {}
        """Of what is mounted, so that looking needs no command each time. Only the verbs here change one."""

    async def health(self) -> str | None:
        return await asyncio.to_thread(self._health)

    async def capacity(self) -> Capacity:
        return await asyncio.to_thread(self._capacity)

    async def create(self, volume: Volume, token: Token) -> str:
        await self._run(volume, f"{_VERBS}:create", size=volume.size, token=asdict(token), node=self._node)
        return volume.uid

    async def look(self, volumes: Sequence[Volume]) -> Mapping[str, Here]:
        return await asyncio.to_thread(self._look, volumes)

    async def publish(self, volume: Volume, token: Token, path: Path) -> Mounted:
        done = await self._run(volume, f"{_VERBS}:publish", token=asdict(token), path=str(path))
        return Mounted(self._place(volume).data, Path(done["path"]), done["size"])

    async def unpublish(self, volume: Volume) -> None:
        await self._run(volume, f"{_VERBS}:unpublish")

    async def reach(self, volume: Volume) -> str | None:
        return await asyncio.to_thread(self._reach, self._place(volume))

    async def grow(self, volume: Volume) -> None:
        self._sizes.clear()
        await self._run(volume, f"{_VERBS}:grow", size=volume.size)
        self._sizes.clear()

    def usage(self, mounted: Mounted) -> Usage:
        """ZFS tells how full a file system is as its own quota and its pool have it."""
        found = mounts.usage(mounted.path)
        return replace(found, size=mounted.size, free=min(found.free, max(0, mounted.size - found.used)))

    async def destroy(self, volume: Volume, token: Token) -> None:
        await self._run(volume, f"{_VERBS}:destroy", token=asdict(token))

    async def sever(self, volume: Volume, token: Token, machine: str) -> None:
        """There is nothing to cut: no other node can write to this node's copies."""

    def last_means(self) -> Cut:
        return Cut("drover.agent.storage.zfs_mounts:cut", {"root": self._root, "programs": self._programs})

    async def stored(self) -> Sequence[Stored]:
        return await asyncio.to_thread(self._stored)

    # Local copies.

    async def materialise(self, volume: Volume, token: Token, base: str | None, written: int) -> str:
        arguments = {"token": asdict(token), "node": self._node, "base": base, "written": written}
        diverged: str = (await self._run(volume, f"{_COPIES}:materialise", **arguments))["diverged"]
        if diverged:
            log.warning("%s: what an earlier epoch had written here was set aside as %s", volume.dataset, diverged)
        return diverged

    async def snapshots(self, volume: Volume) -> Sequence[Snapshot]:
        return (await asyncio.to_thread(zfs_place.look, self._place(volume))).snapshots

    async def presync(self, volume: Volume) -> None:
        await self._run(volume, f"{_COPIES}:presync")

    async def snapshot(self, volume: Volume, token: Token) -> Snapshot:
        return Snapshot(**await self._run(volume, f"{_COPIES}:snapshot", token=asdict(token)))

    async def seal(self, volume: Volume, token: Token) -> Snapshot:
        return Snapshot(**await self._run(volume, f"{_COPIES}:seal", token=asdict(token)))

    def send(self, volume: Volume, snapshot: Snapshot, parent: Snapshot | None) -> Sending:
        at = self._place(volume)
        since = ("-i", at.snapshot(parent.name)) if parent else ()
        return Sending((self._zfs.find("zfs"), "send", *since, at.snapshot(snapshot.name)), parent is None)

    async def expect(self, volume: Volume, token: Token, theirs: Collection[str]) -> Sequence[Snapshot]:
        arguments = {"token": asdict(token), "node": self._node, "size": volume.size, "theirs": sorted(theirs)}
        return [Snapshot(**one) for one in await self._run(volume, f"{_COPIES}:expect", **arguments)]

    def receive(self, volume: Volume) -> tuple[str, ...]:
        return (self._zfs.find("zfs"), "receive", self._place(volume).data)

    def arrived(self, volume: Volume, token: Token, snapshot: Snapshot) -> tuple[str, Mapping[str, Any]]:
        arguments = {"place": asdict(self._place(volume)), "token": asdict(token), **asdict(snapshot)}
        return f"{_COPIES}:received", arguments

    async def discard(self, volume: Volume) -> None:
        await self._run(volume, f"{_COPIES}:discard")

    async def set_aside(self, volume: Volume, token: Token) -> str:
        done: str = (await self._run(volume, f"{_COPIES}:set_aside", token=asdict(token)))["diverged"]
        if done:
            log.warning("%s: what an earlier epoch had written here was set aside as %s", volume.dataset, done)
        return done

    async def diverged(self, volume: Volume) -> Sequence[Diverged]:
        return zfs_place.diverged(await asyncio.to_thread(zfs_place.look, self._place(volume)))

    async def discard_diverged(self, volume: Volume, token: Token, guid: str) -> None:
        await self._run(volume, f"{_COPIES}:discard_diverged", token=asdict(token), guid=guid)

    async def prune(self, volume: Volume, keep: Collection[str]) -> None:
        await self._run(volume, f"{_COPIES}:prune", keep=sorted(keep))

    async def _run(self, volume: Volume, verb: str, **arguments: Any) -> Any:
        arguments["place"] = asdict(self._place(volume))
        return await self._runner.run(volume.dataset, verb, arguments, _TIMEOUT)

    def _place(self, volume: Volume) -> Place:
        return Place(self._root, volume.dataset, volume.uid, self._programs)

    def _health(self) -> str | None:
        try:
            state = self._zfs.zpool("list", "-H", "-o", "health", self._root.partition("/")[0], timeout=_LOOK).strip()
            if state not in ("ONLINE", "DEGRADED"):
                return f"the pool of {self._root} is {state}: see zpool status"
            self._zfs.zfs("list", "-H", "-o", "name", self._root, timeout=_LOOK)
        except Failed as error:
            if error.no_zfs:
                return f"ZFS does not run here, so {self._root} is not there: load its module and import the pool"
            if error.absent or "no such pool" in error.said:
                return (
                    f"{self._root} is not there: import its pool (zpool import), or make it: zfs create -p {self._root}"
                )
            return str(error)
        except StorageError as error:
            return str(error)
        return None

    def _capacity(self) -> Capacity:
        found = {name: int(value) for _, name, value, _ in self._zfs.properties(["used", "available"], self._root)}
        return Capacity(found["used"] + found["available"], found["available"])

    def _reach(self, at: Place) -> str | None:
        if (wrong := self._health()) is not None:
            return wrong
        try:
            seen = zfs_place.look(at)
        except StorageError as error:
            return str(error)
        if not seen.there:
            return f"no copy is here: {at.top} is not there; look whether the pool is the right one"
        if seen.data is None:
            return f"no copy is here any more: {at.data} is not there"
        return None

    def _look(self, volumes: Sequence[Volume]) -> Mapping[str, Here]:
        """One look at the mount table, however many volumes."""
        mounted = zfs_mounts.of_root(self._root)
        now = {mount for those in mounted.values() for mount in those}
        for gone in self._sizes.keys() - now:
            self._sizes.pop(gone, None)
        return {volume.dataset: self._here(volume, mounted) for volume in volumes}

    def _here(self, volume: Volume, mounted: Mapping[str, Sequence[Mount]]) -> Here:
        if not (found := mounted.get(volume.uid)):
            return Away()
        return Mounted(self._place(volume).data, Path(found[0].path), self._size(volume, found[0]))

    def _size(self, volume: Volume, mount: Mount) -> int:
        if (known := self._sizes.get(mount)) is not None:
            return known
        try:
            [(_, _, text, _)] = self._zfs.properties(["refquota"], mount.source)
            size = self._sizes[mount] = int(text)
        except StorageError as error:
            log.debug("%s does not say how large it is: %s", mount.source, error)
            return volume.size
        return size

    def _stored(self) -> Sequence[Stored]:
        found = []
        for name, _, text, source in self._zfs.properties([RECORD], self._root, deep=True):
            uid = name.removeprefix(f"{self._root}/")
            if source == "local" and UID.fullmatch(uid):
                record = Sidecar.parse(text, f"{RECORD} of {name}")
                volume = Volume(record.dataset, uid, record.size, None, uid)
                found.append(Stored(volume, record.token, record.holder, record.formatted))
        return found
