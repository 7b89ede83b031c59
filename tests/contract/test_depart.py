"""An incarnation that ends in good order, and whatever may come between. On real etcd."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from drover.agent.guard.page import Page
from drover.agent.guard.settings import Files, LadderRecord
from drover.agent.testify import say_stopped
from drover.coordinator.depart import Departed, depart
from drover.coordinator.keys import Keys
from drover.coordinator.observers import Observers
from drover.coordinator.protocol import ownership, session
from drover.coordinator.records import Evidence, Fence, Heartbeat, NodeRecord, State, Tenure
from drover.coordinator.store import LeaseGone
from drover.coordinator.txn import Put, Txn
from tests.contract.seats import TIMINGS, Recorded, Seated, join
from tests.etcd import EtcdCluster
from tests.unit.making import cluster, dataset, tenure

GRACE = 60.0


@dataclass
class Etcd:
    """Node a has joined, and leaves; nobody else is there."""

    store: Recorded
    keys: Keys
    member: Seated
    directory: Path

    async def holds(self, name: str, **changes: Any) -> None:
        made = tenure(**changes).model_copy(update={"incarnation": self.member.incarnation, "node": "a"})
        await self.store.txn(Txn((), (Put(self.keys.owner(name), made.encode()),)))

    async def depart(self, grace: float = GRACE) -> Departed:
        return await depart(self.store, self.keys, "a", self.member.incarnation, self.member.lease, grace)

    async def beat(self) -> Heartbeat | None:
        entry = await self.store.get(self.keys.heartbeat("a"))
        return Heartbeat.decode(entry.value) if entry else None

    async def fence(self) -> Fence | None:
        entry = await self.store.get(self.keys.fence(self.member.incarnation))
        return Fence.decode(entry.value) if entry else None


@pytest.fixture
async def etcd(etcd_one: EtcdCluster, etcd_prefix: str, tmp_path: Path) -> AsyncIterator[Etcd]:
    keys = Keys(etcd_prefix)
    async with Recorded(etcd_one.endpoints) as store:
        yield Etcd(store, keys, await join(store, keys, "a", tmp_path), tmp_path)


async def test_a_node_with_nothing_leaves_no_trace_and_comes_back_without_a_fence(etcd: Etcd) -> None:
    await etcd.holds("given-away", state=State.RELEASED)
    assert await etcd.depart() == Departed(())
    assert await etcd.beat() is None
    assert await etcd.store.get(etcd.keys.node("a")) is None
    (etcd.directory / "a.json").unlink()  # as after a reboot: it is on tmpfs
    again = await join(etcd.store, etcd.keys, "a", etcd.directory)
    assert again.incarnation != etcd.member.incarnation
    assert await etcd.fence() is None


async def test_a_node_that_keeps_datasets_says_so_in_its_last_heartbeat(etcd: Etcd) -> None:
    before = await etcd.beat()
    assert before is not None
    await etcd.holds("mine")
    await etcd.holds("coming", state=State.ASSIGNED)
    assert await etcd.depart() == Departed(("coming", "mine"))
    last = await etcd.beat()
    assert last is not None
    assert (last.left, last.longer, last.incarnation) == (True, GRACE, etcd.member.incarnation)
    assert last.counter > before.counter
    assert await etcd.store.get(etcd.keys.node("a")) is None, "it is no candidate for anything"


async def test_a_heartbeat_that_was_still_under_way_commits_before_the_last_one_or_never(etcd: Etcd) -> None:
    await etcd.holds("mine")
    entry = await etcd.store.get(etcd.keys.heartbeat("a"))
    assert entry is not None
    member = etcd.member
    send = session.Send(session.Attempt(2, member._clock(), 0.0), entry.mod_revision)
    late = session.heartbeat_txn(etcd.keys, member.identity, TIMINGS, send)
    assert (await etcd.depart()).said
    assert not (await etcd.store.txn(late)).succeeded
    last = await etcd.beat()
    assert last is not None
    assert last.left


async def test_one_that_commits_first_is_followed_by_the_last_one(etcd: Etcd) -> None:
    async def beats() -> None:
        beat = await etcd.beat()
        assert beat is not None
        moved = beat.model_copy(update={"counter": beat.counter + 1})
        await etcd.store.txn(Txn((), (Put(etcd.keys.heartbeat("a"), moved.encode()),)))

    etcd.store.before["delete"] = beats
    assert await etcd.depart() == Departed(())
    assert await etcd.beat() is None


async def test_nothing_that_was_under_way_binds_a_dataset_to_a_node_that_has_left(etcd: Etcd) -> None:
    """Its own claim, and another node's handover to it."""
    mine = etcd.member.seat()
    known = cluster("a")
    entry = await etcd.store.get(etcd.keys.node("a"))
    assert entry is not None
    target = replace(known.nodes["a"], create_revision=entry.create_revision, lease=entry.lease)
    await etcd.depart()
    new = dataset(tenure=None, desired=None, spec_revision=0)
    with pytest.raises(LeaseGone):
        await etcd.store.txn(ownership.claim(mine, [new], known, {"d": "uid"}, "why", None, {}))
    other = replace(mine, node="b", incarnation="b.1")
    given = dataset(tenure=tenure("b"), tenure_revision=0, desired=None)
    with contextlib.suppress(LeaseGone):
        assert not (await etcd.store.txn(ownership.handover(other, [given], "a", target, "why"))).succeeded
    assert await etcd.store.get(etcd.keys.owner("d")) is None


