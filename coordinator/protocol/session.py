"""A node's session: heartbeats out, deadlines in. `step(state, event, now) -> (state, actions)`; no I/O, no clock.

    state    event                               next
    Live     Reply succeeded                     Live, deadlines counted from when that heartbeat was *sent*
    Live     Tick, D_soft passed                 Lapsed, CloseGate
    Lapsed   LadderDone(clean) and a fresh beat  Live, OpenGate (same incarnation, same epochs)
    any      Reply: fenced, or a stranger's beat Ended, CloseGate
    Ended    anything                            Ended

Every heartbeat compares the revision of the one before, so the heartbeats of one incarnation are a chain: a twin of
this machine (a clone that was forked while it ran) breaks it within one interval, since only one of the two can write
the next link, and the other finds one that it never sent. An unanswered heartbeat may commit later; its counter and
clock then tell when it was sent.

While the cluster is paused, a heartbeat says by how much *longer* its sender's deadlines are, and observers wait as
much longer for the next one. A heartbeat that says less than those before it binds its sender from the moment at which
it is sent, answered or not: it may have committed. So the deadline never lies after that of any later heartbeat.

Where etcd answers nobody, promises of all candidates stand in for heartbeats (`promises`): they keep a session Live,
and nothing but an answered heartbeat makes a Lapsed one Live again. What holds is what any heartbeat says that may be
in etcd.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from drover.coordinator.keys import Keys
from drover.coordinator.protocol import promises
from drover.coordinator.protocol.clock import Deadline, Instant
from drover.coordinator.protocol.promises import NONE, Terms
from drover.coordinator.records import Heartbeat
from drover.coordinator.timings import Timings
from drover.coordinator.txn import ModRevision, Put, Txn, absent

GAP = 2.0
"""Heartbeats further apart than this many intervals were not answered without a gap."""
OPEN = 60
"""So many unanswered heartbeats are remembered; older ones could not move the deadline to a later moment."""
STEADY = 2.5
"""So many intervals without a gap before a node may call others silent: an etcd outage fences nobody who comes back."""


@dataclass(frozen=True)
class Identity:
    """Who sends: a node in one incarnation, on one machine in one boot."""

    node: str
    incarnation: str
    machine: str
    boot: str
    armed: bool = False


class Loss(StrEnum):
    """How a session ends."""

    FENCED = "fenced"
    STRANGER = "stranger"
    """Somebody else writes this node's heartbeat: a name clash, or a cloned machine."""


@dataclass(frozen=True)
class Attempt:
    """A heartbeat that was sent and not yet answered. longer: seconds by which its deadlines lie later than usual."""

    counter: int
    sent: Instant
    longer: float = 0.0
    terms: Terms = NONE

    @property
    def clock(self) -> float:
        """What is written into it."""
        return round(self.sent.boot, 3)


@dataclass(frozen=True)
class Live:
    """The gate is open. revision: of heartbeats/<me>; sent: when the newest one known to have committed was sent;
    answered: when that was learnt; steady_since: since when they were answered without a gap; longer: seconds by which
    the deadlines lie later than usual, counted from `sent`. bound: what heartbeats say of promises, whichever of
    them is in etcd; promised: by candidate, when it was asked what it has promised."""

    revision: int
    counter: int
    sent: Instant
    answered: Instant
    steady_since: Instant
    pending: tuple[Attempt, ...] = ()
    longer: float = 0.0
    bound: Terms = NONE
    promised: Mapping[str, Instant] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Lapsed:
    """The gate is closed: D_soft has passed. clean: the ladder is through and has left nothing behind."""

    revision: int
    counter: int
    sent: Instant
    answered: Instant
    steady_since: Instant
    pending: tuple[Attempt, ...] = ()
    longer: float = 0.0
    bound: Terms = NONE
    clean: bool = False


@dataclass(frozen=True)
class Ended:
    loss: Loss
    detail: str


State = Live | Lapsed | Ended


@dataclass(frozen=True)
class Beat:
    """It is time to send a heartbeat. longer: seconds by which its deadlines may lie later than usual. terms: what it
    says of promises."""

    longer: float = 0.0
    terms: Terms = NONE


