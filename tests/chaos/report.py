"""What a run was, for people: its faults, how long datasets were not served, and the story of what went wrong."""

from __future__ import annotations

import itertools
import json
import statistics
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from drover.coordinator.cli.output import table
from tests.chaos.check_time import late_writes
from tests.chaos.etcd_story import EtcdStory
from tests.chaos.history import Ack, Fault, History
from tests.chaos.verdict import Violation

GAP = 0.5
"""Seconds between two acknowledgements from which on a dataset counts as not served."""
EDGES = (1.0, 3.0, 8.0, 15.0, 30.0)
"""Seconds: of the histogram of times without service."""
_AFTER = 1.0
"""Seconds after a fault's end in which a gap is still laid at its door."""
_AROUND = (8.0, 3.0)
"""Seconds before and after a violation that its story is about."""


@dataclass(frozen=True)
class Gap:
    """A dataset was not served from `began` for so many seconds. why: the fault that it is laid at the door of."""

    dataset: str
    began: float
    seconds: float
    why: str


def gaps(history: History) -> list[Gap]:
    """Between acknowledged writes of each dataset, with the fault that was under way for most of it."""
    names = history.uids()
    by_uid: defaultdict[str, list[Ack]] = defaultdict(list)
    for ack in history.acks:
        by_uid[ack.uid].append(ack)
    found = []
    for uid, acks in by_uid.items():
        for before, after in itertools.pairwise(acks):
            if after.done - before.done >= GAP:
                why = _blame(history.faults, names.get(uid, uid), before.done, after.done)
                found.append(Gap(names.get(uid, uid), before.done, after.done - before.done, why))
    return found


def _blame(faults: Sequence[Fault], dataset: str, began: float, ended: float) -> str:
    """What was under way for most of the time. A move is to blame only where nothing worse was."""
    harm = [f for f in faults if f.name != "move" and f.began < ended and f.ended + _AFTER > began]
    if harm:
        return max(harm, key=lambda f: (min(f.ended + _AFTER, ended) - max(f.began, began), f.began)).name
    moved = any(f.name == "move" and f.target == dataset and began - 5 < f.began < ended for f in faults)
    return "move" if moved else "nothing that was done to it"


def unserved(history: History) -> dict[str, list[float]]:
    """Seconds of each time without service, by the fault that it is laid at the door of."""
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for gap in gaps(history):
        seconds[gap.why].append(gap.seconds)
    return dict(seconds)


def injected(history: History) -> dict[str, int]:
    """How often each fault was done as planned."""
    return dict(Counter(fault.name for fault in history.faults if not fault.note))


def total(histories: Sequence[History]) -> str:
    """One table of several runs."""
    counted: Counter[str] = Counter()
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for history in histories:
        counted.update(injected(history))
        for why, values in unserved(history).items():
            seconds[why] += values
    acks = sum(len(history.acks) for history in histories)
    minutes = sum(history.about.ended - history.about.began for history in histories) / 60
    harm = sum(counted.values()) - counted["move"]
    size = f"{len(histories)} runs, {minutes:.0f} minutes, {harm} faults, {counted['move']} moves"
    return f"{_table(counted, seconds)}\n\n{size}, {acks} acknowledged records"


def _table(counted: Mapping[str, int], seconds: Mapping[str, Sequence[float]]) -> str:
    rows = [
        [name, str(counted.get(name, 0)), *_spread(seconds.get(name, []))]
        for name in sorted({*counted, *seconds}, key=lambda name: (-counted.get(name, 0), name))
    ]
    head = ["FAULT", "DONE", *(f"<{edge:g}" for edge in EDGES), f">={EDGES[-1]:g}", "MEDIAN", "WORST"]
    return f"How often a dataset was not served, and for how many seconds:\n{table(head, rows)}"


def summary(history: History, violations: Sequence[Violation]) -> str:
    """The tables."""
    about = history.about
    counted = injected(history)
    story = EtcdStory(history)
    epochs = len({(held.dataset, held.tenure.epoch) for held in story.tenures})
    lines = [
        _table(counted, unserved(history)),
        "",
        f"seed {about.seed}, {about.ended - about.began:.0f} s, {len(about.nodes)} nodes"
        + (", storage protects nothing" if about.blind else "")
        + (", armed" if about.armed else "")
        + (f", fault built in: {about.mutant}" if about.mutant else ""),
        f"{sum(counted.values())} faults and moves, {epochs} epochs, {len(story.fences)} fences, "
        f"{len(history.acks)} acknowledged records, {len(history.readings)} readings, "
        f"{len(history.changes)} changes in etcd, {len(history.samples)} looks at the devices",
        f"{len(late_writes(history))} writes began after D_io without a heartbeat (none may after D_hard)",
        f"{len(violations)} promises broken",
    ]
    return "\n".join(lines)


