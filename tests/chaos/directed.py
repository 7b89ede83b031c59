"""Builds with a known fault, each under the schedule that shows it: the checker must catch every one of them.

They run with short deadlines, and with storage that protects nothing: what is tested is the checker, not the luck that
all nodes of a playground share one kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos import check_etcd, check_records, check_time, schedule, writer
from tests.chaos.run import Plan
from tests.chaos.schedule import Act, Role

_BY_NAME = {kind.name: kind for kind in schedule.KINDS}


@dataclass(frozen=True)
class Mutant:
    """breaks: promises, one of which the checker must say was broken."""

    name: str
    plan: Plan
    breaks: frozenset[str]


def _act(at: float, name: str, number: int, seconds: float) -> Act:
    return Act(at, _BY_NAME[name], Role.OWNER, number, 0, seconds)


def _plan(acts: Sequence[Act], seconds: float, mutant: str = "", how: str = writer.SYNCED) -> Plan:
    return Plan(0, acts, seconds, nodes=3, timings="fast", blind=True, mutant=mutant, how=how)


CUT_OFF = (_act(1.0, "cut off from etcd", 0, 9.0),)
"""The owner of the first dataset hears nothing of etcd, and its writer could go on."""
LATE_ANSWERS = (
    Act(1.0, _BY_NAME["answers of etcd lost"], Role.ALL, 0, 0, 2.4),
    _act(3.65, "cut off from etcd", 0, 9.0),
)
"""The owner's heartbeat commits, and it learns so 2.4 s later; then nothing more gets through."""
POWER_CUTS = (_act(2.0, "power cut", 0, 2.0), _act(10.0, "power cut", 1, 2.0))

MUTANTS = (
    Mutant(
        "waits too short",
        _plan(CUT_OFF, 12, "waits too short"),
        frozenset({check_etcd.TOO_EARLY}),
    ),
    Mutant(
        "never stops",
        _plan(CUT_OFF, 12, "never stops"),
        frozenset({check_records.TWO_WRITERS, check_time.IN_TIME, check_time.SECTORS}),
    ),
    Mutant(
        "unmounts lazily",
        _plan(CUT_OFF, 12, "unmounts lazily"),
        frozenset({check_records.TWO_WRITERS, check_time.IN_TIME, check_time.SECTORS}),
    ),
    Mutant(
        "counts from the answer",
        _plan(LATE_ANSWERS, 13, "counts from the answer"),
        frozenset({check_records.TWO_WRITERS, check_time.IN_TIME, check_time.SECTORS}),
    ),
    Mutant(
        "acknowledges unsynced",
        _plan(POWER_CUTS, 16, how=writer.UNSYNCED),
        frozenset({check_records.LOST}),
    ),
)
