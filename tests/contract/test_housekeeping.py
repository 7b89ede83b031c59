"""etcd stays small under a cluster's heartbeats, whoever dies or restarts, and somebody says so where it does not.

The members and their heartbeats are real, and so is etcd. Its data is on tmpfs: what is measured is size, not speed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from drover.coordinator.etcd import Etcd
from drover.coordinator.housekeeping import Housekeeping, Pace
from drover.coordinator.keys import Keys
from drover.coordinator.member import Member
from drover.coordinator.protocol import session
from drover.coordinator.protocol.clock import Instant
from drover.coordinator.protocol.placement import rank
from drover.coordinator.protocol.session import Attempt, Identity, Send
from drover.coordinator.txn import Delete, Put, Txn
from drover.coordinator.view import View
from tests.contract.seats import TIMINGS, Recorded, Seated, join
from tests.etcd import EtcdCluster, Wire

LOGGER = "drover.coordinator.housekeeping"
NODES = 40
"""So many nodes' heartbeats are written at the same time."""


@asynccontextmanager
async def running(*subjects: Member | Housekeeping | View) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(subject.run()) for subject in subjects]
    try:
        yield
        assert not [task for task in tasks if task.done()], "they run until they are cancelled"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def until(condition: Callable[[], bool], what: str, limit: float = 15.0) -> None:
    try:
        async with asyncio.timeout(limit):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {limit:.0f} s: {what}") from None


async def beat(member: Seated, beats: int) -> None:
    """That many heartbeats of `NODES` nodes, each a chain of transactions as members send them."""

    async def chain(number: int) -> None:
        node = f"node-{number}"
        me = Identity(node, f"{node}.0123456789ab.01234567", f"{number:032x}", f"{number:036x}")
        entry = await member.store.get(member.keys.heartbeat(node))
        revision = entry.mod_revision if entry else 0
        for counter in range(beats // NODES):
            now = Instant(1e5 + counter, 1e5 + counter)
            send = Send(Attempt(counter, now), revision)
            result = await member.store.txn(session.heartbeat_txn(member.keys, me, TIMINGS, send), timeout=20)
            assert result.succeeded
            revision = result.revision
            member.written += 1

    async with asyncio.TaskGroup() as group:
        for number in range(NODES):
            group.create_task(chain(number))


@asynccontextmanager
async def beating(member: Seated) -> AsyncIterator[None]:
    """Heartbeats without end, some hundreds a second."""

    async def forever() -> None:
        while True:
            await beat(member, NODES)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(forever())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait({task})


def size(etcd: EtcdCluster) -> int:
    return int(etcd.members[0].ask("/v3/maintenance/status", {}, timeout=10)["dbSize"])


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> Iterator[EtcdCluster]:
    """An etcd of one's own, with its default settings and these flags."""
    with EtcdCluster(flags=getattr(request, "param", ())) as etcd:
        yield etcd


@pytest.fixture
async def store(etcd_one: EtcdCluster) -> AsyncIterator[Recorded]:
    async with Recorded(etcd_one.endpoints) as store:
        yield store


@pytest.fixture
def keys(etcd_prefix: str) -> Keys:
    return Keys(etcd_prefix)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.message for r in caplog.records if r.name == LOGGER and r.levelno >= logging.WARNING]


