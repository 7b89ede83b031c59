"""etcd away for everybody: an owner goes on while *every* node that could call it silent promises not to. Pure.

A promise stands in for a heartbeat. Who gives one counts W for that node anew, from when it was asked; who got one
counts its deadlines from before it asked. So an owner that has one of each candidate is as safe at each of them as if
its heartbeat had moved there. Who the candidates are is said in each heartbeat (`Terms`), which every fence compares:

- a node that is named waits for W, and while its promise holds; after a restart it begins to watch anew, for W;
- any other one, of which the owner may never have heard, waits longer: by `beyond`, after which the owner goes on for
  nobody's promise. So a list that is old or short makes nothing unsafe.

Whoever could call others silent now, since etcd answers it, promises nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from drover.coordinator.protocol.clock import Deadline, Instant
from drover.coordinator.protocol.dataset import Cluster
from drover.coordinator.timings import MAX_D_HARD, required_wait


def candidate(node: str, machine: str) -> str:
    """How a heartbeat names a node that may call its sender silent: the name, and the machine that it is on, shortened.
    What restarts there is the same candidate, another machine under that name is not."""
    return f"{node}/{hashlib.blake2b(machine.encode(), digest_size=4).hexdigest()}"


@dataclass(frozen=True)
class Terms:
    """What one heartbeat says of promises. beyond: seconds by which the deadlines may lie later, at most, once all
    candidates have promised; without candidates they never do."""

    candidates: frozenset[str] = frozenset()
    beyond: float = 0.0

    def both(self, other: Terms) -> Terms:
        """What holds where it is not known which of two heartbeats is in etcd."""
        if not (self.candidates and other.candidates):
            return NONE
        return Terms(self.candidates | other.candidates, min(self.beyond, other.beyond))


NONE = Terms()


def terms(me: str, cluster: Cluster, beyond: float) -> Terms:
    """Those of the next heartbeat of `me`: it names all others that are here. beyond: 0 where no promises are asked."""
    here = frozenset(candidate(name, node.record.machine) for name, node in cluster.nodes.items() if name != me)
    return Terms(here, beyond) if here and beyond > 0 else NONE


def stands_in(promised: Mapping[str, Instant], bound: Terms, latest: Deadline) -> Instant | None:
    """What deadlines count from once all candidates have promised: when the one that was asked first was asked, and
    `latest` at most; None: not all have. promised: by candidate, when it was asked."""
    asked = [when for one in bound.candidates if (when := promised.get(one)) is not None]
    if not asked or len(asked) < len(bound.candidates):
        return None
    boot, raw = min(when.boot for when in asked), min(when.raw for when in asked)
    return Instant(min(boot, latest.boot), min(raw, latest.raw))


@dataclass(frozen=True)
class Asked:
    """One node asks another one. d_hard: seconds, of the one that asks. clock of the answer: the one that is asked."""

    cluster: str
    node: str
    incarnation: str
    d_hard: float


@dataclass(frozen=True)
class Candidate:
    """The node that is asked. cluster: "" where it has not joined since it started. steady: it could call others
    silent. lost: why it relies on no etcd; "": it does. willing: its settings allow promises."""

    node: str
    cluster: str
    steady: bool
    lost: str = ""
    willing: bool = True


def refusal(asked: Asked, me: Candidate) -> str:
    """Why it does not promise; "": it does."""
    if not me.willing:
        return f"[etcd_away] promises is off on {me.node}"
    if me.lost:
        return f"{me.node} does not rely on etcd: {me.lost}"
    if me.cluster and asked.cluster != me.cluster:
        return f"{me.node} is of another cluster"
    if asked.node == me.node:
        return f"{me.node} is asked in its own name"
    if not 0 < asked.d_hard <= MAX_D_HARD:
        return f"a D_hard of {asked.d_hard} s is none"
    if me.steady:
        return f"etcd answers {me.node}"
    return ""


@dataclass
class Given:
    """What this process has promised; it outlives an incarnation. Times are CLOCK_MONOTONIC_RAW seconds."""

    until: dict[str, float] = field(default_factory=dict)
    """By node: it is not called silent before."""

    def give(self, asked: Asked, now: float) -> None:
        """now: when it was received."""
        self.until = {node: until for node, until in self.until.items() if until > now}
        self.until[asked.node] = max(self.until.get(asked.node, now), now + required_wait(asked.d_hard))

    def left(self, node: str, now: float) -> float:
        """Seconds for which the promise to this node still holds; not positive: there is none."""
        return self.until.get(node, now) - now


def due(bound: Terms, promised: Mapping[str, Instant], now: Instant, again: float) -> Iterable[str]:
    """Whom to ask now: who has not promised, or whose promise is `again` seconds old."""
    return sorted(one for one in bound.candidates if (last := promised.get(one)) is None or now.raw - last.raw >= again)
