"""Whether etcd still is the one that this cluster has lived on, and has not gone back. No I/O, no clock.

Each recovery (`drover recover`) begins a new history: a random id, appended to those in the record `cluster`. Revisions
are compared within one history only. So a mark of a history that `cluster` does not know is from the future.
"""

from __future__ import annotations

from dataclasses import dataclass

from drover.coordinator.records import Cluster
from drover.coordinator.txn import ModRevision, Put, Txn

UNDER_RECOVERY = ""
"""What `cluster` says instead of etcd's id while a recovery is under way: no agent joins."""

_NEVER = 1 << 62

WHAT_TO_DO = (
    "nothing is written to it, and nothing here writes. If it was restored from a backup, or is a copy to go on with: "
    "drover recover. If it is the wrong etcd: set etcd.endpoints right and restart this agent"
)


@dataclass(frozen=True)
class Mark:
    """What a node has seen: a revision that etcd had reached, at the least. broken: why it was found to have gone back
    behind it; "": it was not."""

    cluster: str
    history: str
    etcd: str
    revision: int
    broken: str = ""


def newest(cluster: Cluster) -> str:
    """The history that goes on; "" before the first recovery."""
    return cluster.histories[-1] if cluster.histories else ""


def recovered(mark: Mark, cluster: Cluster) -> bool:
    """Whether the history of the mark was left behind by a recovery."""
    known = ("", *cluster.histories)
    return mark.cluster == cluster.id and mark.history in known and mark.history != known[-1]


def trouble(mark: Mark | None, cluster: Cluster | None, etcd: str) -> str:
    """Why this etcd cannot be gone on with, as far as records tell; "" where it can. etcd: its own cluster id."""
    if cluster is None:
        return f"etcd has lost the record of this cluster: {WHAT_TO_DO}" if mark else ""
    if cluster.etcd == UNDER_RECOVERY:
        return "a recovery of this cluster is under way, or was broken off: finish it with drover recover"
    if cluster.etcd != etcd:
        return (
            f"this etcd has cluster id {etcd}, but this cluster began on {cluster.etcd}: it was restored from a backup "
            f"or copied: {WHAT_TO_DO}"
        )
    if mark is None or recovered(mark, cluster):
        return ""
    if mark.cluster != cluster.id:
        return f"this etcd holds cluster {cluster.id}, but this node belongs to {mark.cluster}: {WHAT_TO_DO}"
    if mark.history != newest(cluster):
        return f"etcd has gone back to before a recovery: {WHAT_TO_DO}"
    return mark.broken


def gone_back(now: int, seen: int) -> str:
    """The text for an etcd whose revision is lower than one that was seen."""
    return f"etcd has gone back: it is at revision {now}, and had reached {seen}: {WHAT_TO_DO}"


def witness(key: str) -> Txn:
    """Goes through etcd's log and changes nothing. What a read says can be of the past even where it is linearizable
    (etcd 20418), what this says is not. key: one that we may write."""
    return Txn((ModRevision(key, _NEVER),), (Put(key, b""),))
