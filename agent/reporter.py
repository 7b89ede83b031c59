"""Writes status/<d>: what people read. Off the workers' path, so that telling never delays a move."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from drover.coordinator.member import Member, NotLive
from drover.coordinator.protocol.placement import Dataset
from drover.coordinator.records import Status, timestamp
from drover.coordinator.store import StoreError

log = logging.getLogger(__name__)

_AGAIN = 1.0
_AT_ONCE = 16


class Reporter:
    """Keeps the newest status of each dataset and writes it where etcd has another one. told: called with each status
    that a person would see change, and the one before."""

    def __init__(self, member: Member, told: Callable[[Status, Status | None], None]) -> None:
        self._member, self._told = member, told
        self.statuses: dict[str, Status] = {}
        self._open: dict[str, tuple[Dataset, Status]] = {}
        self._unsure: set[str] = set()
        """Datasets whose last write was not answered: an older status may still arrive."""
        self._wake = asyncio.Event()

    def tell(self, d: Dataset, status: Status) -> None:
        before = self.statuses.get(d.name)
        changed = not status.same_as(before)
        if changed:
            status = status.model_copy(update={"since": timestamp(datetime.now(UTC))})
            self.statuses[d.name] = status
            self._told(status, before)
        elif before is not None:
            status = before
        # What etcd shows may be about to be overwritten by the one before, which is under way.
        if changed or not status.same_as(self._member.view.status(d.name)):
            self._open[d.name] = (d, status)
            self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch = [self._open.pop(name) for name in list(self._open)[:_AT_ONCE]]
            results = await asyncio.gather(*(self._write(d, status) for d, status in batch))
            if self._open or not all(results):
                self._wake.set()
            if not all(results):
                await asyncio.sleep(_AGAIN)

    async def _write(self, d: Dataset, status: Status) -> bool:
        """False: try again. Where the tenure has changed, whoever looks at it next tells."""
        if status.same_as(self._member.view.status(d.name)) and d.name not in self._unsure:
            return True
        try:
            await self._member.report(d, status)
            self._unsure.discard(d.name)
        except NotLive:
            return True
        except StoreError as error:
            log.debug("status of %s: %s", d.name, error)
            self._unsure.add(d.name)
            self._open.setdefault(d.name, (d, status))
            return False
        return True