@dataclass(frozen=True)
class Reply:
    """etcd answered the heartbeat with this counter. revision: etcd's, after it. seen: heartbeats/<me> as it is now,
    with its mod revision (0 and None: absent). fenced: fences/<mine> exists."""

    counter: int
    succeeded: bool
    revision: int
    seen: Heartbeat | None = None
    seen_revision: int = 0
    fenced: bool = False


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class LadderDone:
    """The ladder has run. clean: verified that nothing is left."""

    clean: bool


@dataclass(frozen=True)
class Promised:
    """A candidate promises not to call this node silent. sent: before it was asked."""

    candidate: str
    sent: Instant


Event = Beat | Reply | Tick | LadderDone | Promised


@dataclass(frozen=True)
class Send:
    """Send this heartbeat, comparing this revision of the one before."""

    attempt: Attempt
    revision: int


@dataclass(frozen=True)
class CloseGate:
    """Nothing may begin to write; run the ladder for all that must stop."""

    reason: str


@dataclass(frozen=True)
class OpenGate:
    pass


Action = Send | CloseGate | OpenGate


def begin(revision: int, counter: int, sent: Instant, answered: Instant, longer: float = 0.0) -> Live:
    """The state after the join, or after a restart has found its own heartbeat at `revision`: counted from `sent`."""
    return Live(revision, counter, sent, answered, steady_since=answered, longer=longer)


def soft_deadline(state: Live | Lapsed, timings: Timings) -> Deadline:
    usual = state.sent.plus(timings.d_soft + state.longer)
    return usual if (since := stands_in(state)) is None else usual.later(since.plus(timings.d_soft))


def stands_in(state: State) -> Instant | None:
    """What the deadlines count from by the promises of all candidates, if it is later; None: not all have promised."""
    if not isinstance(state, Live):
        return None
    return promises.stands_in(state.promised, state.bound, state.sent.plus(state.longer + state.bound.beyond))


def by_promises(state: State, timings: Timings, now: Instant) -> bool:
    """Whether this node goes on only because others have promised: it begins nothing then."""
    if not isinstance(state, Live) or soft_deadline(state, timings).passed(now):
        return False
    return state.sent.plus(timings.d_soft + state.longer).passed(now)


def gate(state: State, timings: Timings) -> Deadline | None:
    """Until when something that writes may begin; None: not at all."""
    return soft_deadline(state, timings) if isinstance(state, Live) else None


def steady(state: State, timings: Timings, now: Instant) -> bool:
    """Whether this node's own heartbeats were answered long enough without a gap to call another one silent."""
    if not isinstance(state, Live):
        return False
    return (
        now.raw - state.steady_since.raw >= STEADY * timings.heartbeat
        and now.raw - state.answered.raw <= GAP * timings.heartbeat
    )


def heartbeat_txn(keys: Keys, me: Identity, timings: Timings, send: Send) -> Txn:
    """`if nobody has fenced me and my last heartbeat is as I wrote it, then put the next`; reads both in any case."""
    mine, fence = keys.heartbeat(me.node), keys.fence(me.incarnation)
    beat = Heartbeat(
        incarnation=me.incarnation,
        counter=send.attempt.counter,
        clock=send.attempt.clock,
        d_hard=timings.d_hard,
        armed=me.armed,
        machine=me.machine,
        boot=me.boot,
        longer=send.attempt.longer,
        candidates=tuple(sorted(send.attempt.terms.candidates)),
        beyond=send.attempt.terms.beyond,
    )
    return Txn(
        compare=(absent(fence), ModRevision(mine, send.revision)),
        then=(Put(mine, beat.encode()),),
        read=(mine, fence),
    )


def step(state: State, event: Event, now: Instant, me: Identity, timings: Timings) -> tuple[State, tuple[Action, ...]]:
    """The whole session. `now` is read before a heartbeat is sent and after an answer was received."""
    if isinstance(state, Ended):
        return state, ()
    match event:
        case Beat(longer, terms):
            attempt = Attempt(state.counter + 1, now, longer, terms)
            # Older ones could not move the deadline any more: in a long outage they are forgotten.
            open_ = [a for a in state.pending if not a.sent.plus(timings.d_soft + a.longer).passed(now)][-OPEN:]
            pending = (*(replace(a, longer=_bound(a, attempt)) for a in open_), attempt)
            bound = replace(
                state,
                counter=attempt.counter,
                pending=pending,
                longer=_bound(state, attempt),
                bound=state.bound.both(terms),
            )
            return bound, (Send(attempt, state.revision),)
        case Reply():
            return _expire(*_reply(state, event, now, me, timings), now, timings)
        case LadderDone(clean):
            if isinstance(state, Lapsed):
                state = replace(state, clean=clean)
                return _reopen(state, now, timings)
            return state, ()
        case Tick():
            return _expire(state, (), now, timings)
        case Promised(candidate, sent):
            # First of all whether the deadline has passed: whoever may have been called silent since stays so.
            state, actions = _expire(state, (), now, timings)
            last = state.promised.get(candidate) if isinstance(state, Live) else None
            if isinstance(state, Live) and (last is None or (sent.boot > last.boot and sent.raw > last.raw)):
                state = replace(state, promised=MappingProxyType({**state.promised, candidate: sent}))
            return state, actions


