"""Keeps copies of this node's datasets on other nodes, its standbys: the owner's side. The other side receives as for a
move (agent/receiving.py); which nodes they are, coordinator/protocol/standbys.py says.

Each standby is kept up by itself, so that one that is away, slow or full holds up no other. What it has is asked of it
each time; what it has acknowledged stands in copies/<d>, compared with the tenure, and counts for this epoch only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from drover.agent.copying import KEPT, Ask, Sent
from drover.agent.local import volume_of
from drover.agent.storage.base import Backend, GateClosed, LocalCopies, Snapshot, StorageError, TellsChanges, Token
from drover.agent.transfer.base import DataPath, Stream
from drover.coordinator.member import Member
from drover.coordinator.protocol import standbys
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.record import one_line
from drover.coordinator.records import Copies, Copy, State
from drover.coordinator.specs import DatasetSpec
from drover.coordinator.store import StoreError
from drover.coordinator.verbs import NotLive

log = logging.getLogger(__name__)

_FIRST, _LONGEST = 0.5, 15.0
"""Seconds before a standby that failed is tried again: doubled each time."""
_AT_ONCE = 2
"""Copies that are sent to one node at the same time."""
REPLACED_AFTER = 600.0
"""Seconds without success after which another node is chosen, if there is one."""
_ASKED_AGAIN = 600.0
"""Seconds after which a standby is asked whether it has what it had, though nothing has changed."""
_POLL = 0.5
"""Seconds between two looks how much has changed, at least."""
_LOOK = 10.0
"""Seconds between two looks whether a standby is to be replaced, and how often it is to be sent something."""
_TRIES, _PAUSE = 5, 0.2
"""How often an acknowledgement that etcd refuses is written again: what it compares may have changed just then."""


class _NotNow(StorageError):
    """This node may not write at the moment, or does not own the dataset any more."""


@dataclass(frozen=True)
class _Taken:
    """taken: CLOCK_BOOTTIME before the snapshot was made: all that was written by then is in it."""

    snapshot: Snapshot
    taken: float
    at: str


@dataclass(frozen=True)
class Means:
    """What keeping standbys takes. moving: datasets that are on their way to another node just now."""

    member: Member
    backends: Mapping[str, Backend]
    ask: Ask
    path: DataPath
    moving: Callable[[], Collection[str]]


class _Kept:
    """The standbys of one dataset, as long as this node owns it in one epoch."""

    def __init__(self, name: str, means: Means, slots: Callable[[str], asyncio.Semaphore]) -> None:
        self._name, self._means, self._slots = name, means, slots
        self._changed = asyncio.Event()
        self._taking, self._writing = asyncio.Lock(), asyncio.Lock()
        self._newest: _Taken | None = None
        self._failing: dict[str, float] = {}
        """By node: since when it could not be kept up (CLOCK_MONOTONIC)."""
        self._trouble: dict[str, str] = {}
        self._asked: dict[str, float] = {}
        """By node: when it has said what it has (CLOCK_MONOTONIC)."""
        d = self._dataset
        assert d.tenure is not None
        self.epoch = d.tenure.epoch
        known = d.copies if d.copies is not None and d.copies.uid == d.tenure.uid else None
        self._nodes = dict(d.acknowledged)
        self._former = {*known.nodes, *known.standbys} - {means.member.node} if known else set()
        """Nodes that have, or may have, a copy of it though they are standbys no more."""
        self._dropped = {*known.dropped} - {means.member.node} if known else set()
        self._written, self._revision = known, d.copies_revision

    @property
    def _dataset(self) -> Dataset:
        return self._means.member.view.dataset(self._name)

    def wake(self) -> None:
        self._changed.set()

    async def run(self) -> None:
        tasks: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                wanted = self._choose() if self._name not in self._means.moving() else ()
                for node in tasks.keys() - {*wanted}:
                    tasks.pop(node).cancel()
                for node in wanted:
                    if node not in tasks:
                        tasks[node] = group.create_task(self._keep(node))
                with suppress(StoreError, NotLive):  # it is tried again with the next acknowledgement, or look
                    await self._write()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await self._changed.wait()

    def _choose(self) -> tuple[str, ...]:
        view = self._means.member.view
        late = time.monotonic() - REPLACED_AFTER
        given_up = {node for node, since in self._failing.items() if since < late}
        return standbys.choose(
            self._means.member.node, self._dataset, view.unit(self._name), view.cluster, frozenset(given_up)
        )

    async def _keep(self, node: str) -> None:
        """One standby, until cancelled."""
        pause = _FIRST
        while True:
            try:
                taken = await self._round(node)
            except (_NotNow, GateClosed, StoreError, NotLive) as error:
                log.debug("%s: standby %s: %s", self._name, node, error)
                self._failing.clear()  # it is this node that cannot: that says nothing of the others
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST)
                continue
            except StorageError as error:
                self._failing.setdefault(node, time.monotonic())
                if one_line(str(error)) != self._trouble.get(node):
                    log.warning("%s: standby %s: %s", self._name, node, error)
                    self._trouble[node] = one_line(str(error))
                    self.wake()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST)
                continue
            pause = _FIRST
            await self._until_due(taken)

    async def _round(self, node: str) -> float:
        """Sends what it has not; when that was taken. Raises StorageError, StoreError, NotLive."""
        async with self._slots(node):
            sent = self._sent()
            now = await self._fresh(sent)
            if not self._has(node, now.snapshot):
                await self._send(sent, node, now.snapshot)
                self._asked[node] = time.monotonic()
        self._nodes[node] = Copy(guid=now.snapshot.guid, name=now.snapshot.name, taken=now.taken, at=now.at)
        self._failing.pop(node, None)
        self._trouble.pop(node, None)
        await self._write()
        await self._prune(sent)
        return now.taken

    def _has(self, node: str, snapshot: Snapshot) -> bool:
        """As far as it has said not long ago."""
        known, asked = self._nodes.get(node), self._asked.get(node)
        return (
            known is not None
            and known.guid == snapshot.guid
            and asked is not None
            and time.monotonic() < asked + _ASKED_AGAIN
        )

    async def _send(self, sent: Sent, node: str, snapshot: Snapshot) -> None:
        """What it has not of this; that it has it is asked in any case. Raises StorageError."""
        here = await sent.backend.snapshots(sent.volume)
        async with self._means.ask(sent, node, {one.guid for one in here}) as expected:
            there = {one.guid for one in expected.snapshots}
            if snapshot.guid in there:
                return
            parent = next((one for one in reversed(here) if one.guid in there), None)
            sending = sent.backend.send(sent.volume, snapshot, parent)
            stream = Stream(sent.volume.dataset, sent.volume.uid, sent.token.epoch, "move")
            async with self._means.path.connect(stream, expected.ticket) as outgoing:
                done = await outgoing.send(sending.command, asdict(snapshot), deterministic=True)
        what = "all of it" if sending.full else "the difference"
        log.info("%s to standby %s: %s, %d bytes in %.3f s", self._name, node, what, done.bytes, done.seconds)

    def _sent(self) -> Sent:
        """Raises StorageError where this node does not have it any more."""
        member, d = self._means.member, self._dataset
        volume, tenure = volume_of(d), d.tenure
        if not (member.live and owned(member, d)) or volume is None or tenure is None or tenure.epoch != self.epoch:
            raise _NotNow("this node does not own it at the moment")
        backend = self._means.backends[tenure.backend]
        assert isinstance(backend, LocalCopies)
        token = Token(member.cluster_id, tenure.uid, tenure.epoch, tenure.incarnation)
        return Sent(backend, volume, token, lambda: (0.0, False))

    async def _fresh(self, sent: Sent) -> _Taken:
        """One snapshot for all who want one at about the same time."""
        async with self._taking:
            spec, now = self._dataset.spec, time.clock_gettime(time.CLOCK_BOOTTIME)
            every = spec.replicate_every if isinstance(spec, DatasetSpec) else 0.0
            newest, at = self._newest, datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            if newest is None or (now - newest.taken > every / 2 and await self._changed_since(newest, sent) != 0):
                newest = _Taken(await sent.backend.snapshot(sent.volume, sent.token), now, at)
            elif now - newest.taken > every / 2:
                newest = _Taken(newest.snapshot, now, at)
            self._newest = newest
            return newest

    async def _changed_since(self, newest: _Taken, sent: Sent) -> int | None:
        """Bytes; None: not known. Raises StorageError."""
        if not isinstance(sent.backend, TellsChanges):
            return None
        return await sent.backend.changed(sent.volume, newest.snapshot)

    async def _until_due(self, taken: float) -> None:
        """Until the next snapshot is to be sent: some time after the last was taken, or when much has changed."""
        while True:
            spec, now = self._dataset.spec, time.clock_gettime(time.CLOCK_BOOTTIME)
            if not isinstance(spec, DatasetSpec) or (left := taken + spec.replicate_every - now) <= 0:
                return
            much = spec.replicate_after
            await asyncio.sleep(min(left, _LOOK if much is None else max(_POLL, spec.replicate_every / 20)))
            if much is not None and await self._changed_by(much):
                self._newest = None
                return

    async def _changed_by(self, much: int) -> bool:
        """Whether so many bytes, as far as that is counted."""
        if self._newest is None:
            return False
        with suppress(StorageError):  # the next round tells
            return ((await self._changed_since(self._newest, self._sent())) or 0) >= much
        return False

    async def _prune(self, sent: Sent) -> None:
        """What any standby has stays: the next difference begins there."""
        here = await sent.backend.snapshots(sent.volume)
        keep = {copy.guid for copy in self._nodes.values()} | {one.guid for one in here[-KEPT:]}
        if any(one.guid not in keep for one in here):
            await sent.backend.prune(sent.volume, keep)

    async def _write(self) -> None:
        """copies/<d>, where it is to say something else. Raises StoreError, NotLive."""
        async with self._writing:
            for _ in range(_TRIES):
                d, record = self._dataset, self._record()
                if record is None or record == self._written:
                    return
                if not owned(self._means.member, d) or d.tenure is None or d.tenure.epoch != self.epoch:
                    return
                if revision := await self._means.member.verbs.acknowledge(d, record, self._revision):
                    self._written, self._revision = record, revision
                    return
                await asyncio.sleep(_PAUSE)
                self._revision = max(self._revision, self._dataset.copies_revision)

    def _record(self) -> Copies | None:
        """None: nothing to say."""
        d, wanted = self._dataset, self._choose()
        if d.tenure is None or (not wanted and self._written is None):
            return None
        self._former |= {*self._nodes} - {*wanted}
        self._dropped -= {*wanted}
        if all(node in self._nodes for node in wanted):
            self._dropped |= self._former - {*wanted}
            self._nodes = {node: copy for node, copy in self._nodes.items() if node in wanted}
            self._former.clear()
        return Copies(
            epoch=self.epoch,
            uid=d.tenure.uid,
            standbys=wanted,
            nodes=dict(sorted(self._nodes.items())),
            dropped=tuple(sorted(self._dropped)),
            trouble={node: why for node, why in sorted(self._trouble.items()) if node in wanted},
        )


def owned(member: Member, d: Dataset) -> bool:
    tenure = d.tenure
    return (
        tenure is not None
        and tenure.state is State.ACTIVE
        and tenure.born
        and tenure.incarnation == member.incarnation
        and not d.doomed
    )


class Standbys:
    """All datasets of one incarnation that have standbys, or had."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._kept: dict[str, tuple[_Kept, asyncio.Task[None]]] = {}
        self._dirty: set[str | None] = {None}
        self._changed = asyncio.Event()
        self._slots: dict[str, asyncio.Semaphore] = {}

    def wake(self, name: str | None) -> None:
        """Something of this dataset, or of all, may have changed: records, or whether it is being moved."""
        self._dirty.add(name)
        self._changed.set()

    async def run(self) -> None:
        self._means.member.view.subscribe(self.wake)
        async with asyncio.TaskGroup() as group:
            while True:
                view, dirty, self._dirty = self._means.member.view, self._dirty, set()
                for name in {*view.names(), *self._kept} if None in dirty else dirty - {None}:
                    assert name is not None
                    self._look(group, name)
                await self._changed.wait()
                self._changed.clear()

    def _look(self, group: asyncio.TaskGroup, name: str) -> None:
        d, known = self._means.member.view.dataset(name), self._kept.get(name)
        mine = self._has_standbys(d)
        if known is not None and (not mine or d.tenure is None or d.tenure.epoch != known[0].epoch):
            known[1].cancel()
            del self._kept[name]
            known = None
        if known is not None:
            known[0].wake()
        elif mine:
            kept = _Kept(name, self._means, self._slots_of)
            self._kept[name] = (kept, group.create_task(kept.run()))

    def _has_standbys(self, d: Dataset) -> bool:
        """Has, should have, or had: then their copies go."""
        if not owned(self._means.member, d) or d.tenure is None or d.replaced or not isinstance(d.spec, DatasetSpec):
            return False
        local = isinstance(self._means.backends.get(d.tenure.backend), LocalCopies)
        return local and (d.spec.replicas > 0 or (d.copies is not None and d.copies.uid == d.tenure.uid))

    def _slots_of(self, node: str) -> asyncio.Semaphore:
        return self._slots.setdefault(node, asyncio.Semaphore(_AT_ONCE))
