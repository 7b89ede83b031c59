"""Looks after copies that are on this node and are not its own to use: removes what nobody wants here any more.

Only what somebody has said of that very uid makes a copy go: its dataset was destroyed as its spec said, or its owner
has named this node among those whose copies it does not want any more. What diverged stays in any case.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from drover.agent.receiving import Receiver
from drover.agent.storage.base import Backend, LocalCopies, StorageError, Stored, Token, Volume
from drover.coordinator.member import Member
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.records import State, Tenure
from drover.coordinator.store import StoreError

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
        self._known: dict[str, object] = {}
        """By dataset: what it depends on whether there is something to do."""

    def wake(self, name: str | None) -> None:
        if name is not None and self._known.get(name) != (now := self._reason(self._member.view.dataset(name))):
            self._known[name] = now
            self._changed.set()

    def _reason(self, d: Dataset) -> object:
        tenure = d.tenure
        return tenure and (tenure.uid, tenure.epoch, tenure.state, self._unwanted(d, tenure))

    async def run(self) -> None:
        self._member.view.subscribe(self.wake)
        while True:
            self._changed.clear()
            for backend in self._backends.values():
                try:
                    await self._look(backend)
                except (StorageError, StoreError) as error:
                    log.warning("copies at %s: %s; looked at again later", backend.name, error)
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await self._changed.wait()
            await asyncio.sleep(_SETTLE)

    async def _look(self, backend: LocalCopies) -> None:
        """Raises StorageError, StoreError."""
        view = self._member.view
        known = [d for name in view.names() if (d := view.dataset(name)).tenure is not None]
        by_uid = {d.tenure.uid: d for d in sorted(known, key=_alive) if d.tenure is not None}
        for stored in await backend.stored():
            found = by_uid.get(stored.volume.uid)
            if found is not None and found.tenure and stored.token.cluster == self._member.cluster_id:
                await self._care(backend, stored, found, found.tenure)

    async def _care(self, backend: LocalCopies, stored: Stored, d: Dataset, tenure: Tenure) -> None:
        volume = replace(stored.volume, dataset=d.name)
        token = Token(self._member.cluster_id, tenure.uid, tenure.epoch, tenure.incarnation)
        if not self._member.live or (tenure.held and tenure.node == self._member.node):
            return
        if tenure.state is State.DESTROYED and not tenure.trash:
            log.info("%s was destroyed: the copy here goes, too", d.name)
            await backend.destroy(volume, token)
        elif self._unwanted(d, tenure):
            await self._drop(backend, volume, token, d)

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


def _alive(d: Dataset) -> bool:
    """Of two tenures of one uid, the one that counts: under the name from which it went into the trash is another."""
    return d.tenure is not None and d.tenure.state is not State.DESTROYED
