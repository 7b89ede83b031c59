"""What is sent to other nodes, counted where all of it passes: whatever a stream is for, it is seen here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from drover.agent.transfer.base import Stream


class Counts(Protocol):
    """Who adds it up (`agent/telemetry.py`)."""

    def sent(self, backend: str, purpose: str, amount: int) -> None: ...
    def round_sent(self, backend: str, purpose: str, outcome: Literal["ok", "failed"]) -> None: ...
    def resumed(self, backend: str, purpose: str) -> None: ...


@dataclass
class _Round:
    began: float
    taken: int = 0


class Meter:
    """backend: of a dataset, by name; "" where it is not known any more."""

    def __init__(
        self, counts: Counts, backend: Callable[[str], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._counts, self._backend, self._clock = counts, backend, clock
        self._rounds: dict[Stream, _Round] = {}

    @property
    def speeds(self) -> Mapping[str, float]:
        """Bytes a second by dataset, of the rounds that go on: the mean of each so far, all its streams together."""
        speeds: dict[str, float] = {}
        for stream, round_ in self._rounds.items():
            speed = round_.taken / max(self._clock() - round_.began, 1e-3)
            speeds[stream.dataset] = speeds.get(stream.dataset, 0.0) + speed
        return speeds

    def began(self, stream: Stream) -> None:
        self._rounds[stream] = _Round(self._clock())

    def taken(self, stream: Stream, so_far: int) -> None:
        """so_far: bytes of this round that the receiver has taken."""
        round_ = self._rounds.get(stream)
        if round_ is not None and so_far > round_.taken:
            self._counts.sent(self._backend(stream.dataset), stream.purpose, so_far - round_.taken)
            round_.taken = so_far

    def ended(self, stream: Stream, outcome: Literal["ok", "failed"]) -> None:
        if self._rounds.pop(stream, None) is not None:
            self._counts.round_sent(self._backend(stream.dataset), stream.purpose, outcome)

    def resumed(self, stream: Stream) -> None:
        """Its connection had been cut, and is there again."""
        self._counts.resumed(self._backend(stream.dataset), stream.purpose)
