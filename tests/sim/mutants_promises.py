"""Known-bad variants of the rule on promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from drover.coordinator import promising
from drover.coordinator.member import Member
from drover.coordinator.protocol import observer, promises
from drover.coordinator.protocol.clock import Deadline, Instant
from drover.coordinator.protocol.observer import Watched
from drover.coordinator.protocol.promises import Given, Terms
from drover.coordinator.records import Heartbeat
from tests.sim.machine import here

Patch = tuple[object, str, object]


def from_the_answer() -> Sequence[Patch]:
    """And whatever its answer takes: a time limit catches most of it."""
    promised = Member.promised

    def late(self: Member, candidate: str, sent: Instant) -> None:
        promised(self, candidate, self.now())

    return [(Member, "promised", late), (promising, "TRY", 5.0)]


def one_left_out() -> Sequence[Patch]:
    """One candidate is not asked."""
    stands_in = promises.stands_in

    def without(promised: Mapping[str, Instant], bound: Terms, latest: Deadline) -> Instant | None:
        fewer = sorted(bound.candidates)[1:] or sorted(bound.candidates)
        return stands_in(promised, replace(bound, candidates=frozenset(fewer)), latest)

    return [(promises, "stands_in", without)]


def watches_on() -> Sequence[Patch]:
    """An agent that restarts goes on with what its predecessor has watched, and knows of none of its promises."""
    observe = observer.observe

    def remembered(
        before: Watched | None, node: str, heartbeat: Heartbeat, revision: int, now: float, by: str = ""
    ) -> Watched:
        machine = here()
        known: Watched | None = getattr(machine, f"watched {node}", None)
        seen = observe(before or known, node, heartbeat, revision, now, by)
        setattr(machine, f"watched {node}", seen)
        return seen

    return [(observer, "observe", remembered)]


def forgets() -> Sequence[Patch]:
    """What was promised is not kept."""
    return [(Given, "left", lambda self, node, now: 0.0)]


def hastens() -> Sequence[Patch]:
    """A node that no heartbeat names waits no longer than one that does."""
    return [(Heartbeat, "writes_for_at", lambda self, candidate: self.writes_for)]
