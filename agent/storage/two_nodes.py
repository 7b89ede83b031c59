"""The stage of the storage contract: two nodes that share a back end's storage, with real helpers in real cgroups."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drover.agent.cgroup_wait import wait_empty
from drover.agent.cgroups import Cgroups
from drover.agent.guard.page import Page
from drover.agent.helper.pool import PRELOADED, HelperPool
from drover.agent.storage.base import Backend, Mounted, Runner, Token, Usage, Volume
from drover.coordinator.clock import read_clock


@dataclass(frozen=True)
class Traits:
    """What the suite must know. size, larger: bytes. too_small: bytes that `refuse` refuses for `fs`. grows_mounted:
    else `grow` says that it happens at the next publish. lose: make the volume's data vanish behind Drover's back.
    stored: a digest of all bytes that the storage holds of it now. file: where a path that a local copy names can be
    read. enforced: sizes are, else `usage` is of what the volume shares."""

    size: int
    larger: int
    too_small: int
    fs: str | None
    grows_mounted: bool
    lose: Callable[[Volume], None]
    stored: Callable[[Volume], str]
    file: Callable[[str], Path] = Path
    enforced: bool = True


class Gate:
    """A gate without a guard, open for an hour."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._page = Page(path)
        self._page.end_round(0)
        self.open(3600)

    @property
    def round(self) -> int | None:
        seen = self._page.seen()
        return seen.round if seen.open else None

    def open(self, seconds: float) -> None:
        """With a deadline that lies so far ahead, or behind."""
        self._page.extend(read_clock(), seconds, seconds + 1)
        self._page.open()

    def close(self) -> None:
        self._page.begin_round(read_clock)
        self._page.end_round(0)


class WatchedRunner:
    """Counts jobs, and kills the helper of the next one `kill_after` seconds after it began."""

    def __init__(self, runner: Runner, cgroups: Cgroups) -> None:
        self._runner = runner
        self._cgroups = cgroups
        self.jobs = 0
        self.kill_after: float | None = None

    async def run(self, dataset: str, function: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        self.jobs += 1
        after, self.kill_after = self.kill_after, None
        killer = None
        if after is not None:
            path = f"datasets/{dataset}"
            assert await wait_empty(self._cgroups, path, 5)  # a helper that has answered is still leaving it
            killer = asyncio.create_task(self._kill(path, after))
        try:
            return await self._runner.run(dataset, function, arguments, timeout)
        finally:
            if killer is not None:
                killer.cancel()
                with suppress(asyncio.CancelledError):
                    await killer

    async def _kill(self, path: str, after: float) -> None:
        while not (pids := self._cgroups.pids(path)):
            await asyncio.sleep(0)
        await asyncio.sleep(after)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Node:
    """mounts: a directory below which it mounts."""

    backend: Backend
    runner: WatchedRunner
    mounts: Path

    def path(self, volume: Volume) -> Path:
        return self.mounts / volume.dataset

    async def publish(self, volume: Volume, token: Token) -> Mounted:
        return await self.backend.publish(volume, token, self.path(volume))

    async def cut(self) -> list[str]:
        """As the guard does it."""
        means = self.backend.last_means()
        return await asyncio.to_thread(means.load(), **means.arguments)

    async def here(self, volume: Volume) -> object:
        return (await self.backend.look([volume]))[volume.dataset]

    async def usage(self, volume: Volume) -> Usage:
        here = await self.here(volume)
        assert isinstance(here, Mounted)
        return await asyncio.to_thread(self.backend.usage, here)


class TwoNodes:
    """Two nodes that share the storage."""

    def __init__(self, a: Node, b: Node, gate: Gate, traits: Traits) -> None:
        self.a, self.b, self.gate, self.traits = a, b, gate, traits

    async def volume(self, dataset: str = "pgdata") -> tuple[Volume, Token]:
        """A new one, with the token of epoch 1."""
        volume, token = self.unmade(dataset)
        created = await self.a.backend.create(volume, token)
        return replace(volume, object=created), token

    def unmade(self, dataset: str = "pgdata") -> tuple[Volume, Token]:
        volume = Volume(dataset, secrets.token_hex(8), self.traits.size, self.traits.fs)
        return volume, Token("cluster-1", volume.uid, 1, "incarnation-1")


@asynccontextmanager
async def two_nodes(
    make: Callable[[str, Runner], Backend], directory: Path, traits: Traits, modules: tuple[str, ...] = PRELOADED
) -> AsyncIterator[TwoNodes]:
    """Afterwards everything is cut off and gone from this machine; what is stored is the caller's to clean up."""
    cgroups = Cgroups.find(f"drover-contract-{os.getpid()}-{secrets.token_hex(4)}")
    directory.mkdir(parents=True, exist_ok=True)
    gate = Gate(directory / "gate")
    cgroups.make("helpers")
    try:
        async with HelperPool(cgroups, gate, modules, size=1) as pool:
            made = []
            for name in ("a", "b"):
                runner = WatchedRunner(pool, cgroups)
                made.append(Node(make(name, runner), runner, directory / f"mounts-{name}"))
            nodes = TwoNodes(made[0], made[1], gate, traits)
            try:
                yield nodes
            finally:
                for node in made:
                    await node.cut()
    finally:
        cgroups.kill_all(["helpers", "datasets"], 5)
        for path in ("helpers", "datasets"):
            cgroups.remove(path)
        cgroups.root.rmdir()


def write_synced(file: Path, size: int) -> None:
    with file.open("wb") as stream:
        stream.write(os.urandom(size))
        stream.flush()
        os.fsync(stream.fileno())


class writer:
    """A process that appends to and syncs a file every 10 ms, and goes on when that fails. Begins with one success."""

    SCRIPT = """
import os, sys, time
out = os.open(sys.argv[1] + "/written", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
def write():
    os.write(out, os.urandom(65536))
    os.fsync(out)
write()
print("writing", flush=True)
while True:
    try:
        write()
    except OSError:
        pass
    time.sleep(0.01)
"""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", self.SCRIPT, str(self._directory)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/")
        assert self._process.stdout
        assert self._process.stdout.readline() == b"writing\n"
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
