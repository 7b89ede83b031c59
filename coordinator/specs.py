"""What users want, as they write it to etcd: datasets and workloads. No I/O, no clock."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from drover.coordinator.keys import name_error
from drover.coordinator.record import Name, Record, UserRecord
from drover.coordinator.sizes import format_size, parse_size
from drover.coordinator.timings import PROFILES

Size = Annotated[int, BeforeValidator(parse_size)]


MAX_CUTOVER = 0.2


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
    labels: dict[str, str] = Field(default_factory=dict)
    reclaim: Literal["retain", "trash", "delete"] = "retain"
    """What `drover rm` does to the data: nothing, keep it for some days, destroy it. Who merely deletes the spec with
    `trash` keeps the data, as with `retain`."""

    max_cutover: Annotated[float, Field(gt=0, le=3600)] = MAX_CUTOVER
    """Local copies: seconds that the storage's part of a cut-over should take. Rounds of copying go on until it does,
    or until another one makes it no shorter."""

    longer_cutover: Literal["accept", "give up"] = "accept"
    """Where copying comes no closer to `max_cutover`: stop the workload for longer, or let it run where it is."""

    replicas: Annotated[int, Field(ge=0, le=8)] = 0
    """Local copies: so many other nodes keep one, besides the node that has the dataset."""
    replicate_every: Annotated[float, Field(ge=1, le=7 * 86400)] = 60.0
    """Seconds between two snapshots that are sent to them."""
    replicate_after: Size | None = None
    """One is sent earlier when so many bytes have changed, where the back end counts them."""
    max_data_loss: Annotated[float, Field(ge=0, le=365 * 86400)] = 0.0
    """Local copies: seconds of writing that may be lost when the node has died and `failover` lets another one go on
    from its copy. 0: none, so that this needs a person each time."""

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        """A copy is never newer than the last snapshot, and what a dead node wrote until its D_hard counts as lost."""
        least = self.replicate_every + min(timings.d_hard for timings in PROFILES.values())
        if 0 < self.max_data_loss < least:
            raise ValueError(
                f"max_data_loss {self.max_data_loss:g} s can never be met: a copy is up to replicate_every "
                f"({self.replicate_every:g} s) old, and a node that falls silent may have written until its D_hard; "
                f"allow at least {least:g} s, or lower replicate_every; 0: a person decides each time"
            )
        return self

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
    """`workloads/<w>`: what uses datasets, whatever its kind. Runs on the node that has all its datasets mounted."""

    awaited: ClassVar[bool] = False
    """A move stops it only once its next node is ready to start it."""

    kind: str
    datasets: Annotated[tuple[Name, ...], Field(min_length=1)]
    environment: dict[str, str] = Field(default_factory=dict)
    user: str | None = None
    """User name or number; None: that of the agent, or of the image."""
    working_dir: str | None = None
    """None: the path of the first dataset, or as the image says."""
    stop_grace_period: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """Seconds between SIGTERM and SIGKILL."""
    restart: Literal["always", "on-failure", "no"] = "always"
    on_start_failure: Literal["stay", "back"] = "stay"
    """Where it cannot be started after a move: keep trying, or go back to where it came from."""

    @model_validator(mode="after")
    def _startable(self) -> Self:
        """What execve(2) cannot be given is refused here, not found out at the start."""
        texts = (*self.environment, *self.environment.values(), self.user or "", self.working_dir or "")
        if any("\0" in text for text in (*texts, *self._words())):
            raise ValueError("no text in it may have a NUL character")
        if wrong := [name for name in self.environment if not name or "=" in name]:
            raise ValueError(f"environment has {wrong[0]!r}, which cannot be the name of a variable")
        return self

    def _words(self) -> tuple[str, ...]:
        """What else ends up in a command line."""
        return ()


class ProcessSpec(WorkloadSpec):
    """A command on the node itself."""

    kind: Literal["process"] = "process"
    command: Annotated[tuple[str, ...], Field(min_length=1)]

    def _words(self) -> tuple[str, ...]:
        return self.command


class Limits(Record):
    """What a back end can make. fs: the file system where a spec names none. minimum: by file system, bytes. shared:
    every node reaches the same data, so that there are no copies to keep on others. moments: a copy of what is in use
    is of one moment; else nobody goes on from one without being told to."""

    fs: str
    minimum: dict[str, int]
    shared: bool = False
    moments: bool = True

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
