"""Gets workloads ready for datasets that are about to come here, while their node still runs them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from drover.agent.workloads.base import Runtime, WorkloadError, fingerprint
from drover.coordinator.protocol import placement
from drover.coordinator.specs import WorkloadSpec
from drover.coordinator.view import View

log = logging.getLogger(__name__)

_RETRY = 5.0
"""Seconds after which a preparation that failed is tried again, if somebody asks."""
_SEEN = 0.05


@dataclass(frozen=True)
class _Attempt:
    """done: what went wrong, "" where nothing did."""

    fingerprint: str
    began: float
    runtime: Runtime
    done: asyncio.Task[str]


class Preparer:
    """Off the workers' path, so that getting ready never delays a move. One that cannot be prepared says why when it is
    started, and to the node that asks. allowed: kinds of workloads that this node's settings allow."""

    def __init__(self, view: View, node: str, runtimes: Mapping[str, Runtime], allowed: frozenset[str]) -> None:
        self._view, self._node, self._allowed = view, node, allowed
        self._runtimes = runtimes
        self._attempts: dict[str, _Attempt] = {}
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        self._view.subscribe(self._note)
        try:
            async with asyncio.TaskGroup() as self._group:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    while self._changed:
                        await self._look(self._changed.pop())
        finally:
            self._group = None

    async def ready(self, name: str, wanted: str, within: float) -> bool:
        """Whether this workload only has to be started, with the spec of this fingerprint; waits for so many seconds.
        Raises WorkloadError where it cannot be got ready."""
        try:
            async with asyncio.timeout(within):
                while (spec := self._view.cluster.workloads.get(name)) is None or fingerprint(spec) != wanted:
                    await asyncio.sleep(_SEEN)  # another node has seen it before this one
                attempt = self._begin(name, spec)
                if wrong := await asyncio.shield(attempt.done):
                    raise WorkloadError(wrong)
                return True
        except TimeoutError:
            return False

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
            known = spec.kind in self._allowed and spec.kind in self._runtimes
            if coming and known and name not in self._attempts:
                self._begin(name, spec)
            elif not coming and (attempt := self._attempts.pop(name, None)) is not None:
                attempt.done.cancel()
                if not here:
                    await attempt.runtime.unprepare(name)

    def _begin(self, name: str, spec: WorkloadSpec) -> _Attempt:
        """Raises WorkloadError where this node would not start it."""
        wanted, now = fingerprint(spec), time.monotonic()
        found = self._attempts.get(name)
        if found is not None and found.fingerprint == wanted and not found.done.cancelled():
            failed = found.done.done() and found.done.result()
            if not failed or now - found.began < _RETRY:
                return found
        runtime = self._runtimes.get(spec.kind)
        if self._group is None:
            raise WorkloadError("it takes no part in the cluster just now")
        if runtime is None or spec.kind not in self._allowed:
            raise WorkloadError(f"it does not allow workloads of kind {spec.kind} ([workloads] allow)")
        made = _Attempt(wanted, now, runtime, self._group.create_task(_prepare(name, spec, runtime)))
        self._attempts[name] = made
        return made


async def _prepare(name: str, spec: WorkloadSpec, runtime: Runtime) -> str:
    try:
        await runtime.prepare(name, spec)
    except WorkloadError as error:
        log.info("%s cannot be got ready here: %s", name, error)
        return str(error)
    return ""
