"""etcd with three members, in virtual time, doing all that real ones have been seen to do. The agents' real client
(`coordinator/etcd.py`) talks to it: what stands here is what its gRPC stubs would be (`SimMember`).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from drover.coordinator.store import Change, Compacted, LeaseGone, NoSpace, StoreError
from drover.coordinator.txn import Entry, Txn
from tests.sim.answers import (
    Event,
    Header,
    Kv,
    LeaseAnswer,
    RangeAnswer,
    Response,
    TxnAnswer,
    WatchAnswer,
)
from tests.sim.loop import VirtualLoop, alone
from tests.sim.truth import Backup, Truth

if TYPE_CHECKING:
    from tests.sim.machine import Machine

MEMBERS = ("e1", "e2", "e3")
NEVER = float("inf")


@dataclass
class MemberState:
    """down: no process; frozen: takes requests and answers them later; behind: seconds by which its watches lag."""

    down: float = 0.0
    frozen: float = 0.0
    behind: float = 0.0
    old_term: bool = False


@dataclass
class Odds:
    """Of each request or event, while there is trouble."""

    reply_lost: float = 0.0
    late_commit: float = 0.0
    request_lost: float = 0.0
    stale_read: float = 0.0
    event_lost: float = 0.0
    event_late: float = 0.0
    event_twice: float = 0.0
    watch_broken: float = 0.0


@dataclass(frozen=True)
class Fate:
    """What becomes of one transaction. late: seconds until it happens; answered: whether its sender hears of it."""

    late: float = 0.0
    answered: bool = True


Expected = Callable[["Machine", Txn], Fate | None]
"""Whether this is the transaction that something is to become of."""


def failure(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


_REFUSED: dict[type[StoreError], tuple[grpc.StatusCode, str]] = {
    LeaseGone: (grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found"),
    NoSpace: (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
    Compacted: (
        grpc.StatusCode.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision has been compacted",
    ),
}


class Etcd:
    """The cluster, and the network between it and the machines.

    committed: told of each transaction that has been decided: (transaction, whether it succeeded, who sent it).
    fault: told the name of each fault as it happens, and where.
    """

    def __init__(
        self,
        loop: VirtualLoop,
        rng: random.Random,
        committed: Callable[[Txn, bool, Sender], None],
        fault: Callable[[str, str], None],
    ) -> None:
        self.loop, self.rng, self.fault = loop, rng, fault
        self.truth = Truth(lambda: loop.now, self._told)
        self.elsewhere: dict[str, Truth] = {}
        """By machine: the copy of etcd that it talks to instead."""
        self.members = {name: MemberState() for name in MEMBERS}
        self.odds = Odds()
        self.term = 2
        self.cut: dict[tuple[str, str], float] = {}
        """By machine and member: until when nothing gets through between them."""
        self.slow: dict[str, float] = {}
        """By machine: until when answers take seconds to arrive."""
        self.expected: list[Expected] = []
        """Each is asked about every transaction that is sent, until it has said what becomes of one."""
        self.lost = False
        """It was restored from a backup, and nobody has recovered yet."""
        self._committed = committed
        self._watches: list[WatchCall] = []
        self.away = self.back = -NEVER
        """From when and until when etcd was last away for everybody, for longer than a node's heartbeats may be."""

    # The network.

    def opens(self, machine: str, member: str) -> float:
        """When something sent now gets through: now, later, or NEVER."""
        state, now = self.members[member], self.loop.now
        if state.down > now:
            return NEVER
        return max(now, self.cut.get((machine, member), 0.0), state.frozen)

    def reaches(self, machine: str, member: str) -> bool:
        return self.opens(machine, member) <= self.loop.now

    def later(self, delay: float, call: Callable[..., None], *args: Any) -> None:
        self.loop.call_later(delay, call, *args, context=alone())

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        """Exactly then: calls for the same moment come in their order."""
        self.loop.call_at(when, call, *args, context=alone())

    def call(
        self,
        machine: Machine,
        member: str,
        apply: Callable[[], Any],
        timeout: float,
        kind: str,
        txn: Txn | None = None,
    ) -> asyncio.Future[Any]:
        """One request: it arrives, happens and is answered, each at its time, or not."""
        rng, loop = self.rng, self.loop
        answered: asyncio.Future[Any] = loop.create_future()
        expiry = loop.call_later(timeout, _expire, answered, member)
        there, back = rng.uniform(0.0005, 0.004), rng.uniform(0.0005, 0.004)
        if self.slow.get(machine.name, 0.0) > loop.now:
            back += rng.uniform(0.2, 3.0)
        fate, lost = rng.random(), False
        odds = self.odds
        if txn is not None and (meant := self._meant(machine, txn)) is not None:
            there, lost = there + meant.late, not meant.answered
        elif kind == "txn":
            if fate < odds.reply_lost:
                lost = True
                self.fault("committed, not answered", machine.name)
            elif fate < odds.reply_lost + odds.late_commit:
                there += rng.choice((rng.uniform(0.3, 2.0), rng.uniform(1.0, 8.0)))
                self.fault("commits late", machine.name)
            elif fate < odds.reply_lost + odds.late_commit + odds.request_lost:
                self.fault("request lost", machine.name)
                return answered
        elif fate < odds.request_lost:
            self.fault("request lost", machine.name)
            return answered

        def arrive() -> None:
            opens = self.opens(machine.name, member)
            if opens == NEVER or (opens > loop.now and self.cut.get((machine.name, member), 0.0) >= opens):
                return  # nobody retransmits what a cut link has swallowed for longer than a call lasts
            if opens > loop.now:
                self.later(opens - loop.now + 0.001, arrive)
                return
            try:
                result: Any = apply()
            except StoreError as error:
                code, details = _REFUSED.get(type(error), (grpc.StatusCode.INVALID_ARGUMENT, str(error)))
                result = failure(code, details)
            if not lost:
                self.later(back, answer, result)

        def answer(result: Any) -> None:
            if answered.done() or not self.reaches(machine.name, member):
                return
            expiry.cancel()
            if isinstance(result, grpc.aio.AioRpcError):
                answered.set_exception(result)
            else:
                answered.set_result(result)

        self.later(there, arrive)
        return answered

    def _meant(self, machine: Machine, txn: Txn) -> Fate | None:
        for expected in self.expected:
            if (fate := expected(machine, txn)) is not None:
                self.expected.remove(expected)
                return fate
        return None

    # What members answer.

    def truth_of(self, machine: str) -> Truth:
        return self.elsewhere.get(machine, self.truth)

    def header(self, member: str, machine: str, revision: int | None = None) -> Header:
        term, truth = self.term - 1 if self.members[member].old_term else self.term, self.truth_of(machine)
        return Header(int(truth.cluster_id, 16), truth.revision if revision is None else revision, term)

    def txn(self, member: str, txn: Txn, sender: Sender) -> TxnAnswer:
        truth = self.truth_of(sender.machine)
        result = truth.apply(txn)
        if truth is self.truth:
            self._committed(txn, result.succeeded, sender)
        header = self.header(member, sender.machine)
        reads = [Response(RangeAnswer([_kv(e)] if (e := result.read[key]) else [], header)) for key in txn.read]
        return TxnAnswer(result.succeeded, header, [*(_NOTHING for _ in txn.then), *reads])

    def range(self, member: str, request: Any, machine: str) -> RangeAnswer:
        start, end, truth = request.key.decode(), request.range_end.decode(), self.truth_of(machine)
        if request.revision > truth.revision:
            raise StoreError("etcdserver: mvcc: required revision is a future revision")
        if self.rng.random() < self.odds.stale_read:
            old = max(truth.compacted, truth.revision - self.rng.randint(1, 30))
            try:
                past = truth.past(old)
            except Compacted:
                past = None
            if past is not None:
                self.fault("stale read", machine)
                keys = sorted(k for k in past if (start <= k < end if end else k == start))
                return RangeAnswer([_kv(past[k]) for k in keys], self.header(member, machine, old))
        entries = truth.entries(start, end) if end else filter(None, [truth.entry(start)])
        return RangeAnswer([_kv(e) for e in entries], self.header(member, machine))

    def grant(self, member: str, ttl: int, machine: str) -> LeaseAnswer:
        lease = self.truth_of(machine).grant(ttl)
        self._watch_lease(ttl)
        return LeaseAnswer(self.header(member, machine), ID=lease, TTL=ttl)

    def _watch_lease(self, ttl: int) -> None:
        self.later(ttl + 0.001, self.truth.tick)

    def keep_alive(self, member: str, lease: int, machine: str) -> LeaseAnswer:
        try:
            ttl = self.truth_of(machine).keep_alive(lease)
        except LeaseGone:
            ttl = 0
        if ttl:
            self._watch_lease(ttl)
        return LeaseAnswer(self.header(member, machine), lease, ttl)

    def revoke(self, member: str, lease: int, machine: str) -> LeaseAnswer:
        self.truth_of(machine).expire(lease)
        return LeaseAnswer(self.header(member, machine))

    def expire(self, lease: int) -> None:
        self.truth.expire(lease)

    def elect(self) -> None:
        """Another leader, which arms every lease anew, in full."""
        self.term += 1
        self.truth.rearm()
        for ttl in self.truth.ttls():
            self._watch_lease(ttl)

    # Watches.

    def _told(self, changes: Sequence[Change]) -> None:
        events = [(change.key, _event(change)) for change in changes]
        for watch in self._watches:
            if watch.machine.name not in self.elsewhere:
                watch.publish(events)

    def copy(self, machine: str, backup: Backup, cluster_id: str) -> None:
        """From now on this machine talks to a copy that was made of this backup."""

        def told(changes: Sequence[Change]) -> None:
            for watch in self._watches:
                if self.elsewhere.get(watch.machine.name) is truth:
                    watch.publish([(change.key, _event(change)) for change in changes])

        truth = Truth(lambda: self.loop.now, told)
        truth.restore(backup, cluster_id)
        self.elsewhere[machine] = truth
        self.break_watches(machine)

    def right_one(self, machine: str) -> None:
        """It talks to this etcd again."""
        if self.elsewhere.pop(machine, None) is not None:
            self.break_watches(machine)

    def standing(self, watch: WatchCall) -> None:
        self._watches.append(watch)

    def ended(self, watch: WatchCall) -> None:
        if watch in self._watches:
            self._watches.remove(watch)

    def break_watches(self, machine: str | None = None, member: str | None = None) -> int:
        broken = [
            w
            for w in self._watches
            if (machine is None or w.machine.name == machine) and (member is None or w.member == member)
        ]
        for watch in broken:
            watch.fail(failure(grpc.StatusCode.UNAVAILABLE, "the connection was reset"))
        return len(broken)


