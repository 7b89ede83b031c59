"""Runs until every kind of fault has been injected often: each favours kinds that are then furthest from it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path

from tests.sim.report import Report
from tests.sim.run import TROUBLE, simulator
from tests.sim.scenarios import AT_STORAGE, KINDS
from tests.sim.world import Outcome

CHUNK = 8
"""Runs in a row that favour the same kind."""


ANY = "any"
"""No kind is favoured."""


def chunk(seeds: Sequence[int], kind: str) -> list[Outcome]:
    """In a process of its own."""
    with simulator() as sim:
        return [replace(sim.run(seed, TROUBLE, favours=kind), story=[]) for seed in seeds]


def lacking(report: Report, each: int, under_way: Counter[str]) -> str:
    """The kind that is furthest from having been injected so often, with one at the storage; "": none is. under_way:
    chunks, by kind."""
    had = {kind: report.faults[kind] + under_way[kind] * max(1, each // 100) for kind in KINDS}
    others, storage = (
        min(kinds, key=lambda kind: had[kind]) for kinds in ([k for k in KINDS if k not in AT_STORAGE], AT_STORAGE)
    )
    return " + ".join(kind for kind in (others, storage) if report.faults[kind] < each)


def campaign(report: Report, first: int, each: int, events: int, jobs: int, told: Callable[[], None]) -> None:
    """Goes on with this report until each kind was injected so often, and so many events happened in all. told: it has
    grown."""
    seeds = count(first)
    with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=40) as pool:
        waiting: dict[Future[list[Outcome]], str] = {}
        while True:
            while len(waiting) < jobs and (kind := _next(report, each, events, _kinds(waiting.values()))) != "":
                waiting[pool.submit(chunk, [next(seeds) for _ in range(CHUNK)], "" if kind == ANY else kind)] = kind
            if not waiting:
                return
            for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                del waiting[done]
                for outcome in done.result():
                    report.add(outcome)
            told()


def _kinds(under_way: Iterable[str]) -> Counter[str]:
    return Counter(kind for kinds in under_way for kind in kinds.split(" + "))


def _next(report: Report, each: int, events: int, under_way: Counter[str]) -> str:
    return lacking(report, each, under_way) or (ANY if report.events < events else "")


class Kept:
    """A report in a file, so that a campaign can go on where one was ended."""

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, 0.0

    def load(self) -> Report:
        if not self._path.exists():
            return Report()
        said = json.loads(self._path.read_text())
        return Report(
            said["runs"],
            said["events"],
            said["writes"],
            Counter(said["faults"]),
            {fault: set(states) for fault, states in said["met"].items()},
            said["settled"],
            said["failed"],
        )

    def save(self, report: Report, at_least: float = 0.0) -> bool:
        """at_least: seconds since the last time, otherwise it is not."""
        if time.monotonic() - self._written < at_least:
            return False
        self._written = time.monotonic()
        said = {**vars(report), "met": {fault: sorted(states) for fault, states in report.met.items()}}
        aside = self._path.with_suffix(".new")
        aside.write_text(json.dumps(said))
        aside.replace(self._path)
        return True
