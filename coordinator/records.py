"""What is stored in etcd, as typed values. No I/O, no clock.

Every record is JSON that a person can read and type. Records that users write (`DatasetSpec`, `WorkloadSpec`) refuse
unknown fields, so that a typing error is reported and not ignored; records that agents write ignore what a newer agent
may have added.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from drover.coordinator.keys import name_error
from drover.coordinator.sizes import format_size, parse_size
from drover.coordinator.timings import MAX_D_HARD, MAX_PAUSE

FORMAT = 1
"""Version of the stored format, kept in the `cluster` record."""


class InvalidRecord(ValueError):
    """A stored value is not what its key promises; the text is one line, fit for a user."""


Size = Annotated[int, BeforeValidator(parse_size)]


def _name(value: str) -> str:
    if reason := name_error(value):
        raise ValueError(reason)
    return value


Name = Annotated[str, AfterValidator(_name)]


def one_line(text: str) -> str:
    """What a user typed may be in it: nothing of that breaks the line, or is longer than a line."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:301])
    return shown if len(text) <= 300 else shown[:300] + "…"


def timestamp(now: datetime) -> str:
    """UTC, to the millisecond: for people and logs; nothing is decided on it."""
    return now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Record(BaseModel):
    """Base of what agents write: unknown fields of newer agents are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    def encode(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """Raises InvalidRecord with one line that names the field and says what is wrong with it."""
        try:
            return cls.model_validate_json(value)
        except ValidationError as error:
            first, *others = error.errors()
            if first["type"] == "json_invalid":
                shown = value[:60].decode(errors="replace")
                raise InvalidRecord(f"the value is not JSON: {shown!r}") from None
            # A field that is missing is mostly one that was misspelt.
            first = next((one for one in (first, *others) if one["type"] == "extra_forbidden"), first)
            where = ".".join(str(part) for part in first["loc"])
            said = first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                said = cls._no_field(where)
            raise InvalidRecord(one_line(f"{where}: {said}" if where else said)) from None

    @classmethod
    def _no_field(cls, typed: str) -> str:
        near = difflib.get_close_matches(typed[:64].lower(), cls.model_fields, n=1)
        return "there is no such field; " + (
            f"did you mean {near[0]}?" if near else f"there are {', '.join(cls.model_fields)}"
        )


class UserRecord(Record):
    """Base of what users write: unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cluster(Record):
    """`cluster`: which cluster this prefix is. `etcd` is etcd's own cluster id: another one means a restored copy.
    histories: a random id for each recovery after etcd went back, newest last."""

    id: str
    etcd: str
    histories: tuple[str, ...] = ()
    format: int = FORMAT


class DatasetSpec(UserRecord):
    """`datasets/<d>`: what a user wants. `{"backend": "loopback", "size": "10GiB"}` is enough."""

    backend: str
    size: Size
    fs: Literal["xfs", "ext4"] | None = None
    """File system; None: the back end's choice."""
    failover: Literal["none", "any"] | tuple[Name, ...] = "none"
    """Who may take the dataset when its node has died: nobody (it waits for its node), any node, or those listed."""
    fencing: Literal["hard", "cooperative"] = "hard"
    """`cooperative`: a silent node counts as stopped after W even if nothing would have reset its machine."""
    group: Name | None = None
    """Datasets of one group live on one node and move in one transaction."""
    labels: dict[str, str] = {}
    reclaim: Literal["retain", "trash", "delete"] = "retain"
    """What `drover rm` does to the data: nothing, keep it for some days, destroy it. Who merely deletes the spec with
    `trash` keeps the data, as with `retain`."""

    @field_validator("failover", mode="before")
    @classmethod
    def _failover(cls, value: Any) -> Any:
        if value not in ("none", "any") and not isinstance(value, list | tuple):
            raise ValueError(f'failover must be "none", "any" or a list of nodes, not {value!r}')
        for name in () if isinstance(value, str) else value:
            if wrong := name_error(name) if isinstance(name, str) else "the name is not text":
                raise ValueError(f"failover has {name!r}, which is not a node's name: {wrong}")
        return value


