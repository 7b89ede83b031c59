"""A node's seat on real etcd, taken as agents take it, and a store that notes what it is asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from drover.coordinator.clock import read_clock
from drover.coordinator.etcd import Etcd
from drover.coordinator.join import Applicant, Joining
from drover.coordinator.keys import Keys
from drover.coordinator.mark import MarkFile
from drover.coordinator.member import Member
from drover.coordinator.protocol.clock import Instant
from drover.coordinator.records import Fence, NodeRecord
from drover.coordinator.store import Range, Store, StoreStatus
from drover.coordinator.timings import PROFILES
from drover.coordinator.txn import Delete, Put, Txn, TxnResult

TIMINGS = PROFILES["fast"]


class Recorded(Etcd):
    """Notes what it was asked for, and lets tests do something just before a range is read, a key is deleted or a
    fence is written."""

    def __init__(self, endpoints: list[str]) -> None:
        super().__init__(endpoints)
        self.compacted: list[int] = []
        self.asked = 0
        self.listed = 0
        self.before: dict[str, Callable[[], Awaitable[object]]] = {}

    async def compact(self, revision: int) -> None:
        self.compacted.append(revision)
        await super().compact(revision)

    async def range(self, start: str, end: str) -> Range:
        self.listed += 1
        await self._first(start)
        return await super().range(start, end)

    async def txn(self, txn: Txn, timeout: float | None = None) -> TxnResult:
        if any(isinstance(operation, Delete) for operation in txn.then):
            await self._first("delete")
        if any(isinstance(operation, Put) and "/fences/" in operation.key for operation in txn.then):
            await self._first("fence")
        return await super().txn(txn, timeout)

    async def status(self) -> StoreStatus:
        self.asked += 1
        return await super().status()

    async def _first(self, what: str) -> None:
        if act := self.before.pop(what, None):
            await act()


class Quiet:
    """A listener that does nothing."""

    def gate_closed(self, reason: str) -> None: ...
    def gate_opened(self) -> None: ...
    def heartbeat(self, outcome: str, seconds: float) -> None: ...
    def fenced(self, fence: Fence, asked: float) -> None: ...
    def watch_lag(self, seconds: float) -> None: ...
    def deadline_counts_from(self, sent: Instant, longer: float) -> None: ...
    def goes_on_from(self, since: Instant) -> None: ...

    def may_beat(self) -> bool:
        return True

    def gate_is_open(self) -> bool:
        return True


class Seated(Member):
    """A member whose clock may count heartbeats: `written` of them, `rate` a second."""

    written = 0
    rate = 0.0

    def raw(self) -> float:
        return self.written / self.rate if self.rate else super().raw()


async def join(store: Store, keys: Keys, node: str, directory: Path) -> Seated:
    async def nothing_left() -> list[str]:
        return []

    record = NodeRecord(incarnation="", machine=f"machine of {node}", boot="boot", lease=0)
    applicant = Applicant(node, record.machine, record.boot, TIMINGS, record)
    saved, marks = directory / f"{node}.json", MarkFile(directory / f"{node}.mark")
    joined = await Joining(store, keys, applicant, saved, read_clock, nothing_left, marks).run()
    return Seated(store, keys, joined, record, TIMINGS, saved, Quiet(), compacts=False)