_NOTHING = Response(RangeAnswer((), Header(0, 0, 0)))


def _expire(answered: asyncio.Future[Any], member: str) -> None:
    if not answered.done():
        answered.set_exception(failure(grpc.StatusCode.DEADLINE_EXCEEDED, f"{member} did not answer"))


def _kv(entry: Entry) -> Kv:
    return Kv(entry.key.encode(), entry.value, entry.create_revision, entry.mod_revision, entry.lease)


def _event(change: Change) -> Event:
    if change.entry is None:
        return Event(1, Kv(change.key.encode(), b"", 0, change.revision, 0))
    return Event(0, _kv(change.entry))


@dataclass(frozen=True)
class Sender:
    """Who sends: the machine, and the incarnation that its agent was when it did. process: which one on it."""

    machine: str
    incarnation: str
    process: str


class WatchCall:
    """One watch stream: a grpc.aio StreamStreamCall as far as `etcd_watch` uses it."""

    def __init__(self, etcd: Etcd, machine: Machine, member: str) -> None:
        self.machine, self.member = machine, member
        self._etcd = etcd
        self._start = self._end = ""
        self._answers: deque[WatchAnswer | BaseException] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._last = 0.0
        self._over = False

    async def write(self, request: Any) -> None:
        if request.HasField("create_request"):
            create = request.create_request
            self._start, self._end = create.key.decode(), create.range_end.decode()
            self._etcd.later(self._etcd.rng.uniform(0.001, 0.006), self._stand, create.start_revision)
        else:
            self._etcd.later(self._etcd.rng.uniform(0.001, 0.006), self._progress)

    async def read(self) -> Any:
        while not self._answers:
            self._reader = self._etcd.loop.create_future()
            await self._reader
        answer = self._answers.popleft()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def cancel(self) -> None:
        self._over = True
        self._etcd.ended(self)
        if self._reader is not None and not self._reader.done():
            self._reader.cancel()

    def fail(self, error: BaseException) -> None:
        self._etcd.ended(self)
        self._push(error)

    def _stand(self, revision: int) -> None:
        etcd = self._etcd
        if self._over:
            return
        if (opens := etcd.opens(self.machine.name, self.member)) > etcd.loop.now:
            if opens != NEVER:
                etcd.later(opens - etcd.loop.now + 0.002, self._stand, revision)
            return
        header = etcd.header(self.member, self.machine.name)
        truth = etcd.truth_of(self.machine.name)
        self._deliver(WatchAnswer(header, created=True))
        if revision <= truth.compacted:
            self._deliver(WatchAnswer(header, canceled=True, compact_revision=truth.compacted))
            return
        etcd.standing(self)
        if missed := truth.history(self._start, self._end, revision - 1):
            self.publish([(change.key, _event(change)) for change in missed])

    def _progress(self) -> None:
        etcd = self._etcd
        if etcd.reaches(self.machine.name, self.member) and not self._over:
            self._deliver(WatchAnswer(etcd.header(self.member, self.machine.name), watch_id=-1))

    def publish(self, changes: Sequence[tuple[str, Event]]) -> None:
        events = [event for key, event in changes if self._start <= key < self._end]
        if not events:
            return
        etcd, rng, odds = self._etcd, self._etcd.rng, self._etcd.odds
        delay = rng.uniform(0.001, 0.006) + etcd.members[self.member].behind
        fate = rng.random()
        if fate < odds.event_lost:
            etcd.fault("watch event lost", self.machine.name)
            return
        fate -= odds.event_lost
        if fate < odds.event_late:
            etcd.fault("watch event late", self.machine.name)
            delay += rng.uniform(0.5, 9.0)
        fate -= odds.event_late
        answer = WatchAnswer(etcd.header(self.member, self.machine.name), events)
        # A stream keeps its order; only what it repeats comes out of it.
        self._last = max(self._last, etcd.loop.now + delay)
        etcd.at(self._last, self._deliver, answer)
        if 0 <= fate < odds.event_twice:
            etcd.fault("watch event twice", self.machine.name)
            etcd.later(delay + rng.uniform(0.0, 2.0), self._deliver, answer)
        elif odds.event_twice <= fate < odds.event_twice + odds.watch_broken:
            etcd.fault("watch broken", self.machine.name)
            etcd.later(rng.uniform(0.0, 0.5), self.fail, failure(grpc.StatusCode.UNAVAILABLE, "stream reset"))

    def _deliver(self, answer: WatchAnswer) -> None:
        etcd = self._etcd
        if self._over:
            return
        opens = etcd.opens(self.machine.name, self.member)
        if opens > etcd.loop.now:
            if opens != NEVER:
                self._last = max(self._last, opens + 0.01)
                etcd.at(self._last, self._deliver, answer)
            return
        self._push(answer)

    def _push(self, answer: WatchAnswer | BaseException) -> None:
        if self._over:
            return
        self._answers.append(answer)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


@dataclass
class _KeepAlive:
    """One keep-alive stream, for one question."""

    etcd: Etcd
    machine: Machine
    member: str
    timeout: float
    answer: asyncio.Future[Any] = field(init=False)

    async def write(self, request: Any) -> None:
        self.answer = self.etcd.call(
            self.machine,
            self.member,
            lambda: self.etcd.keep_alive(self.member, request.ID, self.machine.name),
            self.timeout,
            "lease",
        )

    async def read(self) -> Any:
        return await self.answer

    def cancel(self) -> None:
        self.answer.cancel()
