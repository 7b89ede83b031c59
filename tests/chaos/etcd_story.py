"""etcd's history as the checks need it: who had what, who was fenced, and whose heartbeat came when."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from drover.coordinator.keys import Key, Keys, Kind
from drover.coordinator.record import InvalidRecord
from drover.coordinator.records import Fence, Heartbeat, Tenure
from tests.chaos.history import Change, History

KEYS = Keys()


@dataclass(frozen=True)
class Held:
    """A tenure as it was written. at: when it was heard of."""

    revision: int
    at: float
    dataset: str
    tenure: Tenure


@dataclass(frozen=True)
class Fenced:
    revision: int
    at: float
    incarnation: str
    fence: Fence


@dataclass(frozen=True)
class Beat:
    """sent: by the sender's clock, in the time that all share. Of a placeholder, when it was heard of."""

    revision: int
    at: float
    node: str
    heartbeat: Heartbeat
    sent: float


class EtcdStory:
    """Of one history. Values that are no records are nobody's: users may write them."""

    def __init__(self, history: History) -> None:
        self._history = history

    @cached_property
    def parsed(self) -> list[tuple[Change, Key]]:
        keyed = ((change, KEYS.parse(change.key)) for change in self._history.changes)
        return [(change, key) for change, key in keyed if key is not None]

    @cached_property
    def by_revision(self) -> list[list[tuple[Change, Key]]]:
        return [list(group) for _, group in groupby(self.parsed, key=lambda pair: pair[0].revision)]

    @cached_property
    def tenures(self) -> list[Held]:
        return [
            Held(change.revision, change.at, key.name, Tenure.decode(change.value.encode()))
            for change, key in self.parsed
            if key.kind is Kind.OWNERS and change.value is not None
        ]

    @cached_property
    def tenures_of(self) -> dict[str, list[Held]]:
        found: defaultdict[str, list[Held]] = defaultdict(list)
        for held in self.tenures:
            found[held.dataset].append(held)
        return found

    @cached_property
    def fences(self) -> dict[str, Fenced]:
        """The first of each incarnation: that is when it was dead to the cluster."""
        found: dict[str, Fenced] = {}
        for change, key in self.parsed:
            if key.kind is Kind.FENCES and change.value is not None:
                fence = Fence.decode(change.value.encode())
                found.setdefault(key.name, Fenced(change.revision, change.at, key.name, fence))
        return found

    @cached_property
    def beats(self) -> list[Beat]:
        found = []
        for change, key in self.parsed:
            if key.kind is Kind.HEARTBEATS and change.value is not None:
                try:
                    beat = Heartbeat.decode(change.value.encode())
                except InvalidRecord:
                    continue
                sent = change.at if beat.placeholder else min(self._sent(key.name, beat), change.at)
                found.append(Beat(change.revision, change.at, key.name, beat, sent))
        return found

    def _sent(self, node: str, beat: Heartbeat) -> float:
        clock = self._history.about.clocks.get(node)
        return clock.common(beat.clock) if clock else beat.clock

    @cached_property
    def beats_of(self) -> dict[str, list[Beat]]:
        """By incarnation, in the order of their revisions; placeholders are no heartbeats of anybody."""
        found: defaultdict[str, list[Beat]] = defaultdict(list)
        for beat in self.beats:
            if not beat.heartbeat.placeholder:
                found[beat.heartbeat.incarnation].append(beat)
        return found

    def fenced_before(self, incarnation: str, revision: int) -> bool:
        fenced = self.fences.get(incarnation)
        return fenced is not None and fenced.revision < revision

    def not_before(self, revision: int) -> float:
        """The revision was committed at this time or later: an earlier one holds a clock that was read before it."""
        index = bisect_left(self._revisions, revision)
        return self._clocks[index - 1] if index else 0.0

    def last_beat(self, incarnation: str, at: float) -> Beat | None:
        """The newest heartbeat that had been sent by then and was committed."""
        beats = self.beats_of.get(incarnation, [])
        index = bisect_right(beats, at, key=lambda beat: beat.sent)
        return beats[index - 1] if index else None

    @cached_property
    def _revisions(self) -> list[int]:
        return [beat.revision for beat in self._sent_by_nodes]

    @cached_property
    def _clocks(self) -> list[float]:
        clocks, newest = [], 0.0
        for beat in self._sent_by_nodes:
            newest = max(newest, beat.sent)
            clocks.append(newest)
        return clocks

    @cached_property
    def _sent_by_nodes(self) -> list[Beat]:
        return [beat for beat in self.beats if not beat.heartbeat.placeholder]
