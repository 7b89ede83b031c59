"""Who should own a dataset, and who claims it first. Pure; the same on every node.

Datasets that belong together (a group, or the datasets of one workload) are decided on together, as a *unit*: they live
on one node and change hands in one transaction. A dataset alone is a unit of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from drover.coordinator.protocol import promotion
from drover.coordinator.protocol.dataset import Cluster, Dataset, Invalid
from drover.coordinator.protocol.promotion import Promoted
from drover.coordinator.records import Evidence, Fence, Pause, State, Tenure, refusal
from drover.coordinator.specs import DatasetSpec, WorkloadSpec

MAX_UNIT = 40
"""Datasets in one transaction: etcd takes 128 operations, a dataset needs three."""

RANK_STEP = 0.15
"""Seconds that a candidate waits for each one before it in rank. The transaction decides; this avoids the contest."""


REFUSED_PAUSE = 30.0
"""Seconds before a node that could not activate a dataset tries again. It is never out: it may have the only copy."""


# What a node should do about a unit.


@dataclass(frozen=True)
class Claim:
    """Take these datasets, after `delay` seconds. evidence: why their last holder is known to have stopped. promoted:
    by dataset: the copy that it goes on from, where that may be older than its end."""

    datasets: tuple[str, ...]
    because: str
    delay: float = 0.0
    evidence: Evidence | None = None
    promoted: Mapping[str, Promoted] = field(default_factory=dict)


@dataclass(frozen=True)
class Keep:
    """Hold them and bring them up. warning: what stands in the way of what is asked."""

    warning: str = ""


@dataclass(frozen=True)
class Give:
    """Hand them over to `to`."""

    to: str
    because: str


@dataclass(frozen=True)
class Dismiss:
    """Nobody wants these any more: release, or destroy where the spec said so."""

    datasets: tuple[str, ...]
    destroy: tuple[str, ...]
    because: str


@dataclass(frozen=True)
class Nothing:
    """Not ours to act on; `reason` is for people, and shown where nobody holds it."""

    reason: str = ""


Decision = Claim | Keep | Give | Dismiss | Nothing


def rank(dataset: str, nodes: Iterable[str]) -> list[str]:
    """Rendezvous hashing: every node computes the same order, and a change of one node moves no other. Any text: a user
    may have put a key that is no UTF-8."""

    def weight(node: str) -> bytes:
        return hashlib.blake2b(f"{dataset}\0{node}".encode(errors="surrogatepass"), digest_size=8).digest()

    return sorted(nodes, key=weight)


def speaker(dataset: str, cluster: Cluster) -> str | None:
    """Who writes the status of a dataset that nobody holds: the first in rank of those here."""
    order = rank(dataset, cluster.nodes)
    return order[0] if order else None


def units(specs: Mapping[str, DatasetSpec], workloads: Mapping[str, WorkloadSpec]) -> dict[str, frozenset[str]]:
    """Which datasets belong together, by dataset: those of one group, and those of one workload."""
    together: dict[str, set[str]] = {name: {name} for name in specs}
    groups: dict[str, list[str]] = {}
    for name, spec in specs.items():
        if spec.group:
            groups.setdefault(spec.group, []).append(name)
    ties: list[Sequence[str]] = [*groups.values(), *(w.datasets for w in workloads.values())]
    for tie in ties:
        merged: set[str] = set()
        for name in tie:
            merged |= together.get(name, {name})
        for name in merged:
            together[name] = merged
    return {name: frozenset(members) for name, members in together.items()}


def holder_gone(tenure: Tenure, cluster: Cluster) -> Fence | None:
    """The fence of a held tenure's holder, if there is one."""
    return cluster.fences.get(tenure.incarnation) if tenure.held else None


def decide(me: str, incarnation: str, unit: Sequence[Dataset], cluster: Cluster) -> Decision:
    """What the node `me`, in this incarnation, should do about a unit (datasets in order of name)."""
    mine = [d for d in unit if d.tenure and d.tenure.held and d.tenure.incarnation == incarnation]
    decision: Decision
    if mine:
        claims = _claims(me, [d for d in unit if d not in mine], mine[0].name, cluster)
        decision = _hold(me, unit, mine, cluster) or _gather(me, unit, mine, cluster) or claims or Keep()
    else:
        decision = _claim(me, unit, cluster)
    return decision if cluster.pause is None else _paused(decision, bool(mine), cluster.pause)


