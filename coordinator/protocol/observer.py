"""Watching other nodes' heartbeats, and when standing still is silence. Pure; times are CLOCK_MONOTONIC_RAW seconds.

The owner counts its deadline from before a heartbeat was sent, the observer from after it was received, so W needs only
that clocks run alike. The fence's transaction compares the heartbeat's revision: whatever is late, lost or stale here
only makes the wait longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from drover.coordinator.protocol.dataset import Cluster
from drover.coordinator.protocol.placement import rank
from drover.coordinator.protocol.recovery import lived
from drover.coordinator.records import Evidence, Fence, Heartbeat, Tenure
from drover.coordinator.timings import MAX_D_HARD, MAX_PAUSE, required_wait

OBSERVERS = 3
"""How many nodes watch each one while all is well."""


@dataclass(frozen=True)
class Watched:
    """A heartbeat at one revision, and when that revision was first received. by: who watches, as `promises.candidate`
    has it."""

    node: str
    heartbeat: Heartbeat
    revision: int
    since: float
    by: str = ""

    @property
    def wait(self) -> float:
        """W: from the D_hard *in that heartbeat*. Seconds."""
        return required_wait(self.heartbeat.writes_for_at(self.by))

    def due(self) -> float:
        """When it counts as silent, if it does not move before."""
        return self.since + self.wait


def observe(
    before: Watched | None, node: str, heartbeat: Heartbeat, revision: int, now: float, by: str = ""
) -> Watched:
    """A heartbeat was seen at `revision`: the clock starts again only where it has moved."""
    if before is not None and before.revision == revision:
        return before
    return Watched(node, heartbeat, revision, now, by)


def silence(watched: Watched, by: str, now: float, at: str) -> Fence:
    """The fence to write. Call it only once `due` has passed and the observer itself is steady.

    A heartbeat that says that its sender has left proves more than its standing still: the fence compares it, so
    nothing was written since.
    """
    left = watched.heartbeat.left
    return Fence(
        node=watched.node,
        by=by,
        evidence=Evidence.STOPPED if left else Evidence.SILENCE,
        armed=watched.heartbeat.armed,
        detail=f"shut down, and not back in {now - watched.since:.0f} s"
        if left
        else f"heartbeat still for {now - watched.since:.1f} s",
        at=at,
        still=round(now - watched.since, 3),
        until=watched.heartbeat.writes_until,
    )


def whom(me: str, cluster: Cluster, tenures: Iterable[Tenure], begun: Iterable[str]) -> dict[str, str]:
    """The nodes that `me` should watch, with the incarnation that a missing heartbeat would stand for.

    Every present node is watched by the three that rank highest for it; a node that is not present, by everybody,
    while a tenure names its unfenced incarnation. Who has begun goes on.
    """
    watch: dict[str, str] = {}
    for name, node in cluster.nodes.items():
        others = [n for n in cluster.nodes if n != name]
        if name != me and (me in rank(name, others)[:OBSERVERS] or name in begun):
            watch[name] = node.record.incarnation
    for tenure in tenures:
        if not tenure.held or tenure.node in cluster.nodes or tenure.node == me:
            continue
        if tenure.incarnation not in cluster.fences and lived(tenure.incarnation):
            watch[tenure.node] = tenure.incarnation
    return watch


def stand_in(incarnation: str) -> Heartbeat:
    """The placeholder for a heartbeat that is missing: the largest D_hard that anybody may use, and pause."""
    return Heartbeat(
        incarnation=incarnation, counter=0, clock=0.0, d_hard=MAX_D_HARD, placeholder=True, longer=MAX_PAUSE
    )


def collectable(
    fences: Mapping[str, Fence], heartbeats: Mapping[str, Heartbeat], tenures: Iterable[Tenure]
) -> list[str]:
    """Incarnations whose fence says nothing any more: no tenure names them, and their node beats in another one.

    A placeholder is no beat.
    """
    named = {h for t in tenures for h in (t.incarnation, *(u.incarnation for u in t.unfenced))}
    return [
        incarnation
        for incarnation, fence in fences.items()
        if incarnation not in named
        and (beat := heartbeats.get(fence.node)) is not None
        and beat.incarnation != incarnation
        and not beat.placeholder
    ]
