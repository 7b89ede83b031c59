"""Which machines a partition separates."""

from __future__ import annotations

from enum import StrEnum

from drover.coordinator.cli.playground.layout import Kind, Layout, Machine, Settings
from drover.coordinator.cli.playground.network import UPLINK_PORT, Cut


class From(StrEnum):
    ETCD = "etcd"
    NODES = "nodes"
    ALL = "all"


def pairs(layout: Layout, settings: Settings, machine: Machine, what: From, one_way: bool) -> set[Cut]:
    """The cuts that separate a machine from all etcd members, all other nodes, or everything, this computer included.
    one_way: only what it sends is lost; it still hears the others."""
    wanted = {From.ETCD: (Kind.ETCD,), From.NODES: (Kind.NODE,), From.ALL: (Kind.ETCD, Kind.NODE)}[what]
    others = {layout.port(other) for other in settings.machines() if other.kind in wanted and other != machine}
    if what is From.ALL:
        others.add(UPLINK_PORT)
    mine = layout.port(machine)
    sent = {(mine, other) for other in others}
    return sent if one_way else sent | {(other, mine) for other in others}
