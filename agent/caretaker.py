"""Looks after copies that are on this node and are not its own to use: sets aside a working copy that a later epoch has
left behind, tells what diverged here, and removes what nobody wants any more.

Only what somebody has said of that very uid makes a copy go: its dataset was destroyed as its spec said, or its owner
has named this node among those whose copies it does not want any more. What diverged goes only when a person discards
it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from drover.agent.receiving import Receiver
from drover.agent.storage.base import Backend, Diverged, LocalCopies, StorageError, Stored, Token, Volume
from drover.coordinator import records
from drover.coordinator.keys import Kind
from drover.coordinator.member import Member
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.records import DivergedCopy, State, Tenure
from drover.coordinator.store import StoreError
from drover.coordinator.txn import Delete, Put, Txn, absent, unchanged

log = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds between two looks without a reason."""
_SETTLE = 0.5
"""Seconds for which reasons are gathered."""


class Caretaker:
    """Of one incarnation."""

    def __init__(self, member: Member, backends: Mapping[str, Backend], receiver: Receiver) -> None:
        self._member, self._receiver = member, receiver
        self._backends = {name: it for name, it in backends.items() if isinstance(it, LocalCopies)}
        self._changed = asyncio.Event()
        self._unknown: set[str] = set()
        self._known: dict[str, object] = {}
        """By dataset: what it depends on whether there is something to do."""

    def wake(self, name: str | None) -> None:
        if name is not None and self._known.get(name) != (now := self._reason(self._member.view.dataset(name))):
            self._known[name] = now
            self._changed.set()

    def _reason(self, d: Dataset) -> object:
        tenure = d.tenure
        told = self._member.view.diverged(d.name, self._member.node)
        return tenure and (tenure.uid, tenure.epoch, tenure.state, self._unwanted(d, tenure), told)

    async def run(self) -> None:
        self._member.view.subscribe(self.wake)
        while True:
            self._changed.clear()
            for backend in self._backends.values():
                try:
                    await self._look(backend)
                except StorageError as error:
                    log.warning("copies at %s cannot be listed: %s", backend.name, error)
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._changed.wait()
            await asyncio.sleep(_SETTLE)

    async def _look(self, backend: LocalCopies) -> None:
        """Raises StorageError."""
        view = self._member.view
        known = [d for name in view.names() if (d := view.dataset(name)).tenure is not None]
        by_uid = {d.tenure.uid: d for d in sorted(known, key=_counts) if d.tenure is not None}
        for stored in await backend.stored():
            ours = stored.token.cluster == self._member.cluster_id and self._member.live
            if not ours:
                continue
            if (found := by_uid.get(stored.volume.uid)) is None:
                self._say_unknown(backend, stored)
                continue
            try:
                await self._care(backend, stored, found)
            except (StorageError, StoreError) as error:
                log.warning("the copy of %s here: %s; looked at again later", found.name, error)

    def _say_unknown(self, backend: LocalCopies, stored: Stored) -> None:
        """Once: nothing says what is to become of it."""
        if (uid := stored.volume.uid) not in self._unknown:
            self._unknown.add(uid)
            words = (backend.name, uid, stored.volume.dataset)
            log.warning("back end %s has a copy of volume %s (%s) here, which no dataset is; it is left alone", *words)

    async def _care(self, backend: LocalCopies, stored: Stored, d: Dataset) -> None:
        """Raises StorageError, StoreError."""
        tenure = d.tenure
        assert tenure is not None
        volume = replace(stored.volume, dataset=d.name)
        token = Token(self._member.cluster_id, tenure.uid, tenure.epoch, tenure.incarnation)
        elsewhere = tenure.state is State.ACTIVE and tenure.node != self._member.node
        if tenure.state is State.DESTROYED and not tenure.trash:
            log.info("%s was destroyed: the copy here goes, too", d.name)
            await backend.destroy(volume, token)
            await self._tell(d, tenure, ())
            return
        if elsewhere and stored.token.epoch < tenure.epoch:
            await backend.set_aside(volume, token)
        left = await self._diverged(backend, volume, token, d)
        await self._tell(d, tenure, left)
        if self._unwanted(d, tenure) and not left:
            await self._drop(backend, volume, token, d)

    async def _diverged(self, backend: LocalCopies, volume: Volume, token: Token, d: Dataset) -> Sequence[Diverged]:
        """What diverged here, without what a person has discarded."""
        told = self._member.view.diverged(d.name, self._member.node)
        gone = {one.guid for one in told.copies if one.discard} if told and told.uid == volume.uid else set()
        left = []
        for one in await backend.diverged(volume):
            if one.guid in gone:
                log.warning("%s: what diverged in epoch %d goes, as was asked: %s", d.name, one.epoch, one.path)
                await backend.discard_diverged(volume, token, one.guid)
            else:
                left.append(one)
        return left

    async def _tell(self, d: Dataset, tenure: Tenure, left: Sequence[Diverged]) -> None:
        """diverged/<d>/<me>, where it says something else. Raises StoreError."""
        member = self._member
        key, entry = (
            member.view.keys.diverged(d.name, member.node),
            member.view.entry(Kind.DIVERGED, f"{d.name}/{member.node}"),
        )
        if entry is None and not left:
            return
        copies = [DivergedCopy(epoch=one.epoch, guid=one.guid, path=one.path, size=one.size) for one in left]
        record = records.Diverged(uid=tenure.uid, copies=tuple(copies))
        if entry is not None and left and entry.value == record.encode():
            return
        then = Put(key, record.encode()) if left else Delete(key)
        compare = (unchanged(key, entry), absent(member.view.keys.fence(member.incarnation)))
        await member.store.txn(Txn(compare, (then,)))

    def _unwanted(self, d: Dataset, tenure: Tenure) -> bool:
        me, copies = self._member.node, d.copies
        if copies is None or (copies.uid, copies.epoch) != (tenure.uid, tenure.epoch) or me not in copies.dropped:
            return False
        return tenure.state is State.ACTIVE and tenure.node != me and me not in tenure.copies

    async def _drop(self, backend: LocalCopies, volume: Volume, token: Token, d: Dataset) -> None:
        """Nothing is received meanwhile, so what etcd says now is so until it is gone."""
        async with self._receiver.closed(d.name) as closed:
            if not closed:
                return
            now = await self._member.store.get(self._member.view.keys.copies(d.name))
            if now is None or now.mod_revision != d.copies_revision:
                return
            log.info("%s: the copy here is not wanted any more, and goes", d.name)
            await backend.destroy(volume, token)


def _counts(d: Dataset) -> tuple[bool, bool]:
    """Of two tenures of one uid the last counts: under the name from which it went into the trash there is another."""
    tenure = d.tenure
    return tenure is not None and tenure.state is not State.DESTROYED, tenure is not None and not tenure.trash
