"""What one member does for all, so that etcd's history and the fences do not pile up; and every member looks after it.

A heartbeat adds about 320 bytes to etcd's database (measured on 3.4.23). Without compaction, 40 nodes fill the default
quota of 2 GiB in two days, and a full etcd stops every owner.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from drover.coordinator.etcd_versions import Flawed, judge
from drover.coordinator.keys import Kind, range_end
from drover.coordinator.protocol.observer import collectable
from drover.coordinator.protocol.placement import rank
from drover.coordinator.record import InvalidRecord, R
from drover.coordinator.records import Fence, Heartbeat, State, Tenure, Trashed
from drover.coordinator.store import StoreError
from drover.coordinator.trash import empty, lay_aside
from drover.coordinator.txn import Delete, Entry, Txn, absent, unchanged

if TYPE_CHECKING:
    from drover.coordinator.member import Member

log = logging.getLogger(__name__)

_COLLECT = 10
"""Fences are collected at every so many rounds."""
_HISTORY = 80
"""Bytes by which the database grows with each revision, at the least, where nothing is compacted. One whose history is
compacted stops growing once it has room for what is kept: freed pages are used again."""
_SPANS = 4
"""So many spans of growth in a row are history piling up. In a new etcd that compacts by itself and keeps one span, it
is three (measured); and a member with a larger file may answer from now on, or somebody may load data."""


@dataclass(frozen=True)
class Pace:
    """keep: seconds of history that are kept, for watches that resume. most: revisions of it, however young: so that it
    is bounded where no agent lives for as long as `keep` and knows how old which revision is; ten minutes of 400 nodes.
    every: seconds between two rounds. span: seconds over which the growth of the database is looked at."""

    keep: float = 600.0
    most: int = 250_000
    every: float = 60.0
    span: float = 3600.0


class Housekeeping:
    """Compaction and the collecting of old fences, by the member that ranks first. compacts: False where etcd is shared
    with others or compacts by itself; doing it all the same is harmless."""

    def __init__(self, member: Member, compacts: bool, pace: Pace | None = None) -> None:
        self._member, self._compacts, self._pace = member, compacts, pace or Pace()
        self._seen: deque[tuple[float, int]] = deque()
        """When, by the member's clock, and etcd's revision then: the oldest is the newest that is `keep` old, if any.
        Kept by all members, so that whoever comes to rank first goes on at once."""
        self._growth = _Growth(self._pace.span)
        self._piling_up = _Trouble("etcd's database has stopped growing with every write")
        self._unlisted = _Trouble("every member of etcd is in etcd.endpoints")
        self._done_with: frozenset[str] = frozenset()
        self.known_bugs = 0
        """Of the etcd that answered last, as far as they touch us."""

    @property
    def piling_up(self) -> bool:
        """Whether etcd's history grows and grows, since nobody compacts it."""
        return self._piling_up.there

    async def run(self) -> None:
        rounds = 0
        while True:
            rounds += 1
            try:
                await self._member.view.ready(self._pace.every)
                await self._look()
                if rank("housekeeping", self._member.view.cluster.nodes)[:1] == [self._member.node]:
                    await self._end_pause()
                    await self.look_after_trash()
                    if self._compacts:
                        await self._compact()
                    if rounds % _COLLECT == 0:
                        await self.collect()
            except TimeoutError:
                continue
            except StoreError as error:
                log.warning("housekeeping: %s", error)
            await asyncio.sleep(self._pace.every)

    async def _look(self) -> None:
        """Raises StoreError."""
        status = await self._member.store.status()
        now = self._member.raw()  # the revision is at least this old
        verdict = judge(status.version)
        self.known_bugs = len(verdict.bugs) if isinstance(verdict, Flawed) else 0
        self._seen.append((now, status.revision))
        while len(self._seen) > 1 and now - self._seen[1][0] >= self._pace.keep:
            self._seen.popleft()
        if status.unlisted:
            self._unlisted.tell(
                f"etcd has members that etcd.endpoints does not name, and that are not asked when the others are away:"
                f" {', '.join(status.unlisted)}"
            )
        else:
            self._unlisted.over()
        if self._growth.goes_on(now, status.revision, status.db_size):
            self._piling_up.tell(
                f"nobody compacts etcd's history: its database grows with every write, to {status.db_size >> 20} MiB by"
                ' now; when its quota is used up, every owner stops. Start the agents with compact = "auto", or etcd'
                " with --auto-compaction-retention"
            )
        else:
            self._piling_up.over()

    async def look_after_trash(self) -> None:
        """What was removed and given up is laid aside; what has been in the trash for its time is destroyed, by whoever
        claims it. Etcd decides: without it nothing is ever emptied. Raises StoreError."""
        member, view = self._member, self._member.view
        for name, entry in tuple(view.entries(Kind.TRASH).items()):
            with contextlib.suppress(InvalidRecord, ValueError):
                trashed, txn = Trashed.decode(entry.value), member.seat().txn
                if (aside := view.entry(Kind.OWNERS, name)) is not None:
                    tenure = Tenure.decode(aside.value)
                    if trashed.until <= datetime.now(UTC) and tenure.state is State.RELEASED:
                        log.info("the time of %s in the trash is over (uid %s)", trashed.dataset, trashed.uid)
                        await self._as_member(empty(entry, aside, tenure, txn))
                elif (owner := view.entry(Kind.OWNERS, trashed.dataset)) is not None:
                    tenure = Tenure.decode(owner.value)
                    await self._as_member(lay_aside(member.keys, entry, trashed, owner, tenure, txn))

    async def _as_member(self, txn: Txn) -> None:
        fence = absent(self._member.keys.fence(self._member.incarnation))
        await self._member.store.txn(replace(txn, compare=(*txn.compare, fence)))

    async def _end_pause(self) -> None:
        """A pause that is over, by this node's clock, is taken away. Raises StoreError."""
        member = self._member
        pause, entry = member.view.cluster.pause, member.view.entry(Kind.PAUSE, "")
        if pause is not None and entry is not None and pause.until <= datetime.now(UTC):
            key = member.keys.pause
            fence = absent(member.keys.fence(member.incarnation))
            if (await member.store.txn(Txn((unchanged(key, entry), fence), (Delete(key),)))).succeeded:
                log.info("the pause is over: %s", pause.words)

    async def _compact(self) -> None:
        """Forget what is older than `keep`, and of the rest all but the newest `most` revisions. Raises StoreError."""
        (oldest, old), (now, revision) = self._seen[0], self._seen[-1]
        known = old if now - oldest >= self._pace.keep else 0
        if (least := max(known, revision - self._pace.most)) > 0:
            await self._member.store.compact(least)

    async def collect(self) -> None:
        """Delete fences that say nothing any more: no tenure names them, and their node lives in another incarnation.

        Nothing can come to name a fenced incarnation again: none of its transactions commits, and no handover to it;
        who claims from it finds it named as the holder, and leaves it named as one to be cut off. So the tenures are
        read after the fences. That none of its transactions commits must hold without the fence, too, as one may still
        be under way: what takes a dataset needs the session's lease, which has ended by itself some TTLs later, and all
        else compares what has moved on. So a fence goes only if it said nothing at the collection before, either.
        Raises StoreError.
        """
        member, keys = self._member, self._member.keys
        fences = await self._list(Kind.FENCES)
        beats = await self._list(Kind.HEARTBEATS)
        owners = await self._list(Kind.OWNERS)
        tenures = _readable(Tenure, owners)
        before, self._done_with = self._done_with, frozenset()
        if len(tenures) < len(owners):
            log.warning("no fence is collected: a key below %s cannot be read", keys.under(Kind.OWNERS))
            return
        records = _readable(Fence, fences)
        self._done_with = frozenset(collectable(records, _readable(Heartbeat, beats), tenures.values()))
        for incarnation in sorted(self._done_with & before):
            node = records[incarnation].node
            fence, beat = keys.fence(incarnation), keys.heartbeat(node)
            compare = (unchanged(fence, fences[incarnation]), unchanged(beat, beats[node]))
            await member.store.txn(Txn((*compare, absent(keys.fence(member.incarnation))), (Delete(fence),)))

    async def _list(self, kind: Kind) -> dict[str, Entry]:
        """By name."""
        start = self._member.keys.under(kind)
        listed = await self._member.store.range(start, range_end(start))
        return {entry.key.removeprefix(start): entry for entry in listed.entries}


class _Growth:
    """Whether the database grows with every revision, span after span."""

    def __init__(self, span: float) -> None:
        self._span, self._spans = span, 0
        self._mark: tuple[float, int, int] | None = None

    def goes_on(self, now: float, revision: int, size: int) -> bool:
        if self._mark is None:
            self._mark = (now, revision, size)
        then, revision_then, size_then = self._mark
        if now - then >= self._span:
            grown = size - size_then > _HISTORY * (revision - revision_then)
            self._spans = self._spans + 1 if grown else 0
            self._mark = (now, revision, size)
        return self._spans >= _SPANS


class _Trouble:
    """Something for the log once, and again when it has been over."""

    def __init__(self, over: str) -> None:
        self._over, self.there = over, False

    def tell(self, what: str) -> None:
        if not self.there:
            log.warning("%s", what)
        self.there = True

    def over(self) -> None:
        if self.there:
            log.info("%s", self._over)
        self.there = False


def _readable(kind: type[R], entries: Mapping[str, Entry]) -> dict[str, R]:
    found = {}
    for name, entry in entries.items():
        with contextlib.suppress(InvalidRecord):
            found[name] = kind.decode(entry.value)
    return found
