"""What the connection to etcd does while members die, freeze and fill up: three real members."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import cast

import grpc
import grpc.aio
import pytest

from drover.coordinator.etcd import Etcd
from drover.coordinator.etcd_rpc import Member, parse_endpoint
from drover.coordinator.keys import range_end
from drover.coordinator.store import Changes, LeaseGone, NoSpace, StoreError, Unanswered, Unavailable, WatchBroken
from drover.coordinator.txn import Put, Txn, TxnResult, absent
from tests.etcd import FAST, EtcdCluster, Wire, free_ports
from tests.fake_etcd import FakeMember, serving

LIMIT = 2.0
"""Seconds: Etcd's default time limit for a call."""

SHORT = 1.0
"""Seconds: a time limit for tests that wait for it several times."""

SLACK = 3.0
"""Seconds that a loaded test machine may add to any limit."""


@pytest.fixture(scope="module")
def _three() -> Iterator[EtcdCluster]:
    with EtcdCluster(3) as cluster:
        yield cluster


@pytest.fixture
def three(_three: EtcdCluster) -> Iterator[EtcdCluster]:
    """All three serving; mended after the test."""
    yield _three
    _three.repair()


async def put(store: Etcd, key: str, value: bytes = b"", timeout: float | None = None) -> TxnResult:
    return await store.txn(Txn((), (Put(key, value),)), timeout)


async def put_until_answered(store: Etcd, key: str, limit: float) -> None:
    async with asyncio.timeout(limit):
        while True:
            try:
                await put(store, key, timeout=0.8)
                return
            except Unanswered:
                continue


async def fill(store: Etcd) -> None:
    for number in range(100):
        await put(store, f"/large/{number}", bytes(100_000))


async def appears(store: Etcd, key: str) -> bytes:
    """The value of a key, once it is there."""
    async with asyncio.timeout(5), aclosing(store.watch(key, f"{key}\0", 1)) as watch:
        async for changes in watch:
            for change in changes.changes:
                if change.entry is not None:
                    return change.entry.value
    raise AssertionError("the watch ended without an error")


async def test_calls_go_on_at_another_member_when_theirs_is_killed(three: EtcdCluster, etcd_prefix: str) -> None:
    async with Etcd(three.followers_first()) as store:
        await put(store, etcd_prefix)
        three.at(store.member).kill()
        started = time.monotonic()
        assert await store.get(etcd_prefix) is not None
        lease = await store.grant(30)
        assert await store.keep_alive(lease) == 30
        assert (await put(store, etcd_prefix)).succeeded
        assert time.monotonic() - started < LIMIT


async def test_a_transaction_goes_round_members_that_cannot_be_reached(three: EtcdCluster, etcd_prefix: str) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    async with Etcd([nobody, *three.endpoints]) as store:
        assert (await put(store, etcd_prefix)).succeeded


async def test_a_transaction_goes_round_a_frozen_member_that_it_was_never_connected_to(
    three: EtcdCluster, etcd_prefix: str
) -> None:
    endpoints = three.followers_first()
    async with Etcd(endpoints) as store:
        three.at(store.member).freeze()
        assert (await put(store, etcd_prefix)).succeeded


async def test_a_frozen_member_leaves_a_transaction_unanswered_within_its_limit_and_the_next_goes_elsewhere(
    three: EtcdCluster, etcd_prefix: str
) -> None:
    async with Etcd(three.followers_first()) as store:
        await put(store, etcd_prefix)
        frozen = three.at(store.member)
        frozen.freeze()
        started = time.monotonic()
        with pytest.raises(Unanswered, match=frozen.address):
            await put(store, etcd_prefix, timeout=0.8)
        assert 0.7 < time.monotonic() - started < 0.8 + SLACK
        assert store.member != frozen.address
        started = time.monotonic()
        assert (await put(store, etcd_prefix)).succeeded
        assert time.monotonic() - started < SLACK


async def test_a_read_at_a_frozen_member_is_answered_by_another_within_its_limit(
    three: EtcdCluster, etcd_prefix: str
) -> None:
    async with Etcd(three.followers_first()) as store:
        await put(store, etcd_prefix)
        three.at(store.member).freeze()
        started = time.monotonic()
        assert await store.get(etcd_prefix) is not None
        assert time.monotonic() - started < LIMIT


async def test_an_unanswered_transaction_commits_after_a_linearizable_read_did_not_show_it(
    three: EtcdCluster, etcd_prefix: str
) -> None:
    slow, fast = three.members[:2]
    async with Wire(slow.address) as wire, Etcd([wire.endpoint]) as cut_off, Etcd([fast.endpoint]) as reader:
        await cut_off.get(etcd_prefix)
        wire.hold()
        unanswered = asyncio.create_task(cut_off.txn(Txn((absent(etcd_prefix),), (Put(etcd_prefix, b"late"),)), 1.0))
        await asyncio.wait({unanswered}, timeout=0.4)
        request = wire.held()
        assert request > 0
        with pytest.raises(Unanswered):
            await unanswered
        assert await reader.get(etcd_prefix) is None
        wire.let_go(request)
        assert await appears(reader, etcd_prefix) == b"late"


