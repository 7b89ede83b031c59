"""Stops workloads that run here though nobody asks for them any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from drover.agent.workloads.base import Runtime, WorkloadError
from drover.coordinator.view import View

log = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL for a workload whose spec, and with it its own grace period, is gone."""
_AGAIN = 10.0


class Janitor:
    """A spec that was deleted stops its workload; one that merely cannot be read leaves it running."""

    def __init__(self, view: View, runtimes: Mapping[str, Runtime]) -> None:
        self._view, self._runtimes = view, runtimes
        self._changed = asyncio.Event()
        self._changed.set()

    def wake(self) -> None:
        """A workload has started or ended here: its spec may have gone while it was being started."""
        self._changed.set()

    async def run(self) -> None:
        self._view.subscribe(lambda name: self._changed.set() if name is None else None)
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._sweep()
            except WorkloadError as error:
                log.warning("%s", error)
                await asyncio.sleep(_AGAIN)
                self._changed.set()

    async def _sweep(self) -> None:
        for kind, runtime in self._runtimes.items():
            wanted = {name for name, spec in self._view.cluster.workloads.items() if spec.kind == kind}
            for name in (await runtime.look()).keys() - wanted - self._view.invalid_workloads().keys():
                log.info("workload %s has no spec of kind %s any more: stopping it", name, kind)
                await runtime.stop(name, GRACE)
