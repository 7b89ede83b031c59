"""All that is decided on about a unit of datasets: records, and what is really here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from drover.agent.rounds import Copying
from drover.agent.storage.base import Here
from drover.agent.workloads.base import Condition
from drover.coordinator.protocol.dataset import Cluster, Dataset
from drover.coordinator.protocol.leaving import Leaving
from drover.coordinator.protocol.ownership import may_clear
from drover.coordinator.records import Fence, Holder
from drover.coordinator.specs import WorkloadSpec

TRIES = 3
"""An assigned holder that could not activate so often hands the dataset on."""

BEING_STARTED = "a container that is being started"
"""Among a dataset's users: the engine has it, and no process yet."""


@dataclass(frozen=True)
class Trouble:
    """A step that failed. until: CLOCK_BOOTTIME before which it is not tried again. tries: failures in a row. leaving:
    it was a step on the way out of here."""

    reason: str
    until: float
    tries: int = 1
    leaving: bool = False


@dataclass(frozen=True)
class Blocked:
    """A move that was given up for a while, because the dataset could not be taken out of use here. asked: the mod
    revision of the `desired` that asked for it: a newer one tries at once."""

    asked: int
    reason: str
    until: float


@dataclass(frozen=True)
class Ready:
    """What the node that a workload is to go to has said. at: CLOCK_BOOTTIME, seconds. done: it only has to be started
    there, with the spec of this fingerprint. trouble: why that will not be."""

    to: str
    fingerprint: str
    at: float
    done: bool = False
    trouble: str = ""


@dataclass(frozen=True)
class Situation:
    """All that is decided on. now: CLOCK_BOOTTIME, seconds. life: etcd's revision when this life of the agent began.

    here: by dataset, for those with a tenure. cutovers: by dataset: milliseconds of the move or fail-over that began
    this epoch. conditions: by workload of this unit. failures: restarts in a row, by workload. claim_since: when the
    claim that is open was first decided on. leaving: this node shuts down. copying: datasets of the unit that are being
    sent to another node. ready: by workload: what its next node has said. unstartable: by workload: why it has not come
    up in this epoch, again and again. users: by dataset: containers that use it here without being workloads.
    """

    node: str
    incarnation: str
    now: float
    life: int
    gate: bool
    unit: tuple[Dataset, ...]
    cluster: Cluster
    here: Mapping[str, Here]
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()
    claim_since: float | None = None
    trouble: Trouble | None = None
    blocked: Blocked | None = None
    leaving: Leaving | None = None
    cutovers: Mapping[str, int] = field(default_factory=dict)
    starts: Mapping[str, int] = field(default_factory=dict)
    """By dataset: milliseconds that its workloads took to start, the first time in this epoch."""
    copying: Mapping[str, Copying] = field(default_factory=dict)
    ready: Mapping[str, Ready] = field(default_factory=dict)
    unstartable: Mapping[str, str] = field(default_factory=dict)
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held: bool = False

    @property
    def mine(self) -> list[Dataset]:
        """The datasets of the unit that this incarnation holds."""
        return [d for d in self.unit if d.tenure and d.tenure.held and d.tenure.incarnation == self.incarnation]

    @property
    def workloads(self) -> list[tuple[str, WorkloadSpec]]:
        """Those that use a dataset of the unit, by name."""
        names = {d.name for d in self.unit}
        return [(n, spec) for n, spec in sorted(self.cluster.workloads.items()) if names & set(spec.datasets)]

    def fence(self, holder: Holder) -> Fence | None:
        return self.cluster.fences.get(holder.incarnation)

    def clearable(self, d: Dataset, holder: Holder) -> bool:
        """Whether this earlier holder is known to write no more."""
        return may_clear(holder, d, self.fence(holder))
