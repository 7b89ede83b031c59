"""What the guard has to do now. Pure.

    gate     seen on the page                        duty
    open     D_soft has passed, and no promise holds Climb
    open     the agent asks for a round              Climb
    closed   a round was begun and not ended         Climb: an earlier guard died in it
    closed   it is not verified that nothing is left Climb again
    closed   the agent asks for a round              Climb
    closed   clean, not sworn yet, the agent is gone Swear
    closed   clean, and the agent asks to open it    Open, if D_soft lies ahead, counted from after the round's begin
    closed   as above, but the round is sworn        Climb: what was sworn must stay true
    any      else                                    Stand

Whatever the duty: the machine `is_late` once D_io has passed and it is not verified that nothing writes.
"""

from __future__ import annotations

from dataclasses import dataclass

from drover.agent.guard.page import Seen
from drover.coordinator.protocol.clock import Instant

SILENT = 2.0
"""Seconds without a try of the agent, after which it counts as dead or hung: it tries every H, answered or not."""


@dataclass(frozen=True)
class Climb:
    """Close the gate and run the ladder."""

    reason: str


@dataclass(frozen=True)
class Open:
    """Open the gate."""


@dataclass(frozen=True)
class Stand:
    """Nothing to do."""


@dataclass(frozen=True)
class Swear:
    """Swear that this round of the ladder has left nothing, and have the cluster told."""


Duty = Climb | Open | Swear | Stand


def duty(seen: Seen, now: Instant) -> Duty:
    if seen.open and seen.soft.passed(now):
        return Climb(f"no heartbeat of this node was answered for {silence(seen, now):.1f} s")
    if seen.asked > seen.round:
        return Climb("the agent asks for it")
    if seen.open:
        return Stand()
    if seen.climbing:
        return Climb("nothing here may write before it is certain that nothing does")
    if not seen.verified:
        return Climb("it is not certain that nothing was left")
    if seen.sworn != seen.round and agent_is_gone(seen, now):
        return Swear()
    # A heartbeat opens it, no promise: whoever promises may have been told that this node has stopped.
    passed = seen.sent.plus(seen.d_soft).passed(now)
    if seen.open_for != seen.round or passed or seen.sent.boot <= seen.began:
        return Stand()
    return Open() if seen.sworn != seen.round else Climb("the cluster may have been told that this node has stopped")


def silence(seen: Seen, now: Instant) -> float:
    """Seconds since the newest answered heartbeat was sent."""
    return max(now.boot - seen.sent.boot, now.raw - seen.sent.raw)


def is_late(seen: Seen, now: Instant, grace: float = 0.0) -> bool:
    """Whether D_io has passed, `grace` seconds ago, and something may still write: the machine must be reset. A further
    round after one that left nothing is no reason: nothing can have begun meanwhile."""
    return not seen.verified and seen.sent.boot > 0 and seen.io(grace).passed(now)


def agent_is_gone(seen: Seen, now: Instant) -> bool:
    """Whether the agent is dead or hangs, and not just cut off: then nobody else says that this node has stopped."""
    return now.boot - seen.agent_seen > SILENT
