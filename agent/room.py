"""How much room is in what is mounted here, asked of its back end on threads that a mount which hangs may keep.

Nothing is asked unless somebody wants to know, and nobody waits for an answer: who asks gets what was said last, and
starts the next round where that is older than `EVERY`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from drover.agent.storage.base import Usage

EVERY = 15.0
"""Seconds between two rounds."""
_SILENT = 2.0
"""Seconds without an answer after which a mount counts as hanging, and the others go on without it."""
_MOST = 4
"""Threads that mounts may keep; when all are kept, nothing is asked until one comes back."""
_PATIENCE = 0.01
"""Seconds that who asks waits for a round: 1,000 mounts that answer take about 5 ms."""

Measure = Callable[[], Usage]
"""How full a dataset is. May hang. Raises OSError."""


@dataclass
class _Round:
    """One look at everything, by one thread. at: which dataset it asks about, and since when (time.monotonic())."""

    mounts: Mapping[str, Measure]
    found: dict[str, Usage] = field(default_factory=dict)
    at: tuple[str, float] = ("", 0.0)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def stuck(self) -> str:
        """The dataset whose mount hangs; "": none."""
        name, since = self.at
        return name if name and time.monotonic() - since > _SILENT and not self.done.is_set() else ""


class Room:
    """May be used from any thread. every: seconds between two rounds."""

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._lock = threading.Lock()
        self._round: _Round | None = None
        self._kept: list[_Round] = []
        self._began = -math.inf
        self._known: dict[str, Usage] = {}

    def look(self, mounts: Mapping[str, Measure]) -> Mapping[str, Usage]:
        """What is known of these, by dataset; those that do not answer are left out. Returns within some 10 ms."""
        with self._lock:
            self._settle()
            if self._round is None and time.monotonic() - self._began >= self._every and len(self._kept) < _MOST:
                self._begin(mounts)
            round_ = self._round
        if round_ is not None:
            round_.done.wait(_PATIENCE)
            with self._lock:
                self._settle()
        return {name: usage for name, usage in self._known.items() if name in mounts}

    @property
    def silent(self) -> int:
        """Mounts that do not answer."""
        with self._lock:
            self._settle()
            return len({round_.at[0] for round_ in self._kept})

    def _begin(self, mounts: Mapping[str, Measure]) -> None:
        hanging = {kept.at[0] for kept in self._kept}
        self._began = time.monotonic()
        self._round = _Round({name: measure for name, measure in mounts.items() if name not in hanging})
        threading.Thread(target=self._run, args=(self._round,), name="room", daemon=True).start()

    def _settle(self) -> None:
        """What the threads have come to. One that is stuck is left to itself, and another begins at once."""
        self._kept = [kept for kept in self._kept if not kept.done.is_set()]
        if (now := self._round) is None:
            return
        if now.done.is_set():
            self._known, self._round = now.found, None
        elif now.stuck:
            self._known = {n: u for n, u in (self._known | now.found).items() if n != now.stuck}
            self._kept.append(now)
            self._round, self._began = None, -math.inf

    def _run(self, round_: _Round) -> None:
        for name, measure in round_.mounts.items():
            round_.at = (name, time.monotonic())
            try:
                round_.found[name] = measure()
            except OSError:
                continue  # unmounted meanwhile
        round_.done.set()
