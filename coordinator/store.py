"""The verbs that the rest of Drover uses of etcd, and how each of them can fail.

`etcd.py` is the real thing; the tests' model passes the same contract suite (`tests/contract/test_store.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from drover.coordinator.txn import Entry, Txn, TxnResult


class StoreError(Exception):
    """Base of all errors of a store. The text is fit for a user."""


class Unavailable(StoreError):
    """A read, or a request that changes nothing, got no answer within its time limit from any member."""


class Unfit(Unavailable):
    """Every member that can be reached runs an etcd that loses data: nothing is asked of it, and nothing was sent."""


class WentBack(StoreError):
    """This is not the etcd that was talked to before, or it has gone back: restored from a backup, or copied. Nothing
    more is sent to it. The text says what to do."""


class OtherEtcd(WentBack):
    """It is another etcd, which each look at it tells anew."""


class Unanswered(StoreError):
    """A transaction got no answer. It may have committed, or may still commit later, after a read that does not show
    it: until its fate is settled nothing may rely on its having failed."""


class LeaseGone(StoreError):
    """The lease does not exist (any more). In a transaction: a plain no, nothing of it happened."""


class NoSpace(StoreError):
    """etcd has raised its NOSPACE alarm: a plain no to every write."""


class Denied(StoreError):
    """etcd refuses these credentials this key."""


class Compacted(StoreError):
    """History before `revision` is gone: read the range again."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"etcd has compacted its history up to revision {revision}")
        self.revision = revision


class WatchBroken(StoreError):
    """The watch ended: stream broken, member without a leader, or overtaken. Resume from the last revision seen."""


@dataclass(frozen=True)
class Range:
    """All keys of a range, as of `revision`."""

    entries: tuple[Entry, ...]
    revision: int


@dataclass(frozen=True)
class Change:
    """One event of a watch. `entry` is None where the key was deleted (or its lease ended), at `revision`."""

    key: str
    entry: Entry | None
    revision: int


@dataclass(frozen=True)
class Changes:
    """Events in order of revision. Empty with a revision: everything up to it has been delivered."""

    changes: tuple[Change, ...]
    revision: int


@dataclass(frozen=True)
class StoreStatus:
    """cluster_id: etcd's own, in hex. version: of the member that answered, like `3.5.13`. revision: of a linearizable
    answer. db_size: bytes, of the member that answered. unlisted: members of etcd that we were told no endpoint of."""

    cluster_id: str
    version: str
    revision: int
    db_size: int
    unlisted: tuple[str, ...] = ()


class Store(Protocol):
    """Every verb has its own time limit and tries other members within it, where a repetition is harmless."""

    async def txn(self, txn: Txn, timeout: float | None = None) -> TxnResult:
        """Sent once, to one member: repeating is the caller's decision. The next call goes to another member when
        this one is not answered. timeout: seconds; None: the store's own.

        Raises Unanswered, LeaseGone, NoSpace, Denied.
        """
        ...

    async def get(self, key: str) -> Entry | None:
        """Linearizable. Raises Unavailable, Denied."""
        ...

    async def range(self, start: str, end: str) -> Range:
        """Keys in [start, end), linearizable, in order, whole (paged inside). Raises Unavailable, Denied."""
        ...

    def watch(self, start: str, end: str, revision: int) -> AsyncGenerator[Changes, None]:
        """Every change of [start, end) from `revision` on, in order, none twice. An empty Changes comes first, once the
        watch stands, and later as progress, where etcd sends it. Ends only by raising: WatchBroken, Compacted,
        Denied. Close it with `aclosing`."""
        ...

    async def grant(self, ttl: int) -> int:
        """A new lease's id. ttl: seconds. Raises Unavailable, NoSpace, Denied."""
        ...

    async def keep_alive(self, lease: int) -> int:
        """Seconds left now. Raises LeaseGone, Unavailable, Denied."""
        ...

    async def revoke(self, lease: int) -> None:
        """Idempotent. Raises Unavailable, Denied."""
        ...

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`. Idempotent. Raises Unavailable, Denied."""
        ...

    async def status(self) -> StoreStatus:
        """Raises Unavailable, Denied."""
        ...

    async def close(self) -> None: ...
