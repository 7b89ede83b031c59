"""All that one look at etcd shows, typed: the whole prefix in one range, as of one revision.

What cannot be read is kept with the reason, never dropped: a person has to see it to mend it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from drover.coordinator import kinds
from drover.coordinator.cli.output import listing, near
from drover.coordinator.keys import SINGLE, Key, Keys, Kind, name_error, range_end
from drover.coordinator.protocol.history import trouble
from drover.coordinator.protocol.placement import units
from drover.coordinator.record import InvalidRecord, R
from drover.coordinator.records import (
    Cluster,
    Copies,
    Cordon,
    Diverged,
    Fence,
    Heartbeat,
    HistoryEntry,
    NodeRecord,
    Pause,
    Status,
    Tenure,
    Trashed,
)
from drover.coordinator.specs import DatasetSpec, WorkloadSpec
from drover.coordinator.store import Store
from drover.coordinator.txn import Entry


@dataclass(frozen=True)
class Declared:
    """The user wants this dataset."""

    spec: DatasetSpec
    entry: Entry


@dataclass(frozen=True)
class Misdeclared:
    """A user typed something that is no spec. reason: one line."""

    reason: str
    entry: Entry


@dataclass(frozen=True)
class Undeclared:
    """There is no spec: it was removed, or never was."""


Declaration = Declared | Misdeclared | Undeclared


@dataclass(frozen=True)
class Desired:
    """`desired/<d>`: the node's name, as typed, without blanks around it."""

    node: str
    entry: Entry


@dataclass(frozen=True)
class Dataset:
    """All that etcd holds about one dataset. history: oldest first. unreadable: records that a newer or broken writer
    left, as `key: reason`."""

    name: str
    declaration: Declaration = field(default_factory=Undeclared)
    desired: Desired | None = None
    tenure: Tenure | None = None
    status: Status | None = None
    history: tuple[HistoryEntry, ...] = ()
    unreadable: tuple[str, ...] = ()
    copies: Copies | None = None
    diverged: Mapping[str, Diverged] = field(default_factory=dict)
    """By node."""

    @property
    def answered(self) -> bool:
        """The tenure has acted on this very `desired`: the same value put again is no new wish."""
        if self.tenure is None or self.desired is None:
            return False
        asked = (self.desired.node, self.desired.entry.create_revision)
        return (self.tenure.answers.value, self.tenure.answers.revision) == asked

    @property
    def spec(self) -> DatasetSpec | None:
        return self.declaration.spec if isinstance(self.declaration, Declared) else None


class NodeState(StrEnum):
    """How a node looks from etcd."""

    LIVE = "live"
    """Its session is there and nobody has fenced it."""
    SILENT = "silent"
    """Its session has ended; it is not fenced (yet)."""
    LEFT = "left"
    """Its machine shut down in good order; it is waited for."""
    FENCED = "fenced"
    """Its incarnation is fenced: dead to the cluster until it joins again."""


@dataclass(frozen=True)
class Node:
    """All that etcd holds about one node. incarnation: the newest that is known; "" for none."""

    name: str
    record: NodeRecord | None = None
    heartbeat: Heartbeat | None = None
    heartbeat_entry: Entry | None = None
    cordon: Cordon | None = None
    fence: Fence | None = None

    @property
    def incarnation(self) -> str:
        if self.record:
            return self.record.incarnation
        return self.heartbeat.incarnation if self.heartbeat else ""

    @property
    def state(self) -> NodeState:
        if self.fence:
            return NodeState.FENCED
        if self.record:
            return NodeState.LIVE
        return NodeState.LEFT if self.heartbeat and self.heartbeat.left else NodeState.SILENT


@dataclass(frozen=True)
class Workload:
    """A workload; `invalid` says why its spec cannot be read, "" where it can."""

    name: str
    spec: WorkloadSpec | None
    invalid: str
    entry: Entry

    def uses(self, dataset: str) -> bool:
        """An unreadable workload counts as using every dataset whose name stands in it."""
        if self.spec:
            return dataset in self.spec.datasets
        return any(f'"{dataset}{end}'.encode() in self.entry.value for end in '":')


