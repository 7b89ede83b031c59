"""What everything in api/ is told about the agent: read-only, from the event loop. The agent's app implements it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from drover.agent.rounds import Round
from drover.agent.telemetry import Gauges
from drover.coordinator.records import Phase

ETCD, SESSION, GUARD = "etcd", "session", "guard"
"""Names in `Source.health()`; without the first two a node takes no part. The others are `backend.<name>`."""


@dataclass(frozen=True)
class Progress:
    """what: for people. done, total: in the unit that `what` implies; total 0: not known. to: the node that it is
    copied to, "" where it is not; rounds: that are over; predicted: seconds that the last increment is expected to
    take, 0 where that is not known; last: it is what comes next."""

    what: str
    done: int
    total: int = 0
    to: str = ""
    rounds: tuple[Round, ...] = ()
    predicted: float = 0.0
    last: bool = False


@dataclass(frozen=True)
class DatasetView:
    """A dataset as this node sees it. Texts are empty where there is nothing to say.

    node: its owner. path: where it is mounted there. size: bytes, as asked for. here: mounted on this node.
    since: when it came into this phase, as records.timestamp writes it.
    """

    name: str
    phase: Phase
    backend: str
    size: int
    reason: str = ""
    warning: str = ""
    node: str = ""
    epoch: int = 0
    path: str = ""
    desired: str = ""
    progress: Progress | None = None
    here: bool = False
    since: str = ""


class Session(StrEnum):
    """Where this node's membership stands."""

    JOINING = "joining"
    """Not a member yet: waits for etcd, or for its predecessor to be gone."""
    LIVE = "live"
    LAPSED = "lapsed"
    """The deadline has passed: the gate is closed, nothing here writes."""
    ENDED = "ended"
    """The incarnation has ended; it is fenced or about to be."""
    HALTED = "halted"
    """etcd went back, or is another one: nothing is done until somebody has decided."""


@dataclass(frozen=True)
class NodeView:
    """incarnation: empty while joining. margin: seconds until D_soft; not positive: passed, or never counted. free:
    bytes for volumes, by back end, where there is a limit."""

    name: str
    incarnation: str
    session: Session
    margin: float
    free: Mapping[str, int] = field(default_factory=dict)


class Source(Protocol):
    """Every method returns at once, and is called in the agent's event loop only."""

    def datasets(self) -> Sequence[DatasetView]:
        """In any order, each name once."""
        ...

    def node(self) -> NodeView: ...

    def used(self) -> Mapping[str, int]:
        """Bytes in use, by dataset, of what is mounted here and has said so lately. May take some 10 ms."""
        ...

    def health(self) -> Mapping[str, str | None]:
        """What is wrong with ETCD, SESSION, GUARD and each `backend.<name>`; None: nothing. One line, for a user."""
        ...

    def gauges(self) -> Gauges:
        """What metrics show beside what is counted."""
        ...

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """`wake()` is called in the event loop after any of the above has changed (the margin's mere running down
        aside). Returns what ends the subscription; to end it twice is harmless."""
        ...


class Bell:
    """The subscriptions of a Source: whoever implements one rings it after a change."""

    def __init__(self) -> None:
        self._wakes: dict[object, Callable[[], None]] = {}

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        key = object()
        self._wakes[key] = wake
        return lambda: self._wakes.pop(key, None) and None

    def ring(self) -> None:
        for wake in list(self._wakes.values()):
            wake()


def reported(source: Source) -> dict[str, str | None]:
    """`Source.health()`, where what it must tell of and does not tell of yet is not healthy yet."""
    return {ETCD: "not known yet", SESSION: "not known yet"} | dict(source.health())


def unhealthy(source: Source) -> dict[str, str]:
    """What is wrong, by name; empty: the agent is healthy."""
    return {name: reason for name, reason in reported(source).items() if reason is not None}


def unready(wrong: Mapping[str, str]) -> dict[str, str]:
    """What of it keeps the node from taking part; a sick back end leaves it to the datasets of the others."""
    return {name: reason for name, reason in wrong.items() if name in (ETCD, SESSION)}


def summary(source: Source) -> str:
    """How the agent is, in one line: what /readyz says, and what is here."""
    wrong = unhealthy(source)
    here = sum(view.here for view in source.datasets())
    told = "; ".join(f"{name}: {reason}" for name, reason in sorted(wrong.items()))
    if unready(wrong):
        return f"not ready: {told}"
    return f"ready, {here} dataset{'' if here == 1 else 's'} here" + (f"; {told}" if told else "")
