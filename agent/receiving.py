"""Gets ready to receive a dataset that its holder sends here, and receives it. The target's side of copying."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager

from drover.agent.copying import KEPT, Expected
from drover.agent.storage.base import Backend, LocalCopies, Snapshot, StorageError, Token, Volume
from drover.agent.transfer.base import Check, DataPath, Stream
from drover.coordinator.member import Member

log = logging.getLogger(__name__)

_ENDS = 30.0
"""Seconds that an earlier copy of the same dataset may take to end, once it is cancelled."""


class Receiver:
    """member: of the incarnation that lives; None: there is none, and nothing is received."""

    def __init__(
        self, member: Callable[[], Member | None], backends: Mapping[str, Backend], path: Callable[[], DataPath | None]
    ) -> None:
        self._member, self.backends, self._path = member, backends, path
        self._closed: set[str] = set()
        self._busy: dict[str, tuple[asyncio.Task[object], asyncio.Event]] = {}

    async def expect(
        self, sender: str, backend: str, volume: Volume, token: Token, theirs: Collection[str]
    ) -> AsyncGenerator[Expected, None]:
        """Yields once, when all is ready, and then receives until the sender has finished. Raises StorageError."""
        copies = self._checked(sender, backend, volume, token)
        path = self._path()
        if path is None:
            raise StorageError("this node has no data path")
        await self._end_earlier(volume.dataset)
        if volume.dataset in self._closed:
            raise StorageError(f"what is here of {volume.dataset} is being removed; then it can come again")
        task, ended = asyncio.current_task(), asyncio.Event()
        assert task is not None
        self._busy[volume.dataset] = (task, ended)
        try:
            there = await copies.expect(volume, token, theirs)
            stream = Stream(volume.dataset, volume.uid, token.epoch, "move")
            async with path.expect(stream, sender) as incoming:
                yield Expected(incoming.ticket, tuple(there))
                async for round_ in incoming:
                    check = Check(*copies.arrived(volume, token, Snapshot(**round_.about)))
                    try:
                        await round_.receive(copies.receive(volume), check, both=copies.both_ways)
                    except StorageError as error:
                        log.warning("%s from %s: %s", volume.dataset, sender, error)
                        await copies.discard(volume)
                    else:
                        await self._prune(copies, volume)
        finally:
            ended.set()
            if self._busy.get(volume.dataset) == (task, ended):
                del self._busy[volume.dataset]

    @asynccontextmanager
    async def closed(self, dataset: str) -> AsyncIterator[bool]:
        """Nothing of it is received meanwhile; False: something is just now."""
        if dataset in self._busy or dataset in self._closed:
            yield False
            return
        self._closed.add(dataset)
        try:
            yield True
        finally:
            self._closed.discard(dataset)

    def _checked(self, sender: str, backend: str, volume: Volume, token: Token) -> LocalCopies:
        member, copies = self._member(), self.backends.get(backend)
        if member is None or not member.live:
            raise StorageError("this node takes no part in the cluster just now")
        if not isinstance(copies, LocalCopies):
            raise StorageError(f"this node has no back end {backend} with local copies")
        tenure = member.view.dataset(volume.dataset).tenure
        theirs = (token.cluster, volume.uid, token.epoch, token.incarnation, sender)
        if tenure is None or theirs != (
            member.cluster_id,
            tenure.uid,
            tenure.epoch,
            tenure.incarnation,
            tenure.node,
        ):
            raise StorageError(f"as this node sees it, {sender} does not hold {volume.dataset} in epoch {token.epoch}")
        return copies

    async def _end_earlier(self, dataset: str) -> None:
        """One that its sender has given up, and that has not noticed yet."""
        if (earlier := self._busy.get(dataset)) is not None:
            earlier[0].cancel()
            try:
                async with asyncio.timeout(_ENDS):
                    await earlier[1].wait()
            except TimeoutError:
                raise StorageError(
                    f"an earlier copy of {dataset} to this node does not end: its helper hangs, because the storage "
                    "does not answer; mend that, or reboot this node"
                ) from None

    async def _prune(self, copies: LocalCopies, volume: Volume) -> None:
        """What other standbys have stays: this node may be the next to send them a difference."""
        member = self._member()
        known = member.view.dataset(volume.dataset).acknowledged if member is not None else {}
        there = await copies.snapshots(volume)
        keep = {one.guid for one in there[-KEPT:]} | {copy.guid for copy in known.values()}
        if any(one.guid not in keep for one in there):
            await copies.prune(volume, keep)
