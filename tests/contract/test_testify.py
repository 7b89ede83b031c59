"""What a guard's testimony tells the cluster, and when it may not. On real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from drover.agent.guard.page import Page
from drover.agent.guard.settings import Files, LadderRecord
from drover.agent.testify import say_stopped
from drover.coordinator.clock import read_clock
from drover.coordinator.keys import Keys
from drover.coordinator.records import Evidence, Fence, Heartbeat
from drover.coordinator.txn import Put, Txn
from tests.contract.seats import Recorded
from tests.etcd import EtcdCluster

STOPPED = LadderRecord(round=1, reason="no heartbeat", left=(), seconds=0.1, at=1.0, incarnation="a.1")


@dataclass
class Stopped:
    """Node a, whose agent is gone and whose guard has sworn that the first round of the ladder left nothing."""

    store: Recorded
    keys: Keys
    files: Files
    page: Page

    async def beat(self, incarnation: str = "a.1") -> None:
        beat = Heartbeat(incarnation=incarnation, counter=1, clock=0.0, d_hard=6.5)
        await self.store.txn(Txn((), (Put(self.keys.heartbeat("a"), beat.encode()),)))

    async def says(self) -> bool:
        return await say_stopped(self.store, self.keys, "a", self.files)

    async def fence(self) -> Fence | None:
        found = await self.store.get(self.keys.fence("a.1"))
        return Fence.decode(found.value) if found else None


@pytest.fixture
async def stopped(etcd_one: EtcdCluster, etcd_prefix: str, tmp_path: Path) -> AsyncIterator[Stopped]:
    files = Files(tmp_path)
    async with Recorded(etcd_one.endpoints) as store:
        with Page(files.page) as page:
            page.swear()
            page.end_round(0)
            STOPPED.save(files.record)
            made = Stopped(store, Keys(etcd_prefix), files, page)
            await made.beat()
            yield made


async def test_the_fence_says_that_the_guard_has_stopped_everything_and_why(stopped: Stopped) -> None:
    assert await stopped.says()
    fence = await stopped.fence()
    assert fence is not None
    assert (fence.node, fence.by, fence.evidence) == ("a", "a", Evidence.STOPPED)
    assert "no heartbeat" in fence.detail


async def test_its_word_replaces_a_fence_that_rests_on_silence_only(stopped: Stopped) -> None:
    silence = Fence(node="a", by="b", evidence=Evidence.SILENCE, detail="still", at="now")
    await stopped.store.txn(Txn((), (Put(stopped.keys.fence("a.1"), silence.encode()),)))
    assert await stopped.says()
    fence = await stopped.fence()
    assert fence is not None
    assert fence.evidence is Evidence.STOPPED


async def test_nothing_is_said_twice(stopped: Stopped) -> None:
    assert await stopped.says()
    assert not await stopped.says()


async def test_a_heartbeat_that_comes_meanwhile_makes_it_void(stopped: Stopped) -> None:
    stopped.store.before["fence"] = stopped.beat
    assert not await stopped.says()
    assert await stopped.fence() is None


async def test_nothing_is_said_about_another_incarnation(stopped: Stopped) -> None:
    await stopped.beat("a.2")
    assert not await stopped.says()
    replace(STOPPED, incarnation="a.0").save(stopped.files.record)
    await stopped.beat()
    assert not await stopped.says()


async def test_nothing_is_said_while_something_is_left_or_the_gate_is_open(stopped: Stopped) -> None:
    stopped.page.end_round(1)
    assert not await stopped.says()
    stopped.page.end_round(0)
    stopped.page.open()
    assert not await stopped.says()


async def test_nothing_is_said_once_another_round_has_begun_or_for_a_round_that_is_not_sworn(stopped: Stopped) -> None:
    stopped.page.begin_round(read_clock)
    assert not await stopped.says()
    stopped.page.end_round(0)
    replace(STOPPED, round=2).save(stopped.files.record)
    assert not await stopped.says()
