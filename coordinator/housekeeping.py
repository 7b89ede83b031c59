"""What one member does for all, so that etcd's history and the fences do not pile up.

A heartbeat costs about 160 bytes of history: without compaction, 40 nodes fill etcd's default quota of 2 GiB in four
days, and a full etcd stops every owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from drover.coordinator.keys import Kind, range_end
from drover.coordinator.protocol.observer import collectable
from drover.coordinator.protocol.placement import rank
from drover.coordinator.records import Fence, Heartbeat, InvalidRecord, R, Tenure
from drover.coordinator.store import StoreError
from drover.coordinator.txn import Delete, Entry, Txn, absent, unchanged

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

        Nothing can come to name a fenced incarnation again: none of its transactions commits, and no handover to it.
        So the tenures are read after the fences. Raises StoreError.
        """
        member, keys = self._member, self._member.keys
        fences = await self._list(Kind.FENCES)
        beats = await self._list(Kind.HEARTBEATS)
        owners = await self._list(Kind.OWNERS)
        tenures = _readable(Tenure, owners)
        if len(tenures) < len(owners):
            log.warning("no fence is collected: a key below %s cannot be read", keys.under(Kind.OWNERS))
            return
        records = _readable(Fence, fences)
        for incarnation in collectable(records, _readable(Heartbeat, beats), tenures.values()):
            node = records[incarnation].node
            fence, beat = keys.fence(incarnation), keys.heartbeat(node)
            compare = (unchanged(fence, fences[incarnation]), unchanged(beat, beats[node]))
            await member.store.txn(Txn((*compare, absent(keys.fence(member.incarnation))), (Delete(fence),)))

    async def _list(self, kind: Kind) -> dict[str, Entry]:
        """By name."""
        start = self._member.keys.under(kind)
        listed = await self._member.store.range(start, range_end(start))
        return {entry.key.removeprefix(start): entry for entry in listed.entries}


def _readable(kind: type[R], entries: Mapping[str, Entry]) -> dict[str, R]:
    found = {}
    for name, entry in entries.items():
        with contextlib.suppress(InvalidRecord):
            found[name] = kind.decode(entry.value)
    return found
