"""What is decided on: datasets, nodes and the cluster as etcd has them. Plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from drover.coordinator.records import Accepted, Answers, Copies, Copy, Fence, NodeRecord, Pause, State, Tenure
from drover.coordinator.specs import DatasetSpec, WorkloadSpec


@dataclass(frozen=True)
class Invalid:
    """Something that a user put and that cannot be used; the reason is one line."""

    reason: str


@dataclass(frozen=True)
class Dataset:
    """One dataset as etcd has it. Revisions are mod revisions unless said otherwise, 0 where the key is absent."""

    name: str
    spec: DatasetSpec | Invalid | None = None
    spec_revision: int = 0
    spec_created: int = 0
    """Create revision of the spec: another one is another dataset."""
    desired: str | Invalid | None = None
    desired_revision: int = 0
    desired_created: int = 0
    desired_by: str = ""
    """Who put `desired`, as far as they said."""
    desired_trace: str = ""
    """The traceparent that they gave it."""
    desired_accepts: Accepted | None = None
    """What they said may be lost."""
    desired_at: float | None = None
    """When they put it, by their clock (Unix time)."""
    tenure: Tenure | None = None
    tenure_revision: int = 0
    leased: bool = False
    """leases/<d> is there."""
    copies: Copies | None = None
    """Of whichever epoch: see `acknowledged`."""
    copies_revision: int = 0

    @property
    def acknowledged(self) -> Mapping[str, Copy]:
        """What standbys have of this very epoch, by node."""
        tenure, copies = self.tenure, self.copies
        if tenure is None or copies is None or (copies.uid, copies.epoch) != (tenure.uid, tenure.epoch):
            return {}
        return copies.nodes

    @property
    def answered(self) -> bool:
        """The tenure has acted on this very `desired`. The same value put again is no new request."""
        return self.tenure is not None and self.tenure.answers == self.asks

    @property
    def asks(self) -> Answers:
        value = self.desired if isinstance(self.desired, str) else ""
        return Answers(value=value, revision=self.desired_created)

    @property
    def replaced(self) -> bool:
        """The spec is not the one that the tenure was made for: a new dataset has the old one's name."""
        if self.tenure is None or self.tenure.state is State.DESTROYED or self.spec is None:
            return False
        return self.tenure.created not in (0, self.spec_created)

    @property
    def doomed(self) -> bool:
        """Its spec was deleted, and the tenure has copied from it that the data goes with it."""
        if self.tenure is None or self.tenure.state is State.DESTROYED or self.tenure.reclaim != "delete":
            return False
        return self.spec is None or self.replaced

    @property
    def kept(self) -> bool:
        """Whoever takes it gets the volume that the tenure names; otherwise a new one, as the spec says."""
        if self.tenure is None or self.tenure.state is State.DESTROYED:
            return False
        return self.doomed or not self.replaced


@dataclass(frozen=True)
class Node:
    """A node that is here. create_revision and lease: of its nodes/<n>, which a handover to it compares."""

    record: NodeRecord
    create_revision: int
    lease: int
    cordoned: bool = False


@dataclass(frozen=True)
class Cluster:
    """What placement knows of nodes. nodes: those with a record and no fence."""

    nodes: Mapping[str, Node]
    fences: Mapping[str, Fence] = field(default_factory=dict)
    workloads: Mapping[str, WorkloadSpec] = field(default_factory=dict)
    misfits: Mapping[str, str] = field(default_factory=dict)
    """By dataset: what is wrong with a workload that means to use it and cannot be used itself."""
    pause: Pause | None = None
    """Nothing changes hands."""

    def users_of(self, dataset: str) -> list[str]:
        return sorted(name for name, spec in self.workloads.items() if dataset in spec.datasets)
