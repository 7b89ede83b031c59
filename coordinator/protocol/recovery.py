"""What `drover recover` makes of an etcd that went back: who holds what, by the tokens stored with the data. No I/O.

Every tenure gets an epoch that nobody ever had, held by an incarnation that nobody ever was, and that is fenced last.
So nothing of before the recovery can commit, or touch data: what is stored with it is older than the next claim's
epoch, which is newer than all that was lost. Who claims is decided as after any fail-over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.records import Holder, State, Tenure
from drover.coordinator.reports import NodeReport, VolumeReport
from drover.coordinator.specs import DatasetSpec

ROOM = 1000
"""Added to the highest epoch known. Epochs that were only assigned are not stored with the data: those that were lost
are fewer."""


_NEVER = ".recovered."


def lived(incarnation: str) -> bool:
    """Whether it is not one that only stands in a tenure since a recovery, and that nobody ever was."""
    return _NEVER not in incarnation


@dataclass(frozen=True)
class Restored:
    """A dataset as it goes on. tenure: to be put. spec: to be declared again, as etcd has lost it; None: it has one, or
    needs none. notes: for people."""

    dataset: Dataset
    tenure: Tenure
    spec: DatasetSpec | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """problems: why it cannot be done yet, one line each."""

    restored: tuple[Restored, ...]
    problems: tuple[str, ...]


def plan(
    datasets: Mapping[str, Dataset],
    reports: Sequence[NodeReport],
    cluster: str,
    expected: Iterable[str],
    chosen: Mapping[str, str],
    life: str,
    at: str,
) -> Plan:
    """cluster: the id in the record `cluster`. expected: nodes that must have reported. chosen: uids, for names of
    which there are several. life: a random id for this recovery."""
    problems = [
        f"node {node} has not reported: run drover-agent tokens there, or say --without {node} if it is gone for good"
        for node in sorted(set(expected) - {report.node for report in reports})
    ]
    problems += [
        f"{report.node} still has {volume.dataset}: its agent is not halted, or could not stop what uses it"
        for report in reports
        for volume in report.volumes
        if volume.here
    ]
    volumes = _newest(volume for report in reports for volume in report.volumes if volume.cluster == cluster)
    restored = []
    for name in sorted({*datasets, *volumes}):
        found, d = volumes.get(name, {}), datasets.get(name, Dataset(name))
        if d.tenure is None and not found and name not in chosen:
            continue  # declared, and nobody ever had it
        uid = chosen.get(name) or _uid(d, found)
        if uid is None or (name in chosen and uid not in found):
            there = ", ".join(f"{v.uid} (epoch {v.epoch}, last on {v.node})" for v in found.values())
            problems.append(f"{name} has several volumes: {there}; say which one it is with --use {name}=UID")
        elif d.tenure is not None or uid in found:
            volume = found.get(uid)
            restored.append(_restore(d, volume, _having(volume, reports), life, at))
    return Plan(tuple(restored), tuple(problems))


def _newest(volumes: Iterable[VolumeReport]) -> dict[str, dict[str, VolumeReport]]:
    """By dataset and uid: the report with the highest epoch, of those the one by the node that had it."""
    found: dict[str, dict[str, VolumeReport]] = defaultdict(dict)
    for volume in volumes:
        known = found[volume.dataset].get(volume.uid)
        if known is None or (volume.epoch, _own(volume)) > (known.epoch, _own(known)):
            found[volume.dataset][volume.uid] = volume
    return found


def _having(volume: VolumeReport | None, reports: Sequence[NodeReport]) -> tuple[str, ...]:
    """Local copies: the nodes whose own copy is this one, the newest; nobody else may go on with the dataset. A node to
    which it was being sent has the token, too, and not what was written since: only where nobody else has reported."""
    if volume is None or not volume.local:
        return ()
    newest = (volume.cluster, volume.uid, volume.epoch, volume.incarnation)
    having = [(r.node, v) for r in reports for v in r.volumes if (v.cluster, v.uid, v.epoch, v.incarnation) == newest]
    return tuple(node for node, v in having if _own(v)) or tuple(node for node, _ in having)


def _own(volume: VolumeReport) -> bool:
    """Whether the node that has it is the one that had the dataset in that epoch."""
    return volume.incarnation.rsplit(".", 2)[0] == volume.node


def _uid(d: Dataset, found: Mapping[str, VolumeReport]) -> str | None:
    """Which volume the dataset is; None: that cannot be told."""
    if d.tenure is not None and d.tenure.state is not State.DESTROYED:
        if found.keys() <= {d.tenure.uid}:
            return d.tenure.uid
        if d.tenure.uid in found or len(found) > 1:
            return None
    if len(found) > 1:
        return None
    return next(iter(found), d.tenure.uid if d.tenure else None)


def _restore(d: Dataset, volume: VolumeReport | None, having: tuple[str, ...], life: str, at: str) -> Restored:
    old = d.tenure if volume is None or (d.tenure and d.tenure.uid == volume.uid) else None
    ended = d.tenure
    epoch = max(ended.epoch if ended else 0, volume.epoch if volume else 0) + ROOM
    node = volume.node if volume else ended.node if ended else ""
    holders = {*(ended.unfenced if ended else ()), *([ended.holder] if ended and ended.held else [])}
    if volume is not None and volume.incarnation:
        holders.add(Holder(node=volume.node, incarnation=volume.incarnation))
    lost = volume is not None and (old is None or volume.epoch > old.epoch)
    # Given up or destroyed it stays only where nothing says that etcd has lost what came after.
    state = State.ACTIVE if lost or old is None or old.held else old.state
    notes = []
    if lost and ended is not None:
        notes.append(f"etcd had lost epochs after {ended.epoch}")
    spec = None
    if d.spec is None and volume is not None and old is None:
        spec = DatasetSpec.model_validate({"backend": volume.backend, "size": volume.size, "fs": volume.fs or None})
        notes.append("its spec was lost: declared again, with failover none")
    if volume is None and old is not None and old.born and old.state is not State.DESTROYED:
        notes.append("no node has reported its data")
    base: dict[str, object]
    if old is not None:
        base = old.model_dump()
    else:
        assert volume is not None
        base = {"uid": volume.uid, "created": d.spec_created, "backend": volume.backend}
    if volume is not None:
        base |= {"born": volume.born or (old is not None and old.born), "object": volume.object}
    if volume is not None and having:
        base |= {"copies": having, "written": volume.epoch, "base": None}
    tenure = Tenure.model_validate(
        base
        | {
            "node": node,
            "incarnation": f"{node}{_NEVER}{life}",
            "epoch": epoch,
            "state": state,
            "because": "recovered after etcd went back",
            "since": at,
            "evidence": None,
            "unfenced": tuple(sorted(holders, key=lambda holder: holder.incarnation)),
            "refused": (),
            "source": "",
            "down": None,
            "txn": life,
        }
    )
    return Restored(d, tenure, spec, tuple(notes))
