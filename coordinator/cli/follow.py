"""Watching a move until it has come to an end, good or bad."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from drover.coordinator.cli.errors import Failed, StillGoing
from drover.coordinator.keys import Keys
from drover.coordinator.record import InvalidRecord, R
from drover.coordinator.records import Phase, State, Status, Tenure
from drover.coordinator.store import Compacted, Store, Unavailable, WatchBroken
from drover.coordinator.txn import Entry

SETTLE = 3.0
"""Seconds that a warning about this wish may stand before it counts: nodes answer a new wish within one."""

_AGAIN = 0.2
"""Seconds between two tries to watch, where etcd is away."""


@dataclass(frozen=True)
class Arrived:
    """The dataset is where it was wanted. cutover_ms: None where it was nowhere before."""

    node: str
    epoch: int
    cutover_ms: int | None


@dataclass(frozen=True)
class Sight:
    """Tenure and status at one moment, each with its mod revision; 0 and None: absent or unreadable."""

    tenure: Tenure | None = None
    tenure_revision: int = 0
    status: Status | None = None
    status_revision: int = 0


Outcome = Arrived | Failed | None


class Follower:
    """Decides, sight by sight, whether a move to `node` has ended. Pure.

    wish: the revision of the `desired` that asked for it.
    """

    def __init__(self, name: str, node: str, wish: int) -> None:
        self._name, self._node, self._wish = name, node, wish
        self._been_there = False

    def look(self, sight: Sight, settled: bool = False) -> Outcome:
        """settled: the wish has stood for SETTLE. None: it goes on."""
        tenure, status = sight.tenure, sight.status
        there = tenure is not None and tenure.held and tenure.node == self._node
        self._been_there |= there
        current = status is not None and (tenure is None or not tenure.held or status.epoch == tenure.epoch)
        active = tenure is not None and tenure.state is State.ACTIVE
        if tenure is not None and there and active and status is not None and current and status.phase is Phase.ACTIVE:
            return Arrived(self._node, tenure.epoch, status.cutover_ms)
        news = sight.status_revision > self._wish
        if status is not None and current and news and status.phase is Phase.FAILED:
            return self._failed(status.reason or "it failed and its node does not say why")
        if tenure is not None and active and not there:
            said = (status.warning or status.reason) if status is not None and current else ""
            if self._been_there:
                return self._failed(
                    f"{self._node} could not take it, it is on {tenure.node} again" + (f": {said}" if said else "")
                )
            if sight.tenure_revision > self._wish and tenure.answers.value not in ("", self._node):
                return self._failed(f"it was sent to {tenure.answers.value} instead, by a newer wish")
        if status is not None and current and not there and self._node in status.warning and (news or settled):
            return self._failed(status.warning)
        return None

    def _failed(self, reason: str) -> Failed:
        return Failed(
            f"{self._name} did not move to {self._node}: {reason}",
            f"Look: drover show {self._name}",
            outcome="",
        )


Progress = Callable[[Status], None] | None
"""Called with each status that says something new."""


async def follow(
    store: Store, keys: Keys, name: str, node: str, wish: int, timeout: float, progress: Progress = None
) -> Arrived:
    """Watches owners/<d> and status/<d> from the wish on. timeout: seconds.

    Raises Failed with the reason, StillGoing after `timeout`, Denied.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _Watch(store, keys, name, node, wish, progress).run()
    except TimeoutError:
        raise StillGoing(
            f"{name} is not on {node} after {timeout:g} s",
            f"Look: drover show {name}. Watch on: drover move {name} {node} --wait",
            outcome="The move goes on.",
        ) from None


class _Watch:
    """One dataset's records, kept up to date. In the order of keys there are no heartbeats between `owners/` and
    `status/`, so that one watch serves for both."""

    def __init__(self, store: Store, keys: Keys, name: str, node: str, wish: int, progress: Progress) -> None:
        self._store, self._progress, self._wish = store, progress, wish
        self._owner, self._status = keys.owner(name), keys.status(name)
        self._start, self._end = self._owner, self._status + "\0"
        self._follower = Follower(name, node, wish)
        self._told: Status | None = None

    async def run(self) -> Arrived:
        try:
            async with asyncio.timeout(SETTLE):
                return await self._until_ended(settled=False)
        except TimeoutError:
            return await self._until_ended(settled=True)

    async def _until_ended(self, settled: bool) -> Arrived:
        while True:
            try:
                return await self._watch(settled)
            except (WatchBroken, Compacted, Unavailable):
                await asyncio.sleep(_AGAIN)

    async def _watch(self, settled: bool) -> Arrived:
        found = await self._store.range(self._start, self._end)
        records: dict[str, Entry | None] = {entry.key: entry for entry in found.entries}
        if (arrived := self._look(records, settled)) is not None:
            return arrived
        changes = self._store.watch(self._start, self._end, found.revision + 1)
        async with aclosing(changes):
            async for batch in changes:
                records.update({change.key: change.entry for change in batch.changes})
                if batch.changes and (arrived := self._look(records, settled)) is not None:
                    return arrived
        raise WatchBroken("the watch ended")

    def _look(self, records: Mapping[str, Entry | None], settled: bool) -> Arrived | None:
        owner, told = records.get(self._owner), records.get(self._status)
        tenure, status = _typed(Tenure, owner), _typed(Status, told)
        sight = Sight(tenure, owner.mod_revision if owner else 0, status, told.mod_revision if told else 0)
        if status is not None and sight.status_revision > self._wish and not status.same_as(self._told):
            self._told = status
            if self._progress is not None:
                self._progress(status)
        match self._follower.look(sight, settled):
            case Failed() as failed:
                raise failed
            case outcome:
                return outcome


def _typed(record: type[R], entry: Entry | None) -> R | None:
    try:
        return record.decode(entry.value) if entry else None
    except InvalidRecord:
        return None
