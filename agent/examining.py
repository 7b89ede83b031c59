"""Tells what is in a snapshot of a dataset with local copies on this node, for those who compare two nodes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from drover.agent.storage.base import Backend, LocalCopies, NotFound, Readable, StorageError, Volume

_AT_ONCE = 2
"""Snapshots that are read at the same time; others wait."""
_BATCH = 500
"""Entries that are told at a time, at most, and at least every second."""
_EVERY = 1.0
_LONGEST_LINE = 1 << 20
_ENDS = 10.0
"""Seconds that the program which reads may take to end: one that hangs in the kernel is left behind."""


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
            if snapshot is None:
                continue
            if not isinstance(backend, Readable):
                raise StorageError(f"back end {backend.name} does not show its snapshots: they cannot be compared")
            async with self._slots, backend.readable(volume, snapshot) as path:
                async for batch in _read(str(path)):
                    yield batch
            return
        raise NotFound(f"no snapshot {guid} of {dataset} is here (any more)")


async def _read(path: str) -> AsyncGenerator[Batch, None]:
    """Raises StorageError."""
    # Not asyncio's own subprocesses: uvloop forks, and what gRPC does at a fork may end the child (SIGSEGV).
    process = subprocess.Popen(  # noqa: ASYNC220 - 1 ms, as for helpers
        [sys.executable, "-P", "-m", "drover.agent.storage.manifest", path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
        cwd="/",
    )
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader(_LONGEST_LINE)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
    entries: list[Entry] = []
    read, told = 0, loop.time()
    try:
        while line := await reader.readline():
            *fields, last = json.loads(line)
            if isinstance(last, str):
                raise StorageError(f"{path} cannot be read: {last}")
            read = last
            if fields:
                entries.append(Entry(bytes.fromhex(fields[0]), *fields[1:]))
            if len(entries) >= _BATCH or loop.time() - told > _EVERY:
                yield Batch(tuple(entries), read)
                entries, told = [], loop.time()
        if status := await asyncio.to_thread(process.wait, _ENDS):
            raise StorageError(f"what reads {path} has ended with status {status}")
        yield Batch(tuple(entries), read)
    finally:
        transport.close()
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, _ENDS)