def _paused(decision: Decision, holds: bool, pause: Pause) -> Decision:
    """In a pause nothing changes hands; what is not wanted any more may go."""
    match decision:
        case Give(to):
            return Keep(f"{pause.words}: goes to {to} after that")
        case Claim() if holds:
            return Keep(f"{pause.words}: the others come after that")
        case Claim(because=because):
            return Nothing(f"{pause.words}: nobody takes it before ({because})")
        case _:
            return decision


def successor(me: str, unit: Sequence[Dataset], cluster: Cluster) -> str | None:
    """Whom a holder that cannot activate a unit hands it to: back to the source, else on to the next candidate."""
    lead = unit[0]
    if lead.tenure is None:
        return None
    refused = {me, *lead.tenure.refused}
    able = {n for n, node in cluster.nodes.items() if backends_of(unit) <= set(node.record.backends)} - refused
    able -= {n for n in able if not _has_data(n, unit)}
    if lead.tenure.source in able:
        return lead.tenure.source
    policy = lead.spec.failover if isinstance(lead.spec, DatasetSpec) else "none"
    eligible = able if policy == "any" else able & set(policy) if isinstance(policy, tuple) else set()
    order = rank(lead.name, (n for n in eligible if not cluster.nodes[n].cordoned))
    return order[0] if order else None


def _hold(me: str, unit: Sequence[Dataset], mine: Sequence[Dataset], cluster: Cluster) -> Give | Dismiss | Keep | None:
    gone = tuple(d for d in mine if d.spec is None or d.replaced)
    if gone:
        if users := sorted({u for d in gone for u in cluster.users_of(d.name) if d.spec is None}):
            return Keep(f"its spec is gone, but workload {', '.join(users)} uses it: delete that first")
        destroy = tuple(d.name for d in gone if d.tenure and d.tenure.reclaim == "delete")
        return Dismiss(tuple(d.name for d in gone), destroy, "its spec was deleted")
    asking = newest_desired(unit)
    if asking is None or asking.answered or not isinstance(asking.desired, str) or asking.desired == me:
        return None
    if len(mine) > MAX_UNIT or unfit(asking.desired, unit, cluster):
        return None
    return Give(asking.desired, f"desired says {asking.desired}")


def _gather(me: str, unit: Sequence[Dataset], mine: Sequence[Dataset], cluster: Cluster) -> Give | None:
    """Datasets that became a unit while living nodes held them apart go to where the one that was asked for last is."""
    held = {d.name: d.tenure.node for d in unit if d.tenure and d.tenure.held and not holder_gone(d.tenure, cluster)}
    asking = newest_desired(unit)
    if asking is not None and asking.desired == me and not asking.answered:
        return None  # they come here
    lead = asking.name if asking is not None and asking.name in held else min(held, default="")
    to = held.get(lead, me)
    if to == me or len(unit) > MAX_UNIT or unfit(to, unit, cluster):
        return None
    return Give(to, f"belongs with {lead}")


def unfit(node: str, unit: Sequence[Dataset], cluster: Cluster) -> str:
    """Why a node cannot be handed a unit; empty where it can."""
    if node not in cluster.nodes:
        return f"desired node {node!r} is not here; here are: {' '.join(sorted(cluster.nodes)) or 'none'}"
    if cluster.nodes[node].record.leaving:
        return f"desired node {node} shuts down"
    if lacking := backends_of(unit) - set(cluster.nodes[node].record.backends):
        return f"desired node {node} does not offer back end {' '.join(sorted(lacking))}"
    return ""


def backends_of(unit: Sequence[Dataset]) -> set[str]:
    """The back ends that a node must offer to hold a unit: where the data is, or will be."""
    kept = {d.tenure.backend for d in unit if d.tenure and d.kept}
    new = {d.spec.backend for d in unit if isinstance(d.spec, DatasetSpec) and not d.kept}
    return kept | new


def _has_data(node: str, unit: Sequence[Dataset]) -> bool:
    """Whether a node can reach what these datasets start from. Local copies are on the nodes that the tenure names."""
    return all(d.tenure is None or not d.kept or not d.tenure.copies or node in d.tenure.copies for d in unit)


def _offered(node: str, cluster: Cluster) -> set[str]:
    return set(cluster.nodes[node].record.backends) if node in cluster.nodes else set()


def newest_desired(unit: Sequence[Dataset]) -> Dataset | None:
    """A unit follows the `desired` that was put last; illegal ones are not followed."""
    asked = [d for d in unit if isinstance(d.desired, str)]
    return max(asked, key=lambda d: d.desired_revision, default=None)


def stays(node: str, unit: Sequence[Dataset]) -> str:
    """Why a unit is at `node` and not where `desired` says: no dataset goes back by itself. "" where it is."""
    asking = newest_desired(unit)
    if asking is None or not asking.answered or asking.desired == node:
        return ""
    return f"desired {asking.desired} was answered; it stays on {node} until it is moved"


