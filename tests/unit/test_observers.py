"""Who watches heartbeats puts a stand-in for one that is missing only where somebody may still be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from drover.coordinator.keys import Keys
from drover.coordinator.member import Member
from drover.coordinator.observers import _Watch
from drover.coordinator.protocol.dataset import Cluster
from drover.coordinator.protocol.observer import Watched
from drover.coordinator.protocol.ownership import Seat
from drover.coordinator.records import Heartbeat, Tenure
from drover.coordinator.store import Changes, Compacted, Range
from drover.coordinator.txn import Compare, Entry, ModRevision, Put, Txn
from tests.unit.making import dataset, tenure

KEYS = Keys("/drover")


class _Store:
    def __init__(self) -> None:
        self.put: list[Put] = []
        self.compared: list[Compare] = []

    async def txn(self, txn: Txn) -> Any:
        self.put += [op for op in txn.then if isinstance(op, Put)]
        self.compared += txn.compare
        return SimpleNamespace(succeeded=True)


class _Restored(_Store):
    """An etcd that was restored under its own id, far ahead of what was seen, and without history."""

    def __init__(self, beat: Entry) -> None:
        super().__init__()
        self._beat = beat
        self.listed = asyncio.Event()

    async def range(self, start: str, end: str) -> Range:
        self.listed.set()
        return Range((self._beat,), 100_000)

    async def watch(self, start: str, end: str, revision: int) -> AsyncIterator[Changes]:
        if revision <= 100_000:
            raise Compacted(100_000)
        await asyncio.Event().wait()
        yield Changes((), 0)


def watch(store: _Store, *tenures: Tenure) -> _Watch:
    """By `a`, of `b`, which is not in nodes/."""
    datasets = {f"d{n}": dataset(f"d{n}", tenure=t, tenure_revision=7) for n, t in enumerate(tenures)}
    view = SimpleNamespace(
        cluster=Cluster(nodes={}),
        tenures=lambda: tenures,
        entry=lambda kind, name: None,
        names=lambda: set(datasets),
        dataset=lambda name: datasets[name],
    )
    seat = Seat(KEYS, "a", "a.1.1", 1, "now", "2")
    member = SimpleNamespace(node="a", view=view, store=store, keys=KEYS, seat=lambda: seat)
    return _Watch(cast(Member, member), "b", "b.1.1")


@pytest.mark.parametrize("named", [True, False])
async def test_a_node_that_is_gone_gets_a_stand_in_only_while_a_tenure_names_it(named: bool) -> None:
    store = _Store()
    held = [tenure(node="b", incarnation="b.1.1")] if named else []
    await watch(store, *held)._put_placeholder(0)
    assert [(op.key, Heartbeat.decode(op.value).incarnation) for op in store.put] == (
        [(KEYS.heartbeat("b"), "b.1.1")] if named else []
    )
    assert (ModRevision(KEYS.owner("d0"), 7) in store.compared) == named  # that it is so still when this commits


async def test_where_history_is_gone_the_wait_begins_again_since_heartbeats_that_were_answered_may_be_lost() -> None:
    heartbeat = Heartbeat(incarnation="b.1.1", counter=7, clock=0.0, d_hard=6.5)
    entry = Entry("/drover/heartbeats/b", heartbeat.encode(), 1, 40)
    store = _Restored(entry)
    watching = watch(store)
    watching._member.raw = lambda: 105.0  # type: ignore[method-assign]
    watching._watched = Watched("b", heartbeat, 40, 100.0)
    watching._mirror._entries, watching._mirror._whole, watching._mirror.revision = {entry.key: entry}, True, 41
    running = asyncio.create_task(watching._mirror.run())
    async with asyncio.timeout(5):
        await store.listed.wait()
    running.cancel()
    assert watching._watched == Watched("b", heartbeat, 40, 105.0)
