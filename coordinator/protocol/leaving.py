"""Where a unit of datasets goes when its node shuts down. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from drover.coordinator.protocol.dataset import Cluster, Dataset
from drover.coordinator.protocol.placement import (
    MAX_UNIT,
    Dismiss,
    Give,
    Nothing,
    backends_of,
    newest_desired,
    rank,
    unfit,
)
from drover.coordinator.specs import DatasetSpec

OnShutdown = Literal["move", "release", "keep"]


@dataclass(frozen=True)
class Leaving:
    """This node shuts down. until: when others wait for it no longer, for people."""

    policy: OnShutdown
    until: str = ""


@dataclass(frozen=True)
class Park:
    """Stop using them here, and keep the tenure: this node comes back."""

    because: str


def part(
    me: str, unit: Sequence[Dataset], mine: Sequence[Dataset], cluster: Cluster, leaving: Leaving
) -> Give | Dismiss | Park | Nothing:
    """What a node that shuts down does about a unit (datasets in order of name) of which it holds `mine`."""
    because = f"{me} shuts down"
    if not mine:
        return Nothing(because)
    back = f"{because}; it waits for {me}" + (f" until {leaving.until}" if leaving.until else "")
    if cluster.pause is not None:
        return Park(f"{back} ({cluster.pause.words})")
    if leaving.policy == "keep" or any(not isinstance(d.spec, DatasetSpec) or d.replaced for d in mine):
        return Park(back)
    if leaving.policy == "release":
        return Dismiss(tuple(d.name for d in mine), (), because)
    if (to := heir(me, unit, mine, cluster)) is not None:
        return Give(to, because)
    return Park(f"{back}: no other node may or can take it")


def heir(me: str, unit: Sequence[Dataset], mine: Sequence[Dataset], cluster: Cluster) -> str | None:
    """Who gets a unit: the node that `desired` asks for, else one that `failover` allows in its node's absence; those
    that keep a copy first, those that have refused it last. None: nobody may or can."""
    if len(mine) > MAX_UNIT:
        return None
    asking = newest_desired(unit)
    wanted = asking.desired if asking is not None and not asking.answered else None
    if isinstance(wanted, str) and wanted != me and not unfit(wanted, unit, cluster):
        return wanted
    backends = backends_of(unit)
    able = {
        name
        for name, node in cluster.nodes.items()
        if name != me and not node.cordoned and not node.record.leaving and backends <= set(node.record.backends)
    }
    for d in unit:
        policy = d.spec.failover if isinstance(d.spec, DatasetSpec) else "none"
        if policy != "any":
            able &= set() if policy == "none" else set(policy)
    refused = {name for d in mine if d.tenure for name in d.tenure.refused}
    copies = {name for name in able if any(name in d.acknowledged for d in mine)}
    return min(rank(unit[0].name, able), key=lambda name: (name in refused, name not in copies), default=None)