def histogram(values: Sequence[float]) -> list[int]:
    """How many lie below each of EDGES, and above all of them."""
    counted = [0] * (len(EDGES) + 1)
    for value in values:
        counted[bisect_right(EDGES, value)] += 1
    return counted


def _spread(values: Sequence[float]) -> list[str]:
    if not values:
        return [""] * (len(EDGES) + 3)
    bars = (str(count or "") for count in histogram(values))
    return [*bars, f"{statistics.median(values):.2f}", f"{max(values):.2f}"]


def as_json(history: History, violations: Sequence[Violation]) -> str:
    """Everything that the tables are made of."""
    return json.dumps(
        {
            "about": asdict(history.about),
            "injected": injected(history),
            "faults": [asdict(fault) for fault in history.faults],
            "gaps": [asdict(gap) for gap in gaps(history)],
            "edges": EDGES,
            "histograms": {name: histogram(values) for name, values in unserved(history).items()},
            "violations": [asdict(violation) for violation in violations],
        },
        indent=1,
    )


def story(history: History, violation: Violation, directory: Path | None = None) -> str:
    """What happened around a broken promise, line by line. directory: of the history, where agents' logs are."""
    before, after = _AROUND
    began, ended = violation.at - before, violation.at + after
    events = [*_events(history), *(_logged(history, directory) if directory else ())]
    lines = [f"{at - history.about.began:9.3f}  {said}" for at, said in sorted(events) if began <= at <= ended]
    mark = f"{violation.at - history.about.began:9.3f}  *** {violation.rule}: {violation.about}: {violation.says}"
    return "\n".join([mark, "", *lines])


def _events(history: History) -> Iterator[tuple[float, str]]:
    etcd = EtcdStory(history)
    for fault in history.faults:
        yield fault.began, f"fault      {fault.name} {fault.target} begins {fault.note}"
        if fault.ended - fault.began > 0.5:
            yield fault.ended, f"fault      {fault.name} {fault.target} has ended"
    for held in etcd.tenures:
        tenure = held.tenure
        left = f", may still write: {', '.join(one.node for one in tenure.unfenced)}" if tenure.unfenced else ""
        yield held.at, f"etcd       {held.dataset} epoch {tenure.epoch} {tenure.state} {tenure.incarnation}{left}"
    for fenced in etcd.fences.values():
        yield fenced.at, f"etcd       fence {fenced.incarnation}: {fenced.fence.evidence}, by {fenced.fence.by}"
    for reading in history.readings:
        last = reading.runs[-1].last if reading.runs else 0
        yield reading.at, f"writer     {reading.dataset} epoch {reading.epoch} {reading.writer} starts, finds {last}"
    names = history.uids()
    last_of: dict[tuple[str, str], Ack] = {(ack.uid, ack.writer): ack for ack in history.acks}
    for (uid, writer), ack in last_of.items():
        yield (
            ack.done,
            f"writer     {names.get(uid, uid)} epoch {ack.epoch} {writer}: the last acknowledged is {ack.sequence}",
        )
    for token in history.tokens:
        yield token.at, f"storage    {names.get(token.uid, token.uid)} epoch {token.epoch} {token.incarnation}"
    seen: dict[int, str] = {}
    for sample in history.samples:
        now = {device.sequence: device for device in sample.devices}
        for sequence, device in now.items():
            if sequence not in seen:
                seen[sequence] = f"{names.get(device.uid, device.uid)} on {device.node}"
                yield sample.at, f"device     {seen[sequence]} attached"
        for sequence in list(seen):
            if sequence not in now:
                yield sample.at, f"device     {seen.pop(sequence)} gone"


def _logged(history: History, directory: Path) -> Iterator[tuple[float, str]]:
    """Agents' logs have wall clock times; the run says nothing of that clock, so heartbeats' answers do not matter."""
    offset = _offset(directory)
    if offset is None:
        return
    for node in history.about.nodes:
        log = directory / f"{node}.log"
        for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
            stamp, _, said = line.partition(" ")
            try:
                yield datetime.fromisoformat(stamp).timestamp() - offset, f"{node:9}  {said[:200]}"
            except ValueError:
                continue


def _offset(directory: Path) -> float | None:
    """What was between the wall clock and CLOCK_BOOTTIME."""
    file = directory / "clocks.json"
    if not file.exists():
        return None
    clocks: Mapping[str, float] = json.loads(file.read_text())
    return clocks["wall"] - clocks["boot"]
