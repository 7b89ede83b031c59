"""The steps that the planner asks for, as plain values. `drover.agent.execute` runs them."""

from __future__ import annotations

from dataclasses import dataclass

from drover.coordinator.protocol.placement import Claim
from drover.coordinator.records import Holder


@dataclass(frozen=True)
class Touch:
    dataset: str


@dataclass(frozen=True)
class TakeClaim:
    claim: Claim


@dataclass(frozen=True)
class Clear:
    dataset: str
    stopped: tuple[Holder, ...]


@dataclass(frozen=True)
class Activate:
    dataset: str


@dataclass(frozen=True)
class Refuse:
    """This node cannot activate them: hand them to `to`, or release them."""

    datasets: tuple[str, ...]
    to: str | None
    because: str


@dataclass(frozen=True)
class Create:
    dataset: str


@dataclass(frozen=True)
class Publish:
    dataset: str


@dataclass(frozen=True)
class Grow:
    dataset: str


@dataclass(frozen=True)
class Refresh:
    dataset: str


@dataclass(frozen=True)
class Reput:
    dataset: str


@dataclass(frozen=True)
class StartWorkload:
    workload: str


@dataclass(frozen=True)
class AskReady:
    """Whether the node that it goes to could start it at once."""

    workload: str
    to: str


@dataclass(frozen=True)
class StopWorkload:
    """moving: it is for a move, which is given up for a while where something else uses the unit's data: then it is
    not stopped for nothing."""

    workload: str
    moving: bool = False


@dataclass(frozen=True)
class Unpublish:
    """leaving: it is for a move; then what stands in the way gives that up for a while."""

    dataset: str
    leaving: bool = True


@dataclass(frozen=True)
class Handover:
    datasets: tuple[str, ...]
    to: str
    because: str


@dataclass(frozen=True)
class Replicate:
    """Begin to send it while it is in use."""

    dataset: str
    to: str


@dataclass(frozen=True)
class StopReplicating:
    dataset: str


@dataclass(frozen=True)
class LastIncrement:
    """Nothing can be written to it here any more; then the rest is sent."""

    dataset: str


@dataclass(frozen=True)
class Release:
    datasets: tuple[str, ...]
    because: str


@dataclass(frozen=True)
class Destroy:
    dataset: str


Step = (
    Touch
    | TakeClaim
    | Clear
    | Activate
    | Refuse
    | Create
    | Publish
    | Grow
    | Refresh
    | Reput
    | StartWorkload
    | AskReady
    | StopWorkload
    | Unpublish
    | Handover
    | Release
    | Replicate
    | StopReplicating
    | LastIncrement
    | Destroy
)

AT_STORAGE = (Clear, Create, Publish, Grow, Unpublish, Destroy, LastIncrement)
"""After these something else may be here than before; the others are transactions, and workloads."""
