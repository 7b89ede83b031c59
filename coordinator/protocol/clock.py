"""Instants and deadlines on two clocks. Reading them is done elsewhere (`drover.coordinator.clock`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Instant:
    """One moment on this machine, in seconds.

    boot: CLOCK_BOOTTIME, which counts suspends. raw: CLOCK_MONOTONIC_RAW, which is not slewed (chrony slews by up to
    8 %, chrony.conf(5) maxslewrate).
    """

    boot: float
    raw: float

    def plus(self, seconds: float) -> Deadline:
        return Deadline(self.boot + seconds, self.raw + seconds)


@dataclass(frozen=True)
class Deadline:
    """A moment by which something has stopped. It has passed when either clock says so: the cautious reading."""

    boot: float
    raw: float

    def passed(self, now: Instant) -> bool:
        return self.remaining(now) <= 0

    def remaining(self, now: Instant) -> float:
        """Seconds left; negative once it has passed."""
        return min(self.boot - now.boot, self.raw - now.raw)

    def later(self, other: Deadline) -> Deadline:
        """The other one, where it is later on both clocks."""
        return other if other.boot > self.boot and other.raw > self.raw else self
