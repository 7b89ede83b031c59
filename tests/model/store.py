"""etcd as a small model in memory: revisions, leases, watches. Passes `tests/contract/test_store.py` as etcd does.

A `ModelCluster` is what etcd's members agree on; a `ModelStore` is one client of it, whose connection can fail.
"""

from __future__ import annotations

import asyncio
import itertools
from bisect import bisect_left
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from drover.coordinator.store import (
    Change,
    Changes,
    Compacted,
    LeaseGone,
    NoSpace,
    Range,
    StoreError,
    StoreStatus,
    Unanswered,
    Unavailable,
    WatchBroken,
)
from drover.coordinator.txn import Compare, CreateRevision, Delete, Entry, ModRevision, OnLease, Put, Txn, TxnResult

MAX_OPERATIONS = 128
"""etcd's default of --max-txn-ops: compares, and operations of either branch."""


@dataclass
class _Lease:
    ttl: int
    ends: float
    keys: set[str] = field(default_factory=set)


class ModelCluster:
    """Keys, history and leases. Everything is synchronous: a call is the instant at which it takes effect.

    clock: seconds; leases end by it, looked at before every operation. With the default, which stands still, they end
    only by `expire` or `revoke`.
    """

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.revision = 1
        self.compacted = 0
        self.full = False
        """Whether etcd's NOSPACE alarm is raised."""
        self.cluster_id = "c1"
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._history: list[Change] = []
        self._leases: dict[int, _Lease] = {}
        self._lease_ids = itertools.count(0x1000)
        self._waiting: set[asyncio.Event] = set()

    def apply(self, txn: Txn) -> TxnResult:
        """Raises LeaseGone, NoSpace; StoreError where etcd finds the request itself wrong."""
        self.tick()
        _check(txn)
        puts = [operation for operation in txn.then if isinstance(operation, Put)]
        if self.full and puts:
            raise NoSpace("etcd is full; compact and defragment it, then `etcdctl alarm disarm`")
        succeeded = all(map(self._holds, txn.compare))
        if succeeded:
            for put in puts:
                if put.lease and put.lease not in self._leases:
                    raise LeaseGone(f"lease {put.lease:x} not found")
            changes = self._run(txn.then)
            self._publish(changes)
        return TxnResult(succeeded, self.revision, {key: self._entries.get(key) for key in txn.read})

    def entry(self, key: str) -> Entry | None:
        self.tick()
        return self._entries.get(key)

    def entries(self, start: str, end: str) -> tuple[Entry, ...]:
        """Those in [start, end), in the order of their keys."""
        self.tick()
        return tuple(self._entries[key] for key in sorted(key for key in self._entries if start <= key < end))

    def history(self, start: str, end: str, after: int) -> tuple[Change, ...]:
        """The changes of [start, end) since revision `after`. Raises Compacted where they are not all there."""
        if after < self.compacted:
            raise Compacted(self.compacted)
        first = bisect_left(self._history, after + 1, key=lambda change: change.revision)
        return tuple(change for change in self._history[first:] if start <= change.key < end)

    def compact(self, revision: int) -> None:
        if revision > self.revision:
            raise StoreError(f"revision {revision} is in the future")
        self.compacted = max(self.compacted, revision)
        self._wake()

    def grant(self, ttl: int) -> int:
        if self.full:
            raise NoSpace("etcd is full")
        lease = next(self._lease_ids)
        self._leases[lease] = _Lease(ttl, self._clock() + ttl)
        return lease

    def keep_alive(self, lease: int) -> int:
        self.tick()
        if lease not in self._leases:
            raise LeaseGone(f"lease {lease:x} has ended or was revoked")
        held = self._leases[lease]
        held.ends = self._clock() + held.ttl
        return held.ttl

    def expire(self, lease: int) -> None:
        """End a lease, as its time or a revocation does: its keys vanish in one revision."""
        held = self._leases.pop(lease, None)
        if held is not None and held.keys:
            self._publish(self._run([Delete(key) for key in sorted(held.keys)]))

    def rearm(self) -> None:
        """Every lease lasts its full time again, as after an election."""
        for held in self._leases.values():
            held.ends = self._clock() + held.ttl

    def ttls(self) -> list[int]:
        return [held.ttl for held in self._leases.values()]

    def tick(self) -> None:
        """End the leases whose time has passed."""
        now = self._clock()
        for lease in [lease for lease, held in self._leases.items() if held.ends <= now]:
            self.expire(lease)

    def break_watches(self) -> None:
        """Wake every watch, so that it looks whether its client is still connected."""
        self._wake()

    async def changed(self) -> None:
        """Returns after the next change of anything."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            await event.wait()
        finally:
            self._waiting.discard(event)

    def _holds(self, compare: Compare) -> bool:
        found = self._entries.get(compare.key)
        match compare:
            case ModRevision(_, revision):
                return (found.mod_revision if found else 0) == revision
            case CreateRevision(_, revision):
                return (found.create_revision if found else 0) == revision
            case OnLease(_, lease):
                return (found.lease if found else 0) == lease

    def _run(self, operations: Sequence[Put | Delete]) -> list[Change]:
        changes = []
        revision = self.revision + 1
        for operation in self._spread(operations):
            old = self._entries.pop(operation.key, None)
            if old and old.lease in self._leases:
                self._leases[old.lease].keys.discard(operation.key)
            match operation:
                case Put(key, value, lease):
                    new = Entry(key, value, old.create_revision if old else revision, revision, lease)
                    self._entries[key] = new
                    if lease:
                        self._leases[lease].keys.add(key)
                    changes.append(Change(key, new, revision))
                case Delete(key):
                    if old:
                        changes.append(Change(key, None, revision))
        return changes

    def _spread(self, operations: Sequence[Put | Delete]) -> Iterator[Put | Delete]:
        """Deletions of a range, key by key."""
        for operation in operations:
            if isinstance(operation, Delete) and operation.end:
                yield from [Delete(key) for key in sorted(self._entries) if operation.key <= key < operation.end]
            else:
                yield operation

    def _publish(self, changes: Sequence[Change]) -> None:
        if changes:
            self.revision += 1
            self._history.extend(changes)
            self._wake()

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()


class ModelStore:
    """One client. Its hooks make its connection fail; other clients of the cluster see what really happened."""

    def __init__(self, cluster: ModelCluster | None = None) -> None:
        self.cluster = cluster or ModelCluster()
        self.connected = True
        self._lose_reply = False
        self._delay = False
        self._delayed: list[Txn] = []

    # -- failures -------------------------------------------------------------------------------------------------

    def lose_reply_next_txn(self) -> None:
        """The next transaction commits, where its compares hold, and raises Unanswered."""
        self._lose_reply = True

    def delay_next_txn(self) -> None:
        """The next transaction raises Unanswered, and happens at `release`."""
        self._delay = True

    def release(self) -> list[TxnResult]:
        """What delayed transactions come to now, in the order in which they were sent."""
        delayed, self._delayed = self._delayed, []
        return [self.cluster.apply(txn) for txn in delayed]

    def disconnect(self) -> None:
        """Every call goes unanswered, and every watch breaks, until `connect`."""
        self.connected = False
        self.cluster.break_watches()

    def connect(self) -> None:
        self.connected = True

    # -- without asyncio ------------------------------------------------------------------------------------------

    def apply(self, txn: Txn) -> TxnResult:
        """As `txn`, at once. Raises Unanswered, LeaseGone, NoSpace."""
        if not self.connected:
            raise Unanswered("not connected")
        if self._delay:
            self._delay = False
            self._delayed.append(txn)
            raise Unanswered("delayed")
        result = self.cluster.apply(txn)
        if self._lose_reply:
            self._lose_reply = False
            raise Unanswered("the reply was lost")
        return result

    def entry(self, key: str) -> Entry | None:
        return self.cluster.entry(key)

    # -- Store ----------------------------------------------------------------------------------------------------

    async def txn(self, txn: Txn, timeout: float | None = None) -> TxnResult:
        await self._turn()
        return self.apply(txn)

    async def get(self, key: str) -> Entry | None:
        await self._reach()
        return self.cluster.entry(key)

    async def range(self, start: str, end: str) -> Range:
        await self._reach()
        return Range(self.cluster.entries(start, end), self.cluster.revision)

    async def watch(self, start: str, end: str, revision: int) -> AsyncGenerator[Changes, None]:
        seen = revision - 1
        standing = False
        while True:
            await self._turn()
            if not self.connected:
                raise WatchBroken("not connected")
            if not standing:
                standing = True
                yield Changes((), seen)
                continue
            self.cluster.tick()
            changes = self.cluster.history(start, end, seen)
            seen = max(seen, self.cluster.revision)
            if changes:
                yield Changes(changes, changes[-1].revision)
            elif self.connected:
                await self.cluster.changed()

    async def grant(self, ttl: int) -> int:
        await self._reach()
        return self.cluster.grant(ttl)

    async def keep_alive(self, lease: int) -> int:
        await self._reach()
        return self.cluster.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        await self._reach()
        self.cluster.expire(lease)

    async def compact(self, revision: int) -> None:
        await self._reach()
        self.cluster.compact(revision)

    async def status(self) -> StoreStatus:
        await self._reach()
        return StoreStatus(self.cluster.cluster_id, "model", self.cluster.revision, 0)

    async def close(self) -> None:
        self.disconnect()

    async def _reach(self) -> None:
        await self._turn()
        if not self.connected:
            raise Unavailable("not connected")

    async def _turn(self) -> None:
        """Let others run, as a real call would."""
        await asyncio.sleep(0)


def _check(txn: Txn) -> None:
    if max(len(txn.compare), len(txn.then) + len(txn.read)) > MAX_OPERATIONS:
        raise StoreError("too many operations in txn request")
    keys = [operation.key for operation in txn.then]
    if len(keys) != len(set(keys)):
        raise StoreError("duplicate key given in txn request")
