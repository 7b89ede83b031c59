"""Containers that use datasets without being workloads: they were started by hand, and hold what they use.

Neither the engine's word nor the kernel's is enough alone. Docker mounts twice and unmounts twice with one ID for a
copy, and after a crash it mounts twice and unmounts once (seen on 20.10.24), so what it says is counted, kept over
restarts of the agent, and given up where no mount table knows of a user any more.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import aiohttp

from drover.agent.situation import BEING_STARTED
from drover.agent.storage import mounts
from drover.agent.storage.base import Busy, Here, Mounted

log = logging.getLogger(__name__)

STARTING = 60.0
"""Seconds between a Mount and the time when the container has to show in a mount table."""
_PATIENCE = 2.0
_AGAIN = 0.5
"""Seconds until the engine is asked again that does not show yet what it has unmounted."""


class Users:
    """Of one node. file: where the engine's mounts are kept, on tmpfs: they end with the machine. engine: its socket.
    changed: called with a dataset whose users changed."""

    def __init__(self, file: Path, engine: Path) -> None:
        self._file, self._engine = file, engine
        self.changed: Callable[[str], None] = lambda dataset: None
        self._mounts: dict[str, dict[str, tuple[int, float]]] = {}
        # Begins empty with each incarnation: a helper that still unmounts is killed before the next one begins.
        self._leaving: set[str] = set()
        with suppress(FileNotFoundError, ValueError):
            found = json.loads(file.read_text())
            self._mounts = {d: {i: (int(n), float(at)) for i, (n, at) in ids.items()} for d, ids in found.items()}

    def add(self, dataset: str, id: str) -> None:
        """The engine was told that it may use it."""
        ids = self._mounts.setdefault(dataset, {})
        ids[id] = (ids.get(id, (0, 0.0))[0] + 1, time.clock_gettime(time.CLOCK_BOOTTIME))
        self._save(dataset)

    def drop(self, dataset: str, id: str) -> None:
        """Idempotent: unknown IDs are no error."""
        ids = self._mounts.get(dataset, {})
        if id not in ids:
            return
        count, at = ids.pop(id)
        if count > 1:
            ids[id] = (count - 1, at)
        if not ids:
            del self._mounts[dataset]
        self._save(dataset)

    def counts(self, dataset: str) -> int:
        """How many mounts the engine has not taken back."""
        return sum(count for count, _ in self._mounts.get(dataset, {}).values())

    def leaving(self, dataset: str) -> bool:
        """Whether it is being taken out of use here: nobody may begin to use it."""
        return dataset in self._leaving

    def leave(self, dataset: str, insist: bool) -> None:
        """Until `left`. Raises Busy where a container has it, unless that is not to matter."""
        if not insist and self.counts(dataset):
            raise Busy(f"{dataset} is in use by a container that was started by hand; stop it")
        self._leaving.add(dataset)

    def left(self, dataset: str) -> None:
        self._leaving.discard(dataset)
        self.changed(dataset)

    async def of(self, dataset: str, here: Here | None) -> tuple[str, ...]:
        """Who they are, in words. Looks at the engine and the mount tables only where the engine has mounts."""
        if not self.counts(dataset):
            return ()
        running = await asyncio.to_thread(_running, here) if isinstance(here, Mounted) else []
        if not running:
            self._forget_stale(dataset)
            return (BEING_STARTED,) if self.counts(dataset) else ()
        names = await self._names(dataset)
        if len(names) > self.counts(dataset):  # it unmounts before it calls a container ended
            asyncio.get_running_loop().call_later(_AGAIN, self.changed, dataset)
        if not names and self._fresh(dataset):  # it has a mount table before the engine calls it running
            return (BEING_STARTED,)
        return tuple(f"container {name} (docker run)" for name in names) or tuple(running)

    def _fresh(self, dataset: str) -> bool:
        after = time.clock_gettime(time.CLOCK_BOOTTIME) - STARTING
        return any(at > after for _, at in self._mounts.get(dataset, {}).values())

    def _forget_stale(self, dataset: str) -> None:
        before = time.clock_gettime(time.CLOCK_BOOTTIME) - STARTING
        ids = self._mounts.get(dataset, {})
        stale = [id for id, (_, at) in ids.items() if at < before]
        for id in stale:
            del ids[id]
        if stale:
            log.info("%s: the engine did not unmount it, but no process has it", dataset)
            if not ids:
                del self._mounts[dataset]
            self._save(dataset)

    async def _names(self, dataset: str) -> list[str]:
        """Of the running containers that use it; none where the engine does not answer."""
        query = {"filters": json.dumps({"volume": [dataset], "status": ["running", "paused", "restarting"]})}
        try:
            async with aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(str(self._engine)), timeout=aiohttp.ClientTimeout(_PATIENCE)
            ) as session:
                async with session.get("http://docker/containers/json", params=query) as answer:
                    return sorted(one["Names"][0].removeprefix("/") for one in await answer.json())
        except (OSError, TimeoutError, aiohttp.ClientError, ValueError, LookupError, TypeError) as error:
            log.warning("the engine does not say which containers use %s: %s", dataset, error)
            return []

    def _save(self, dataset: str) -> None:
        """Whole or not at all."""
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self._mounts))
        new.rename(self._file)
        self.changed(dataset)


def _running(here: Mounted) -> list[str]:
    """What the kernel knows of its use in containers. device: by the mount at its path."""
    own = next((m for m in mounts.table() if m.path == str(here.path)), None)
    if own is None:
        return []
    found = [f"process {pid} (a container)" for pid, _ in mounts.elsewhere(own.device) if not mounts.same_root(pid)]
    return found + [f"a mount at {m.path}" for m in mounts.of_device(own.device) if m.path != str(here.path)]
