"""A node's seat in the cluster: runs the protocol on a store and a clock.

Owners ask it for transactions (`claim`, `handover`, …). What it promises them: a verb that returns has been answered by
etcd and is shown by the view; a verb whose fate is unknown is settled before it returns or raises `NotLive`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from drover.coordinator import trace
from drover.coordinator.clock import Clock, read_clock
from drover.coordinator.housekeeping import Housekeeping
from drover.coordinator.join import Joined, Saved
from drover.coordinator.keys import Keys, Kind
from drover.coordinator.observers import Observers
from drover.coordinator.promising import Promises, Promising
from drover.coordinator.protocol import history, observer, ownership, promises, session
from drover.coordinator.protocol.clock import Deadline, Instant
from drover.coordinator.protocol.session import CloseGate, Ended, Live, OpenGate, Send
from drover.coordinator.record import InvalidRecord, timestamp
from drover.coordinator.records import Fence, Heartbeat, NodeRecord
from drover.coordinator.store import Denied, LeaseGone, NoSpace, Store, StoreError, Unanswered, Unavailable, WentBack
from drover.coordinator.timings import MAX_PAUSE, Timings
from drover.coordinator.txn import Compare, Entry, Put, Txn, absent, unchanged
from drover.coordinator.verbs import NotLive, Verbs
from drover.coordinator.view import View

log = logging.getLogger(__name__)

TRY = 0.8
"""The time limit of one heartbeat, in intervals; the next try goes to another member."""
_PAUSE = 0.1
"""Seconds between two tries where the first was refused at once."""


class Lost(Exception):
    """The session has ended: this incarnation is dead to the cluster. The ladder runs, then the node joins anew."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.detail)
        self.ended = ended


def _deadline(state: session.State) -> tuple[Instant, float] | None:
    """What the deadlines are counted from, and by how much longer than usual."""
    return (state.sent, state.longer) if isinstance(state, Live) else None


class Listener(Protocol):
    """Who wants to know: the agent, for its guard and for metrics. Called in the event loop; must not block."""

    def may_beat(self) -> bool:
        """Whether somebody ends this node's writing when the deadline passes; else it is not moved on."""
        ...

    def deadline_counts_from(self, sent: Instant, longer: float) -> None:
        """When the newest heartbeat that was answered had been sent. longer: seconds by which the deadlines lie later
        than usual, in a pause."""
        ...

    def goes_on_from(self, since: Instant) -> None:
        """All that could call this node silent have promised not to: the deadlines may count from here."""
        ...

    def gate_is_open(self) -> bool: ...
    def gate_closed(self, reason: str) -> None: ...
    def gate_opened(self) -> None: ...
    def heartbeat(self, outcome: str, seconds: float) -> None: ...

    def fenced(self, fence: Fence, asked: float) -> None:
        """This node has written it. asked: when it was sent (Unix time)."""
        ...

    def watch_lag(self, seconds: float) -> None:
        """From etcd's answer to a transaction until the view showed what it wrote."""
        ...