def coming(node: str, unit: Sequence[Dataset], cluster: Cluster) -> bool:
    """Whether a unit is about to be handed to `node` by one that lives."""
    asking = newest_desired(unit)
    if asking is None or asking.desired != node or asking.answered:
        return False
    held = [d.tenure for d in unit if d.tenure is not None and d.tenure.held and d.tenure.node != node]
    return any(tenure.incarnation not in cluster.fences for tenure in held)


def _claims(me: str, others: Sequence[Dataset], beside: str, cluster: Cluster) -> Claim | None:
    """Members of a unit that nobody holds come to where the others are."""
    offered = _offered(me, cluster)
    free = [d for d in others if _vacancy(d, cluster) is None and backends_of([d]) <= offered and _has_data(me, [d])]
    free = free[:MAX_UNIT]
    if not free:
        return None
    names, because = tuple(d.name for d in free), f"belongs with {beside}"
    return Claim(names, because, _pause(me, free), _evidence(free, cluster))


def _pause(me: str, free: Sequence[Dataset]) -> float:
    return REFUSED_PAUSE if any(d.tenure and me in d.tenure.refused for d in free) else 0.0


def _vacancy(d: Dataset, cluster: Cluster) -> str | None:
    """Why a dataset cannot be claimed by anybody at all; None where it can."""
    tenure = d.tenure
    if d.spec is None:
        if tenure is None:
            return f"there is no dataset of this name; put /datasets/{d.name} to make one"
        if tenure.state is State.DESTROYED:
            return "destroyed"
        if tenure.reclaim != "delete":
            return "its spec was deleted; the data is kept"
    if isinstance(d.spec, Invalid) and not d.kept:
        return f"the spec cannot be used: {d.spec.reason}"
    if tenure is not None and tenure.held and tenure.incarnation not in cluster.fences:
        return f"held by {tenure.node}"
    nodes = (node.record for node in cluster.nodes.values())
    if isinstance(d.spec, DatasetSpec) and not d.kept and (wrong := refusal(d.spec, nodes)):
        return f"the spec cannot be used: {wrong}"
    return None


def _evidence(free: Sequence[Dataset], cluster: Cluster) -> Evidence | None:
    fences = [f for d in free if d.tenure and (f := holder_gone(d.tenure, cluster))]
    return fences[0].evidence if fences else None


def _claim(me: str, unit: Sequence[Dataset], cluster: Cluster) -> Claim | Nothing:
    reasons = {d.name: _vacancy(d, cluster) for d in unit}
    free = [d for d in unit if reasons[d.name] is None]
    if not free:
        return Nothing(next((r for r in reasons.values() if r), ""))
    if len(unit) > MAX_UNIT:
        return Nothing(f"{len(unit)} datasets belong together; at most {MAX_UNIT} can be held in one transaction")
    if not _has_data(me, free) and any(_has_data(me, [d]) for d in free):
        free = [d for d in free if _has_data(me, [d])]  # copies of one unit on several nodes: each takes what it has
    if alone := [d for d in free if d.tenure and d.kept and d.tenure.copies and me in d.tenure.copies]:
        free = alone  # where others of the unit are held elsewhere, it is sent on to there
    elif held := next((d.tenure for d in unit if d.tenure and reasons[d.name] == f"held by {d.tenure.node}"), None):
        return Nothing(f"waits for {held.node}, which has the others of its group")
    if doomed := [d for d in free if d.doomed]:
        # Somebody has to cut the last holder off and destroy what was asked to be destroyed.
        needed = backends_of(doomed)
        able = (n for n in cluster.nodes if needed <= _offered(n, cluster) and _has_data(n, doomed))
        order = rank(doomed[0].name, able)
        if me not in order:
            return Nothing(f"waits to be destroyed by {order[0] if order else 'a node with its back end'}")
        delay = order.index(me) * RANK_STEP + _pause(me, doomed)
        names = tuple(d.name for d in doomed)
        return Claim(names, "to destroy it, as its spec said", delay, _evidence(doomed, cluster))
    if (promoting := _promotion(me, unit, free, cluster)) is not None:
        return promoting
    candidates, reason = _candidates(unit, free, cluster)
    if me not in candidates:
        return Nothing(reason)
    because = _because(me, free, cluster)
    delay = candidates.index(me) * RANK_STEP + _pause(me, free)
    return Claim(tuple(d.name for d in free), because, delay, _evidence(free, cluster))


