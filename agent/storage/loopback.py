"""Loopback: volumes are image files in one directory that every node sees. For one machine, playgrounds and tests.

Settings, [backends.loopback]: `directory` (absolute, must exist; holds <uid>.img and <uid>.json), `direct_io` (default
true: what a workload syncs is on the disk, and no page is cached twice).

An image takes its whole size from the start, so that a directory that fills up later fails no write of a workload.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drover.agent.guard.ladder import Cut
from drover.agent.storage import filesystems, loopdev, mounts
from drover.agent.storage.base import (
    Attached,
    Away,
    Capacity,
    Family,
    Here,
    Mounted,
    Runner,
    StorageError,
    Stored,
    Token,
    Usage,
    Volume,
)
from drover.agent.storage.loopback_place import Place
from drover.agent.storage.sidecar import Sidecar
from drover.coordinator.specs import Limits

log = logging.getLogger("drover.storage")

_VERBS = "drover.agent.storage.loopback_io"
_TIMEOUT = 300.0
"""Seconds that a verb may take in the helper: a journal to replay, dirty pages to write."""
_LONG = 3600.0
"""Where a whole file system may be checked first."""


class LoopbackBackend:
    """See `Backend`. What can write runs in a helper; looking runs in a thread."""

    name: str = "loopback"
    family: Family = Family.SHARED_FILE
    limits: Limits = Limits(
        shared=True, fs=filesystems.DEFAULT, minimum={name: kind.minimum for name, kind in filesystems.KINDS.items()}
    )

    def __init__(self, settings: Mapping[str, Any], node: str, runner: Runner) -> None:
        """Raises ValueError with one line that names the key."""
        if unknown := sorted(set(settings) - {"directory", "direct_io"}):
            raise ValueError(f"{unknown[0]}: unknown key; there are directory and direct_io")
        directory, direct_io = settings.get("directory"), settings.get("direct_io", True)
        if not isinstance(directory, str) or not os.path.isabs(directory):
            raise ValueError(f"directory: must be an absolute path, not {directory!r}")
        if not os.path.isdir(directory):
            raise ValueError(f"directory: there is no directory {directory}; make it, or mount what should be there")
        if not isinstance(direct_io, bool):
            raise ValueError(f"direct_io: must be true or false, not {direct_io!r}")
        self._directory = os.path.realpath(directory)  # as the kernel names images
        self._direct_io = direct_io
        self._node = node
        self._runner = runner

    async def health(self) -> str | None:
        return await asyncio.to_thread(self._health)

    async def capacity(self) -> Capacity:
        return await asyncio.to_thread(mounts.capacity, self._directory)

    async def create(self, volume: Volume, token: Token) -> str:
        fs = volume.fs or filesystems.DEFAULT
        await self._run(volume, "create", _TIMEOUT, size=volume.size, fs=fs, token=asdict(token), node=self._node)
        return os.path.basename(self._place(volume).image)

    async def look(self, volumes: Sequence[Volume]) -> Mapping[str, Here]:
        return await asyncio.to_thread(self._look, volumes)

    async def publish(self, volume: Volume, token: Token, path: Path) -> Mounted:
        done = await self._run(
            volume,
            "publish",
            _LONG,
            token=asdict(token),
            node=self._node,
            path=str(path),
            direct_io=self._direct_io,
        )
        if self._direct_io and not done["direct_io"]:
            log.warning("%s: direct I/O is refused under %s; it goes on buffered", volume.dataset, self._directory)
        return Mounted(done["device"], Path(done["path"]), done["size"])

    async def unpublish(self, volume: Volume) -> None:
        await self._run(volume, "unpublish", _TIMEOUT)

    async def reach(self, volume: Volume) -> str | None:
        return await asyncio.to_thread(self._reach, self._place(volume))

    async def grow(self, volume: Volume) -> None:
        await self._run(volume, "grow", _TIMEOUT, size=volume.size)

    def usage(self, mounted: Mounted) -> Usage:
        return mounts.usage(mounted.path)

    async def destroy(self, volume: Volume, token: Token) -> None:
        await self._run(volume, "destroy", _TIMEOUT, token=asdict(token))

    async def sever(self, volume: Volume, token: Token, machine: str) -> None:
        """Devices of other nodes on this very kernel, as in a playground, are cut off: their owner may be frozen. What
        another kernel does with a shared file is stopped there, by its deadline."""
        await self._run(volume, "sever", _TIMEOUT, token=asdict(token))

    def last_means(self) -> Cut:
        return Cut("drover.agent.storage.loopback_cut:cut", {"directory": self._directory})

    async def stored(self) -> Sequence[Stored]:
        return await asyncio.to_thread(self._stored)

    async def _run(self, volume: Volume, verb: str, timeout: float, **arguments: Any) -> Any:
        arguments["place"] = asdict(self._place(volume))
        return await self._runner.run(volume.dataset, f"{_VERBS}:{verb}", arguments, timeout)

    def _place(self, volume: Volume) -> Place:
        return Place(self._directory, volume.dataset, volume.uid)

    def _stored(self) -> Sequence[Stored]:
        found = []
        try:
            names = sorted(os.listdir(self._directory))
        except OSError as error:
            raise StorageError(f"{self._directory} cannot be listed: {error.strerror}") from error
        for name in names:
            uid, suffix = os.path.splitext(name)
            sidecar = Sidecar.read(os.path.join(self._directory, name)) if suffix == ".json" else None
            if sidecar is None:
                continue
            image = f"{uid}.img"
            volume = Volume(sidecar.dataset, sidecar.uid, sidecar.size, sidecar.fs, image)
            found.append(Stored(volume, sidecar.token, sidecar.holder, sidecar.formatted))
        return found

    def _health(self) -> str | None:
        if not os.path.isdir(self._directory):
            return f"the directory {self._directory} is missing: make it, or mount what should be there"
        if not os.access(self._directory, os.W_OK):
            return f"the directory {self._directory} cannot be written to: is it mounted read-only?"
        if not os.path.exists(loopdev.CONTROL):
            return f"{loopdev.CONTROL} is missing: load the kernel module (modprobe loop)"
        for program in (program for kind in filesystems.KINDS.values() for program in kind.programs):
            if shutil.which(program, path=filesystems.PATH) is None:
                return f"{program} is not installed: install xfsprogs and e2fsprogs"
        return None

    def _reach(self, place: Place) -> str | None:
        for path in (place.image, place.sidecar):
            if not os.path.exists(path):
                return f"{path} is not there: look whether the directory is the right one and completely mounted"
        return self._health()

    def _look(self, volumes: Sequence[Volume]) -> Mapping[str, Here]:
        """One look at sysfs and at the mount table, however many volumes."""
        loops = {loop.image: loop for loop in loopdev.scan()}
        table = {mount.device: mount.path for mount in mounts.table() if mount.root == "/"}
        return {volume.dataset: _here(loops.get(self._place(volume).image), table) for volume in volumes}


def _here(loop: loopdev.Loop | None, table: Mapping[str, str]) -> Here:
    if loop is None:
        return Away()
    try:
        number, size = loop.number(), loop.size()
        path = table.get(number)
        if path is None and loop.alive():  # in another mount namespace, perhaps
            path = next((mount.path for _, mount in mounts.elsewhere(number)), None)
    except FileNotFoundError:  # the device has gone meanwhile
        return Away()
    return Attached(loop.path) if path is None else Mounted(loop.path, Path(path), size)