@dataclass(frozen=True)
class Picture:
    """fences: by incarnation, with their entries. pause: the cluster is paused. trash: by the names that datasets have
    there. ignored: what users typed that shows up nowhere else, by key below the prefix, and why nobody acts on it."""

    datasets: Mapping[str, Dataset]
    nodes: Mapping[str, Node]
    workloads: Mapping[str, Workload]
    fences: Mapping[str, Fence]
    fence_entries: Mapping[str, Entry]
    pause: Pause | None
    trash: Mapping[str, Trashed]
    ignored: Mapping[str, str]
    revision: int

    @property
    def live(self) -> dict[str, Node]:
        return {name: node for name, node in self.nodes.items() if node.state is NodeState.LIVE}

    @property
    def backends(self) -> list[str]:
        """Those that any live node offers."""
        return sorted({backend for node in self.live.values() if node.record for backend in node.record.backends})

    @property
    def specs(self) -> list[str]:
        """Names of the datasets that users have put, valid or not."""
        return [name for name, it in self.datasets.items() if not isinstance(it.declaration, Undeclared)]

    def held_by(self, node: str) -> list[str]:
        return [name for name, it in self.datasets.items() if it.tenure and it.tenure.held and it.tenure.node == node]

    def together(self, dataset: str) -> list[str]:
        """The other datasets that move with it: of its group, or used by the same workload."""
        specs = {name: it.spec for name, it in self.datasets.items() if it.spec}
        ties = units(specs, {name: it.spec for name, it in self.workloads.items() if it.spec})
        return sorted(ties.get(dataset, frozenset()) - {dataset})

    def users_of(self, dataset: str) -> list[str]:
        return sorted(name for name, it in self.workloads.items() if it.uses(dataset))


async def take(store: Store, keys: Keys) -> Picture:
    """One look at everything. Raises StoreError."""
    found = await store.range(keys.root, range_end(keys.root))
    return draw({entry.key: entry for entry in found.entries}, keys, found.revision)


async def doubt(store: Store, keys: Keys) -> str:
    """Why this etcd is not the one that the cluster lives on, as far as it can tell by itself; "" where it may be. One
    that went back under its old id is known to the agents only: they have halted. Raises StoreError."""
    entry = await store.get(keys.cluster)
    try:
        cluster = Cluster.decode(entry.value) if entry else None
    except InvalidRecord as error:
        return f"{keys.cluster} cannot be read: {error}"
    return trouble(None, cluster, (await store.status()).cluster_id)


async def take_warned(store: Store, keys: Keys) -> tuple[Picture, str]:
    """The picture, and what must be said first. Raises StoreError."""
    picture = await take(store, keys)
    said = await doubt(store, keys)
    silent = picture.nodes and not any(node.state is NodeState.LIVE for node in picture.nodes.values())
    if silent and not said:
        said = (
            "no node is here. If etcd was restored from a backup, agents have halted, as their logs and /readyz say: "
            "drover recover"
        )
    return picture, said


def declare(name: str, entry: Entry | None) -> Declaration:
    """What a `datasets/<d>` entry says. Pure."""
    if entry is None:
        return Undeclared()
    if reason := name_error(name):
        return Misdeclared(reason, entry)
    try:
        return Declared(DatasetSpec.decode(entry.value), entry)
    except InvalidRecord as error:
        return Misdeclared(str(error), entry)


