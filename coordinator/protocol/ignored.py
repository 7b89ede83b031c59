"""What users put that is not acted on, and why. Pure; decisions (placement.py) pass it over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drover.coordinator.keys import Kind
from drover.coordinator.protocol.dataset import Cluster, Dataset, Invalid
from drover.coordinator.protocol.placement import MAX_UNIT, newest_desired, unfit
from drover.coordinator.records import refusal
from drover.coordinator.specs import DatasetSpec


@dataclass(frozen=True)
class Ignored:
    """kind, name: of the key. revision: its mod revision. reason: one line, fit for a user."""

    kind: Kind
    name: str
    revision: int
    reason: str


def ignored(unit: Sequence[Dataset], cluster: Cluster) -> list[Ignored]:
    """Of a unit's specs and wishes; what weighs most first."""
    found = [wrong for d in unit for wrong in (_spec(d, cluster), _desired(d)) if wrong]
    asking = newest_desired(unit)
    if asking is None or asking.answered or not isinstance(asking.desired, str):
        return found
    if asking.spec is None and asking.tenure is None:
        reason = "there is no dataset of this name"
    else:
        reason = unfit(asking.desired, unit, cluster)
    return [*found, Ignored(Kind.DESIRED, asking.name, asking.desired_revision, reason)] if reason else found


def warning(unit: Sequence[Dataset], cluster: Cluster) -> str:
    """What the holder of a unit tells of it; "" for nothing."""
    for wrong in ignored(unit, cluster):
        return wrong.reason
    if misfit := next((cluster.misfits[d.name] for d in unit if d.name in cluster.misfits), None):
        return misfit
    if len(unit) > MAX_UNIT:
        return f"{len(unit)} datasets belong together; at most {MAX_UNIT} can move in one transaction"
    return next(filter(None, (too_few_standbys(d, cluster) for d in unit)), "")


def too_few_standbys(d: Dataset, cluster: Cluster) -> str:
    """Why there are not as many copies as its spec asks for; "" where there can be."""
    spec = d.spec
    if not isinstance(spec, DatasetSpec) or spec.replicas == 0:
        return ""
    offering = [node.record for node in cluster.nodes.values() if spec.backend in node.record.backends]
    if any(spec.backend in node.limits and node.limits[spec.backend].shared for node in offering):
        return f"replicas ignored: back end {spec.backend} keeps no copies on other nodes"
    if (there := len(offering) - 1) >= spec.replicas or there < 0:
        return ""
    return (
        f"replicas: {spec.replicas} wanted, {there or 'no'} other node{'s' * (there > 1)} with back end {spec.backend}"
    )


def _spec(d: Dataset, cluster: Cluster) -> Ignored | None:
    if isinstance(d.spec, Invalid):
        return Ignored(Kind.DATASETS, d.name, d.spec_revision, f"spec ignored: {d.spec.reason}")
    if isinstance(d.spec, DatasetSpec) and not d.kept:
        wrong = refusal(d.spec, (node.record for node in cluster.nodes.values()))
        return Ignored(Kind.DATASETS, d.name, d.spec_revision, f"spec ignored: {wrong}") if wrong else None
    return None


def _desired(d: Dataset) -> Ignored | None:
    if isinstance(d.desired, Invalid):
        return Ignored(Kind.DESIRED, d.name, d.desired_revision, f"desired ignored: {d.desired.reason}")
    return None
