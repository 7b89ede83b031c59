"""Whether a standby may go on from its copy when the holder of a dataset with local copies is dead. Pure.

What the holder wrote after that copy was taken is lost by it, so it happens only where the spec allows that much
(`max_data_loss`), or a person has accepted it. How much it is at most is counted by the dead holder's own clock: from
when the copy was taken to the last moment at which it can have written, which its fence says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from drover.coordinator.protocol.dataset import Cluster, Dataset
from drover.coordinator.records import Copy, Evidence, Fence, Holder, State
from drover.coordinator.specs import DatasetSpec

UNKNOWN = -1.0
"""As a loss: how much it is is not known."""


@dataclass(frozen=True)
class Promoted:
    """A dataset that goes on from a standby's copy. base: guid of its snapshot. copies: who has that, whoever promotes
    it first. loss: seconds, at most; UNKNOWN."""

    base: str
    copies: tuple[str, ...]
    loss: float


@dataclass(frozen=True)
class Candidate:
    """A node, and what it would go on from: by dataset."""

    node: str
    promoted: Mapping[str, Promoted]


def proven(fence: Fence | None, spec: DatasetSpec | None) -> bool:
    """Whether this fence proves that the machine writes no more, by the rules for families that rely on deadlines:
    silence does only where the machine would have been reset, or where the spec settles for cooperation."""
    if fence is None:
        return False
    if fence.evidence is not Evidence.SILENCE or fence.armed:
        return True
    return spec is not None and spec.fencing == "cooperative"


def loss(copy: Copy, fence: Fence | None) -> float | None:
    """Seconds of writing that are lost, at most, by going on from this copy that was taken by whom this fence is about;
    None: not known."""
    if fence is None or fence.until is None:
        return None
    return max(0.0, fence.until - copy.taken)


def candidates(free: Sequence[Dataset], able: Collection[str], cluster: Cluster) -> tuple[list[Candidate], str]:
    """Who may go on with all of these, best first, and what people are told besides where nobody may. able: nodes that
    are here and offer the back ends."""
    told = _told(free[0], able, cluster)
    if unproven := [holder.node for d in free for holder in _unproven(d, cluster)]:
        doubt = f"; {unproven[0]} fell silent, and nothing proves that it has stopped (drover fence {unproven[0]})"
        return [], f"{doubt}{told}" if told else ""
    found = []
    for node in sorted(able):
        each = {d.name: promoted for d in free if (promoted := _of(d, node, cluster)) is not None}
        if len(each) == len(free):
            found.append(Candidate(node, each))
    lead = free[0]
    refused = lead.tenure.refused if lead.tenure else ()
    found.sort(key=lambda one: (one.node in refused, -_taken(lead, one.node), one.node))
    return found, "" if found else told


def _unproven(d: Dataset, cluster: Cluster) -> list[Holder]:
    """Holders that may still be writing."""
    tenure, spec = d.tenure, d.spec if isinstance(d.spec, DatasetSpec) else None
    if tenure is None:
        return []
    holders = [*tenure.unfenced, *([tenure.holder] if tenure.held else [])]
    return [holder for holder in holders if not proven(cluster.fences.get(holder.incarnation), spec)]


def _of(d: Dataset, node: str, cluster: Cluster) -> Promoted | None:
    """What a node may go on from; None: nothing."""
    tenure, spec = d.tenure, d.spec
    if tenure is None or not isinstance(spec, DatasetSpec):
        return None
    copy = d.acknowledged.get(node)
    lost = loss(copy, cluster.fences.get(tenure.incarnation)) if copy and tenure.state is State.ACTIVE else None
    word = d.desired_accepts
    if word is not None and word.epoch == tenure.epoch and d.desired == node and not d.answered:
        known = lost if copy is not None and copy.guid == word.guid and lost is not None else UNKNOWN
        return Promoted(word.guid, _having(d, node, word.guid), known)
    if copy is None or lost is None or lost > spec.max_data_loss or cluster.nodes[node].cordoned:
        return None
    if not cluster.nodes[node].record.moments(spec.backend):
        return None
    if spec.failover != "any" and node not in spec.failover:
        return None
    return Promoted(copy.guid, _having(d, node, copy.guid), lost)


def _having(d: Dataset, node: str, guid: str) -> tuple[str, ...]:
    """Who has a snapshot: the node that goes on from it first; last the holder, who sent it."""
    others = sorted(n for n, copy in d.acknowledged.items() if copy.guid == guid)
    holders = d.tenure.copies if d.tenure else ()
    return tuple(dict.fromkeys((node, *others, *holders)))


def _taken(d: Dataset, node: str) -> float:
    copy = d.acknowledged.get(node)
    return copy.taken if copy else 0.0


def best(d: Dataset, able: Collection[str]) -> tuple[str, Copy] | None:
    """The newest copy that a standby has acknowledged and that is on one of these nodes."""
    there = [(node, copy) for node, copy in sorted(d.acknowledged.items()) if node in able]
    return max(there, key=lambda one: one[1].taken, default=None)


def _told(d: Dataset, able: Collection[str], cluster: Cluster) -> str:
    """What a person could decide."""
    tenure, spec = d.tenure, d.spec
    if tenure is None or not isinstance(spec, DatasetSpec) or (found := best(d, able)) is None:
        return ""
    node, copy = found
    lost = loss(copy, cluster.fences.get(tenure.incarnation)) if tenure.state is State.ACTIVE else None
    much = f", up to {lost:.0f} s older than its end" if lost is not None else ""
    why = f"max_data_loss is {spec.max_data_loss:g} s"
    if lost is not None and lost <= spec.max_data_loss:
        why = f"failover: {spec.failover if isinstance(spec.failover, str) else ' '.join(spec.failover)}"
    return (
        f"; needs you: {node} has a copy of {copy.at or 'an earlier moment'}{much} ({why}): wait, or "
        f"drover resolve {d.name} --keep {node}"
    )
