"""What the guard has to do now. Pure.

    gate     seen on the page                        duty
    open     D_soft has passed                       Climb
    open     the agent asks for a round              Climb
    closed   a round was begun and not ended         Climb: an earlier guard died in it
    closed   the last round has left something       Climb again
    closed   the agent asks for a round              Climb
    closed   clean, and the agent asks to open it    Open, if D_soft lies ahead
    any      else                                    Stand

Whatever the duty: `resets` once D_io has passed and it is not verified that nothing writes.
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


Duty = Climb | Open | Stand


def duty(seen: Seen, now: Instant) -> Duty:
    passed = seen.sent.plus(seen.d_soft).passed(now)
    if seen.open and passed:
        return Climb(f"no heartbeat of this node was answered for {silence(seen, now):.1f} s")
    if seen.asked > seen.round:
        return Climb("the agent asks for it")
    if seen.open:
        return Stand()
    if seen.climbing:
        return Climb("nothing here may write before it is certain that nothing does")
    if seen.left:
        return Climb("something was left")
    return Open() if seen.open_for == seen.round and not passed else Stand()


def silence(seen: Seen, now: Instant) -> float:
    """Seconds since the newest answered heartbeat was sent."""
    return max(now.boot - seen.sent.boot, now.raw - seen.sent.raw)


def resets(seen: Seen, now: Instant) -> bool:
    """Whether the machine must be reset, if it may be: D_io has passed, and something may still write."""
    return not seen.clean and seen.sent.boot > 0 and seen.sent.plus(seen.d_io).passed(now)


def agent_is_gone(seen: Seen, now: Instant) -> bool:
    """Whether the agent is dead or hangs, and not just cut off: then nobody else says that this node has stopped."""
    return now.boot - seen.agent_seen > SILENT
