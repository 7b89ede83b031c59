"""Whether and when a workload that ended by itself is started again. Pure."""

from __future__ import annotations

from drover.agent.workloads.base import Exited
from drover.coordinator.specs import WorkloadSpec

FIRST = 0.2
"""Seconds before the first restart; each further one in a row waits twice as long."""

LONGEST = 30.0
"""Seconds; no restart waits longer."""

SETTLED = 10.0
"""Seconds: what ran that long has settled, and its restarts are counted anew."""


def restart_at(spec: WorkloadSpec, exited: Exited, failures: int) -> float | None:
    """CLOCK_BOOTTIME, seconds, from which on it may be started again; None: never. failures: its restarts in a row so
    far (see `restarts`), which do not count once it has settled."""
    if spec.restart == "no" or (spec.restart == "on-failure" and exited.status == 0):
        return None
    doublings = 0 if exited.ran >= SETTLED else min(max(failures, 0), 32)
    return exited.at + min(FIRST * 2.0**doublings, LONGEST)


def restarts(exited: Exited, failures: int) -> int:
    """The restarts in a row when `exited` is followed by another start."""
    return 1 if exited.ran >= SETTLED else failures + 1
