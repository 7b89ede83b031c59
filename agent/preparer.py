"""Gets workloads ready for datasets that are about to come here, while their node still runs them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from drover.agent.workloads.base import Runtime, WorkloadError
from drover.coordinator.protocol import placement
from drover.coordinator.view import View

log = logging.getLogger(__name__)


class Preparer:
    """Off the workers' path, so that getting ready never delays a move. One that cannot be prepared says why when it is
    started. allowed: kinds of workloads that this node's settings allow."""

    def __init__(self, view: View, node: str, runtimes: Mapping[str, Runtime], allowed: frozenset[str]) -> None:
        self._view, self._node, self._allowed = view, node, allowed
        self._runtimes = runtimes
        self._prepared: dict[str, Runtime] = {}
        self._changed: set[str] = set()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        self._view.subscribe(self._note)
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._changed:
                await self._look(self._changed.pop())

    def _note(self, dataset: str | None) -> None:
        if dataset is not None:
            self._changed.add(dataset)
            self._wake.set()

    async def _look(self, dataset: str) -> None:
        unit = self._view.unit(dataset)
        coming = placement.coming(self._node, unit, self._view.cluster)
        here = any(d.tenure is not None and d.tenure.held and d.tenure.node == self._node for d in unit)
        for name in sorted({user for d in unit for user in self._view.cluster.users_of(d.name)}):
            spec = self._view.cluster.workloads[name]
            runtime = self._runtimes.get(spec.kind)
            if coming and runtime is not None and spec.kind in self._allowed and name not in self._prepared:
                self._prepared[name] = runtime
                try:
                    await runtime.prepare(name, spec)
                except WorkloadError as error:
                    log.debug("%s cannot be prepared: %s", name, error)
            elif not coming and (prepared := self._prepared.pop(name, None)) is not None and not here:
                await prepared.unprepare(name)
