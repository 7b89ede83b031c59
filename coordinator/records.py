"""What else is stored in etcd, as typed values: what agents and the commands of people write. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from drover.coordinator.record import Record, UserRecord, one_line
from drover.coordinator.specs import DatasetSpec, Limits
from drover.coordinator.timings import MAX_D_HARD, MAX_PAUSE

FORMAT = 1
"""Version of the stored format, kept in the `cluster` record."""


class Cluster(Record):
    """`cluster`: which cluster this prefix is. `etcd` is etcd's own cluster id: another one means a restored copy.
    histories: a random id for each recovery after etcd went back, newest last."""

    id: str
    etcd: str
    histories: tuple[str, ...] = ()
    format: int = FORMAT


class NodeRecord(Record):
    """`nodes/<n>`, on the session's lease: a node that is here. `lease` is that lease's id, for handovers to it.
    limits: by back end, so that what cannot be made is refused before anybody takes it."""

    incarnation: str
    machine: str
    boot: str
    lease: int
    address: str = ""
    backends: tuple[str, ...] = ()
    grpc: str = ""
    """Where other agents reach its gRPC: `host:port`."""
    limits: dict[str, Limits] = Field(default_factory=dict)

    def moments(self, backend: str) -> bool:
        """Whether its copies of what is in use are of one moment each."""
        return self.limits[backend].moments if backend in self.limits else True

    version: str = ""
    joined: str = ""
    leaving: bool = False
    """It shuts down: nothing is given to it any more."""


class Heartbeat(Record):
    """`heartbeats/<n>`: rewritten every H through raft. Its standing still for W is what silence means.

    clock: the sender's CLOCK_BOOTTIME in seconds. d_hard: seconds after the sending of this heartbeat at which the
    sender has stopped writing. armed: a reset is armed that makes this true even if the sender hangs. A placeholder is
    put by an observer who found no heartbeat: its owner may go on from it. longer: seconds by which the sender's
    deadlines lie later, as the cluster is paused. left: the sender has stopped everything and verified it, as its
    machine shuts down, and writes nothing unless a later heartbeat of it is answered; `longer` is how long it is waited
    for. candidates: who may call it silent after W, as `promises.candidate` has it; anybody else waits for `beyond`
    seconds more, by which its deadlines lie later at most where all of them promise to wait.
    """

    incarnation: str
    counter: int
    clock: Annotated[float, Field(allow_inf_nan=False)]
    d_hard: Annotated[float, Field(gt=0, le=MAX_D_HARD)]
    armed: bool = False
    machine: str = ""
    boot: str = ""
    placeholder: bool = False
    longer: Annotated[float, Field(ge=0, le=MAX_PAUSE)] = 0.0
    left: bool = False
    candidates: tuple[str, ...] = ()
    beyond: Annotated[float, Field(ge=0, le=MAX_PAUSE)] = 0.0

    @property
    def writes_for(self) -> float:
        """Seconds after its sending at which the sender has stopped writing, unless its candidates have promised."""
        return self.d_hard + self.longer

    def writes_for_at(self, candidate: str) -> float:
        """Seconds after its sending at which the sender has stopped writing, where this one has not promised."""
        return self.writes_for + (0.0 if candidate in self.candidates else self.beyond)

    @property
    def writes_until(self) -> float | None:
        """When its sender has stopped writing, by its own clock, whoever has promised; None: somebody else put this
        heartbeat."""
        if self.placeholder:
            return None
        return self.clock if self.left else self.clock + self.writes_for + self.beyond


def refusal(spec: DatasetSpec, nodes: Iterable[NodeRecord]) -> str:
    """Why no node that offers the spec's back end can make the dataset; "" where one can, or none offers it."""
    offering = [node for node in nodes if spec.backend in node.backends]
    said = [node.limits[spec.backend].refuse(spec.size, spec.fs) for node in offering if spec.backend in node.limits]
    if said and len(said) == len(offering) and all(said):
        return said[0]
    if spec.max_data_loss and not any(node.moments(spec.backend) for node in offering):
        return (
            f"max_data_loss must be 0: back end {spec.backend} has no snapshots, and a copy of what is in use is of no "
            "single moment, so that only a person can decide to go on from one; btrfs and zfs have snapshots"
            if offering
            else ""
        )
    return ""


class LeaseRecord(Record):
    """`leases/<d>`, on the owner's session lease: for people and wake-ups, never compared."""

    node: str
    incarnation: str
    epoch: int


class Evidence(StrEnum):
    """Why an incarnation is known to write no more."""

    SILENCE = "silence"
    """Its heartbeat stood still for W."""
    REBOOT = "reboot"
    """The same machine joined again in another boot."""
    STOPPED = "stopped"
    """It stopped everything itself, verified that nothing was left, and said so."""
    OPERATOR = "operator"
    """A person confirmed it."""


