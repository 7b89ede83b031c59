"""A workload that commits numbered records, and the checker of what it was promised.

This file is also the workload's program: it runs on a node, by path, with the standard library only. Each record is
appended to `<dataset>/records` and synced, and only then acknowledged, in a file outside the dataset that survives all
that happens to the node. All times are CLOCK_BOOTTIME: the machines of a playground share it.
"""

from __future__ import annotations

import itertools
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

PAUSE = 0.004
"""Seconds between two records: a few hundred a second would only make the machine busy."""
RECORDS = "records"


def main() -> NoReturn:
    """Arguments: the file of acknowledgements."""
    acknowledge = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    path = os.path.join(os.environ["DROVER_PATH"], RECORDS)
    records = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    directory = os.open(os.environ["DROVER_PATH"], os.O_RDONLY)
    os.fsync(directory)
    sequence = _last(records)
    writer = f"{socket.gethostname()}/{os.getpid()}/{time.monotonic_ns()}"
    while True:
        sequence += 1
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.write(records, f"{sequence} {writer}\n".encode())
        os.fsync(records)
        done = time.clock_gettime(time.CLOCK_BOOTTIME)
        os.write(acknowledge, f"{sequence} {writer} {began:.6f} {done:.6f}\n".encode())
        time.sleep(PAUSE)


def _last(records: int) -> int:
    """The last whole record's number; one that a power cut left half written was never acknowledged, and goes."""
    content = os.pread(records, os.fstat(records).st_size, 0)
    whole = content[: content.rfind(b"\n") + 1]
    os.ftruncate(records, len(whole))
    os.fsync(records)
    return int(whole.splitlines()[-1].split()[0]) if whole else 0


@dataclass(frozen=True)
class Acknowledged:
    """One record that the writer was told is safe. began, done: CLOCK_BOOTTIME around the write and the sync."""

    sequence: int
    writer: str
    began: float
    done: float

    @property
    def node(self) -> str:
        return self.writer.partition("/")[0]


@dataclass(frozen=True)
class Turn:
    """One writer process. began, last: when its first and its last acknowledged write began; done: when the last one
    was acknowledged. A process that is frozen in between hears of its last write much later."""

    writer: str
    began: float
    last: float
    done: float
    records: int

    @property
    def node(self) -> str:
        return self.writer.partition("/")[0]


def acknowledged(file: Path) -> list[Acknowledged]:
    """In the order in which they were acknowledged."""
    if not file.exists():
        return []
    whole = file.read_text().rpartition("\n")[0]
    rows = (line.split() for line in whole.splitlines())
    return [Acknowledged(int(s), writer, float(began), float(done)) for s, writer, began, done in rows]


def turns(promised: Sequence[Acknowledged]) -> list[Turn]:
    """The writers, in order of their first write."""
    found: dict[str, Turn] = {}
    for one in promised:
        turn = found.get(one.writer)
        began, records = (turn.began, turn.records) if turn else (one.began, 0)
        found[one.writer] = Turn(one.writer, began, one.began, one.done, records + 1)
    return sorted(found.values(), key=lambda turn: turn.began)


def check(promised: Sequence[Acknowledged], records: str) -> None:
    """Every acknowledged record is there, none is there twice, none is missing in between, and no two writers overlap.

    promised: read before `records`, the content of the file in the dataset. Raises AssertionError.
    """
    whole = records.rpartition("\n")[0]
    rows = [line.split() for line in whole.splitlines()]
    numbers = [int(row[0]) for row in rows]
    assert numbers == list(range(1, len(numbers) + 1)), f"records are missing or doubled: {_odd(numbers)}"
    there = {(number, row[1]) for number, row in zip(numbers, rows, strict=True)}
    lost = [one for one in promised if (one.sequence, one.writer) not in there]
    assert not lost, f"{len(lost)} acknowledged records are lost, the first is {lost[0]}"
    order = turns(promised)
    for before, after in itertools.pairwise(order):
        assert before.last < after.began, f"two writers at once: {before} and {after}"


def _odd(numbers: Sequence[int]) -> str:
    place = next(i for i, number in enumerate(numbers) if number != i + 1)
    return f"{numbers[max(0, place - 2) : place + 3]} at line {place + 1}"


if __name__ == "__main__":
    main()
