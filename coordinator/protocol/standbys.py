"""Which nodes keep a copy of a dataset with local copies, besides the one that has it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from drover.coordinator.protocol.dataset import Cluster, Dataset
from drover.coordinator.protocol.placement import backends_of, rank
from drover.coordinator.specs import DatasetSpec


def choose(
    holder: str, d: Dataset, unit: Sequence[Dataset], cluster: Cluster, given_up: Collection[str] = ()
) -> tuple[str, ...]:
    """The standbys of `d`, in order of name. given_up: nodes that have not been reached for too long.

    Who is one stays one: as long as the spec wants so many, and there is no better one for a node that is given up. New
    ones are those that `failover` lists, then the node that had it before, then as rendezvous hashing has it, the same
    for a whole unit: all of a unit can be promoted on one node only. A node that is cordoned or shuts down takes no new
    copy.
    """
    spec, tenure = d.spec, d.tenure
    if not isinstance(spec, DatasetSpec) or d.replaced or spec.replicas == 0 or tenure is None:
        return ()
    needed = backends_of([d])
    offering = {n for n, node in cluster.nodes.items() if n != holder and needed <= set(node.record.backends)}
    new = {n for n in offering if not (cluster.nodes[n].cordoned or cluster.nodes[n].record.leaving)}
    known = d.copies.standbys if d.copies is not None and d.copies.uid == tenure.uid else ()
    stay = [n for n in known if n != holder and n not in given_up]
    listed = spec.failover if isinstance(spec.failover, tuple) else ()
    lead = min((one.name for one in unit), default=d.name)
    order = rank(lead, new - {*stay, *given_up})
    order.sort(key=lambda n: (n not in listed, n != tenure.before))
    away = [n for n in known if n != holder and n in given_up]
    return tuple(sorted([*stay, *order, *away][: spec.replicas]))