def _promotion(me: str, unit: Sequence[Dataset], free: Sequence[Dataset], cluster: Cluster) -> Claim | Nothing | None:
    """Where everybody who has the end of these local copies is away: who goes on from an older one. None: not so."""
    local = all(d.tenure and d.kept and d.tenure.copies for d in free)
    here = {n for n, node in cluster.nodes.items() if not node.record.leaving}
    able = {n for n in here if backends_of(unit) <= _offered(n, cluster)}
    if not local or any(_has_data(n, free) for n in able):
        return None
    candidates, told = promotion.candidates(free, able, cluster)
    having = sorted({n for d in free if d.tenure for n in d.tenure.copies})
    waits = f"waits for {' or '.join(having)}, which has the data"
    for place, candidate in enumerate(candidates):
        if candidate.node == me:
            lost = max(promoted.loss for promoted in candidate.promoted.values())
            what = "a copy of unknown age" if lost < 0 else f"a copy up to {lost:.0f} s older than its end"
            names = tuple(d.name for d in free)
            because = f"{_because(me, free, cluster)}, from {what}"
            delay = place * RANK_STEP + _pause(me, free)
            return Claim(names, because, delay, _evidence(free, cluster), candidate.promoted)
    return Nothing(f"waits for {candidates[0].node} to take it" if candidates else f"{waits}{told}")


def _because(me: str, free: Sequence[Dataset], cluster: Cluster) -> str:
    lead = free[0]
    if lead.tenure is None or lead.tenure.state is State.DESTROYED or lead.replaced:
        return "new"
    fence = holder_gone(lead.tenure, cluster)
    if fence is None:
        return f"released by {lead.tenure.node}"
    if lead.tenure.node == me:
        return f"{me} is back ({fence.evidence})"
    return f"failed over from {lead.tenure.node} ({fence.detail or fence.evidence})"


def _candidates(unit: Sequence[Dataset], free: Sequence[Dataset], cluster: Cluster) -> tuple[list[str], str]:
    """Who may claim, first in rank first, and why the others wait."""
    asking = newest_desired(unit)
    lead = free[0]
    tenure = lead.tenure if lead.tenure and lead.tenure.state is not State.DESTROYED else None
    spec = lead.spec if isinstance(lead.spec, DatasetSpec) else None
    home: str | None = None
    if asking is not None and isinstance(asking.desired, str):
        home = asking.desired
    elif tenure is not None and (tenure.held or tenure.refused):
        home = tenure.node
    if home is None:
        if illegal := next((d.desired for d in unit if isinstance(d.desired, Invalid)), None):
            return [], f"desired cannot be used: {illegal.reason}"
        return [], "nobody has it yet: say where it should be with desired"
    backends = backends_of(unit)
    able = {name for name in cluster.nodes if backends <= _offered(name, cluster)}
    refused = set(tenure.refused) if tenure else set()
    if tenure is not None and lead.kept and tenure.copies:
        having = sorted((n for n in tenure.copies if n in able and _has_data(n, free)), key=lambda n: n in refused)
        return having, f"waits for {having[0] if having else ' or '.join(tenure.copies)}, which has the data"
    known = " ".join(sorted(cluster.nodes)) or "none"
    if home in able and home not in refused:
        return [home], f"waits for {home} to take it"
    away = "is not here"
    if home in cluster.nodes:
        away = f"does not offer back end {' '.join(sorted(backends - _offered(home, cluster)))}"
    if tenure is None or not lead.kept:
        if home in cluster.nodes:
            offered = sorted({b for n in cluster.nodes.values() for b in n.record.backends})
            return [], f"{home} {away}; offered in this cluster: {' '.join(offered) or 'none'}"
        return [], f"waits for node {home!r}, which {away}; here are: {known}"
    policy = spec.failover if spec else "none"
    if policy == "none" and home not in refused:
        return [], f"waits for {home}, which {away}; failover: none"
    eligible = {n for n in able if not cluster.nodes[n].cordoned}
    if policy == "none":
        eligible &= {home, tenure.node}
    elif policy != "any":
        eligible &= set(policy)
    if home in able:
        eligible.add(home)  # It has refused, and comes last, but is never out.
    order = rank(lead.name, eligible)
    if tenure.node in eligible:
        order.insert(0, order.pop(order.index(tenure.node)))
    order.sort(key=lambda n: n in refused)
    if not order:
        allowed = "any" if policy == "any" else " ".join(policy)
        return [], f"waits for {home}, which {away}; no other node may or can take it (failover: {allowed})"
    return order, f"waits for {order[0]} to take it"
