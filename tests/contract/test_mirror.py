"""A mirror shows what is stored, tells every change once and in order, and gets over everything that breaks a watch."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from drover.coordinator.etcd import Etcd
from drover.coordinator.keys import range_end
from drover.coordinator.mirror import Mirror
from drover.coordinator.store import Change, Changes, Denied, Range, Store
from drover.coordinator.txn import Delete, Entry, Put, Txn
from tests.etcd import EtcdCluster, Wire
from tests.model.store import ModelCluster, ModelStore


@dataclass
class Bench:
    """A mirrored store whose connection can be cut, and a writer with another connection to the same keys."""

    mirrored: Store
    writer: Store
    prefix: str
    cut: Callable[[], None]
    mend: Callable[[], None]

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    @property
    def range(self) -> tuple[str, str]:
        return f"{self.prefix}/", range_end(f"{self.prefix}/")

    async def put(self, name: str, value: bytes = b"") -> Change:
        key = self.key(name)
        result = await self.writer.txn(Txn((), (Put(key, value),), (key,)))
        return Change(key, result.read[key], result.revision)

    async def delete(self, name: str) -> Change:
        key = self.key(name)
        return Change(key, None, (await self.writer.txn(Txn((), (Delete(key),)))).revision)


@pytest.fixture(params=["model", "etcd"])
async def bench(request: pytest.FixtureRequest, etcd_prefix: str) -> AsyncIterator[Bench]:
    if request.param == "model":
        cluster = ModelCluster()
        mirrored = ModelStore(cluster)
        yield Bench(mirrored, ModelStore(cluster), etcd_prefix, mirrored.disconnect, mirrored.connect)
    else:
        member: EtcdCluster = request.getfixturevalue("etcd_one")
        async with Wire(member.members[0].address) as wire:
            async with Etcd([wire.endpoint]) as store, Etcd(member.endpoints) as writer:
                yield Bench(store, writer, etcd_prefix, wire.cut, wire.mend)


class Recorded(Mirror):
    """A mirror and all it told; what it told must at every moment amount to what it shows."""

    def __init__(self, store: Store, start: str, end: str, *, audit: float = 300.0) -> None:
        super().__init__(store, start, end, self._record, audit=audit)
        self.told: list[Change] = []
        self._built: dict[str, Entry] = {}

    def _record(self, changes: Sequence[Change]) -> None:
        for change in changes:
            assert not self.told or change.revision >= self.told[-1].revision, "in order"
            assert change not in self.told, "once"
            self.told.append(change)
            if change.entry is None:
                del self._built[change.key]
            else:
                self._built[change.key] = change.entry
        assert self._built == self.entries


@asynccontextmanager
async def mirroring(mirror: Recorded) -> AsyncIterator[Recorded]:
    task = asyncio.create_task(mirror.run())
    try:
        await mirror.ready(5)
        yield mirror
        assert not task.done(), "it runs until it is cancelled"
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


async def told(mirror: Recorded, count: int) -> None:
    await until(lambda: len(mirror.told) >= count)


async def until(condition: Callable[[], bool], limit: float = 8.0) -> None:
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.005)


async def test_what_is_there_at_the_start_is_told_once_in_order_of_writing(bench: Bench) -> None:
    await bench.put("b", b"old")
    await bench.delete("b")
    expected = [await bench.put("z"), await bench.put("b", b"new"), await bench.put("a")]
    async with mirroring(Recorded(bench.mirrored, *bench.range)) as mirror:
        assert mirror.told == expected
        assert set(mirror.entries) == {bench.key(name) for name in "abz"}
        assert mirror.revision >= expected[-1].revision


async def test_an_empty_range_is_ready_too(bench: Bench) -> None:
    async with mirroring(Recorded(bench.mirrored, *bench.range)) as mirror:
        assert (mirror.told, dict(mirror.entries)) == ([], {})
        await until(lambda: mirror.connected)


async def test_what_happens_later_is_told_as_it_happened(bench: Bench) -> None:
    expected = [await bench.put("a", b"0")]
    async with mirroring(Recorded(bench.mirrored, *bench.range)) as mirror:
        for number in range(20):
            expected.append(await bench.put("ab"[number % 2], b"%d" % number))
        expected.append(await bench.delete("a"))
        await told(mirror, len(expected))
        assert mirror.told == expected
        assert mirror.revision == expected[-1].revision


async def test_a_broken_watch_is_resumed_without_gap_and_without_repetition(bench: Bench) -> None:
    expected = [await bench.put("a", b"0"), await bench.put("b")]
    async with mirroring(Recorded(bench.mirrored, *bench.range)) as mirror:
        for _ in range(3):
            await until(lambda: mirror.connected)
            bench.cut()
            expected += [await bench.put("a", b"1"), await bench.delete("a"), await bench.put("a", b"2")]
            await until(lambda: not mirror.connected)
            expected.append(await bench.put("b"))
            bench.mend()
            await told(mirror, len(expected))
        assert mirror.told == expected


async def test_history_compacted_while_away_comes_as_what_it_amounts_to(bench: Bench) -> None:
    await bench.put("deleted")
    await bench.put("replaced", b"old")
    await bench.put("again", b"old")
    same = await bench.put("same")
    async with mirroring(Recorded(bench.mirrored, *bench.range)) as mirror:
        await until(lambda: mirror.connected)
        before = len(mirror.told)
        bench.cut()
        await until(lambda: not mirror.connected)
        await bench.delete("deleted")
        await bench.put("replaced", b"between")
        replaced = await bench.put("replaced", b"new")
        await bench.put("never seen")
        await bench.delete("never seen")
        await bench.delete("again")
        again = await bench.put("again", b"new")
        await bench.writer.compact(again.revision)
        bench.mend()
        await told(mirror, before + 3)
        assert mirror.told[before:] == [replaced, again, Change(bench.key("deleted"), None, again.revision)]
        assert mirror.entries[same.key] == same.entry
        later = await bench.put("later")
        await until(lambda: mirror.told[-1] == later)


async def test_a_delete_at_the_revision_of_the_compaction_is_not_missed(bench: Bench) -> None:
    await bench.put("a")
    async with mirroring(Recorded(bench.mirrored, *bench.range)) as mirror:
        await until(lambda: mirror.connected)
        bench.cut()
        await until(lambda: not mirror.connected)
        await bench.writer.compact((await bench.delete("a")).revision)
        bench.mend()
        await until(lambda: not mirror.entries)


async def test_it_starts_without_etcd_and_is_ready_when_etcd_comes(bench: Bench) -> None:
    expected = await bench.put("a")
    bench.cut()
    mirror = Recorded(bench.mirrored, *bench.range)
    task = asyncio.create_task(mirror.run())
    with pytest.raises(TimeoutError):
        await mirror.ready(0.3)
    assert not mirror.connected
    bench.mend()
    await mirror.ready(8)
    assert mirror.told == [expected]
    task.cancel()
    await asyncio.wait({task})


async def test_how_long_it_has_been_without_a_watch_is_told(bench: Bench) -> None:
    async with mirroring(Recorded(bench.mirrored, *bench.range)) as mirror:
        await until(lambda: mirror.connected)
        connected = mirror.since
        cut = time.monotonic()
        bench.cut()
        await until(lambda: not mirror.connected)
        assert cut <= mirror.since <= time.monotonic()
        lost = mirror.since
        await asyncio.sleep(0.5)
        assert mirror.since == lost > connected
        bench.mend()
        await until(lambda: mirror.connected)
        assert mirror.since >= lost + 0.5


async def test_losing_etcd_is_logged_once_and_so_is_its_return(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "drover.coordinator.mirror")
    async with mirroring(Recorded(bench.mirrored, *bench.range)) as mirror:
        await until(lambda: mirror.connected)
        bench.cut()
        await until(lambda: not mirror.connected)
        await asyncio.sleep(1.0)
        bench.mend()
        await until(lambda: mirror.connected)
    messages = [record.getMessage() for record in caplog.records if record.name == "drover.coordinator.mirror"]
    assert len(messages) == 2, messages
    assert messages[0].startswith("not watching")
    assert messages[1].startswith("watching")


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_mixture_of_writes_cuts_and_compactions_it_shows_what_is_stored(
    bench: Bench, seed: int
) -> None:
    chance = random.Random(seed)
    async with mirroring(Recorded(bench.mirrored, *bench.range)) as mirror:
        for _ in range(120):
            name = chance.choice("abcdef")
            match chance.choices(["put", "delete", "cut", "mend", "compact", "wait"], [8, 4, 1, 2, 1, 2])[0]:
                case "put":
                    await bench.put(name, chance.randbytes(4))
                case "delete":
                    await bench.delete(name)
                case "cut":
                    bench.cut()
                case "mend":
                    bench.mend()
                case "compact":
                    await bench.writer.compact((await bench.put("compaction")).revision)
                case "wait":
                    await asyncio.sleep(chance.uniform(0, 0.05))
        bench.mend()
        last = await bench.put("last")
        await until(lambda: mirror.revision >= last.revision)
        stored = await bench.writer.range(*bench.range)
        assert dict(mirror.entries) == {entry.key: entry for entry in stored.entries}


class Forgetful(ModelStore):
    """Loses an event of a watch, as etcd issue 17529 does."""

    async def watch(self, start: str, end: str, revision: int) -> AsyncGenerator[Changes, None]:
        async for changes in super().watch(start, end, revision):
            yield Changes(tuple(change for change in changes.changes if "lost" not in change.key), changes.revision)


async def test_an_event_that_etcd_lost_is_found_by_the_next_audit() -> None:
    store = Forgetful()
    async with mirroring(Recorded(store, "/", "0", audit=0.2)) as mirror:
        await until(lambda: mirror.connected)
        lost = store.apply(Txn((), (Put("/lost", b""),), ("/lost",)))
        await until(lambda: "/lost" in mirror.entries)
        assert mirror.told == [Change("/lost", lost.read["/lost"], lost.revision)]


async def test_a_picture_that_is_doubted_is_audited_at_once() -> None:
    store = Forgetful()
    async with mirroring(Recorded(store, "/", "0")) as mirror:
        mirror.doubt()
        await until(lambda: mirror.connected)
        store.apply(Txn((), (Put("/lost", b""), Put("/seen", b""))))
        await until(lambda: "/seen" in mirror.entries)
        assert "/lost" not in mirror.entries
        mirror.doubt()
        mirror.doubt()
        await until(lambda: "/lost" in mirror.entries)


async def test_an_answer_from_the_past_does_not_replace_what_is_known() -> None:
    store = ModelStore()
    for _ in range(5):
        store.apply(Txn((), (Put("/a", b"known"),)))
    async with mirroring(Recorded(store, "/", "0", audit=0.1)) as mirror:
        known = dict(mirror.entries)
        real, store.cluster = store.cluster, ModelCluster()
        real.break_watches()
        await until(lambda: not mirror.connected)
        await asyncio.sleep(0.3)
        assert dict(mirror.entries) == known
        store.cluster = real
        await until(lambda: mirror.connected)


class Guarded(ModelStore):
    """Denies reads until it is told to let them through."""

    denying = True

    async def range(self, start: str, end: str) -> Range:
        if self.denying:
            raise Denied("no permission")
        return await super().range(start, end)


async def test_a_missing_permission_is_waited_out() -> None:
    store = Guarded()
    mirror = Recorded(store, "/", "0")
    task = asyncio.create_task(mirror.run())
    with pytest.raises(TimeoutError):
        await mirror.ready(0.3)
    store.denying = False
    await mirror.ready(3)
    task.cancel()
    await asyncio.wait({task})


async def test_an_error_of_the_one_who_listens_ends_it() -> None:
    def listen(changes: Sequence[Change]) -> None:
        raise KeyError("a mistake")

    store = ModelStore()
    store.apply(Txn((), (Put("/a", b""),)))
    with pytest.raises(KeyError):
        await Mirror(store, "/", "0", listen).run()


@pytest.fixture(scope="module")
def three() -> Iterator[EtcdCluster]:
    with EtcdCluster(3) as cluster:
        yield cluster


async def test_while_its_member_is_frozen_it_goes_on_at_another(three: EtcdCluster, etcd_prefix: str) -> None:
    endpoints = three.followers_first()
    async with Etcd(endpoints) as store, Etcd(endpoints[1:]) as writer:
        bench = Bench(store, writer, etcd_prefix, lambda: None, lambda: None)
        expected = [await bench.put("a")]
        async with mirroring(Recorded(store, *bench.range)) as mirror:
            await until(lambda: mirror.connected)
            frozen = three.at(store.member)
            frozen.freeze()
            expected += [await bench.put("a", b"%d" % number) for number in range(5)]
            await told(mirror, len(expected))
            frozen.thaw()
            assert mirror.told == expected
            assert store.member != frozen.address
