"""The ladder: what stops all writing on this node when its right to write has ended. Blocking; run it in a thread.

Nothing here relies on etcd, on a helper or on anybody's cooperation. An empty answer means: verified, nothing is left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from drover.agent.cgroups import Cgroups
from drover.agent.storage.base import Backend
from drover.agent.workloads.base import Runtime

log = logging.getLogger(__name__)

KILL = 0.8
"""Seconds in which killed processes must be gone: the time between D_soft and D_io, less the cut."""


def run_ladder(cgroups: Cgroups, runtimes: Iterable[Runtime], backends: Iterable[Backend]) -> list[str]:
    """Kill what writes, cut off what it wrote to. Returns what could not be verified, one line each."""
    began = time.monotonic()
    left: list[str] = []
    for runtime in runtimes:
        left += runtime.kill_all()
    groups = [f"datasets/{name}" for name in cgroups.names("datasets")]
    left += [f"helpers of {group}" for group in cgroups.kill_all(groups, KILL)]
    for backend in backends:
        left += backend.cut()
    for line in left:
        log.error("ladder: %s", line)
    took = (time.monotonic() - began) * 1000
    log.warning("ladder: done in %.0f ms, %s", took, "not verified" if left else "nothing is left")
    return left