async def test_one_that_was_fenced_meanwhile_says_nothing(etcd: Etcd) -> None:
    await etcd.holds("mine")
    fence = Fence(node="a", by="b", evidence=Evidence.SILENCE)
    await etcd.store.txn(Txn((), (Put(etcd.keys.fence(etcd.member.incarnation), fence.encode()),)))
    assert not (await etcd.depart()).said
    last = await etcd.beat()
    assert last is not None
    assert not last.left


async def test_an_agent_that_starts_again_in_the_same_boot_is_alive_and_its_leaving_void(etcd: Etcd) -> None:
    await etcd.holds("mine")
    await etcd.depart()
    again = await join(etcd.store, etcd.keys, "a", etcd.directory)
    beat = await etcd.beat()
    assert beat is not None
    assert again.incarnation == etcd.member.incarnation
    assert (beat.left, beat.longer) == (False, 0.0)
    task = asyncio.create_task(again.run())
    try:
        async with asyncio.timeout(10):
            while await etcd.store.get(etcd.keys.node("a")) is None:
                await asyncio.sleep(0.05)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    record = await etcd.store.get(etcd.keys.node("a"))
    assert record is not None
    assert not NodeRecord.decode(record.value).leaving


async def test_the_guard_does_not_say_for_it_what_would_let_others_take_over(etcd: Etcd) -> None:
    files = Files(etcd.directory)
    with Page(files.page) as page:
        page.guard_starts(False, 0)
        page.begin_round(etcd.member._clock)
        page.end_round(0)
        page.swear()
        round_ = page.seen().round
    LadderRecord(round_, "why", (), 0.1, 1.0, etcd.member.incarnation).save(files.record)
    await etcd.holds("mine")
    await etcd.depart()
    assert not await say_stopped(etcd.store, etcd.keys, "a", files)
    assert await etcd.fence() is None


@pytest.mark.long
async def test_others_wait_as_long_as_it_said_and_then_know_that_it_has_stopped(etcd: Etcd) -> None:
    grace = 3.0
    await etcd.holds("mine")
    await etcd.depart(grace)
    watcher = await join(etcd.store, etcd.keys, "b", etcd.directory)
    began = asyncio.get_running_loop().time()
    task = asyncio.create_task(watcher.run())
    try:
        async with asyncio.timeout(30):
            while await etcd.fence() is None:
                await asyncio.sleep(0.1)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    waited = asyncio.get_running_loop().time() - began
    assert waited >= TIMINGS.d_hard + grace
    fence = await etcd.fence()
    assert fence is not None
    assert (fence.by, fence.evidence) == ("b", Evidence.STOPPED)
    assert isinstance(watcher._observers, Observers)
    owner = await etcd.store.get(etcd.keys.owner("mine"))
    assert owner is not None
    assert Tenure.decode(owner.value).incarnation == etcd.member.incarnation
