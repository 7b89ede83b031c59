"""Tells what is in a snapshot of a dataset with local copies on this node, for those who compare two nodes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from drover.agent.storage.base import Backend, LocalCopies, NotFound, StorageError, Volume

_AT_ONCE = 2
"""Snapshots that are read at the same time; others wait."""
_BATCH = 500
"""Entries that are told at a time, at most, and at least every second."""
_EVERY = 1.0
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A file, directory or other thing. path: relative to the dataset's root. digest: of its content and extended
    attributes. error: why it cannot be read; "": it can."""

    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    digest: str
    error: str


@dataclass(frozen=True)
class Batch:
    """read: bytes of content, up to here."""

    entries: tuple[Entry, ...]
    read: int


class Examiner:
    """Of all back ends with local copies. Needs no session: it only reads what nobody can write."""

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._backends = backends
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def examine(self, dataset: str, uid: str, guid: str) -> AsyncGenerator[Batch, None]:
        """All that is in this snapshot, each directory before what is in it, in the order of the names' bytes. Raises
        StorageError."""
        volume = Volume(dataset, uid, 0)
        for backend in self._backends.values():
            if not isinstance(backend, LocalCopies):
                continue
            snapshot = next((one for one in await backend.snapshots(volume) if one.guid == guid), None)
            if snapshot is not None:
                async with self._slots, backend.readable(volume, snapshot) as path:
                    async for batch in _read(str(path)):
                        yield batch
                return
        raise NotFound(f"no snapshot {guid} of {dataset} is here (any more)")


async def _read(path: str) -> AsyncGenerator[Batch, None]:
    """Raises StorageError."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "drover.agent.storage.manifest", path),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_LONGEST_LINE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    loop = asyncio.get_running_loop()
    entries: list[Entry] = []
    read, told = 0, loop.time()
    try:
        while line := await process.stdout.readline():
            *fields, read = json.loads(line)
            if fields:
                entries.append(Entry(bytes.fromhex(fields[0]), *fields[1:]))
            if len(entries) >= _BATCH or loop.time() - told > _EVERY:
                yield Batch(tuple(entries), read)
                entries, told = [], loop.time()
        said = (await process.stderr.read()).decode(errors="replace").strip()
        if await process.wait():
            raise StorageError(f"{path} cannot be read: {said.splitlines()[-1] if said else process.returncode}")
        yield Batch(tuple(entries), read)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        await process.wait()