async def test_a_watch_on_a_frozen_member_breaks_and_resumes_without_a_gap(
    three: EtcdCluster, etcd_prefix: str
) -> None:
    key = f"{etcd_prefix}/a"
    endpoints = three.followers_first()
    seen: list[int] = []

    async def follow(store: Etcd, revision: int, enough: Callable[[], bool]) -> None:
        async with aclosing(store.watch(key, range_end(key), revision)) as watch:
            async for changes in watch:
                seen.extend(change.revision for change in changes.changes)
                if changes.changes:
                    first_seen.set()
                if enough():
                    return

    first_seen = asyncio.Event()
    async with Etcd(endpoints) as store, Etcd(endpoints[1:]) as writer, asyncio.timeout(20):
        written = [(await put(writer, key)).revision]
        following = asyncio.create_task(follow(store, written[0], lambda: False))
        await first_seen.wait()
        frozen = three.at(store.member)
        frozen.freeze()
        started = time.monotonic()
        written += [(await put(writer, key)).revision for _ in range(5)]
        with pytest.raises(WatchBroken, match="silent"):
            await following
        assert time.monotonic() - started < 1.5 * LIMIT + SLACK
        assert store.member != frozen.address
        await follow(store, seen[-1] + 1, lambda: len(seen) >= len(written))
    assert seen == written


async def test_a_watch_on_a_quiet_range_does_not_break(three: EtcdCluster, etcd_prefix: str) -> None:
    key = f"{etcd_prefix}/a"
    async with Etcd(three.endpoints, timeout=0.4) as store:
        revision = (await put(store, key)).revision
        seen: list[Changes] = []
        async with asyncio.timeout(10), aclosing(store.watch(key, range_end(key), revision + 1)) as watch:
            await anext(watch)
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.wait({waiting}, timeout=5 * 0.4)
            assert not waiting.done()
            last = (await put(store, key)).revision
            seen.append(await waiting)
    assert [change.revision for changes in seen for change in changes.changes] == [last]


async def test_a_watch_at_a_member_without_a_leader_breaks(three: EtcdCluster, etcd_prefix: str) -> None:
    alone, *others = three.members
    async with Etcd([alone.endpoint]) as store:
        revision = (await put(store, etcd_prefix)).revision
        for other in others:
            other.kill()
        async with asyncio.timeout(10):
            with pytest.raises(WatchBroken):
                async for _ in store.watch(etcd_prefix, range_end(etcd_prefix), revision + 1):
                    pass


async def test_writes_go_on_within_seconds_after_the_leader_was_killed(three: EtcdCluster, etcd_prefix: str) -> None:
    leader = three.leader()
    async with Etcd([leader.endpoint, *three.endpoints]) as store:
        await put(store, etcd_prefix)
        leader.kill()
        await put_until_answered(store, etcd_prefix, limit=5)
        assert store.member != leader.address


async def test_without_a_majority_every_call_fails_within_its_limit(three: EtcdCluster, etcd_prefix: str) -> None:
    async with Etcd(three.endpoints, timeout=SHORT) as store:
        await put(store, etcd_prefix)
        for member in three.members[1:]:
            member.kill()
        started = time.monotonic()
        with pytest.raises(Unanswered):
            await put(store, etcd_prefix)
        assert time.monotonic() - started < SHORT + SLACK
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await store.get(etcd_prefix)
        assert time.monotonic() - started < SHORT + SLACK


async def test_with_all_members_dead_errors_name_the_endpoints_within_the_limit(
    three: EtcdCluster, etcd_prefix: str
) -> None:
    async with Etcd(three.endpoints, timeout=SHORT) as store:
        lease = await store.grant(30)
        for member in three.members:
            member.kill()
        calls: list[tuple[type[StoreError], Callable[[], Awaitable[object]]]] = [
            (Unanswered, lambda: put(store, etcd_prefix)),
            (Unavailable, lambda: store.get(etcd_prefix)),
            (WatchBroken, lambda: anext(store.watch(etcd_prefix, range_end(etcd_prefix), 1))),
        ]
        for kind, call in calls:
            started = time.monotonic()
            with pytest.raises(kind) as raised:
                await call()
            assert time.monotonic() - started < SHORT + SLACK
            assert any(member.address in str(raised.value) for member in three.members)
        with pytest.raises(Unavailable, match="nothing was sent") as raised_at_last:
            await store.keep_alive(lease)
        assert all(member.address in str(raised_at_last.value) for member in three.members)


async def test_the_same_client_goes_on_when_the_members_are_back(three: EtcdCluster, etcd_prefix: str) -> None:
    async with Etcd(three.endpoints) as store:
        await put(store, etcd_prefix)
        for member in three.members:
            member.kill()
        with pytest.raises(Unavailable):
            await store.get(etcd_prefix)
        await asyncio.to_thread(three.repair)
        await put_until_answered(store, etcd_prefix, limit=5)


