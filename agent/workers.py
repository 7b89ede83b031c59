"""The workers of a node: one for each unit of datasets, made and retired as specs and groups change."""

from __future__ import annotations

import asyncio

from drover.agent.worker import Shared, Worker
from drover.coordinator.view import View


class Workers:
    """Routes what happens to the worker whose business it is. A dataset never has two workers."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._workers: dict[str, Worker] = {}
        self._running: set[Worker] = set()
        self._changed = asyncio.Event()

    @property
    def _view(self) -> View:
        return self._shared.member.view

    @property
    def parted(self) -> bool:
        """Whether nothing of any unit is in use here any more, as this node shuts down."""
        there = {name for worker in self._running for name in worker.names}
        return self._view.names() <= there and all(worker.parted for worker in self._running)

    def wake(self, name: str | None) -> None:
        """Something of this dataset has changed; None: something that concerns all."""
        if name is None or not self._in_order(name):
            self._changed.set()
        for worker in self._workers.values() if name is None else filter(None, [self._workers.get(name)]):
            worker.wake()

    def _in_order(self, name: str) -> bool:
        """Whether this dataset has the worker that it should have. Where a unit changes, one of its datasets has."""
        worker = self._workers.get(name)
        return worker is not None and self._view.known(name) and self._view.members(name) == worker.names

    def wake_workload(self, workload: str) -> None:
        """A workload has started or ended here."""
        spec = self._view.cluster.workloads.get(workload)
        for dataset in spec.datasets if spec else ():
            self.wake(dataset)

    async def run(self) -> None:
        self._view.subscribe(self.wake)
        self._changed.set()
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._assign(group)

    def _assign(self, group: asyncio.TaskGroup) -> None:
        view = self._view
        units = {name: view.members(name) for name in view.names()}
        for worker in self._running:
            if any(units.get(name) != worker.names for name in worker.names):
                worker.retire()
        busy = {name for worker in self._running for name in worker.names}
        for name, members in units.items():
            if name not in self._workers and not members & busy:
                worker = Worker(members, self._shared)
                self._running.add(worker)
                self._workers |= dict.fromkeys(members, worker)
                busy |= members
                group.create_task(self._work(worker))

    async def _work(self, worker: Worker) -> None:
        await worker.run()
        self._running.discard(worker)
        for name in worker.names:
            if self._workers.get(name) is worker:
                del self._workers[name]
        self._changed.set()
