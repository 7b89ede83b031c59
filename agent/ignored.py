"""Input that cannot be used is said once in the log, and counted. In status/<d> it is said, too (explain.py)."""

from __future__ import annotations

import asyncio
import logging

from drover.agent.telemetry import Telemetry
from drover.coordinator.keys import Kind
from drover.coordinator.protocol.ignored import Ignored, ignored
from drover.coordinator.protocol.placement import speaker
from drover.coordinator.record import one_line
from drover.coordinator.view import View

log = logging.getLogger(__name__)


class IgnoredInput:
    """One node says it: of a dataset, who tells its status; of a workload, the present node that ranks first for it."""

    def __init__(self, view: View, node: str, telemetry: Telemetry) -> None:
        self._view, self._node, self._telemetry = view, node, telemetry
        self._said: dict[tuple[Kind, str], int] = {}
        self._wake = asyncio.Event()

    def look(self, dataset: str) -> None:
        """At what concerns a dataset whose status is told by this node, and has changed."""
        for wrong in ignored(self._view.unit(dataset), self._view.cluster):
            if wrong.name == dataset:
                self._say(wrong)

    async def run(self) -> None:
        """Looks at workloads whenever one may have changed."""
        self._view.subscribe(lambda name: self._wake.set() if name is None else None)
        while True:
            cluster = self._view.cluster
            for name, reason in self._view.invalid_workloads().items():
                entry = self._view.entry(Kind.WORKLOADS, name)
                if entry is not None and speaker(name, cluster) == self._node:
                    self._say(Ignored(Kind.WORKLOADS, name, entry.mod_revision, reason))
            await self._wake.wait()
            self._wake.clear()

    def _say(self, wrong: Ignored) -> None:
        if self._said.get((wrong.kind, wrong.name)) == wrong.revision:
            return
        self._said[wrong.kind, wrong.name] = wrong.revision
        log.warning("%s: %s", one_line(self._view.keys.of(wrong.kind, wrong.name)), wrong.reason)
        self._telemetry.ignored(wrong.kind)
