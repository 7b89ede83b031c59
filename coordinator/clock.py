"""Reading the clocks that safety rests on."""

from __future__ import annotations

import time
from collections.abc import Callable

from drover.coordinator.protocol.clock import Instant

Clock = Callable[[], Instant]


def read_clock() -> Instant:
    """CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW of this machine, now."""
    return Instant(boot=time.clock_gettime(time.CLOCK_BOOTTIME), raw=time.clock_gettime(time.CLOCK_MONOTONIC_RAW))
