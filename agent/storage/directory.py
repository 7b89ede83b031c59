"""A plain folder on ext4 or xfs, nothing to format: each node keeps copies of its own in it, and rsync brings a peer's
up to date while the workload goes on.

Settings, [backends.directory]: `folder` (absolute; this node's own, one directory a dataset, see directory_place.py).
Nothing outside it is touched.

A plain file system has no snapshots: a copy of what is in use is of no single moment, so nobody goes on from one after
a crash unless a person says so. The end of an epoch is exact. Each round looks at every file's status on both sides: it
takes longer the more files there are, and the larger those that have changed. Sizes are enforced where the file system
has project quotas (ext4: feature and mount option prjquota; xfs: mount option prjquota), else only reported.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drover.agent.guard.ladder import Cut
from drover.agent.storage import directory_mounts, directory_place, directory_quota, directory_rsync, mounts
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
from drover.agent.storage.btrfs_place import UID
from drover.agent.storage.directory_place import Place
from drover.agent.storage.mounts import Mount
from drover.agent.storage.sidecar import Sidecar
from drover.coordinator.specs import Limits

log = logging.getLogger("drover.storage")

_VERBS = "drover.agent.storage.directory_io"
_TIMEOUT = 300.0
"""Seconds that a verb may take in the helper: dirty pages of a whole file system to write."""


class DirectoryBackend:
    """See `LocalCopies`. What can write runs in a helper; looking runs in a thread."""

    name: str = "directory"
    family: Family = Family.LOCAL_COPIES
    limits: Limits = Limits(fs="directory", minimum={"directory": 1 << 20}, moments=False)
    both_ways: bool = True

    def __init__(self, settings: Mapping[str, Any], node: str, runner: Runner) -> None:
        """Raises ValueError with one line that names the key."""
        if unknown := sorted(set(settings) - {"folder"}):
            raise ValueError(f"{unknown[0]}: unknown key; there is folder")
        folder = settings.get("folder")
        if not isinstance(folder, str) or not os.path.isabs(folder):
            raise ValueError(f"folder: must be an absolute path, not {folder!r}")
        if not os.path.isdir(folder):
            raise ValueError(f"folder: there is no directory {folder}; make it, or mount what should be there")
        self._folder = os.path.realpath(folder)
        self._device, self._root, kind = directory_mounts.where(self._folder)
        if kind not in directory_mounts.KINDS:
            raise ValueError(f"folder: {folder} is on {kind}; it must be on ext4 or xfs")
        self._node, self._runner = node, runner

    async def health(self) -> str | None:
        return await asyncio.to_thread(self._health)

    async def capacity(self) -> Capacity:
        return await asyncio.to_thread(mounts.capacity, self._folder)

    async def create(self, volume: Volume, token: Token) -> str:
        await self._run(volume, "create", size=volume.size, token=asdict(token), node=self._node)
        return volume.uid

    async def look(self, volumes: Sequence[Volume]) -> Mapping[str, Here]:
        return await asyncio.to_thread(self._look, volumes)

    async def publish(self, volume: Volume, token: Token, path: Path) -> Mounted:
        done = await self._run(volume, "publish", token=asdict(token), path=str(path))
        return Mounted(self._place(volume).live, Path(done["path"]), done["size"])

    async def unpublish(self, volume: Volume) -> None:
        await self._run(volume, "unpublish")

    async def reach(self, volume: Volume) -> str | None:
        return await asyncio.to_thread(self._reach, self._place(volume))

    async def grow(self, volume: Volume) -> None:
        await self._run(volume, "grow", size=volume.size)

    def usage(self, mounted: Mounted) -> Usage:
        """Of its project, which is what such a tree tells of itself where there are quotas; else of the file system
        that it shares."""
        return mounts.usage(mounted.path)

    async def destroy(self, volume: Volume, token: Token) -> None:
        await self._run(volume, "destroy", token=asdict(token))

    async def sever(self, volume: Volume, token: Token, machine: str) -> None:
        """There is nothing to cut: no other node can write to this node's copies."""

    def last_means(self) -> Cut:
        arguments = {"folder": self._folder, "device": self._device, "root": self._root}
        return Cut("drover.agent.storage.directory_mounts:cut", arguments)

    async def stored(self) -> Sequence[Stored]:
        return await asyncio.to_thread(self._stored)

    async def remark(self) -> str:
        if await asyncio.to_thread(directory_quota.counts, self._folder):
            return ""
        return f"sizes are not enforced: {self._folder} is on a file system without project quotas (prjquota)"

    # Local copies.

    async def materialise(self, volume: Volume, token: Token, base: str | None, written: int) -> str:
        arguments = {"token": asdict(token), "node": self._node, "base": base, "written": written}
        diverged: str = (await self._run(volume, "materialise", **arguments))["diverged"]
        if diverged:
            log.warning("%s: what an earlier epoch had written here was set aside as %s", volume.dataset, diverged)
        return diverged

    async def snapshots(self, volume: Volume) -> Sequence[Snapshot]:
        return await asyncio.to_thread(directory_place.whole, self._place(volume))

    async def presync(self, volume: Volume) -> None:
        await self._run(volume, "presync")

    async def snapshot(self, volume: Volume, token: Token) -> Snapshot:
        return Snapshot(**await self._run(volume, "snapshot", token=asdict(token)))

    async def seal(self, volume: Volume, token: Token) -> Snapshot:
        return Snapshot(**await self._run(volume, "seal", token=asdict(token)))

    def send(self, volume: Volume, snapshot: Snapshot, parent: Snapshot | None) -> Sending:
        what = {"place": asdict(self._place(volume)), "guid": snapshot.guid, "parent": parent and parent.guid}
        return Sending(_rsync("send", what), parent is None)

    async def expect(self, volume: Volume, token: Token, theirs: Collection[str]) -> Sequence[Snapshot]:
        arguments = {"token": asdict(token), "node": self._node, "size": volume.size}
        return [Snapshot(**one) for one in await self._run(volume, "expect", **arguments)]

    def receive(self, volume: Volume) -> tuple[str, ...]:
        return _rsync("receive", {"place": asdict(self._place(volume)), "size": volume.size})

    def arrived(self, volume: Volume, token: Token, snapshot: Snapshot) -> tuple[str, Mapping[str, Any]]:
        arguments = {"place": asdict(self._place(volume)), "token": asdict(token), **asdict(snapshot)}
        return f"{_VERBS}:received", arguments

    async def discard(self, volume: Volume) -> None:
        """What came in part is what the next receive goes on from."""

    async def set_aside(self, volume: Volume, token: Token) -> str:
        done: str = (await self._run(volume, "set_aside", token=asdict(token)))["diverged"]
        if done:
            log.warning("%s: what an earlier epoch had written here was set aside as %s", volume.dataset, done)
        return done

    async def diverged(self, volume: Volume) -> Sequence[Diverged]:
        return await asyncio.to_thread(directory_place.diverged, self._place(volume))

    async def discard_diverged(self, volume: Volume, token: Token, guid: str) -> None:
        await self._run(volume, "discard_diverged", token=asdict(token), guid=guid)

    async def prune(self, volume: Volume, keep: Collection[str]) -> None:
        await self._run(volume, "prune", keep=sorted(keep))

    async def _run(self, volume: Volume, verb: str, **arguments: Any) -> Any:
        arguments["place"] = asdict(self._place(volume))
        return await self._runner.run(volume.dataset, f"{_VERBS}:{verb}", arguments, _TIMEOUT)

    def _place(self, volume: Volume) -> Place:
        return Place(self._folder, volume.dataset, volume.uid)

    def _health(self) -> str | None:
        if not os.path.isdir(self._folder):
            return f"the folder {self._folder} is missing: mount what should be there"
        if directory_mounts.where(self._folder)[:2] != (self._device, self._root):
            return f"the folder {self._folder} is not on the file system that it was on at the start: is it mounted?"
        if not os.access(self._folder, os.W_OK):
            return f"the folder {self._folder} cannot be written to: is it mounted read-only? See the kernel's log"
        try:
            directory_rsync.program()
        except StorageError as error:
            return str(error)
        return None

    def _reach(self, at: Place) -> str | None:
        if not os.path.exists(at.sidecar):
            return f"no copy is here: {at.sidecar} is not there; look whether the folder is the right one and mounted"
        if not os.path.isdir(at.tree):
            return f"no copy is here any more: {at.directory} has no tree"
        return self._health()

    def _look(self, volumes: Sequence[Volume]) -> Mapping[str, Here]:
        """One look at the mount table, however many volumes."""
        mounted = directory_mounts.of_folder(self._folder)
        return {volume.dataset: self._here(volume, mounted) for volume in volumes}

    def _here(self, volume: Volume, mounted: Mapping[str, Sequence[Mount]]) -> Here:
        if not (found := mounted.get(volume.uid)):
            return Away()
        at = self._place(volume)
        record = Sidecar.read(at.sidecar)
        return Mounted(at.live, Path(found[0].path), record.size if record else volume.size)

    def _stored(self) -> Sequence[Stored]:
        try:
            uids = sorted(name for name in os.listdir(self._folder) if UID.fullmatch(name))
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be listed: {error.strerror}") from error
        found = []
        for uid in uids:
            record = Sidecar.read(Place(self._folder, "", uid).sidecar)
            if record is not None:
                volume = Volume(record.dataset, uid, record.size, None, uid)
                found.append(Stored(volume, record.token, record.holder, record.formatted))
        return found


def _rsync(what: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """-P: what lies in the working directory is never imported."""
    return (sys.executable, "-P", "-m", directory_rsync.__name__, what, json.dumps(arguments))