def draw(entries: Mapping[str, Entry], keys: Keys, revision: int) -> Picture:
    """The picture that these entries make. Pure."""
    by_kind: dict[Kind, dict[str, Entry]] = defaultdict(dict)
    ignored: dict[str, str] = {}
    for text, entry in entries.items():
        match keys.parse(text):
            case Key(kind, name):
                by_kind[kind][name] = entry
            case None:
                ignored[text.removeprefix(keys.root)] = _unknown(text.removeprefix(keys.root))
    unreadable: dict[str, list[str]] = defaultdict(list)

    def typed(record: type[R], kind: Kind) -> dict[str, R]:
        found: dict[str, R] = {}
        for name, entry in by_kind[kind].items():
            try:
                found[name] = record.decode(entry.value)
            except InvalidRecord as error:
                unreadable[name.partition("/")[0]].append(f"{entry.key}: {error}")
        return found

    tenures, statuses, history = (
        typed(Tenure, Kind.OWNERS),
        typed(Status, Kind.STATUS),
        typed(HistoryEntry, Kind.HISTORY),
    )
    fences, records, heartbeats = (
        typed(Fence, Kind.FENCES),
        typed(NodeRecord, Kind.NODES),
        typed(Heartbeat, Kind.HEARTBEATS),
    )
    cordons, copies, diverged = (
        typed(Cordon, Kind.CORDONS),
        typed(Copies, Kind.COPIES),
        typed(Diverged, Kind.DIVERGED),
    )
    apart: dict[str, dict[str, Diverged]] = defaultdict(dict)
    for name, record in sorted(diverged.items()):
        apart[name.partition("/")[0]][name.partition("/")[2]] = record

    epochs: dict[str, list[HistoryEntry]] = defaultdict(list)
    for key in sorted(history):
        epochs[key.rpartition("/")[0]].append(history[key])

    names = sorted({*by_kind[Kind.DATASETS], *by_kind[Kind.DESIRED], *by_kind[Kind.OWNERS], *by_kind[Kind.STATUS]})
    datasets = {
        name: Dataset(
            name,
            declare(name, by_kind[Kind.DATASETS].get(name)),
            _desired(by_kind[Kind.DESIRED].get(name)),
            tenures.get(name),
            statuses.get(name),
            tuple(epochs[name]),
            tuple(unreadable[name]),
            copies.get(name),
            apart[name],
        )
        for name in names
    }
    members = sorted({*records, *heartbeats, *(it.node for it in tenures.values() if it.held)})
    nodes = {
        name: _node(name, records.get(name), heartbeats, by_kind[Kind.HEARTBEATS].get(name), cordons.get(name), fences)
        for name in members
    }
    workloads = {name: _workload(name, entry) for name, entry in by_kind[Kind.WORKLOADS].items()}
    ignored |= {f"{Kind.WORKLOADS}/{name}": it.invalid for name, it in workloads.items() if it.invalid}
    trash = typed(Trashed, Kind.TRASH)
    pause: Pause | None = None
    if (typed_in := entries.get(keys.pause)) is not None:
        try:
            pause = Pause.decode(typed_in.value)
        except InvalidRecord as error:
            ignored[Kind.PAUSE] = str(error)
    return Picture(datasets, nodes, workloads, fences, by_kind[Kind.FENCES], pause, trash, ignored, revision)


def _unknown(key: str) -> str:
    """Why a key below the prefix is none of ours."""
    word = key.partition("/")[0]
    if word in SINGLE:
        return f"there is only {word}, without anything after it"
    if word in set(Kind):
        return f"a name is missing: {word}/NAME"
    kinds = [kind.value for kind in Kind]
    return f"there is no such kind of key. {near(word, kinds, f'There are: {listing(kinds, len(kinds))}')}"


def _desired(entry: Entry | None) -> Desired | None:
    return Desired(entry.value.decode(errors="replace").strip(), entry) if entry else None


def _node(
    name: str,
    record: NodeRecord | None,
    heartbeats: Mapping[str, Heartbeat],
    entry: Entry | None,
    cordon: Cordon | None,
    fences: Mapping[str, Fence],
) -> Node:
    node = Node(name, record, heartbeats.get(name), entry, cordon)
    return Node(name, record, node.heartbeat, entry, cordon, fences.get(node.incarnation))


def _workload(name: str, entry: Entry) -> Workload:
    try:
        return Workload(name, kinds.decode(entry.value), "", entry)
    except InvalidRecord as error:
        return Workload(name, None, str(error), entry)
