"""Joining, where what etcd answers is not the newest."""

from __future__ import annotations

import asyncio
from pathlib import Path

from drover.coordinator.join import Applicant, Joined, Joining
from drover.coordinator.keys import Keys
from drover.coordinator.mark import MarkFile
from drover.coordinator.protocol import observer
from drover.coordinator.protocol.clock import Instant
from drover.coordinator.records import Evidence, Fence, Heartbeat, NodeRecord
from drover.coordinator.timings import Timings
from drover.coordinator.txn import Entry, Put, Txn
from tests.model.store import ModelCluster, ModelStore
from tests.unit.making import tenure

KEYS = Keys()


class AnswersFromThePast(ModelStore):
    """Its next reads of a key answer as they did before (etcd issue 20418)."""

    def __init__(self, cluster: ModelCluster, key: str, past: Entry | None, times: int) -> None:
        super().__init__(cluster)
        self._key, self._past, self._times = key, past, times

    async def get(self, key: str) -> Entry | None:
        if key == self._key and self._times:
            self._times -= 1
            return self._past
        return await super().get(key)


class FencedMeanwhile(ModelStore):
    """Somebody is fenced just after it was asked whether they are."""

    async def get(self, key: str) -> Entry | None:
        found = await super().get(key)
        if found is None and key == KEYS.fence("a.old.1"):
            fence = Fence(node="a", by="operator", evidence=Evidence.OPERATOR)
            self.cluster.apply(Txn((), (Put(key, fence.encode()),)))
        return found


async def join(store: ModelStore, saved: Path, at: float) -> Joined:
    async def nothing() -> list[str]:
        return []

    record = NodeRecord(incarnation="", machine="m", boot="b1", lease=0)
    who = Applicant("a", "m", "b1", Timings(), record)
    marks = MarkFile(saved.with_name("mark.json"))
    return await Joining(store, KEYS, who, saved, lambda: Instant(at, at), nothing, marks).run()


async def test_an_agent_that_restarts_goes_on_from_its_last_heartbeat_though_etcd_shows_it_an_older_one(
    tmp_path: Path,
) -> None:
    cluster, saved = ModelCluster(), tmp_path / "session.json"
    store = ModelStore(cluster)
    first = await join(store, saved, 10.0)
    past = cluster.entry(KEYS.heartbeat("a"))
    assert past is not None
    beat = Heartbeat.decode(past.value).model_copy(update={"counter": 5000, "clock": 15.0})
    cluster.apply(Txn((), (Put(KEYS.heartbeat("a"), beat.encode()),)))

    again = await join(AnswersFromThePast(cluster, KEYS.heartbeat("a"), past, times=2), saved, 20.0)

    newest = cluster.entry(KEYS.heartbeat("a"))
    assert newest is not None
    assert again.identity.incarnation == first.identity.incarnation
    assert again.counter > 5000
    assert (again.revision, again.sent.boot) == (newest.mod_revision, 20.0)


async def test_an_agent_that_restarts_does_not_go_on_from_a_past_in_which_it_was_not_yet_fenced(
    tmp_path: Path,
) -> None:
    cluster, saved = ModelCluster(), tmp_path / "session.json"
    store = ModelStore(cluster)
    first = await join(store, saved, 10.0)
    fence = KEYS.fence(first.identity.incarnation)
    cluster.apply(Txn((), (Put(fence, b'{"node":"a","by":"b","evidence":"silence"}'),)))

    again = await join(AnswersFromThePast(cluster, fence, None, times=2), saved, 20.0)

    assert again.identity.incarnation != first.identity.incarnation


async def test_a_node_that_joined_after_the_backup_is_not_kept_out_after_the_recovery(tmp_path: Path) -> None:
    cluster = ModelCluster()
    held = tenure("a").model_copy(update={"incarnation": "a.recovered.1"})
    cluster.apply(Txn((), (Put(KEYS.owner("d"), held.encode()),)))
    async with asyncio.timeout(5):
        await join(ModelStore(cluster), tmp_path / "session.json", 10.0)


async def test_whoever_waits_for_another_machine_joins_as_soon_as_that_is_fenced(tmp_path: Path) -> None:
    cluster = ModelCluster()
    cluster.apply(Txn((), (Put(KEYS.heartbeat("a"), observer.stand_in("a.old.1").encode()),)))
    async with asyncio.timeout(10):
        joined = await join(FencedMeanwhile(cluster), tmp_path / "session.json", 10.0)
    assert joined.identity.incarnation.startswith("a.b1.")
