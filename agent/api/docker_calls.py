"""What a Mount call of a Docker Engine means, given the picture. Pure.

The table, from top to bottom; the first that applies:

    situation                                             what to do
    no such volume, or its spec cannot be used            refuse
    mounted here, and this node may write                 ready
    this node has it                                      wait until it is mounted
    the cluster is paused, or this node cannot have it    refuse
    in use elsewhere, or what moves with it               refuse, with by whom (on_busy=move: as below)
    wanted here already                                   wait
    idle elsewhere, or with nobody                        ask for it
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drover.agent.api.docker_options import ON_BUSY
from drover.coordinator.protocol import placement
from drover.coordinator.protocol.dataset import Cluster, Dataset
from drover.coordinator.records import State, Status
from drover.coordinator.specs import DatasetSpec


@dataclass(frozen=True)
class Ready:
    """It is mounted here."""


@dataclass(frozen=True)
class Ask:
    """Put `desired`: it shall come here."""


@dataclass(frozen=True)
class Wait:
    """It is on its way. reason: what is waited for."""

    reason: str


@dataclass(frozen=True)
class Refuse:
    reason: str


Answer = Ready | Ask | Wait | Refuse


def users(d: Dataset, status: Status | None, cluster: Cluster) -> list[str]:
    """Who uses a dataset, wherever it is: workloads, and containers as its node last said."""
    tenure = d.tenure
    told = status is not None and tenure is not None and tenure.held and status.epoch == tenure.epoch
    containers = status.users if status is not None and told else ()
    return [*(f"workload {name}" for name in cluster.users_of(d.name)), *containers]


def on_mount(
    node: str,
    incarnation: str,
    unit: Sequence[Dataset],
    name: str,
    statuses: Mapping[str, Status],
    cluster: Cluster,
    here: bool,
) -> Answer:
    """unit: all that moves with it. statuses: of the unit, where there is one. here: it is mounted here, and the gate
    is open."""
    d, status = next(one for one in unit if one.name == name), statuses.get(name)
    if d.spec is None:
        return Refuse("there is no such volume")
    if not isinstance(d.spec, DatasetSpec):
        return Refuse(f"its spec cannot be used: {d.spec.reason}")
    tenure = d.tenure
    mine = tenure is not None and tenure.held and tenure.incarnation == incarnation and not d.replaced
    if mine and tenure is not None and tenure.state is State.ACTIVE and here:
        return Ready()
    said = f": {told}" if status is not None and (told := status.warning or status.reason) else ""
    if mine:
        return Wait(f"{node} brings it up{said}")
    if cluster.pause is not None:
        return Refuse(cluster.pause.words)
    if (wrong := placement.unfit(node, unit, cluster)) or (wrong := _unable(node, d.spec, cluster)):
        return Refuse(wrong)
    held = tenure is not None and tenure.held and tenure.incarnation not in cluster.fences
    if d.spec.labels.get(ON_BUSY) != "move" and (busy := _busy(d, unit, statuses, cluster, incarnation)):
        return Refuse(
            f"{busy}; stop that first, or let it move: "
            f"drover move {name} {node} stops workloads, not containers that were started by hand"
        )
    if d.desired == node and not d.answered:
        return Wait(f"{tenure.node} gives it up{said}" if held and tenure is not None else f"{node} takes it{said}")
    return Ask()


def _busy(d: Dataset, unit: Sequence[Dataset], statuses: Mapping[str, Status], cluster: Cluster, me: str) -> str:
    """By whom, on another node that is there: one that is gone says nothing of what it uses. me: an incarnation."""
    for one in (d, *(other for other in unit if other is not d)):
        tenure = one.tenure
        holder = cluster.nodes.get(tenure.node) if tenure is not None and tenure.held else None
        if tenure is None or holder is None or holder.record.incarnation != tenure.incarnation:
            continue
        if tenure.incarnation != me and (by := users(one, statuses.get(one.name), cluster)):
            what = "it" if one is d else f"{one.name}, which moves with it,"
            return f"{what} is in use on {tenure.node} by {', '.join(by)}"
    return ""


def _unable(node: str, spec: DatasetSpec, cluster: Cluster) -> str:
    limits = cluster.nodes[node].record.limits.get(spec.backend)
    return limits.refuse(spec.size, spec.fs) if limits else ""