class Fence(Record):
    """`fences/<incarnation>`: the durable record that an incarnation is dead to the cluster. Never taken back.
    still: seconds for which its heartbeat had stood still; None: not known. trace: the traceparent of its span, where
    an agent has written it: what is claimed for it belongs to that trace."""

    node: str
    by: str
    evidence: Evidence
    armed: bool = False
    """The heartbeat that stood still said that a reset was armed: then silence proves that the machine has stopped."""
    detail: str = ""
    at: str = ""
    still: float | None = None
    until: float | None = None
    """The moment, by the clock in its heartbeats, after which it has written nothing; None: not known."""
    trace: str = ""

    @property
    def when(self) -> float | None:
        """Unix time; None where `at` says nothing."""
        try:
            return datetime.fromisoformat(self.at).timestamp()
        except ValueError:
            return None


class Holder(Record):
    """One node in one incarnation."""

    node: str
    incarnation: str


class Answers(Record):
    """The `desired` that a tenure acted on: only a newer one moves the dataset. Revision 0: there was none."""

    value: str = ""
    revision: int = 0


class Accepted(Record):
    """A person's word that a dataset may go on from this snapshot (guid), and lose what was written after it in
    `epoch`: said of no later one."""

    epoch: int
    guid: str


class Asked(Record):
    """`asked/<d>`: who put `desired/<d>`, and by what. Counts only where both were put in one transaction: then it is
    about that very wish. trace: the traceparent that the move is to belong to. at: when (Unix time). accepts: what may
    be lost by it."""

    by: str
    trace: str = ""
    at: float | None = None
    accepts: Accepted | None = None


class Copy(Record):
    """What a standby has acknowledged: whole, checked and durable there. guid, name: of the snapshot; the guid is the
    same on every node that has it. taken: when what it holds was the present, by the clock in the owner's heartbeats;
    at: the same moment, for people."""

    guid: str
    name: str
    taken: Annotated[float, Field(allow_inf_nan=False)]
    at: str = ""


class Copies(Record):
    """`copies/<d>`: the standbys of a dataset with local copies; written by its active owner only.

    epoch: the one in which all of this was sent and acknowledged: in another one it means nothing. standbys: the nodes
    that should have a copy. nodes: what was acknowledged, by node; one that is a standby no more stays until the others
    have theirs. dropped: nodes whose copies are not wanted any more: each removes its own. trouble: by node: why it is
    not kept up at the moment, for people.
    """

    epoch: int
    uid: str
    standbys: tuple[str, ...] = ()
    nodes: dict[str, Copy] = Field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    trouble: dict[str, str] = Field(default_factory=dict)


class DivergedCopy(Record):
    """What a node has written in an epoch and no later one went on from. guid: names it for good. path: where it is on
    its node. size: bytes that only it takes; None: not known. discard: a person does not want it any more."""

    epoch: int
    guid: str
    path: str
    size: int | None = None
    discard: bool = False


class Diverged(Record):
    """`diverged/<d>/<n>`: what diverged of a dataset on one node; written by that node, but for `discard`."""

    uid: str
    copies: tuple[DivergedCopy, ...]


class UserSnapshot(Record):
    """`snapshots/<d>/<s>`: a snapshot of a dataset that a user wants, `{}` at first; the rest is written by the node
    that has taken it. uid: the dataset's; "": of the one that has the name. remove: it is not wanted any more; the node
    that has it deletes the record when it is gone. taken: when, in UTC. size: bytes that only it takes; None: not
    known. trouble: why it has not been taken, or removed."""

    uid: str = ""
    remove: bool = False
    node: str = ""
    guid: str = ""
    taken: str = ""
    size: int | None = None
    trouble: str = ""


class State(StrEnum):
    """How far a tenure got."""

    ASSIGNED = "assigned"
    """The node has it and has not written yet."""
    ACTIVE = "active"
    """The node may write."""
    RELEASED = "released"
    """Nobody has it; the last holder stopped cleanly."""
    DESTROYED = "destroyed"
    """The data was destroyed on request; the record stays, so that the epoch never starts again."""


