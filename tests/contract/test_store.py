"""What `Store` promises, kept by real etcd and by the tests' model of it alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

import pytest

from drover.coordinator.etcd import Etcd
from drover.coordinator.keys import range_end
from drover.coordinator.store import Change, Compacted, LeaseGone, Store, StoreError
from drover.coordinator.txn import CreateRevision, Delete, Entry, OnLease, Put, Txn, absent, unchanged
from tests.etcd import EtcdCluster
from tests.model.store import ModelCluster, ModelStore

LEASE = 1
"""Seconds: the shortest TTL that the test member grants."""


@dataclass
class Subject:
    store: Store
    prefix: str
    lapse: Callable[[int], Awaitable[None]]
    """See to it that this lease ends by itself soon."""

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    @property
    def range(self) -> tuple[str, str]:
        return f"{self.prefix}/", range_end(f"{self.prefix}/")

    async def put(self, name: str, value: bytes = b"", lease: int = 0) -> Entry:
        key = self.key(name)
        result = await self.store.txn(Txn((), (Put(key, value, lease),), (key,)))
        entry = result.read[key]
        assert entry is not None
        return entry

    async def delete(self, name: str) -> int:
        return (await self.store.txn(Txn((), (Delete(self.key(name)),)))).revision

    async def changes(self, revision: int, count: int) -> list[Change]:
        """The first `count` changes from `revision` on."""
        seen: list[Change] = []
        async with asyncio.timeout(10), aclosing(self.store.watch(*self.range, revision)) as watch:
            async for changes in watch:
                seen.extend(changes.changes)
                if len(seen) >= count:
                    return seen
        raise AssertionError("the watch ended without an error")


@pytest.fixture(params=["model", "etcd"])
async def subject(request: pytest.FixtureRequest, etcd_prefix: str) -> AsyncIterator[Subject]:
    if request.param == "model":
        cluster = ModelCluster()

        async def lapse(lease: int) -> None:
            cluster.expire(lease)

        yield Subject(ModelStore(cluster), etcd_prefix, lapse)
    else:
        member: EtcdCluster = request.getfixturevalue("etcd_one")

        async def wait_it_out(lease: int) -> None:
            """Its TTL is short."""

        async with Etcd(member.endpoints) as store:
            yield Subject(store, etcd_prefix, wait_it_out)


async def test_a_put_if_absent_succeeds_once(subject: Subject) -> None:
    key = subject.key("a")
    first = await subject.store.txn(Txn((absent(key),), (Put(key, b"1"),)))
    second = await subject.store.txn(Txn((absent(key),), (Put(key, b"2"),)))
    assert (first.succeeded, second.succeeded) == (True, False)
    entry = await subject.store.get(key)
    assert entry == Entry(key, b"1", first.revision, first.revision, 0)
    assert second.revision == first.revision


async def test_a_compare_with_the_mod_revision_fails_after_any_other_write(subject: Subject) -> None:
    read = await subject.put("a", b"same")
    await subject.put("a", b"same")
    result = await subject.store.txn(Txn((unchanged(read.key, read),), (Put(read.key, b"mine"),)))
    assert not result.succeeded


async def test_a_compare_with_the_create_revision_survives_writes_but_not_a_new_creation(subject: Subject) -> None:
    read = await subject.put("a")
    await subject.put("a", b"changed")
    same = Txn((CreateRevision(read.key, read.create_revision),), ())
    assert (await subject.store.txn(same)).succeeded
    await subject.delete("a")
    await subject.put("a")
    assert not (await subject.store.txn(same)).succeeded


async def test_a_compare_with_the_lease_tells_which_lease_a_key_hangs_on(subject: Subject) -> None:
    first, second = await subject.store.grant(30), await subject.store.grant(30)
    on_first = await subject.put("a", lease=first)
    assert on_first.lease == first
    assert (await subject.store.txn(Txn((OnLease(on_first.key, first),), ()))).succeeded
    assert not (await subject.store.txn(Txn((OnLease(on_first.key, second),), ()))).succeeded
    await subject.put("a")
    assert (await subject.store.txn(Txn((OnLease(on_first.key, 0),), ()))).succeeded


async def test_absent_keys_compare_as_revision_and_lease_zero(subject: Subject) -> None:
    key = subject.key("nowhere")
    result = await subject.store.txn(Txn((absent(key), CreateRevision(key, 0), OnLease(key, 0)), (), (key,)))
    assert result.succeeded
    assert result.read == {key: None}


async def test_one_compare_that_fails_stops_every_operation(subject: Subject) -> None:
    here = await subject.put("here")
    target = subject.key("target")
    result = await subject.store.txn(Txn((unchanged(here.key, here), absent(here.key)), (Put(target, b"x"),)))
    assert not result.succeeded
    assert await subject.store.get(target) is None


async def test_reads_show_the_keys_after_the_transaction_in_either_branch(subject: Subject) -> None:
    old = await subject.put("old", b"old")
    new = subject.key("new")
    done = await subject.store.txn(Txn((absent(new),), (Put(new, b"new"), Delete(old.key)), (new, old.key)))
    assert done.succeeded
    assert done.read == {new: Entry(new, b"new", done.revision, done.revision, 0), old.key: None}
    refused = await subject.store.txn(Txn((absent(new),), (Put(new, b"newer"),), (old.key, new)))
    assert not refused.succeeded
    assert refused.read == {old.key: None, new: done.read[new]}


async def test_a_range_is_deleted_up_to_its_end_and_no_further(subject: Subject) -> None:
    for name in ("h/1", "h/2", "h/3"):
        await subject.put(name)
    await subject.store.txn(Txn((), (Delete(subject.key("h/1"), subject.key("h/3")),)))
    left = await subject.store.range(subject.key("h/"), subject.key("h0"))
    assert [entry.key for entry in left.entries] == [subject.key("h/3")]


async def test_all_that_one_transaction_writes_has_its_revision(subject: Subject) -> None:
    keys = [subject.key(name) for name in "abc"]
    result = await subject.store.txn(Txn((), tuple(Put(key, b"") for key in keys)))
    entries = [await subject.store.get(key) for key in keys]
    assert {entry.mod_revision for entry in entries if entry} == {result.revision}


async def test_the_lease_of_a_put_is_looked_at_before_anything_happens(subject: Subject) -> None:
    gone = await subject.store.grant(30)
    await subject.store.revoke(gone)
    plain, leased = subject.key("plain"), subject.key("leased")
    with pytest.raises(LeaseGone):
        await subject.store.txn(Txn((), (Put(plain, b""), Put(leased, b"", gone))))
    assert await subject.store.get(plain) is None


async def test_a_gone_lease_in_a_transaction_whose_compares_fail_is_no_error(subject: Subject) -> None:
    gone = await subject.store.grant(30)
    await subject.store.revoke(gone)
    here = await subject.put("here")
    assert not (await subject.store.txn(Txn((absent(here.key),), (Put(here.key, b"", gone),)))).succeeded


async def test_the_same_key_twice_in_one_transaction_is_refused(subject: Subject) -> None:
    key = subject.key("a")
    with pytest.raises(StoreError):
        await subject.store.txn(Txn((), (Put(key, b"1"), Delete(key))))
    assert await subject.store.get(key) is None


async def test_128_operations_fit_into_a_transaction_and_129_do_not(subject: Subject) -> None:
    keys = [subject.key(f"{number:03d}") for number in range(129)]
    with pytest.raises(StoreError):
        await subject.store.txn(Txn((), tuple(Put(key, b"") for key in keys)))
    assert (await subject.store.txn(Txn((), tuple(Put(key, b"") for key in keys[:-1])))).succeeded


async def test_deleting_what_is_absent_makes_no_revision(subject: Subject) -> None:
    before = await subject.put("a")
    assert await subject.delete("b") == before.mod_revision


async def test_a_range_is_ordered_by_key_and_leaves_its_end_out(subject: Subject) -> None:
    for name in ("b", "a/2", "a", "c", "ä"):
        await subject.put(name)
    found = await subject.store.range(subject.key("a"), subject.key("c"))
    assert [entry.key for entry in found.entries] == [subject.key(name) for name in ("a", "a/2", "b")]
    everything = await subject.store.range(*subject.range)
    assert everything.entries[-1].key == subject.key("ä")


async def test_a_range_larger_than_any_page_comes_whole(subject: Subject) -> None:
    names = [f"{number:05d}" for number in range(2500)]
    for first in range(0, len(names), 100):
        batch = names[first : first + 100]
        await subject.store.txn(Txn((), tuple(Put(subject.key(name), b"v") for name in batch)))
    last = await subject.put("99999")
    names.append("99999")
    found = await subject.store.range(*subject.range)
    assert [entry.key for entry in found.entries] == [subject.key(name) for name in names]
    assert found.revision >= last.mod_revision


async def test_an_empty_range_tells_the_revision(subject: Subject) -> None:
    revision = await subject.delete("nothing")
    found = await subject.store.range(*subject.range)
    assert (found.entries, found.revision) == ((), revision)


async def test_a_watch_first_says_that_it_stands(subject: Subject) -> None:
    entry = await subject.put("a")
    async with asyncio.timeout(5), aclosing(subject.store.watch(*subject.range, entry.mod_revision)) as watch:
        first = await anext(watch)
    assert (first.changes, first.revision) == ((), entry.mod_revision - 1)


async def test_a_watch_from_an_old_revision_gives_every_change_once_and_in_order(subject: Subject) -> None:
    first = await subject.put("a", b"0")
    expected = [Change(first.key, first, first.mod_revision)]
    for number in range(1, 30):
        entry = await subject.put("ab"[number % 2], b"%d" % number)
        expected.append(Change(entry.key, entry, entry.mod_revision))
        if number % 7 == 0:
            expected.append(Change(entry.key, None, await subject.delete("ab"[number % 2])))
    assert await subject.changes(first.mod_revision, len(expected)) == expected
    assert await subject.changes(expected[9].revision, len(expected) - 9) == expected[9:]


async def test_a_watch_goes_on_from_history_to_what_happens_now(subject: Subject) -> None:
    first = await subject.put("a", b"0")
    seen: list[Change] = []
    async with asyncio.timeout(10), aclosing(subject.store.watch(*subject.range, first.mod_revision)) as watch:
        async for changes in watch:
            seen.extend(changes.changes)
            if len(seen) == 20:
                break
            if changes.changes:
                await subject.put("a", b"%d" % len(seen))
    assert [int(change.entry.value) for change in seen if change.entry] == list(range(20))
    assert [change.revision for change in seen] == sorted({change.revision for change in seen})


async def test_a_watch_from_a_future_revision_leaves_out_what_is_before_it(subject: Subject) -> None:
    entry = await subject.put("a")
    reading = asyncio.create_task(subject.changes(entry.mod_revision + 3, 1))
    while not reading.done():
        await subject.put("a")
    assert reading.result()[0].revision == entry.mod_revision + 3


async def test_a_watch_sees_its_range_only(subject: Subject) -> None:
    first = await subject.put("b/1")
    await subject.store.txn(Txn((), (Put(subject.key("a"), b""), Put(subject.key("b/2"), b""))))
    await subject.put("c")
    last = await subject.put("b/3")
    seen: list[str] = []
    start = subject.key("b/")
    async with asyncio.timeout(5), aclosing(subject.store.watch(start, range_end(start), first.mod_revision)) as watch:
        async for changes in watch:
            seen.extend(change.key for change in changes.changes)
            if changes.revision >= last.mod_revision:
                break
    assert seen == [subject.key(name) for name in ("b/1", "b/2", "b/3")]


async def test_several_keys_of_one_transaction_come_in_one_piece(subject: Subject) -> None:
    keys = [subject.key(name) for name in "abc"]
    result = await subject.store.txn(Txn((), tuple(Put(key, b"") for key in keys)))
    changes = await subject.changes(result.revision, 1)
    assert [change.key for change in changes] == keys


async def test_the_end_of_a_lease_is_seen_as_deletes_of_its_keys(subject: Subject) -> None:
    lease = await subject.store.grant(LEASE)
    first = await subject.put("a", lease=lease)
    await subject.put("b", lease=lease)
    await subject.put("c")
    await subject.lapse(lease)
    changes = (await subject.changes(first.mod_revision, 5))[3:]
    assert [(change.key, change.entry) for change in changes] == [(subject.key("a"), None), (subject.key("b"), None)]
    assert changes[0].revision == changes[1].revision
    assert await subject.store.get(subject.key("c")) is not None


async def test_a_watch_of_compacted_history_says_so(subject: Subject) -> None:
    first = await subject.put("a", b"1")
    await subject.put("a", b"2")
    last = await subject.put("a", b"3")
    await subject.store.compact(last.mod_revision)
    with pytest.raises(Compacted) as raised:
        await subject.changes(first.mod_revision, 3)
    assert raised.value.revision == last.mod_revision


async def test_a_delete_at_the_very_revision_of_a_compaction_is_not_passed_over(subject: Subject) -> None:
    await subject.put("a")
    deleted = await subject.delete("a")
    await subject.store.compact(deleted)
    with pytest.raises(Compacted):
        await subject.changes(deleted, 1)


async def test_a_watch_from_just_after_a_compaction_goes_on(subject: Subject) -> None:
    compacted = await subject.put("a")
    await subject.store.compact(compacted.mod_revision)
    new = await subject.put("a")
    assert await subject.changes(compacted.mod_revision + 1, 1) == [Change(new.key, new, new.mod_revision)]


async def test_compacting_twice_is_the_same_as_once(subject: Subject) -> None:
    entry = await subject.put("a")
    await subject.store.compact(entry.mod_revision)
    await subject.store.compact(entry.mod_revision)
    assert await subject.store.get(entry.key) == entry


async def test_a_key_moved_to_another_lease_outlives_the_old_one(subject: Subject) -> None:
    old, new = await subject.store.grant(30), await subject.store.grant(30)
    await subject.put("moved", lease=old)
    await subject.put("stays", lease=old)
    await subject.put("moved", lease=new)
    await subject.store.revoke(old)
    moved = await subject.store.get(subject.key("moved"))
    assert moved is not None
    assert moved.lease == new
    assert await subject.store.get(subject.key("stays")) is None


async def test_a_lease_that_is_kept_alive_outlasts_its_ttl(subject: Subject) -> None:
    lease = await subject.store.grant(LEASE)
    await subject.put("a", lease=lease)
    for _ in range(8):
        assert await subject.store.keep_alive(lease) == LEASE
        await asyncio.sleep(LEASE / 4)
    assert await subject.store.get(subject.key("a")) is not None


async def test_revoking_is_idempotent(subject: Subject) -> None:
    lease = await subject.store.grant(30)
    await subject.store.revoke(lease)
    await subject.store.revoke(lease)
    with pytest.raises(LeaseGone):
        await subject.store.keep_alive(lease)


async def test_a_lease_that_never_was_cannot_be_kept_alive(subject: Subject) -> None:
    with pytest.raises(LeaseGone):
        await subject.store.keep_alive(0x123456)


async def test_status_tells_the_cluster_and_a_current_revision(subject: Subject) -> None:
    entry = await subject.put("a")
    status = await subject.store.status()
    assert status.revision >= entry.mod_revision
    assert int(status.cluster_id, 16) > 0
