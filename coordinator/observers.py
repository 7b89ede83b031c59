"""Watches other nodes' heartbeats, and writes the fence of one that has stood still for W."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from drover.coordinator import trace
from drover.coordinator.keys import Kind
from drover.coordinator.mirror import Mirror
from drover.coordinator.protocol import observer, ownership
from drover.coordinator.protocol.observer import Watched
from drover.coordinator.record import InvalidRecord, timestamp
from drover.coordinator.records import Heartbeat
from drover.coordinator.store import StoreError

if TYPE_CHECKING:
    from drover.coordinator.member import Member

log = logging.getLogger(__name__)

_AGAIN = 0.3
"""Seconds before a fence that could not be written is tried again."""
_LOOK = 5.0
"""Seconds between two looks at whom to watch where no event asks for one."""


class Observers:
    """All the watching of one node."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._watches: dict[str, _Watch] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        view = self._member.view
        view.subscribe(self._note)
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                if view.connected:
                    self._adjust(group)
                try:
                    async with asyncio.timeout(_LOOK):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    def _note(self, dataset: str | None) -> None:
        """Whom to watch depends on the nodes, and on the datasets of those that are not here."""
        view = self._member.view
        tenure = view.dataset(dataset).tenure if dataset is not None else None
        if dataset is None or (tenure is not None and tenure.node not in view.cluster.nodes):
            self._changed.set()

    def _adjust(self, group: asyncio.TaskGroup) -> None:
        member = self._member
        begun = [n for n, w in self._watches.items() if w.begun(2 * member.timings.heartbeat)]
        wanted = observer.whom(member.node, member.view.cluster, member.view.tenures(), begun)
        for node in [n for n in self._watches.keys() - wanted.keys() if not self._watches[n].asking]:
            self._tasks.pop(node).cancel()
            del self._watches[node]
        for node, incarnation in wanted.items():
            if node in self._watches:
                self._watches[node].incarnation = incarnation
            else:
                self._watches[node] = watch = _Watch(member, node, incarnation)
                self._tasks[node] = group.create_task(watch.run())


class _Watch:
    """incarnation: the one that a missing heartbeat would stand for, as the newest picture has it."""

    def __init__(self, member: Member, node: str, incarnation: str) -> None:
        self._member, self._node, self.incarnation = member, node, incarnation
        self._key = member.keys.heartbeat(node)
        self._mirror = Mirror(member.store, self._key, self._key + "\0", lambda _: self._look(), on_gap=self._anew)
        self._watched: Watched | None = None
        self._moved = asyncio.Event()
        self.asking = False
        """A fence is on its way. The view may show it before its answer is here, and then nobody need be watched."""

    def begun(self, age: float) -> bool:
        """Whether this heartbeat has stood still long enough to go on watching it, whoever ranks how."""
        return self._watched is not None and self._member.raw() - self._watched.since > age

    def _look(self) -> None:
        """The moment that counts is when a revision was received, before anything else is done."""
        now = self._member.raw()
        entry = self._mirror.entries.get(self._key)
        if entry is None:
            self._watched = None
        else:
            try:
                beat = Heartbeat.decode(entry.value)
            except InvalidRecord:
                beat = observer.stand_in(self.incarnation)
            by = self._member.candidate
            self._watched = observer.observe(self._watched, self._node, beat, entry.mod_revision, now, by)
        self._moved.set()

    def _anew(self) -> None:
        """History is gone, perhaps because etcd is one that was restored: heartbeats that it has lost were answered,
        and their sender counts from them. The wait begins again."""
        if self._watched is not None:
            self._watched = replace(self._watched, since=self._member.raw())

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._mirror.run())
            while True:
                self._moved.clear()
                wait = await self._act()
                try:
                    async with asyncio.timeout(wait):
                        await self._moved.wait()
                except TimeoutError:
                    continue

    async def _put_placeholder(self, instead: int) -> None:
        """Where the picture of this moment still asks for one: who has left may not be waited for."""
        member, view = self._member, self._member.view
        wanted = observer.whom(member.node, view.cluster, view.tenures(), [self._node])
        if self._node not in wanted:
            return
        entry = view.entry(Kind.NODES, self._node)
        beat = observer.stand_in(wanted[self._node])
        described = entry.mod_revision if entry else 0
        owner = None if entry else self._named_by(beat.incarnation)
        await member.store.txn(ownership.placeholder(member.seat(), self._node, beat, described, instead, owner))

    def _named_by(self, incarnation: str) -> tuple[str, int] | None:
        """A dataset whose tenure says that this incarnation holds it, and the tenure's mod revision."""
        view = self._member.view
        for d in map(view.dataset, sorted(view.names())):
            if d.tenure is not None and d.tenure.held and d.tenure.incarnation == incarnation:
                return d.name, d.tenure_revision
        return None

    async def _act(self) -> float:
        """Do what is due; how long to wait for the heartbeat to move before looking again. Seconds."""
        member, watched = self._member, self._watched
        try:
            if member.view.cluster.pause is not None:
                return 1.0
            fences = member.view.cluster.fences
            if watched is None or watched.heartbeat.incarnation in fences:
                if self.incarnation in fences:
                    return _LOOK
                if self._mirror.connected and member.steady():
                    await self._put_placeholder(watched.revision if watched else 0)
                return 1.0
            now = member.raw()
            if (left := max(watched.due() - now, member.given.left(self._node, now))) > 0:
                return left
            if not member.steady() or not member.live:
                return _AGAIN
            at = timestamp(datetime.now(UTC))
            record = observer.silence(watched, member.node, now, at).model_copy(update={"trace": trace.new()})
            asked = time.time()
            unusable = member.view.entry(Kind.PAUSE, "")
            paused = unusable.mod_revision if unusable else 0
            txn = ownership.fence(member.seat(), self._node, watched.heartbeat, watched.revision, record, paused)
            self.asking = True
            if (await member.store.txn(txn)).succeeded:
                member.listener.fenced(record, asked)
                with trace.within(record.trace):
                    log.warning("fenced %s: %s", watched.heartbeat.incarnation, record.detail)
        except StoreError as error:
            log.debug("watching %s: %s", self._node, error)
        finally:
            self.asking = False
        return _AGAIN