def _bound(earlier: Live | Lapsed | Attempt, newest: Attempt) -> float:
    """What `longer` may be for something earlier, so that its deadline is not after that of the newest heartbeat."""
    since = min(newest.sent.boot - earlier.sent.boot, newest.sent.raw - earlier.sent.raw)
    return max(0.0, min(earlier.longer, newest.longer + since))


def _reply(
    state: Live | Lapsed, reply: Reply, now: Instant, me: Identity, timings: Timings
) -> tuple[State, tuple[Action, ...]]:
    if reply.succeeded:
        return _confirmed(state, reply.counter, reply.revision, now, timings)
    if reply.fenced:
        return _end(Loss.FENCED, f"incarnation {me.incarnation} has been fenced")
    seen = reply.seen
    if seen is None:
        return replace(state, revision=0), ()
    if seen.incarnation != me.incarnation:
        detail = f"heartbeats of node {me.node} come from incarnation {seen.incarnation}"
        return _end(Loss.STRANGER, f"{detail} on machine {seen.machine or 'unknown'}")
    if seen.placeholder:
        return replace(state, revision=reply.seen_revision), ()
    if seen.counter > state.counter or any(a.counter == seen.counter and a.clock != seen.clock for a in state.pending):
        detail = f"heartbeats of incarnation {me.incarnation} come from a twin of it"
        return _end(Loss.STRANGER, f"{detail} on machine {seen.machine or 'unknown'}, which was cloned while it ran")
    return _confirmed(state, seen.counter, reply.seen_revision, now, timings)


def _end(loss: Loss, detail: str) -> tuple[State, tuple[Action, ...]]:
    return Ended(loss, detail), (CloseGate(detail),)


def _confirmed(
    state: Live | Lapsed, counter: int, revision: int, now: Instant, timings: Timings
) -> tuple[State, tuple[Action, ...]]:
    """The heartbeat with this counter is in etcd at this revision: nobody can fence me for W from when it was sent."""
    attempt = next((a for a in state.pending if a.counter == counter), None)
    if attempt is None:
        # An answer that was overtaken: its heartbeat is accounted for already. Only the chain's end is news.
        return replace(state, revision=max(revision, state.revision)), ()
    gap = now.raw - state.answered.raw > GAP * timings.heartbeat
    # All others compared the same revision or an older one: they can never commit any more.
    pending = tuple(a for a in state.pending if a.counter > counter)
    bound = attempt.terms
    for later in pending:
        bound = bound.both(later.terms)
    confirmed = replace(
        state,
        revision=revision,
        sent=attempt.sent,
        longer=attempt.longer,
        bound=bound,
        answered=now,
        steady_since=now if gap else state.steady_since,
        pending=pending,
    )
    return _reopen(confirmed, now, timings)


def _reopen(state: Live | Lapsed, now: Instant, timings: Timings) -> tuple[State, tuple[Action, ...]]:
    if isinstance(state, Live) or not state.clean or soft_deadline(state, timings).passed(now):
        return state, ()
    s = state
    live = Live(s.revision, s.counter, s.sent, s.answered, s.steady_since, s.pending, s.longer, s.bound)
    return live, (OpenGate(),)


def _expire(
    state: State, actions: tuple[Action, ...], now: Instant, timings: Timings
) -> tuple[State, tuple[Action, ...]]:
    if not isinstance(state, Live) or not soft_deadline(state, timings).passed(now):
        return state, actions
    s = state
    lapsed = Lapsed(s.revision, s.counter, s.sent, s.answered, s.steady_since, s.pending, s.longer, s.bound)
    silent = now.raw - state.sent.raw
    return lapsed, (*actions, CloseGate(f"no heartbeat of this node was answered for {silent:.1f} s"))