class Tenure(Record):
    """`owners/<d>`: the truth about ownership; written by the protocol's transactions only. It outlives the spec.

    unfenced: earlier holders that may still be able to write. refused: nodes that could not activate it in this turn.
    source: the node that handed it over, to which it goes back if this one cannot activate it.
    before: the node that had it in the epoch before. asked: who or what caused the epoch.
    down: when its use was stopped before this epoch, by a wall clock (Unix time, seconds): by the source for the
    handover, or by death, counted from the last heartbeat that was seen. For measuring. stopped: when the source told
    the first workload to end, for the handover; None: none ran. For measuring. trace: the traceparent of what made the
    epoch; what its holder does to take it up belongs to that trace. begun: when that began: the wish was put, or the
    fence (Unix time). For measuring.
    base: local copies: the guid of the snapshot that the epoch starts from; None: it goes on with the working copy.
    created: the spec's create revision; another one is
    another dataset of the same name. 0: whichever spec is there, until it is claimed. born: the file system was made;
    from then on missing data is an error.
    txn: random id of the transaction that wrote this, to settle unanswered ones.
    """

    node: str
    incarnation: str
    epoch: int
    state: State
    because: str = ""
    since: str = ""
    evidence: Evidence | None = None
    unfenced: tuple[Holder, ...] = ()
    refused: tuple[str, ...] = ()
    source: str = ""
    before: str = ""
    asked: str = ""
    down: float | None = None
    stopped: float | None = None
    trace: str = ""
    begun: float | None = None
    base: str | None = None
    copies: tuple[str, ...] = ()
    """Local copies: the nodes that have what this epoch starts from, or has written, the source of a handover first.
    Empty: every node with the back end can reach the data."""
    written: int = 0
    """Local copies: the epoch that was active last, whose working copy is continued where there is no base."""
    promoted: float | None = None
    """Local copies: this epoch starts from the copy of a standby, and what was written in the last so many seconds of
    the holder before it may be missing (-1: not known); None: nothing is."""
    answers: Answers = Answers()
    uid: str
    created: int
    backend: str
    object: str = ""
    reclaim: Literal["retain", "trash", "delete"] = "retain"
    born: bool = False
    trash: str = ""
    """State destroyed: its data was not, but is in the trash under this name."""
    txn: str

    @property
    def held(self) -> bool:
        return self.state in (State.ASSIGNED, State.ACTIVE)

    @property
    def holder(self) -> Holder:
        return Holder(node=self.node, incarnation=self.incarnation)


class Phase(StrEnum):
    """What people see a dataset do."""

    WAITING = "waiting"
    """Nobody has it, or it is held up; the reason says by what."""
    STARTING = "starting"
    """A node has it and brings it up."""
    ACTIVE = "active"
    MOVING = "moving"
    """Its node stops using it and hands it over."""
    STOPPED = "stopped"
    """Released and not wanted anywhere."""
    FAILED = "failed"
    """It cannot go on without a person; the reason says what to do."""
    DESTROYED = "destroyed"


class Status(Record):
    """`status/<d>`: what people read. Written on changes only; `warning` is about ignored input."""

    phase: Phase
    reason: str = ""
    node: str = ""
    epoch: int = 0
    path: str = ""
    warning: str = ""
    needs: str = ""
    """What a person has to do, where nothing goes on without."""
    users: tuple[str, ...] = ()
    """Containers that use it without being workloads: it is not moved under their hands."""
    cutover_ms: int | None = None
    """How long the dataset was mounted nowhere when this epoch began, by wall clocks: since the source of a move had
    stopped using it, or since the last heartbeat that was seen of the node that died."""
    start_ms: int | None = None
    """How long its workloads took to start, the first time in this epoch."""
    since: str = ""

    def same_as(self, other: Status | None) -> bool:
        """Whether a person would see the same; `since` aside."""
        return other is not None and self.model_copy(update={"since": ""}) == other.model_copy(update={"since": ""})


class HistoryEntry(Record):
    """`history/<d>/<epoch>`: one epoch, for audits. asked: who or what caused it. at: when it was assigned, or became
    active. gap_ms and start_ms: as a status' cutover_ms and start_ms. stop_ms: for a hand-over: how long the source's
    workloads took to end."""

    epoch: int
    node: str
    because: str
    evidence: Evidence | None = None
    before: str = ""
    """The node that had it before."""
    asked: str = ""
    at: str = ""
    gap_ms: int | None = None
    stop_ms: int | None = None
    start_ms: int | None = None
    trace: str = ""
    """The id of the trace that the change of epoch belongs to."""


class Cordon(Record):
    """`cordons/<n>`: the node takes no new datasets."""

    by: str = ""
    reason: str = ""
    at: str = ""


class Trashed(Record):
    """`trash/<t>`: a dataset that was removed and is destroyed at `until`. Its tenure goes to `owners/<t>`."""

    dataset: str
    uid: str
    spec: DatasetSpec
    until: AwareDatetime
    by: str = ""
    at: str = ""


class Pause(UserRecord):
    """`pause`: until then nothing changes hands and nobody is fenced for being silent; owners go on without etcd."""

    until: AwareDatetime
    by: str = ""
    reason: str = ""

    @property
    def words(self) -> str:
        """`paused by ann until 2026-11-24T15:00:00Z (new etcd)`"""
        by = f" by {self.by}" if self.by else ""
        why = f" ({self.reason})" if self.reason else ""
        return one_line(f"paused{by} until {self.until.isoformat(timespec='seconds').replace('+00:00', 'Z')}{why}")
