"""What one member does for all, so that etcd's history and the fences do not pile up.

A heartbeat costs about 160 bytes of history: without compaction, 40 nodes fill etcd's default quota of 2 GiB in four
days, and a full etcd stops every owner.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from drover.coordinator.keys import Kind, range_end
from drover.coordinator.protocol.observer import collectable
from drover.coordinator.protocol.placement import rank
from drover.coordinator.records import Fence, Heartbeat, InvalidRecord, Tenure
from drover.coordinator.store import StoreError
from drover.coordinator.txn import Delete, Entry, Txn, unchanged

if TYPE_CHECKING:
    from drover.coordinator.member import Member

log = logging.getLogger(__name__)

KEEP = 600.0
"""Seconds of etcd's history that are kept, for watches that resume."""
EVERY = 60.0
"""Seconds between two compactions."""
_COLLECT = 10
"""Fences are collected at every so many compactions."""


class Housekeeping:
    """Compaction and the collecting of old fences, by the member that ranks first. compacts: False where etcd is shared
    with others or compacts by itself; doing it all the same is harmless."""

    def __init__(self, member: Member, compacts: bool, keep: float = KEEP, every: float = EVERY) -> None:
        self._member, self._compacts, self._keep, self._every = member, compacts, keep, every
        self._seen: deque[tuple[float, int]] = deque()

    async def run(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(self._every)
            rounds += 1
            if rank("housekeeping", self._member.view.cluster.nodes)[:1] != [self._member.node]:
                self._seen.clear()
                continue
            try:
                if self._compacts:
                    await self.compact()
                if rounds % _COLLECT == 0:
                    await self.collect()
            except StoreError as error:
                log.warning("housekeeping: %s", error)

    async def compact(self) -> None:
        """Forget what is older than `keep` seconds. Raises StoreError."""
        now = self._member.raw()
        self._seen.append((now, (await self._member.store.status()).revision))
        old = 0
        while self._seen and now - self._seen[0][0] >= self._keep:
            old = self._seen.popleft()[1]
        if old:
            await self._member.store.compact(old)

    async def collect(self) -> None:
        """Delete fences that say nothing any more: no tenure names them, and their node lives in another incarnation.

        Nothing can come to name a fenced incarnation again: none of its transactions commits. Raises StoreError.
        """
        tenures = [Tenure.decode(e.value) for e in await self._list(Kind.OWNERS)]
        fences = {e.key: e for e in await self._list(Kind.FENCES)}
        beats = {e.key: e for e in await self._list(Kind.HEARTBEATS)}
        keys = self._member.keys
        records = {key.removeprefix(keys.under(Kind.FENCES)): Fence.decode(e.value) for key, e in fences.items()}
        alive: dict[str, Heartbeat] = {}
        for key, entry in beats.items():
            try:
                alive[key.removeprefix(keys.under(Kind.HEARTBEATS))] = Heartbeat.decode(entry.value)
            except InvalidRecord:
                continue
        for incarnation in collectable(records, alive, tenures):
            fence, beat = keys.fence(incarnation), keys.heartbeat(records[incarnation].node)
            compare = (unchanged(fence, fences[fence]), unchanged(beat, beats[beat]))
            await self._member.store.txn(Txn(compare, (Delete(fence),)))

    async def _list(self, kind: Kind) -> tuple[Entry, ...]:
        start = self._member.keys.under(kind)
        return (await self._member.store.range(start, range_end(start))).entries
