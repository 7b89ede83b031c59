"""Takes the snapshots that users want of the datasets that this node has, and removes those that they do not want any
more. What is wanted and what there is stands in one record a snapshot: `snapshots/<d>/<s>`.

A snapshot stays on the node that has taken it, wherever its dataset goes; that node removes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime

from drover.agent.local import volume_of
from drover.agent.storage.base import Backend, StorageError, Token, Volume
from drover.agent.storage.named import NamedSnapshots
from drover.coordinator.member import Member
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.record import timestamp
from drover.coordinator.records import State, Tenure, UserSnapshot
from drover.coordinator.store import StoreError
from drover.coordinator.txn import Delete, Entry, Put, Txn, absent, unchanged

log = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds between two looks without a reason; what has failed is tried again then."""


class Snapshots:
    """Of one incarnation."""

    def __init__(self, member: Member, backends: Mapping[str, Backend]) -> None:
        self._member, self._backends = member, backends
        self._changed = asyncio.Event()
        self._waiting: set[str] = set()

    def wake(self, name: str | None) -> None:
        if name is not None and self._member.view.snapshots(name):
            self._waiting.add(name)
            self._changed.set()

    async def run(self) -> None:
        self._member.view.subscribe(self.wake)
        names = set(self._member.view.names())
        while True:
            self._changed.clear()
            self._waiting.clear()
            for name in sorted(names):
                await self._look(self._member.view.dataset(name))
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._changed.wait()
            names = set(self._waiting) or set(self._member.view.names())

    async def _look(self, d: Dataset) -> None:
        for name, (record, entry) in sorted(self._member.view.snapshots(d.name).items()):
            if not self._member.live or d.tenure is None:
                return
            try:
                await self._act(d, d.tenure, name, record, entry)
            except (StorageError, StoreError) as error:
                log.warning("snapshot %s of %s: %s", name, d.name, error)
                await self._tell(d, name, record, entry, str(error))

    async def _act(self, d: Dataset, tenure: Tenure, name: str, record: UserSnapshot, entry: Entry) -> None:
        """Raises StorageError, StoreError."""
        me, key = self._member.node, self._member.view.keys.snapshot(d.name, name)
        mine = tenure.node == me and tenure.incarnation == self._member.incarnation and tenure.state is State.ACTIVE
        if record.node not in ("", me) or (not record.node and not mine):
            return
        gone = tenure.state is State.DESTROYED and record.uid == tenure.uid
        if gone or (record.remove and not record.node):
            await self._write(key, entry, None)
        elif record.uid not in ("", tenure.uid):
            return  # of an earlier dataset of this name: its data may still be there
        elif record.remove:
            backend, volume, token = self._at(d, tenure)
            await backend.remove(volume, token, name)
            await self._write(key, entry, None)
            log.info("snapshot %s of %s was removed, as was asked", name, d.name)
        elif not record.node:
            backend, volume, token = self._at(d, tenure)
            taken = await backend.take(volume, token, name)
            at = timestamp(datetime.fromtimestamp(taken.taken, UTC))
            told = UserSnapshot(uid=tenure.uid, node=me, guid=taken.guid, taken=at, size=taken.size)
            await self._write(key, entry, told)
            log.info("snapshot %s of %s was taken", name, d.name)

    def _at(self, d: Dataset, tenure: Tenure) -> tuple[NamedSnapshots, Volume, Token]:
        """Raises StorageError."""
        backend, volume = self._backends.get(tenure.backend), volume_of(d)
        if not isinstance(backend, NamedSnapshots):
            raise StorageError(f"back end {tenure.backend} takes no snapshots for users; btrfs does")
        if volume is None or not tenure.born:
            raise StorageError(f"{d.name} has no volume yet")
        return backend, volume, Token(self._member.cluster_id, tenure.uid, tenure.epoch, tenure.incarnation)

    async def _tell(self, d: Dataset, name: str, record: UserSnapshot, entry: Entry, trouble: str) -> None:
        if record.trouble == trouble:
            return
        told = record.model_copy(update={"trouble": trouble})
        with suppress(StoreError):  # said in the log, and tried again
            await self._write(self._member.view.keys.snapshot(d.name, name), entry, told)

    async def _write(self, key: str, entry: Entry, told: UserSnapshot | None) -> None:
        """Where the record is as it was read. Raises StoreError."""
        then = Put(key, told.encode()) if told is not None else Delete(key)
        compare = (unchanged(key, entry), absent(self._member.view.keys.fence(self._member.incarnation)))
        await self._member.store.txn(Txn(compare, (then,)))
