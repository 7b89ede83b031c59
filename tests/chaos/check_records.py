"""What was acknowledged is there, once, and one wrote after the other."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from tests.chaos.history import Ack, History, Reading, Run
from tests.chaos.verdict import Violation

LOST = "every acknowledged record is in every later reading"
DOUBLED = "records are there once and in order"
FORGOTTEN = "what was read once is read ever after"
TWO_WRITERS = "never two writers at once"
ORDER = "epochs of writers only grow, each is one incarnation's"
DAMAGED = "no record is damaged"


def readings_by_uid(history: History) -> Mapping[str, list[Reading]]:
    found: defaultdict[str, list[Reading]] = defaultdict(list)
    for reading in history.readings:
        found[reading.uid].append(reading)
    return found


def acks_by_writer(history: History) -> Mapping[tuple[str, str], list[Ack]]:
    """By (uid, writer), in the order in which they were acknowledged."""
    found: defaultdict[tuple[str, str], list[Ack]] = defaultdict(list)
    for ack in history.acks:
        found[ack.uid, ack.writer].append(ack)
    return found


def check(history: History) -> Iterator[Violation]:
    acks = acks_by_writer(history)
    for readings in readings_by_uid(history).values():
        mine = {writer: of for (uid, writer), of in acks.items() if uid == readings[0].uid}
        for reading in readings:
            yield from _whole(reading)
            yield from _set_full(reading, mine)
        for earlier, later in itertools.pairwise(readings):
            yield from _kept(earlier, later)
        yield from _one_after_the_other(readings, mine)


def _whole(reading: Reading) -> Iterator[Violation]:
    if reading.damaged:
        yield Violation(DAMAGED, reading.dataset, reading.at, f"{_who(reading)} found {reading.damaged} damaged lines")
    expected = 1
    for run in reading.runs:
        if run.first != expected:
            yield Violation(
                DOUBLED,
                reading.dataset,
                reading.at,
                f"{_who(reading)} found record {run.first} of {run.writer} where {expected} was due",
            )
        expected = run.last + 1


def _set_full(reading: Reading, acks: Mapping[str, Sequence[Ack]]) -> Iterator[Violation]:
    there: defaultdict[str, list[Run]] = defaultdict(list)
    for run in reading.runs:
        there[run.writer].append(run)
    for writer, promised in acks.items():
        due = promised[: bisect_right(promised, reading.at, key=lambda ack: ack.done)]
        lost = [ack for ack in due if not any(run.first <= ack.sequence <= run.last for run in there[writer])]
        if lost:
            yield Violation(
                LOST,
                reading.dataset,
                reading.at,
                f"{_who(reading)} misses {len(lost)} of {len(due)} acknowledged by {writer}: {lost[0].sequence} "
                f"(acknowledged at {lost[0].done:.3f}) to {lost[-1].sequence} (at {lost[-1].done:.3f})",
            )


def _kept(earlier: Reading, later: Reading) -> Iterator[Violation]:
    """A later reading begins with the earlier one: only its last run may have grown."""
    for before, after in itertools.zip_longest(earlier.runs, later.runs[: len(earlier.runs)]):
        same = after and (after.writer, after.first) == (before.writer, before.first) and after.last >= before.last
        if not same or (after.last > before.last and before != earlier.runs[-1]):
            says = f"{_who(earlier)} found {_run(before)}, {_who(later)} {_run(after) if after else 'nothing'}"
            yield Violation(FORGOTTEN, earlier.dataset, later.at, says)
            return


def _one_after_the_other(readings: Sequence[Reading], acks: Mapping[str, Sequence[Ack]]) -> Iterator[Violation]:
    starts = [reading for reading in readings if reading.writer]
    seen: dict[int, str] = {}
    for reading in starts:
        known = seen.setdefault(reading.epoch, reading.incarnation)
        if known != reading.incarnation:
            says = f"epoch {reading.epoch} was {known}'s, and {_who(reading)} has it as {reading.incarnation}"
            yield Violation(ORDER, reading.dataset, reading.at, says)
    for before, after in itertools.pairwise(starts):
        if after.epoch < before.epoch:
            says = f"{_who(after)} began in epoch {after.epoch}, after {_who(before)} in epoch {before.epoch}"
            yield Violation(ORDER, after.dataset, after.at, says)
    for index, reading in enumerate(starts[:-1]):
        promised = acks.get(reading.writer, ())
        late = [ack for ack in promised if ack.began >= starts[index + 1].at]
        if late:
            yield Violation(
                TWO_WRITERS,
                reading.dataset,
                late[0].began,
                f"{_who(reading)} (epoch {reading.epoch}) had {len(late)} records acknowledged that it began to write "
                f"after {_who(starts[index + 1])} (epoch {starts[index + 1].epoch}) had started at "
                f"{starts[index + 1].at:.3f}, the last at {late[-1].began:.3f}",
            )


def _who(reading: Reading) -> str:
    return reading.writer or "the last reading"


def _run(run: Run) -> str:
    return f"{run.first} to {run.last} of {run.writer}"