async def test_many_tasks_share_one_connection_while_its_member_freezes(three: EtcdCluster, etcd_prefix: str) -> None:
    async def count(store: Etcd, key: str) -> int:
        unanswered = 0
        for _ in range(20):
            try:
                await put(store, key, timeout=0.8)
            except Unanswered:
                unanswered += 1
            await asyncio.sleep(0.02)
        return unanswered

    async with Etcd(three.followers_first()) as store:
        await put(store, etcd_prefix)
        async with asyncio.TaskGroup() as group:
            counts = [group.create_task(count(store, f"{etcd_prefix}/{number}")) for number in range(20)]
            await asyncio.sleep(0.1)
            three.at(store.member).freeze()
    assert all(task.result() <= 1 for task in counts), "only what was in flight is lost"
    assert sum(task.result() for task in counts) > 0


async def test_the_header_of_answers_is_kept(three: EtcdCluster, etcd_prefix: str) -> None:
    async with Etcd(three.endpoints) as store:
        assert (store.cluster_id, store.revision) == (None, 0)
        result = await put(store, etcd_prefix)
        assert store.revision == result.revision
        assert store.cluster_id == (await store.status()).cluster_id


async def test_a_full_etcd_refuses_puts_and_leases_but_not_reads_and_deletes() -> None:
    flags = (*FAST, "--quota-backend-bytes", str(1 << 20))
    with EtcdCluster(1, flags=flags) as cluster:
        async with Etcd(cluster.endpoints) as store:
            await put(store, "/small")
            with pytest.raises(NoSpace, match="defragment"):
                await fill(store)
            with pytest.raises(NoSpace):
                await store.grant(30)
            assert await store.get("/small") is not None


async def test_a_lease_is_gone_for_every_member(three: EtcdCluster) -> None:
    async with Etcd(three.endpoints) as store:
        lease = await store.grant(30)
        await store.revoke(lease)
    for endpoint in three.endpoints:
        async with Etcd([endpoint]) as store:
            with pytest.raises(LeaseGone):
                await store.keep_alive(lease)


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "host", "http://host", "http://:2379", "ftp://host:1", "http://host:port", "host:99999"),
        *("http://a b:1", "http://host:2379/path", "http://user@host:2379", "http://::1:2379"),
    ],
)
async def test_a_bad_endpoint_is_named(endpoint: str) -> None:
    with pytest.raises(ValueError) as raised:
        Etcd(["http://127.0.0.1:2379", endpoint])
    assert repr(endpoint) in str(raised.value)


@pytest.mark.parametrize(
    ("endpoint", "address"),
    [
        ("http://host:1", "host:1"),
        ("https://host.example:2379/", "host.example:2379"),
        ("host:2379", "host:2379"),
        ("http://[::1]:2379", "[::1]:2379"),
        ("[fd00::1]:2379", "[fd00::1]:2379"),
    ],
)
async def test_an_endpoint_may_be_written_in_several_ways(endpoint: str, address: str) -> None:
    async with Etcd([endpoint]) as store:
        assert store.endpoints == (address,)


class Hasty:
    """Stands in for a channel that becomes ready right after it was first looked at."""

    def __init__(self) -> None:
        self._states = iter([grpc.ChannelConnectivity.CONNECTING])

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return next(self._states, grpc.ChannelConnectivity.READY)

    async def wait_for_state_change(self, seen: grpc.ChannelConnectivity) -> None:
        if self.get_state() is seen:
            await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Nothing to close."""


async def test_a_connection_that_stands_at_once_is_not_waited_for() -> None:
    member = Member(parse_endpoint("127.0.0.1:1"), None)
    await member.channel.close()
    member.channel = cast(grpc.aio.Channel, Hasty())
    started = time.monotonic()
    assert await member.connect(2.0)
    assert time.monotonic() - started < 1.0
    await member.close()


async def test_a_watch_on_a_member_that_has_missed_an_election_breaks_and_the_next_goes_elsewhere() -> None:
    """Simulated: a real member that is cut off hears of the election as soon as it is not."""
    async with serving(FakeMember(term=4, watch_term=4)) as behind, serving(FakeMember(term=5)) as current:
        async with Etcd([behind.endpoint, current.endpoint]) as store, asyncio.timeout(10):
            async with aclosing(store.watch("/a", "/b", 5)) as watch:
                await anext(watch)
                behind.refuse_txn = True
                with pytest.raises(Unanswered):
                    await put(store, "/a")
                await put(store, "/a")
                behind.changed.set()
                with pytest.raises(WatchBroken, match="missed an election"):
                    await anext(watch)


async def test_members_that_no_endpoint_names_are_told(three: EtcdCluster) -> None:
    async with Etcd(three.endpoints) as all_of_them, Etcd(three.endpoints[:1]) as one:
        assert (await all_of_them.status()).unlisted == ()
        assert (await one.status()).unlisted == tuple(sorted(three.endpoints[1:]))
