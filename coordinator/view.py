"""A typed picture of the keyspace, kept up by two mirrors. Heartbeats and histories, which change all the time and
which decisions do not need, are left out.

It is for waking up and for deciding what to try. Whether it was right, the transactions' compares decide.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from drover.coordinator import kinds
from drover.coordinator.keys import Keys, Kind, name_error, range_end
from drover.coordinator.mirror import Mirror
from drover.coordinator.protocol.dataset import Cluster, Dataset, Invalid, Node
from drover.coordinator.protocol.placement import units
from drover.coordinator.record import InvalidRecord, Record
from drover.coordinator.records import (
    Asked,
    Copies,
    Cordon,
    Diverged,
    Fence,
    NodeRecord,
    Pause,
    Status,
    Tenure,
    UserSnapshot,
)
from drover.coordinator.specs import DatasetSpec, WorkloadSpec
from drover.coordinator.store import Change, Store
from drover.coordinator.txn import Entry

_RECORDS: Mapping[Kind, Callable[[bytes], Record]] = {
    Kind.DATASETS: DatasetSpec.decode,
    Kind.WORKLOADS: kinds.decode,
    Kind.NODES: NodeRecord.decode,
    Kind.OWNERS: Tenure.decode,
    Kind.FENCES: Fence.decode,
    Kind.CORDONS: Cordon.decode,
    Kind.STATUS: Status.decode,
    Kind.ASKED: Asked.decode,
    Kind.COPIES: Copies.decode,
    Kind.DIVERGED: Diverged.decode,
    Kind.SNAPSHOTS: UserSnapshot.decode,
    Kind.PAUSE: Pause.decode,
}
_OF_DATASETS = frozenset({Kind.DATASETS, Kind.DESIRED, Kind.ASKED, Kind.OWNERS, Kind.LEASES, Kind.STATUS, Kind.COPIES})
_NAMING = (Kind.DATASETS, Kind.DESIRED, Kind.OWNERS)
_BEFORE_OWNERS = frozenset(
    {Kind.ASKED, Kind.CLUSTER, Kind.COPIES, Kind.CORDONS, Kind.DATASETS, Kind.DESIRED, Kind.DIVERGED, Kind.FENCES}
)
"""In the first of the two mirrors."""
_OF_ALL = frozenset({Kind.NODES, Kind.FENCES, Kind.CORDONS, Kind.WORKLOADS, Kind.PAUSE})

Wake = Callable[[str | None], None]
"""Called with the name of a dataset whose records changed, or None: something changed that concerns all."""


class View:
    """What etcd has, typed. `run` keeps it up; a record that cannot be parsed is `Invalid`, never an error here."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self.keys = keys
        self._entries: dict[Kind, dict[str, Entry]] = {kind: {} for kind in Kind}
        self._parsed: dict[tuple[Kind, str], Record | Invalid] = {}
        self._datasets: dict[str, Dataset] = {}
        self._units: dict[str, frozenset[str]] | None = None
        self._cluster: Cluster | None = None
        self._wakes: list[Wake] = []
        self._revision = 0
        self._waiting: list[tuple[int, frozenset[str], asyncio.Future[None]]] = []
        heartbeats, after = keys.under(Kind.HEARTBEATS), range_end(keys.under(Kind.HISTORY))
        self._mirrors = (
            Mirror(store, keys.root, heartbeats, self._apply),
            Mirror(store, after, range_end(keys.root), self._apply),
        )

    async def run(self) -> None:
        """Keeps the picture up until cancelled."""
        async with asyncio.TaskGroup() as group:
            for mirror in self._mirrors:
                group.create_task(mirror.run())

    async def ready(self, timeout: float) -> None:
        """Until the whole picture is there. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            for mirror in self._mirrors:
                await mirror.ready(timeout)

    @property
    def connected(self) -> bool:
        return all(mirror.connected for mirror in self._mirrors)

    def doubt(self) -> None:
        """Etcd has refuted the picture, more than once: an event of a watch may be lost."""
        for mirror in self._mirrors:
            mirror.doubt()

    def subscribe(self, wake: Wake) -> None:
        self._wakes.append(wake)

    async def reached(self, revision: int, timeout: float, owners: frozenset[str] = frozenset()) -> None:
        """Until the owners' side of the picture shows what a transaction of ours wrote at `revision`: the tenures of
        these datasets among it. That it shows something later does not mean that it does: an event may be lost, and
        then the picture is doubted.

        Raises TimeoutError.
        """
        if self._shows(revision, owners):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (revision, owners, future)
        self._waiting.append(waiting)
        self._doubt_if_lost(revision, owners)
        try:
            async with asyncio.timeout(timeout):
                await future
        finally:
            self._waiting.remove(waiting)

    def _shows(self, revision: int, owners: frozenset[str]) -> bool:
        """A tenure that is not there (any more) is nobody's, and nothing is done for it."""
        there = [entry for name in owners if (entry := self._entries[Kind.OWNERS].get(name)) is not None]
        return self._revision >= revision and all(entry.mod_revision >= revision for entry in there)

    def _doubt_if_lost(self, revision: int, owners: frozenset[str]) -> None:
        if self._revision >= revision and not self._shows(revision, owners):
            self.doubt()

    def _apply(self, changes: Sequence[Change]) -> None:
        woken: set[str | None] = set()
        for change in changes:
            key = self.keys.parse(change.key)
            if key is None:
                continue
            if change.entry is None:
                self._entries[key.kind].pop(key.name, None)
            else:
                self._entries[key.kind][key.name] = change.entry
            self._parsed.pop((key.kind, key.name), None)
            if key.kind in _OF_DATASETS:
                self._datasets.pop(key.name, None)
                if key.kind is not Kind.STATUS:
                    woken.add(key.name)
            if key.kind in (Kind.DIVERGED, Kind.SNAPSHOTS):
                woken.add(key.name.rpartition("/")[0])
            if key.kind in _OF_ALL:
                self._cluster = None
                woken.add(None)
            if key.kind in (Kind.DATASETS, Kind.WORKLOADS):
                self._units = None
            if key.kind not in _BEFORE_OWNERS:
                self._revision = max(self._revision, change.revision)
        for revision, owners, future in self._waiting:
            if self._shows(revision, owners) and not future.done():
                future.set_result(None)
            self._doubt_if_lost(revision, owners)
        for name in woken:
            for wake in self._wakes:
                wake(name)

    def _record(self, kind: Kind, name: str) -> Any:
        """The parsed record, Invalid with a reason, or None where the key is absent."""
        if (kind, name) in self._parsed:
            return self._parsed[kind, name]
        entry = self._entries[kind].get(name)
        if entry is None:
            return None
        parsed: Record | Invalid
        try:
            parsed = _RECORDS[kind](entry.value)
        except InvalidRecord as error:
            parsed = Invalid(str(error))
        self._parsed[kind, name] = parsed
        return parsed

    def names(self) -> set[str]:
        """All that is called a dataset in any way, mistyped names included."""
        return {name for kind in _NAMING for name in self._entries[kind]}

    def known(self, name: str) -> bool:
        """Whether it is one of `names`."""
        return any(name in self._entries[kind] for kind in _NAMING)

    def dataset(self, name: str) -> Dataset:
        if (known := self._datasets.get(name)) is not None:
            return known
        at = {kind: self._entries[kind].get(name) for kind in _OF_DATASETS}
        spec: DatasetSpec | Invalid | None = self._record(Kind.DATASETS, name)
        if spec is not None and (wrong := name_error(name)):
            spec = Invalid(wrong)
        tenure = self._record(Kind.OWNERS, name)
        desired, spec_entry, owner = at[Kind.DESIRED], at[Kind.DATASETS], at[Kind.OWNERS]
        told, asked = at[Kind.ASKED], self._record(Kind.ASKED, name)
        copies, copied = self._record(Kind.COPIES, name), at[Kind.COPIES]
        same = told is not None and desired is not None and told.mod_revision == desired.mod_revision
        self._datasets[name] = dataset = Dataset(
            name=name,
            spec=spec,
            spec_revision=spec_entry.mod_revision if spec_entry else 0,
            spec_created=spec_entry.create_revision if spec_entry else 0,
            desired=_desired(desired.value) if desired else None,
            desired_revision=desired.mod_revision if desired else 0,
            desired_created=desired.create_revision if desired else 0,
            desired_by=asked.by if same and isinstance(asked, Asked) else "",
            desired_trace=asked.trace if same and isinstance(asked, Asked) else "",
            desired_accepts=asked.accepts if same and isinstance(asked, Asked) else None,
            desired_at=asked.at if same and isinstance(asked, Asked) else None,
            tenure=tenure if isinstance(tenure, Tenure) else None,
            tenure_revision=owner.mod_revision if owner else 0,
            leased=at[Kind.LEASES] is not None,
            copies=copies if isinstance(copies, Copies) else None,
            copies_revision=copied.mod_revision if copied else 0,
        )
        return dataset

    def unreadable(self, name: str) -> str | None:
        """Why a dataset's tenure cannot be read: then nothing may be done about it."""
        tenure = self._record(Kind.OWNERS, name)
        return tenure.reason if isinstance(tenure, Invalid) else None

    def status(self, name: str) -> Status | None:
        status = self._record(Kind.STATUS, name)
        return status if isinstance(status, Status) else None

    def diverged(self, name: str, node: str) -> Diverged | None:
        """What a node tells of what diverged there."""
        record = self._record(Kind.DIVERGED, f"{name}/{node}")
        return record if isinstance(record, Diverged) else None

    def snapshots(self, name: str) -> Mapping[str, tuple[UserSnapshot, Entry]]:
        """Those of a dataset that users want, by their names, with what etcd has."""
        found = {}
        for key, entry in self._entries[Kind.SNAPSHOTS].items():
            dataset, _, snapshot = key.partition("/")
            record = self._record(Kind.SNAPSHOTS, key)
            if dataset == name and not name_error(snapshot) and isinstance(record, UserSnapshot):
                found[snapshot] = (record, entry)
        return found

    def members(self, name: str) -> frozenset[str]:
        """The names of the unit that a dataset belongs to."""
        if self._units is None:
            specs = {n: s for n in self._entries[Kind.DATASETS] if isinstance(s := self.dataset(n).spec, DatasetSpec)}
            self._units = units(specs, self.cluster.workloads)
        return self._units.get(name, frozenset({name}))

    def unit(self, name: str) -> tuple[Dataset, ...]:
        return tuple(self.dataset(n) for n in sorted(self.members(name)))

    @property
    def cluster(self) -> Cluster:
        if self._cluster is None:
            self._cluster = self._make_cluster()
        return self._cluster

    def _make_cluster(self) -> Cluster:
        fences = {n: f for n in self._entries[Kind.FENCES] if isinstance(f := self._record(Kind.FENCES, n), Fence)}
        cordons = self._entries[Kind.CORDONS]
        nodes = {}
        for name, entry in self._entries[Kind.NODES].items():
            record = self._record(Kind.NODES, name)
            if isinstance(record, NodeRecord) and record.incarnation not in fences:
                nodes[name] = Node(record, entry.create_revision, entry.lease, name in cordons)
        workloads = {
            n: w
            for n in self._entries[Kind.WORKLOADS]
            if isinstance(w := self._record(Kind.WORKLOADS, n), WorkloadSpec)
        }
        misfits = {
            dataset: f"workload {n} ignored: {reason}"
            for n, reason in self.invalid_workloads().items()
            for dataset in _datasets_named(self._entries[Kind.WORKLOADS][n].value)
        }
        pause = self._record(Kind.PAUSE, "")
        return Cluster(nodes, fences, workloads, misfits, pause if isinstance(pause, Pause) else None)

    def invalid_workloads(self) -> dict[str, str]:
        """Workloads that cannot be used, and why."""
        return {
            n: w.reason
            for n in self._entries[Kind.WORKLOADS]
            if isinstance(w := self._record(Kind.WORKLOADS, n), Invalid)
        }

    def fence_revisions(self) -> dict[str, int]:
        return {name: entry.mod_revision for name, entry in self._entries[Kind.FENCES].items()}

    def entries(self, kind: Kind) -> Mapping[str, Entry]:
        """By name."""
        return MappingProxyType(self._entries[kind])

    def entry(self, kind: Kind, name: str) -> Entry | None:
        return self._entries[kind].get(name)

    def tenures(self) -> list[Tenure]:
        return [t for n in self._entries[Kind.OWNERS] if (t := self.dataset(n).tenure) is not None]


def _datasets_named(workload: bytes) -> list[str]:
    """The datasets of a workload that is no valid record, as far as it says."""
    try:
        record = json.loads(workload)
    except (ValueError, RecursionError):
        return []
    if not isinstance(record, dict):
        return []
    listed = [one for field in ("datasets", "volumes") if isinstance(found := record.get(field), list) for one in found]
    named = [one.get("source") if isinstance(one, dict) else one for one in listed]
    return [name.partition(":")[0] for name in named if isinstance(name, str)]


def _desired(value: bytes) -> str | Invalid:
    text = value.decode(errors="replace").strip()
    if wrong := name_error(text):
        shown = repr(text if len(text) <= 40 else text[:40] + "…")
        return Invalid(f"{shown} is not a node's name: {wrong}")
    return text