class TestTheDatabase:
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize(
        ("beats", "rate", "every"),
        [(30_000, 4, 0.1), pytest.param(300_000, 40, 0.8, marks=pytest.mark.long)],
    )
    async def test_stays_flat_over_hours_of_heartbeats_once_it_holds_the_minutes_that_are_kept(
        self, fresh: EtcdCluster, beats: int, rate: int, every: float, tmp_path: Path
    ) -> None:
        """`beats` at `rate` a second of the member's clock: two hours. Ten minutes of them are kept."""
        async with Recorded(fresh.endpoints) as store:
            member = await join(store, Keys(), "z", tmp_path)
            member.rate = rate
            async with running(member, Housekeeping(member, True, Pace(every=every))):
                await beat(member, beats // 5)
                settled = size(fresh)
                await beat(member, beats - beats // 5)
                assert size(fresh) < 1.2 * settled
            assert store.compacted[-1] > beats - 2 * Pace().keep * rate, "it compacts what is older than is kept"

    async def test_grows_in_proportion_to_the_heartbeats_where_nobody_compacts(
        self, fresh: EtcdCluster, tmp_path: Path
    ) -> None:
        async with Recorded(fresh.endpoints) as store:
            member = await join(store, Keys(), "z", tmp_path)
            async with running(member, Housekeeping(member, False, Pace(every=0.1))):
                await beat(member, 4_000)
                fifth = size(fresh)
                await beat(member, 16_000)
                assert size(fresh) > 4 * fifth
            assert store.compacted == []


class TestCompaction:
    async def test_is_one_members_work_and_the_next_one_goes_on_with_it_at_once_when_that_one_dies(
        self, store: Recorded, etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
    ) -> None:
        async with Recorded(etcd_one.endpoints) as other:
            pace = Pace(keep=2.0, every=0.05)
            one, two = rank("housekeeping", ["a", "b"])
            first, second = await join(store, keys, one, tmp_path), await join(other, keys, two, tmp_path)
            async with running(second, Housekeeping(second, True, pace)):
                async with running(first, Housekeeping(first, True, pace)):
                    await until(lambda: len(store.compacted) > 3, "the first compacts")
                    assert other.compacted == []
                await store.revoke(first.lease)
                await until(lambda: len(other.compacted) > 3, "the second compacts", pace.keep - 0.5)

    async def test_is_left_to_others_where_it_is_off(self, store: Recorded, keys: Keys, tmp_path: Path) -> None:
        member = await join(store, keys, "z", tmp_path)
        beginning = (await store.status()).revision
        async with running(member, Housekeeping(member, False, Pace(keep=0.05, most=1, every=0.01))), beating(member):
            asked = store.asked
            await until(lambda: store.asked > asked + 20, "many rounds")
            assert store.compacted == []
            first = keys.heartbeat("node-0")
            async with asyncio.timeout(5), aclosing(store.watch(first, first + "\0", beginning)) as watch:
                assert await anext(watch) != await anext(watch), "it stands, and tells of changes that may be forgotten"

    async def test_is_no_trouble_where_somebody_else_compacts_too(
        self, store: Recorded, etcd_one: EtcdCluster, keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        member = await join(store, keys, "z", tmp_path)
        async with Etcd(etcd_one.endpoints) as other, beating(member):
            async with running(member, Housekeeping(member, True, Pace(keep=0.1, every=0.01))):
                for _ in range(10):
                    await other.compact(ahead := (await other.status()).revision)
                    seen = len(store.compacted)
                    await until(lambda seen=seen: len(store.compacted) > seen + 1, "it asks for what is gone")  # type: ignore[misc]
                await until(lambda: store.compacted[-1] > ahead, "and goes on")
        assert warnings(caplog) == []

    async def test_bounds_history_even_if_no_agent_lives_for_as_long_as_it_is_kept(
        self, store: Recorded, keys: Keys, tmp_path: Path
    ) -> None:
        member = await join(store, keys, "z", tmp_path)
        async with running(member):
            for life in range(1, 4):
                await beat(member, 5 * NODES)
                revision = (await store.status()).revision
                async with running(Housekeeping(member, True, Pace(most=100))):
                    await until(lambda life=life: len(store.compacted) == life, "it compacts when it starts")  # type: ignore[misc]
                assert revision - 100 <= store.compacted[-1] <= (await store.status()).revision - 100

    async def test_leaves_a_watch_that_stands_or_was_cut_for_less_than_is_kept_alone(
        self, store: Recorded, etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
    ) -> None:
        member = await join(store, keys, "z", tmp_path)
        async with Wire(etcd_one.members[0].address) as wire, Recorded([wire.endpoint]) as far:
            view = View(far, keys)
            async with running(member, Housekeeping(member, True, Pace(keep=4.0, every=0.02)), view), beating(member):
                await until(lambda: len(store.compacted) > 10, "it compacts")
                await desire(store, keys, "a")
                await until(lambda: view.dataset("d").desired == "a", "the watch stands")
                wire.cut()
                await desire(store, keys, "b")
                wire.mend()
                await until(lambda: view.dataset("d").desired == "b", "it goes on")
                assert far.listed == 2, "each of its two ranges once, in the beginning"

    async def test_makes_a_view_that_was_cut_off_for_longer_than_is_kept_list_again(
        self, store: Recorded, etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
    ) -> None:
        member = await join(store, keys, "z", tmp_path)
        async with Wire(etcd_one.members[0].address) as wire, Recorded([wire.endpoint]) as far:
            view = View(far, keys)
            async with running(member, Housekeeping(member, True, Pace(keep=0.3, every=0.02)), view), beating(member):
                await desire(store, keys, "a")
                await store.txn(Txn((), (Put(keys.desired("gone"), b"a"),)))
                await until(lambda: view.names() == {"d", "gone"}, "the watch stands")
                wire.cut()
                await store.txn(Txn((), (Delete(keys.desired("gone")),)))
                revision = await desire(store, keys, "b")
                await until(lambda: max(store.compacted, default=0) > revision, "what it missed is forgotten")
                listed = far.listed
                wire.mend()
                await until(lambda: view.dataset("d").desired == "b", "it knows what it missed")
                assert view.names() == {"d"}
                assert far.listed > listed


async def desire(store: Etcd, keys: Keys, node: str) -> int:
    """A change in either of the ranges that a view watches; its revision."""
    puts = Put(keys.desired("d"), node.encode()), Put(keys.status("d"), node.encode())
    return (await store.txn(Txn((), puts))).revision


class TestItWarns:
    async def test_once_each_time_that_nobody_compacts(
        self, fresh: EtcdCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Recorded(fresh.endpoints) as store:
            member = await join(store, Keys(), "z", tmp_path)
            looks = Housekeeping(member, False, Pace(every=0.1, span=0.5))
            async with running(member, looks), beating(member):
                await until(lambda: looks.piling_up, "it notices")
                async with running(Housekeeping(member, True, Pace(keep=0.5, every=0.1))):
                    await until(lambda: not looks.piling_up, "it notices that somebody does")
                assert len(warnings(caplog)) == 1
                await until(lambda: looks.piling_up, "it notices again", 30)
            assert ["nobody compacts" in text for text in warnings(caplog)] == [True, True]

    @pytest.mark.parametrize(
        "fresh", [("--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1s")], indirect=True
    )
    async def test_not_where_etcd_compacts_by_itself(
        self, fresh: EtcdCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Recorded(fresh.endpoints) as store:
            member = await join(store, Keys(), "z", tmp_path)
            async with running(member, Housekeeping(member, False, Pace(every=0.1, span=1.5))), beating(member):
                await until(lambda: store.asked > 85, "more than five spans")
            assert warnings(caplog) == []

    async def test_once_each_time_that_the_database_nears_its_quota_where_etcd_tells_it(
        self, store: Recorded, keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        member = await join(store, keys, "z", tmp_path)
        async with running(member, Housekeeping(member, False, Pace(every=0.01))):
            for share in (0.0, 0.7, 0.8, 0.7, 0.8):
                store.quota = int((await store.status()).db_size / share) if share else 0
                asked = store.asked
                await until(lambda asked=asked: store.asked > asked + 3, "a few rounds")  # type: ignore[misc]
        assert ["its quota allows" in text for text in warnings(caplog)] == [True, True]
