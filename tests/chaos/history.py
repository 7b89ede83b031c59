"""What a run of chaos leaves behind, as values: every claim of the checker is about these, and about nothing else.

All times are CLOCK_BOOTTIME in seconds: the machines of a playground share one kernel, and so one clock. A history
lives in a directory, one file of JSON lines for each kind of event, so that it can be checked again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

ERA = 10**9
"""Added to the revisions of an etcd that was restored from a snapshot, so that what came later is larger."""


_NOTED = 0.05
"""Seconds that may pass between a jump and the note of it."""


@dataclass(frozen=True)
class Jump:
    """A clock was put ahead, by so many seconds."""

    at: float
    seconds: float


@dataclass(frozen=True)
class Clock:
    """A node's CLOCK_BOOTTIME as it was made to be: it runs `rate` times as fast from `base` on, and jumps."""

    rate: float
    base: float
    jumps: tuple[Jump, ...] = ()

    def common(self, shown: float) -> float:
        """The time by the clock that all share, when this one showed that."""
        ahead = [0.0, *accumulate(jump.seconds for jump in self.jumps)]
        times = [(shown - seconds - self.base) / self.rate + self.base for seconds in ahead]
        # Before the first jump, else after the last of those that had been by then.
        since = [at for at, jump in zip(times[1:], self.jumps, strict=True) if at >= jump.at - _NOTED]
        return since[-1] if since else times[0]


@dataclass(frozen=True)
class About:
    """The run. d_io: seconds, the nodes' own. clocks: of nodes that were given others than the common one.
    blind: storage protects nothing, as if every node had a kernel of its own.
    armed: a node that cannot stop in time is reset."""

    seed: int
    nodes: tuple[str, ...]
    datasets: tuple[str, ...]
    d_io: float
    began: float
    ended: float
    clocks: dict[str, Clock] = field(default_factory=dict)
    mutant: str = ""
    blind: bool = False
    armed: bool = False


@dataclass(frozen=True)
class Ack:
    """A record that a writer was told is safe. began, done: around its write and its fsync."""

    uid: str
    writer: str
    epoch: int
    sequence: int
    began: float
    done: float


@dataclass(frozen=True)
class Run:
    """Records of one writer that follow each other without a hole, first and last included."""

    writer: str
    first: int
    last: int


@dataclass(frozen=True)
class Reading:
    """All that is in a dataset, in its order: what a writer found when it started, or the last look (writer "").
    at: when it began to read, everything found being durable. epoch, incarnation: as stored with the data.
    damaged: whole lines that are no records."""

    dataset: str
    uid: str
    writer: str
    node: str
    epoch: int
    incarnation: str
    at: float
    runs: tuple[Run, ...]
    damaged: int


@dataclass(frozen=True)
class Change:
    """One change of one key in etcd, below the prefix. at: when it was heard of; it was committed before. value None:
    it was deleted. An etcd that was restored counts on from the next multiple of ERA."""

    revision: int
    at: float
    key: str
    value: str | None


@dataclass(frozen=True)
class Device:
    """A loop device with a dataset's image. sequence: the kernel's number of this attachment, never used again.
    sectors: written so far, as the device counts."""

    sequence: int
    uid: str
    node: str
    sectors: int


@dataclass(frozen=True)
class Sample:
    """All devices at one moment: they were looked at between `at` and `until`."""

    at: float
    until: float
    devices: tuple[Device, ...]


@dataclass(frozen=True)
class Token:
    """What is stored beside an image, from when it was first seen to be so."""

    at: float
    uid: str
    epoch: int
    incarnation: str
    node: str


@dataclass(frozen=True)
class Fault:
    """Something that was done to the cluster. note: what came of the attempt; "" where all went as planned."""

    name: str
    target: str
    began: float
    ended: float
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a dataset fared when all faults had ended. seconds: until it was served again; None: not within the limit."""

    dataset: str
    seconds: float | None
    says: str = ""


@dataclass(frozen=True)
class History:
    """Everything of one run, each kind in the order of its times (changes: of their revisions)."""

    about: About
    acks: tuple[Ack, ...] = ()
    readings: tuple[Reading, ...] = ()
    changes: tuple[Change, ...] = ()
    samples: tuple[Sample, ...] = ()
    tokens: tuple[Token, ...] = ()
    faults: tuple[Fault, ...] = ()
    outcomes: tuple[Outcome, ...] = ()

    def uids(self) -> Mapping[str, str]:
        """Datasets by uid."""
        return {reading.uid: reading.dataset for reading in self.readings}


T = TypeVar("T")


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def encode(event: object) -> str:
    """One line, with its end."""
    return _adapter(type(event)).dump_json(event).decode() + "\n"


def save(directory: Path, kind: str, events: Iterable[object]) -> None:
    with (directory / f"{kind}.jsonl").open("w") as file:
        file.writelines(encode(event) for event in events)


def save_about(directory: Path, about: About) -> None:
    (directory / "about.json").write_text(_adapter(About).dump_json(about, indent=1).decode() + "\n")


def load(directory: Path) -> History:
    """Raises FileNotFoundError where there is no history, pydantic.ValidationError where it cannot be understood."""
    about: About = _adapter(About).validate_json((directory / "about.json").read_bytes())
    acks = [ack for file in sorted(directory.glob("writers/*.acks.jsonl")) for ack in _read(file, Ack)]
    readings = [one for file in sorted(directory.glob("writers/*.readings.jsonl")) for one in _read(file, Reading)]
    readings += _read(directory / "final.jsonl", Reading)
    return History(
        about,
        acks=tuple(sorted(acks, key=lambda ack: ack.began)),
        readings=tuple(sorted(readings, key=lambda reading: reading.at)),
        changes=tuple(_in_order(_read(directory / "changes.jsonl", Change))),
        samples=tuple(_read(directory / "samples.jsonl", Sample)),
        tokens=tuple(_read(directory / "tokens.jsonl", Token)),
        faults=tuple(sorted(_read(directory / "faults.jsonl", Fault), key=lambda fault: fault.began)),
        outcomes=tuple(_read(directory / "outcomes.jsonl", Outcome)),
    )


def _read(file: Path, kind: type[T]) -> Iterator[T]:
    """A line without its end was torn when its writer was killed: it was never said."""
    if not file.exists():
        return
    with file.open("rb") as lines:
        for line in lines:
            if line.endswith(b"}\n"):
                yield _adapter(kind).validate_json(line)


def _in_order(changes: Iterable[Change]) -> list[Change]:
    """As etcd made them, each once: a watch that was broken and resumed may tell some twice."""
    first: dict[tuple[int, str], Change] = {}
    for change in changes:
        first.setdefault((change.revision, change.key), change)
    return sorted(first.values(), key=lambda change: change.revision)
