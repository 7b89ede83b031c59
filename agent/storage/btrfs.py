"""btrfs: each node keeps copies of its own in a directory of a mounted btrfs, and sends its peers what has changed.

Settings, [backends.btrfs]: `pool` (absolute; a directory on btrfs that is this node's own and holds one directory a
dataset, see btrfs_place.py).

Sizes are enforced where quotas are on in that file system (`btrfs quota enable`), and only reported where they are not.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from drover.agent.guard.ladder import Cut
from drover.agent.storage import btrfs_ioctl, btrfs_mounts, btrfs_named, btrfs_place, filesystems, mounts
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
from drover.agent.storage.btrfs_place import Place
from drover.agent.storage.mounts import Mount
from drover.agent.storage.named import Named
from drover.agent.storage.sidecar import Sidecar
from drover.agent.storage.snapshot_names import UID
from drover.coordinator.specs import Limits

log = logging.getLogger("drover.storage")

_VERBS, _COPIES = "drover.agent.storage.btrfs_io", "drover.agent.storage.btrfs_copies"
_NAMED = "drover.agent.storage.btrfs_named"
_TIMEOUT = 300.0
"""Seconds that a verb may take in the helper: dirty pages of a whole pool to write."""


class BtrfsBackend:
    """See `LocalCopies`. What can write runs in a helper; looking runs in a thread."""

    name: str = "btrfs"
    family: Family = Family.LOCAL_COPIES
    limits: Limits = Limits(fs="btrfs", minimum={"btrfs": 1 << 20})
    both_ways: bool = False

    def __init__(self, settings: Mapping[str, Any], node: str, runner: Runner) -> None:
        """Raises ValueError with one line that names the key."""
        if unknown := sorted(set(settings) - {"pool"}):
            raise ValueError(f"{unknown[0]}: unknown key; there is pool")
        pool = settings.get("pool")
        if not isinstance(pool, str) or not os.path.isabs(pool):
            raise ValueError(f"pool: must be an absolute path, not {pool!r}")
        if not os.path.isdir(pool):
            raise ValueError(f"pool: there is no directory {pool}; make it, or mount the btrfs that should be there")
        self._pool = os.path.realpath(pool)
        if btrfs_mounts.pool_mount(self._pool) is None:
            raise ValueError(f"pool: {pool} is not on btrfs; mount one there, or use another back end")
        self._node, self._runner = node, runner

    async def health(self) -> str | None:
        return await asyncio.to_thread(self._health)

    async def capacity(self) -> Capacity:
        return await asyncio.to_thread(mounts.capacity, self._pool)

    async def create(self, volume: Volume, token: Token) -> str:
        await self._run(volume, f"{_VERBS}:create", size=volume.size, token=asdict(token), node=self._node)
        return volume.uid

    async def look(self, volumes: Sequence[Volume]) -> Mapping[str, Here]:
        return await asyncio.to_thread(self._look, volumes)

    async def publish(self, volume: Volume, token: Token, path: Path) -> Mounted:
        done = await self._run(volume, f"{_VERBS}:publish", token=asdict(token), path=str(path))
        return Mounted(self._place(volume).live, Path(done["path"]), done["size"])

    async def unpublish(self, volume: Volume) -> None:
        await self._run(volume, f"{_VERBS}:unpublish")

    async def reach(self, volume: Volume) -> str | None:
        return await asyncio.to_thread(self._reach, self._place(volume))

    async def grow(self, volume: Volume) -> None:
        await self._run(volume, f"{_VERBS}:grow", size=volume.size)

    def usage(self, mounted: Mounted) -> Usage:
        """Of the working copy where the file system counts it (quotas are on), else of the pool that it shares."""
        pool, used = mounts.usage(mounted.path), btrfs_ioctl.referenced(mounted.device)
        if used is None:
            return pool
        return replace(pool, size=mounted.size, used=used, free=min(pool.free, max(0, mounted.size - used)))

    async def destroy(self, volume: Volume, token: Token) -> None:
        await self._run(volume, f"{_VERBS}:destroy", token=asdict(token))

    async def sever(self, volume: Volume, token: Token, machine: str) -> None:
        """There is nothing to cut: no other node can write to this node's copies."""

    def last_means(self) -> Cut:
        return Cut("drover.agent.storage.btrfs_mounts:cut", {"pool": self._pool})

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
        return await asyncio.to_thread(btrfs_place.snapshots, self._place(volume))

    async def changed(self, volume: Volume, snapshot: Snapshot) -> int | None:
        return await asyncio.to_thread(btrfs_place.changed, self._place(volume), snapshot.name)

    async def presync(self, volume: Volume) -> None:
        await self._run(volume, f"{_COPIES}:presync")

    async def snapshot(self, volume: Volume, token: Token) -> Snapshot:
        return Snapshot(**await self._run(volume, f"{_COPIES}:snapshot", token=asdict(token)))

    async def seal(self, volume: Volume, token: Token) -> Snapshot:
        return Snapshot(**await self._run(volume, f"{_COPIES}:seal", token=asdict(token)))

    def send(self, volume: Volume, snapshot: Snapshot, parent: Snapshot | None) -> Sending:
        at = self._place(volume)
        since = ("-p", at.snapshot(parent.name)) if parent else ()
        return Sending((_program(), "send", "-q", *since, at.snapshot(snapshot.name)), parent is None)

    async def expect(self, volume: Volume, token: Token, theirs: Collection[str]) -> Sequence[Snapshot]:
        arguments = {"token": asdict(token), "node": self._node, "size": volume.size}
        return [Snapshot(**one) for one in await self._run(volume, f"{_COPIES}:expect", **arguments)]

    def receive(self, volume: Volume) -> tuple[str, ...]:
        return (_program(), "receive", "-q", "-e", self._place(volume).incoming)

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
        return await asyncio.to_thread(btrfs_place.diverged, self._place(volume))

    async def discard_diverged(self, volume: Volume, token: Token, guid: str) -> None:
        await self._run(volume, f"{_COPIES}:discard_diverged", token=asdict(token), guid=guid)

    @asynccontextmanager
    async def readable(self, volume: Volume, snapshot: Snapshot) -> AsyncIterator[Path]:
        path = self._place(volume).snapshot(snapshot.name)
        with btrfs_place.spared(path):
            yield Path(path)

    # Snapshots for users.

    async def take(self, volume: Volume, token: Token, name: str) -> Named:
        return Named(**await self._run(volume, f"{_NAMED}:take", token=asdict(token), name=name))

    async def named(self, volume: Volume) -> Sequence[Named]:
        return await asyncio.to_thread(btrfs_named.named, self._place(volume))

    async def remove(self, volume: Volume, token: Token, name: str) -> None:
        await self._run(volume, f"{_NAMED}:remove", token=asdict(token), name=name)

    async def clone(self, volume: Volume, name: str, new: Volume, token: Token) -> str:
        arguments = {"new": asdict(self._place(new)), "size": new.size, "token": asdict(token), "node": self._node}
        await self._run(volume, f"{_NAMED}:clone", name=name, **arguments)
        return new.uid

    async def restore(self, volume: Volume, token: Token, name: str, kept: str) -> None:
        await self._run(volume, f"{_NAMED}:restore", token=asdict(token), name=name, kept=kept)

    async def prune(self, volume: Volume, keep: Collection[str]) -> None:
        await self._run(volume, f"{_COPIES}:prune", keep=sorted(keep))

    async def _run(self, volume: Volume, verb: str, **arguments: Any) -> Any:
        arguments["place"] = asdict(self._place(volume))
        return await self._runner.run(volume.dataset, verb, arguments, _TIMEOUT)

    def _place(self, volume: Volume) -> Place:
        return Place(self._pool, volume.dataset, volume.uid)

    def _health(self) -> str | None:
        if not os.path.isdir(self._pool):
            return f"the pool {self._pool} is missing: mount what should be there"
        if btrfs_mounts.pool_mount(self._pool) is None:
            return f"the pool {self._pool} is not on btrfs: is it not mounted?"
        if not os.access(self._pool, os.W_OK):
            return f"the pool {self._pool} cannot be written to: is it mounted read-only? See the kernel's log"
        if shutil.which("btrfs", path=filesystems.PATH) is None:
            return "btrfs is not installed: install btrfs-progs"
        return None

    def _reach(self, at: Place) -> str | None:
        if not os.path.exists(at.sidecar):
            return f"no copy is here: {at.sidecar} is not there; look whether the pool is the right one and mounted"
        if not os.path.exists(at.live) and not btrfs_place.snapshots(at):
            return f"no copy is here any more: {at.directory} has neither a working copy nor a snapshot"
        return self._health()

    def _look(self, volumes: Sequence[Volume]) -> Mapping[str, Here]:
        """One look at the mount table, however many volumes."""
        mounted = btrfs_mounts.of_pool(self._pool)
        return {volume.dataset: self._here(volume, mounted) for volume in volumes}

    def _here(self, volume: Volume, mounted: Mapping[str, Sequence[Mount]]) -> Here:
        if not (found := mounted.get(volume.uid)):
            return Away()
        at = self._place(volume)
        record = Sidecar.read(at.sidecar)
        return Mounted(at.live, Path(found[0].path), record.size if record else volume.size)

    def _stored(self) -> Sequence[Stored]:
        try:
            uids = sorted(name for name in os.listdir(self._pool) if UID.fullmatch(name))
        except OSError as error:
            raise StorageError(f"{self._pool} cannot be listed: {error.strerror}") from error
        found = []
        for uid in uids:
            record = Sidecar.read(Place(self._pool, "", uid).sidecar)
            if record is not None:
                volume = Volume(record.dataset, uid, record.size, None, uid)
                found.append(Stored(volume, record.token, record.holder, record.formatted))
        return found


def _program() -> str:
    """Raises StorageError."""
    if (found := shutil.which("btrfs", path=filesystems.PATH)) is None:
        raise StorageError("btrfs is not installed: install btrfs-progs")
    return found
