"""How an incarnation ends in good order, when its machine shuts down: it writes nothing any more, and etcd says so."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from drover.coordinator.clock import Clock, read_clock
from drover.coordinator.keys import Keys, Kind, range_end
from drover.coordinator.protocol import history
from drover.coordinator.record import InvalidRecord
from drover.coordinator.records import Heartbeat, Tenure
from drover.coordinator.store import Store, Unanswered
from drover.coordinator.txn import Delete, Put, Txn, absent, unchanged

_AGAIN = 0.1


@dataclass(frozen=True)
class Departed:
    """kept: the datasets whose tenure the incarnation still has. said: etcd has it; False: the incarnation was fenced,
    or another one has its seat."""

    kept: tuple[str, ...]
    said: bool = True


async def depart(
    store: Store, keys: Keys, node: str, incarnation: str, lease: int, grace: float, clock: Clock = read_clock
) -> Departed:
    """Call it once nothing of the incarnation writes, and it sends nothing any more. grace: seconds that others are to
    wait for this machine to boot again, where it keeps datasets. Raises StoreError.

    First the lease goes: from then on nothing that is still under way can bind a dataset to this incarnation, neither
    its own claims nor others' handovers. So what it holds after that is all that it keeps. With nothing, it vanishes;
    else its last heartbeat says that it has stopped and for how long it is waited for.
    """
    await store.revoke(lease)
    kept = tuple(await _held(store, keys, incarnation))
    key = keys.heartbeat(node)
    while True:
        entry = await store.get(key)
        try:
            beat = Heartbeat.decode(entry.value) if entry else None
        except InvalidRecord:
            beat = None
        if entry is None or beat is None or beat.incarnation != incarnation:
            return Departed(kept, said=False)
        if await store.get(keys.fence(incarnation)) is not None:
            return Departed(kept, said=False)
        last = beat.model_copy(
            update={"counter": beat.counter + 1, "clock": round(clock().boot, 3), "longer": grace, "left": True}
        )
        then = Put(key, last.encode()) if kept else Delete(key)
        # One of its heartbeats may still be under way: whichever commits first, the other never does.
        try:
            if (await store.txn(Txn((unchanged(key, entry), absent(keys.fence(incarnation))), (then,)))).succeeded:
                return Departed(kept)
        except Unanswered:
            if not kept and await store.get(key) is None:
                return Departed(kept)
        await asyncio.sleep(_AGAIN)


async def _held(store: Store, keys: Keys, incarnation: str) -> list[str]:
    """What a read says may be of the past (etcd 20418): it is asked again until it is not older than now."""
    now = (await store.txn(history.witness(keys.cluster))).revision
    while (owners := await store.range(keys.under(Kind.OWNERS), range_end(keys.under(Kind.OWNERS)))).revision < now:
        await asyncio.sleep(_AGAIN)
    held = []
    for entry in owners.entries:
        try:
            tenure = Tenure.decode(entry.value)
        except InvalidRecord:
            continue
        if tenure.held and tenure.incarnation == incarnation:
            held.append(entry.key.removeprefix(keys.under(Kind.OWNERS)))
    return held
