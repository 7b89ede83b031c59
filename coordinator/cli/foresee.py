"""What a move would do, from what is known before: what it stops, and how long the last ones took. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from drover.coordinator.cli.output import listing, milliseconds
from drover.coordinator.cli.picture import Dataset, Picture
from drover.coordinator.cli.shapes import ForeseenJson

_LAST = 10
"""So many of the newest moves are looked at."""


@dataclass(frozen=True)
class Gap:
    """milliseconds: the median of `moves` real ones. whose: of which datasets."""

    milliseconds: int
    moves: int
    whose: str


@dataclass(frozen=True)
class Foreseen:
    """datasets: all that move, the one that was named first. source: "" where nobody has it. stops: workloads that are
    stopped and started on the other node, with the seconds that each is given to end. gap: None: there was no move to
    go by. stop, start: milliseconds that its workloads took to end and to start, the median of real ones; None: they
    never did. increment: seconds that the last increment may take, where the back end copies; None: it does not. room:
    for people; "" where none is needed."""

    datasets: tuple[str, ...]
    source: str
    to: str
    stops: dict[str, float]
    gap: Gap | None
    stop: int | None = None
    start: int | None = None
    increment: float | None = None
    room: str = ""

    def as_json(self) -> ForeseenJson:
        return ForeseenJson(
            datasets=list(self.datasets),
            source=self.source or None,
            to=self.to,
            stops=sorted(self.stops),
            gap_ms=self.gap.milliseconds if self.gap else None,
            gap_of_moves=self.gap.moves if self.gap else 0,
            stop_ms=self.stop if self.stops else None,
            start_ms=self.start if self.stops else None,
            increment_ms=None if self.increment is None else round(self.increment * 1000),
            room=self.room,
        )

    def facts(self) -> list[tuple[str, str]]:
        stops = [f"{name} (at most {seconds:g} s to end)" for name, seconds in sorted(self.stops.items())]
        others = listing(list(self.datasets[1:])) if len(self.datasets) > 1 else ""
        return [
            ("moves with it", others),
            ("stops", f"workload {listing(stops)}" if stops else "nothing: no workload uses it"),
            ("gap", self._gap() if self.source else "none: nobody has it yet"),
            ("copies", self._copies() if self.source else ""),
            ("room", self.room),
        ]

    def _gap(self) -> str:
        if self.gap is None:
            return f"unknown: there was no move to go by{self._on_top()}"
        count = "the last move" if self.gap.moves == 1 else f"the last {self.gap.moves} moves"
        whose = f"(median of {count} of {self.gap.whose})"
        if self.stops and self.stop is not None and self.start is not None:
            parts = (self.stop, self.gap.milliseconds, self.start)
            stop, nowhere, start = (milliseconds(part) for part in parts)
            return f"about {milliseconds(sum(parts))} = stop {stop} + mounted nowhere {nowhere} + start {start} {whose}"
        return f"about {milliseconds(self.gap.milliseconds)} mounted nowhere {whose}{self._on_top()}"

    def _on_top(self) -> str:
        if not self.stops:
            return ""
        known = [
            f"{what} about {milliseconds(took)}"
            for what, took in (("ending", self.stop), ("starting", self.start))
            if took is not None
        ]
        more = f" ({listing(known)} the last times)" if known else ""
        return f"; ending and starting the workloads comes on top{more}"

    def _copies(self) -> str:
        if self.increment is None:
            return ""
        rest = milliseconds(round(self.increment * 1000))
        return (
            f"all of it while it is in use; the rest with nothing running, in at most {rest} if rounds get that small"
        )


def foresee(dataset: Dataset, to: str, picture: Picture) -> Foreseen:
    """What moving it to `to` does, if nothing else happens."""
    names = (dataset.name, *picture.together(dataset.name))
    tenure = dataset.tenure
    source = tenure.node if tenure and tenure.held and tenure.incarnation not in picture.fences else ""
    workloads = {user: picture.workloads[user].spec for name in names for user in picture.users_of(name)}
    stops = {name: spec.stop_grace_period for name, spec in workloads.items() if spec}
    copied = tenure is not None and bool(tenure.copies) and dataset.spec is not None
    return Foreseen(
        names,
        source,
        to,
        stops if source else {},
        _gap(dataset, picture),
        stop=_median(entry.stop_ms for entry in dataset.history),
        start=_median(entry.start_ms for entry in dataset.history),
        increment=dataset.spec.max_cutover if copied and dataset.spec else None,
    )


def _median(took: Iterable[int | None]) -> int | None:
    """Of the newest ones."""
    known = [one for one in took if one is not None][-_LAST:]
    return round(median(known)) if known else None


def _gap(dataset: Dataset, picture: Picture) -> Gap | None:
    """Of its own moves, else of others' on the same back end."""
    if own := _moves([dataset]):
        return Gap(round(median(own)), len(own), dataset.name)
    backend = _backend(dataset)
    alike = _moves(it for it in picture.datasets.values() if _backend(it) == backend)
    return Gap(round(median(alike)), len(alike), f"datasets on {backend}") if alike else None


def _moves(datasets: Iterable[Dataset]) -> list[int]:
    """The gaps of planned moves, the newest ones."""
    lines = [entry for it in datasets for entry in it.history]
    lines.sort(key=lambda entry: entry.at)
    return [it.gap_ms for it in lines if it.gap_ms is not None and it.evidence is None][-_LAST:]


def _backend(dataset: Dataset) -> str:
    return dataset.tenure.backend if dataset.tenure else dataset.spec.backend if dataset.spec else ""