class WorkloadSpec(UserRecord):
    """`workloads/<w>`: what uses datasets. Runs on the node that has all its datasets mounted."""

    kind: Literal["process"] = "process"
    command: Annotated[tuple[str, ...], Field(min_length=1)]
    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    environment: dict[str, str] = {}
    user: str | None = None
    """User name or number; None: that of the agent."""
    working_dir: str | None = None
    """None: the path of the first dataset."""
    stop_grace_period: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    restart: Literal["always", "on-failure", "no"] = "always"

    @model_validator(mode="after")
    def _startable(self) -> Self:
        """What execve(2) cannot be given is refused here, not found out at the start."""
        texts = (*self.command, *self.environment, *self.environment.values(), self.user or "", self.working_dir or "")
        if any("\0" in text for text in texts):
            raise ValueError("no text in it may have a NUL character")
        if wrong := [name for name in self.environment if not name or "=" in name]:
            raise ValueError(f"environment has {wrong[0]!r}, which cannot be the name of a variable")
        return self


class Limits(Record):
    """What a back end can make. fs: the file system where a spec names none. minimum: by file system, bytes."""

    fs: str
    minimum: dict[str, int]

    def refuse(self, size: int, fs: str | None) -> str:
        """Why a dataset of so many bytes cannot be made with this file system; "" where it can."""
        kind = fs or self.fs
        if kind not in self.minimum:
            return f"fs must be {' or '.join(self.minimum)}, not {kind!r}"
        if size >= (needed := self.minimum[kind]):
            return ""
        other = next((name for name, least in self.minimum.items() if least <= size), None)
        more = f"ask for more, or for {other}" if other else "ask for more"
        return f"size {format_size(size)} is too small: {kind} needs at least {format_size(needed)}; {more}"


class NodeRecord(Record):
    """`nodes/<n>`, on the session's lease: a node that is here. `lease` is that lease's id, for handovers to it.
    limits: by back end, so that what cannot be made is refused before anybody takes it."""

    incarnation: str
    machine: str
    boot: str
    lease: int
    address: str = ""
    backends: tuple[str, ...] = ()
    limits: dict[str, Limits] = {}
    version: str = ""
    joined: str = ""


class Heartbeat(Record):
    """`heartbeats/<n>`: rewritten every H through raft. Its standing still for W is what silence means.

    clock: the sender's CLOCK_BOOTTIME in seconds. d_hard: seconds after the sending of this heartbeat at which the
    sender has stopped writing. armed: a reset is armed that makes this true even if the sender hangs. A placeholder is
    put by an observer who found no heartbeat: its owner may go on from it. longer: seconds by which the sender's
    deadlines lie later, as the cluster is paused.
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

    @property
    def writes_for(self) -> float:
        """Seconds after its sending at which the sender has stopped writing."""
        return self.d_hard + self.longer


def refusal(spec: DatasetSpec, nodes: Iterable[NodeRecord]) -> str:
    """Why no node that offers the spec's back end can make the dataset; "" where one can, or none offers it."""
    offering = [node for node in nodes if spec.backend in node.backends]
    said = [node.limits[spec.backend].refuse(spec.size, spec.fs) for node in offering if spec.backend in node.limits]
    return said[0] if said and len(said) == len(offering) and all(said) else ""


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
    still: seconds for which its heartbeat had stood still; None: not known."""

    node: str
    by: str
    evidence: Evidence
    armed: bool = False
    """The heartbeat that stood still said that a reset was armed: then silence proves that the machine has stopped."""
    detail: str = ""
    at: str = ""
    still: float | None = None


class Holder(Record):
    """One node in one incarnation."""

    node: str
    incarnation: str


class Answers(Record):
    """The `desired` that a tenure acted on: only a newer one moves the dataset. Revision 0: there was none."""

    value: str = ""
    revision: int = 0


class Asked(Record):
    """`asked/<d>`: who put `desired/<d>`, and by what. Counts only where both were put in one transaction: then it is
    about that very wish."""

    by: str


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
    handover, or by death, counted from the last heartbeat that was seen. For measuring.
    base: local copies: the snapshot that the epoch starts from. created: the spec's create revision; another one is
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
    base: str | None = None
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
    cutover_ms: int | None = None
    """How long the dataset was mounted nowhere when this epoch began, by wall clocks: since the source of a move had
    stopped using it, or since the last heartbeat that was seen of the node that died."""
    since: str = ""

    def same_as(self, other: Status | None) -> bool:
        """Whether a person would see the same; `since` aside."""
        return other is not None and self.model_copy(update={"since": ""}) == other.model_copy(update={"since": ""})


class HistoryEntry(Record):
    """`history/<d>/<epoch>`: one epoch, for audits. asked: who or what caused it. at: when it was assigned, or became
    active. gap_ms: as a status' cutover_ms."""

    epoch: int
    node: str
    because: str
    evidence: Evidence | None = None
    before: str = ""
    """The node that had it before."""
    asked: str = ""
    at: str = ""
    gap_ms: int | None = None


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


R = TypeVar("R", bound=Record)
