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
    return ""


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
