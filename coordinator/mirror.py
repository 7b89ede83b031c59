"""A gap-free picture of one range of keys: list it, watch it from there, resume, list again where history is gone."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import NoReturn

from drover.coordinator.store import Change, Changes, Compacted, Store, StoreError, Unavailable
from drover.coordinator.txn import Entry

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
"""Seconds between attempts: doubled from one to the other, each shortened at random by up to a half."""


class Mirror:
    """The keys in [start, end). Run it as a task; read `entries` at any time in the same event loop.

    on_change gets every change once, in order of revision, after `entries` shows it. What was missed while there was no
    watch and history was gone comes as what it amounts to: the newest write of a key, or its deletion, dated at the
    revision of the listing that found it gone. An exception of on_change ends `run`.

    audit: seconds, about, between two listings of a watched range: etcd before 3.4.31 and 3.5.13 can lose events of a
    watch without a word (etcd issue 17529). on_gap: called where history is gone, before the range is listed anew.
    """

    def __init__(
        self,
        store: Store,
        start: str,
        end: str,
        on_change: Callable[[Sequence[Change]], None],
        *,
        audit: float = 300.0,
        on_gap: Callable[[], None] = lambda: None,
    ) -> None:
        self.revision = 0
        """Everything up to this revision is in `entries`."""
        self.connected = False
        """Whether a watch stands. False: the picture is as old as `since`."""
        self.since = time.monotonic()
        """When `connected` became what it is, in time.monotonic()."""
        self._store = store
        self._start = start
        self._end = end
        self._on_change = on_change
        self._audit, self._on_gap = audit, on_gap
        self._entries: dict[str, Entry] = {}
        self._whole = False
        self._ready = asyncio.Event()
        self._pause = _FIRST_PAUSE
        self._trouble: type[StoreError] | None = None
        self._watching: asyncio.Timeout | None = None

    @property
    def entries(self) -> Mapping[str, Entry]:
        return MappingProxyType(self._entries)

    async def ready(self, timeout: float) -> None:
        """Until the range has been listed once. timeout: seconds; raises TimeoutError."""
        async with asyncio.timeout(timeout):
            await self._ready.wait()

    async def run(self) -> NoReturn:
        """Keeps the picture up until cancelled. Whatever the store raises is waited out."""
        while True:
            try:
                if not self._whole:
                    await self._list()
                await self._follow_until_audit()
            except Compacted:
                self._whole = False
                self._on_gap()
            except TimeoutError:
                self._whole = False
            except StoreError as error:
                self._lost(error)
                await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _follow_until_audit(self) -> None:
        try:
            async with asyncio.timeout(self._audit * random.uniform(0.8, 1.2)) as self._watching:
                await self._follow()
        finally:
            self._watching = None

    def doubt(self) -> None:
        """What is shown was refuted by etcd: the audit is now."""
        if self._watching is not None and not self._watching.expired():
            self._watching.reschedule(asyncio.get_running_loop().time())

    async def _list(self) -> None:
        listing = await self._store.range(self._start, self._end)
        if listing.revision < self.revision:
            # A member that answers from the past (etcd issue 20418), or etcd went back: no picture to go on from.
            raise Unavailable(f"etcd answered as of revision {listing.revision}, after {self.revision} was seen")
        found = {entry.key: entry for entry in listing.entries}
        gone = [Change(key, None, listing.revision) for key in self._entries if key not in found]
        written = [
            Change(entry.key, entry, entry.mod_revision)
            for entry in listing.entries
            if (known := self._entries.get(entry.key)) is None or known.mod_revision != entry.mod_revision
        ]
        changes = sorted(written + gone, key=lambda change: change.revision)
        self._apply(Changes(tuple(changes), listing.revision))
        self._whole = True
        self._ready.set()

    async def _follow(self) -> None:
        async with aclosing(self._store.watch(self._start, self._end, self.revision + 1)) as watch:
            async for changes in watch:
                if not self.connected:
                    self._found()
                self._apply(changes)

    def _apply(self, changes: Changes) -> None:
        for change in changes.changes:
            if change.entry is None:
                self._entries.pop(change.key, None)
            else:
                self._entries[change.key] = change.entry
        self.revision = max(self.revision, changes.revision)
        if changes.changes:
            self._on_change(changes.changes)

    def _found(self) -> None:
        self.connected, self.since = True, time.monotonic()
        self._pause = _FIRST_PAUSE
        if self._trouble is not None:
            log.info("watching %s again, from revision %d", self._start, self.revision)
        self._trouble = None

    def _lost(self, error: StoreError) -> None:
        if self.connected:
            self.connected, self.since = False, time.monotonic()
        if self._trouble is not type(error):
            log.warning("not watching %s, trying again: %s", self._start, error)
        self._trouble = type(error)
