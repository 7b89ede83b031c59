"""Writes status/<d>: what people read. Off the workers' path, so that telling never delays a move."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from drover.coordinator.member import Member
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.record import timestamp
from drover.coordinator.records import Phase, Status
from drover.coordinator.store import StoreError
from drover.coordinator.verbs import NotLive

log = logging.getLogger(__name__)

_AGAIN = 1.0
_AT_ONCE = 16
_PASSING = 0.3
"""Seconds that a phase on the way to another one lasts before people are told of it: in a quick move each would cost a
transaction that the move itself has to wait behind."""
_TOGETHER = 0.05
"""Seconds that one which has arrived waits for others on their way, to be told of in one transaction."""
_ON_THE_WAY = (Phase.STARTING, Phase.MOVING)


@dataclass(frozen=True)
class _Open:
    """To be written at `due`, in the loop's time."""

    dataset: Dataset
    status: Status
    due: float


class Reporter:
    """Keeps the newest status of each dataset and writes it where etcd has another one. told: called with each
    dataset whose status has changed for a person."""

    def __init__(self, member: Member, told: Callable[[str], None]) -> None:
        self._member, self._told = member, told
        self.statuses: dict[str, Status] = {}
        self._open: dict[str, _Open] = {}
        self._unsure: set[str] = set()
        """Datasets whose last write was not answered: an older status may still arrive."""
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        """Everything that was told is written."""

    async def settled(self) -> None:
        """Until everything that was told is written."""
        await self._idle.wait()

    def tell(self, d: Dataset, status: Status) -> None:
        before = self.statuses.get(d.name)
        changed = not status.same_as(before)
        if changed:
            status = status.model_copy(update={"since": timestamp(datetime.now(UTC))})
            self.statuses[d.name] = status
            self._told(d.name)
        elif before is not None:
            status = before
        # What etcd shows may be about to be overwritten by the one before, which is under way.
        if changed or not status.same_as(self._member.view.status(d.name)):
            self._put(d, status)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not self._open:
                self._idle.set()
            pause = min((one.due for one in self._open.values()), default=math.inf) - loop.time()
            if pause > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if math.isinf(pause) else pause):
                        await self._wake.wait()
                self._wake.clear()
                continue
            names = [name for name, one in self._open.items() if one.due <= loop.time()][:_AT_ONCE]
            batch = [self._open.pop(name) for name in names]
            results = await asyncio.gather(*(self._write(one.dataset, one.status) for one in batch))
            if not all(results):
                await asyncio.sleep(_AGAIN)

    def _put(self, d: Dataset, status: Status) -> None:
        """A passing phase waits, but not longer because another one follows it."""
        now = asyncio.get_running_loop().time()
        if status.phase in _ON_THE_WAY:
            due = now + _PASSING
            if (before := self._open.get(d.name)) is not None:
                due = min(due, before.due)
        else:
            self._open.pop(d.name, None)
            others = any(one.status.phase in _ON_THE_WAY for one in self._open.values())
            due = now + _TOGETHER if others else now
            if not others:
                self._open = {name: replace(one, due=now) for name, one in self._open.items()}
        self._open[d.name] = _Open(d, status, due)
        self._idle.clear()
        self._wake.set()

    async def _write(self, d: Dataset, status: Status) -> bool:
        """False: try again. Where the tenure has changed, whoever looks at it next tells."""
        if status.same_as(self._member.view.status(d.name)) and d.name not in self._unsure:
            return True
        if self._member.view.dataset(d.name).tenure_revision != d.tenure_revision:
            self._unsure.discard(d.name)
            return True
        try:
            await self._member.verbs.report(d, status)
            self._unsure.discard(d.name)
        except NotLive:
            return True
        except StoreError as error:
            log.debug("status of %s: %s", d.name, error)
            self._unsure.add(d.name)
            self._open.setdefault(d.name, _Open(d, status, 0))
            return False
        return True