class Member:
    """One incarnation of this node. `run` until it is cancelled or raises Lost."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        joined: Joined,
        describe: NodeRecord,
        timings: Timings,
        saved: Path,
        listener: Listener,
        clock: Clock = read_clock,
        compacts: bool = True,
        promised: Promises | None = None,
    ) -> None:
        self.store, self.keys, self.timings = store, keys, timings
        self.identity, self.cluster_id, self.lease = joined.identity, joined.cluster, joined.lease
        self.view = View(store, keys)
        self._describe, self._saved, self._listener, self._clock = describe, saved, listener, clock
        self._state: session.State = session.begin(joined.revision, joined.counter, joined.sent, clock(), joined.longer)
        self._moved = asyncio.Event()
        self.life = 0
        """etcd's revision when the first heartbeat of this life of the agent was answered; 0 before. What an earlier
        life sent compares revisions up to this one: a tenure that has not moved since is touched before all else."""
        self.verbs = Verbs(store, self.view, self.seat, self._check_live, self._check_joined, listener.watch_lag)
        promised = promised or Promises()
        self.given = promised.given
        self._promising = Promising(self, promised)
        self._observers = Observers(self)
        self._housekeeping = Housekeeping(self, compacts)

    @property
    def listener(self) -> Listener:
        return self._listener

    @property
    def node(self) -> str:
        return self.identity.node

    @property
    def incarnation(self) -> str:
        return self.identity.incarnation

    @property
    def candidate(self) -> str:
        """How heartbeats of others name this node."""
        return promises.candidate(self.node, self.identity.machine)

    @property
    def state(self) -> session.State:
        return self._state

    @property
    def live(self) -> bool:
        """Whether this node may act: it is entitled to, and its gate is open."""
        return self.entitled and self._listener.gate_is_open()

    @property
    def entitled(self) -> bool:
        """Whether its heartbeats are answered, and have been at least once in this life."""
        if not self.life:
            return False
        return isinstance(self._state, Live) and not session.soft_deadline(self._state, self.timings).passed(
            self._clock()
        )

    @property
    def held(self) -> bool:
        """Whether it goes on only because all others have promised to wait: it begins nothing then."""
        return session.by_promises(self._state, self.timings, self._clock())

    @property
    def unpromised(self) -> list[str]:
        """Why some do not promise that are asked, a line each."""
        return self._promising.missing

    def gate(self) -> Deadline | None:
        """Until when something that writes may begin; None: not at all."""
        return session.gate(self._state, self.timings)

    def margin(self) -> float:
        """Seconds until D_soft; negative once it has passed."""
        if isinstance(self._state, Ended):
            return -1.0
        return session.soft_deadline(self._state, self.timings).remaining(self._clock())

    def steady(self) -> bool:
        return session.steady(self._state, self.timings, self._clock())

    @property
    def history_piles_up(self) -> bool:
        """Whether nobody compacts etcd's history."""
        return self._housekeeping.piling_up

    @property
    def etcd_known_bugs(self) -> int:
        """How many bugs are known of the release of etcd that answers (`etcd_versions`)."""
        return self._housekeeping.known_bugs

    def raw(self) -> float:
        """CLOCK_MONOTONIC_RAW, seconds."""
        return self._clock().raw

    def now(self) -> Instant:
        return self._clock()

    def seat(self) -> ownership.Seat:
        """For one transaction of this incarnation."""
        at = timestamp(datetime.now(UTC))
        txn = secrets.token_hex(8)
        return ownership.Seat(self.keys, self.node, self.incarnation, self.lease, at, txn, trace.cause())

    async def say_leaving(self) -> None:
        """That this node shuts down, so that nobody gives it anything. Raises StoreError."""
        self._describe = self._describe.model_copy(update={"leaving": True})
        await self._ensure_node()

    def promised(self, candidate: str, sent: Instant) -> None:
        """It has promised not to call this node silent. sent: before it was asked."""
        self._feed(session.Promised(candidate, sent))

    def ladder_done(self, clean: bool) -> None:
        """The ladder has run after `gate_closed`. clean: nothing is left."""
        self._feed(session.LadderDone(clean))

    async def run(self) -> None:
        """Raises Lost, Denied, WentBack (with the gate closed)."""
        if isinstance(self._state, Live):
            self._listener.deadline_counts_from(self._state.sent, self._state.longer)
        try:
            await self._beat_once()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch_deadline())
                group.create_task(self._beat())
                group.create_task(self._keep_lease())
                group.create_task(self.view.run())
                group.create_task(self._observers.run())
                group.create_task(self._promising.run())
                group.create_task(self._housekeeping.run())
        except* Lost as lost:
            raise lost.exceptions[0] from None
        except* WentBack as told:
            self._listener.gate_closed(str(told.exceptions[0]))
            raise

    # The session.

    def _feed(self, event: session.Event) -> Send | None:
        before = self._state
        self._state, actions = session.step(self._state, event, self._clock(), self.identity, self.timings)
        send = None
        for action in actions:
            match action:
                case CloseGate(reason):
                    log.error("gate closed: %s", reason)
                    self._listener.gate_closed(reason)
                case OpenGate():
                    log.warning("gate open again: heartbeats are answered, and nothing was left behind")
                    self._listener.gate_opened()
                case Send():
                    send = action
        if type(self._state) is not type(before):
            self._moved.set()
        if (now := _deadline(self._state)) is not None and now != _deadline(before):
            self._listener.deadline_counts_from(*now)
        if (since := session.stands_in(self._state)) is not None and since != session.stands_in(before):
            self._listener.goes_on_from(since)
        return send

    def _longer(self) -> float:
        """By how much longer than usual this node may go on without etcd: as the pause says, by this node's clock."""
        if (pause := self.view.cluster.pause) is None:
            return 0.0
        left = (pause.until - datetime.now(UTC)).total_seconds()
        return min(max(left - self.timings.d_soft, 0.0), MAX_PAUSE)

    async def _watch_deadline(self) -> None:
        """Needs nobody: it ends the session's right to write when etcd, or the loop that beats, does not answer."""
        while True:
            if isinstance(self._state, Ended):
                raise Lost(self._state)
            self._moved.clear()
            wait = self.margin() if isinstance(self._state, Live) else self.timings.heartbeat
            try:
                async with asyncio.timeout(max(wait, 0.01)):
                    await self._moved.wait()
            except TimeoutError:
                self._feed(session.Tick())

    async def _beat(self) -> None:
        while True:
            started = self._clock().raw
            answered = await self._beat_once()
            spent = self._clock().raw - started
            pause = self.timings.heartbeat - spent if answered else _PAUSE - spent
            await asyncio.sleep(max(pause, 0.0))

    async def _beat_once(self) -> bool:
        """One heartbeat; whether it was answered."""
        if not self._listener.may_beat():
            return False
        longer = self._longer()
        send = self._feed(session.Beat(longer, self._promising.terms(longer)))
        if send is None:
            return False
        sent = send.attempt.sent
        txn = session.heartbeat_txn(self.keys, self.identity, self.timings, send)
        try:
            result = await self.store.txn(txn, timeout=TRY * self.timings.heartbeat)
        except (Denied, WentBack):
            raise
        except StoreError as error:
            outcome = "no space" if isinstance(error, NoSpace) else "unanswered"
            self._listener.heartbeat(outcome, self._clock().raw - sent.raw)
            self._feed(session.Tick())
            return False
        self._listener.heartbeat("answered", self._clock().raw - sent.raw)
        entry = result.read[self.keys.heartbeat(self.node)]
        revision = entry.mod_revision if entry else 0
        try:
            seen = Heartbeat.decode(entry.value) if entry else None
        except InvalidRecord:
            # Typed by somebody. Observers wait for the longest D_hard on it, as on a placeholder.
            seen = observer.stand_in(self.incarnation)
        if not result.succeeded and 0 < revision < send.revision:
            # Older than what it was known to be when this was asked, though the revision may be higher: a restored etcd
            # can be told to count on from far ahead.
            raise WentBack(history.gone_back(revision, send.revision))
        fenced = result.read[self.keys.fence(self.incarnation)] is not None
        if result.succeeded and not self.life:
            self.life = result.revision
            self._listener.gate_opened()
        self._feed(session.Reply(send.attempt.counter, result.succeeded, result.revision, seen, revision, fenced))
        return True

    async def _keep_lease(self) -> None:
        """What people look at hangs on the lease: its loss is a non-event, and put right."""
        while True:
            try:
                left = await self.store.keep_alive(self.lease) if self.lease else 0
                if left <= 0:
                    raise LeaseGone("no lease")
                await self._ensure_node()
            except LeaseGone:
                await self._renew_lease()
            except (Unavailable, Unanswered, NoSpace) as error:
                log.debug("lease: %s", error)
            await asyncio.sleep(self.timings.lease_ttl / 4)

    async def _renew_lease(self) -> None:
        try:
            self.lease = await self.store.grant(self.timings.lease_ttl)
            Saved(self.incarnation, self.lease).save(self._saved)
            log.info("new lease %x", self.lease)
            await self._ensure_node()
        except (Unavailable, Unanswered, LeaseGone, NoSpace) as error:
            log.debug("lease: %s", error)

    async def _ensure_node(self) -> None:
        """nodes/<me> is there, says what this agent is now, and hangs on the lease that I keep alive. etcd is only
        asked where the view does not show it."""
        key = self.keys.node(self.node)
        record = self._describe.model_copy(update={"incarnation": self.incarnation, "lease": self.lease})
        wanted = (self.lease, record.encode())

        def right(entry: Entry | None) -> bool:
            return entry is not None and (entry.lease, entry.value) == wanted

        if self.view.connected and right(self.view.entry(Kind.NODES, self.node)):
            return
        if right(entry := await self.store.get(key)):
            return
        compare: list[Compare] = [unchanged(key, entry), absent(self.keys.fence(self.incarnation))]
        await self.store.txn(Txn(tuple(compare), (Put(key, record.encode(), self.lease),)))

    # What the verbs ask.

    def _check_live(self) -> None:
        if not self.live:
            raise NotLive("this node's session has lapsed")

    def _check_joined(self) -> None:
        if isinstance(self._state, Ended):
            raise NotLive(self._state.detail)
