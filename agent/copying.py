"""Sends datasets to another node while they are in use, round by round, and then the last increment. The source's side;
agent/receiving.py is the other one.

Nothing is remembered that cannot be found again: what is common is asked of the target whenever a connection is new, so
after a cut, a restart of either agent or a target that was away, rounds begin from the newest common snapshot.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, replace

from drover.agent.rounds import LATER, Copying, CutOver, Round, verdict
from drover.agent.storage.base import LocalCopies, Snapshot, StorageError, Token, Volume
from drover.agent.transfer.base import DataPath, Outgoing, Stream, Ticket

log = logging.getLogger(__name__)

KEPT = 3
"""Snapshots of past rounds that a node keeps, so that the next move sends a difference only."""
_FIRST, _LONGEST = 0.5, 15.0
"""Seconds before a connection that failed is tried again: doubled each time."""
_ENDS = 30.0
"""Seconds that a copy which is stopped may take to end."""
_LAST = 10.0
"""Seconds that the last increment may take, if not ten times what was predicted: then the workload goes on here."""


@dataclass(frozen=True)
class Sent:
    """What is sent: a volume at a back end, by its holder, whose token this is. limits: max_cutover as
    the spec has it now, seconds, and whether it is given up rather than to take longer. kept: guids of
    what other nodes have: these snapshots stay."""

    backend: LocalCopies
    volume: Volume
    token: Token
    limits: Callable[[], tuple[float, bool]]
    kept: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Expected:
    """What the target answers: where to send, and what it has."""

    ticket: Ticket
    snapshots: tuple[Snapshot, ...]


Ask = Callable[[Sent, str, Collection[str]], AbstractAsyncContextManager[Expected]]
"""Asks a node to get ready to receive from us, who have snapshots with these guids, and keeps it so. Raises
StorageError."""


class _Copy:
    """One dataset on its way."""

    def __init__(
        self, sent: Sent, to: str, ask: Ask, path: DataPath, changed: Callable[[], None], progressed: Callable[[], None]
    ) -> None:
        self._progressed = progressed
        self.state = Copying(to, sent.token.epoch)
        self._sent, self._ask, self._path, self._changed = sent, ask, path, changed
        self._last_asked = asyncio.Event()
        self._last_done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        pause = _FIRST
        while True:
            try:
                await self._session()
            except StorageError as error:
                log.warning("%s to %s: %s", self._sent.volume.dataset, self.state.to, error)
                if self.state.rounds:
                    pause = _FIRST
                self._tell(Copying(self.state.to, self.state.epoch, trouble=str(error)))
                self._failed(error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST)

    async def last(self) -> None:
        """Raises StorageError; then rounds begin again."""
        predicted = self.state.verdict.predicted if isinstance(self.state.verdict, CutOver) else 0.0
        done, within = self._last_done, max(_LAST, 10 * predicted)
        self._last_asked.set()
        try:
            async with asyncio.timeout(within):
                await asyncio.shield(done)
        except TimeoutError:
            raise StorageError(f"the last increment did not arrive at {self.state.to} within {within:.0f} s") from None

    def _failed(self, error: StorageError) -> None:
        if self._last_asked.is_set() and not self._last_done.done():
            self._last_done.set_exception(error)
            self._last_done.exception()  # whoever has asked may have gone
        self._last_asked.clear()
        self._last_done = asyncio.get_running_loop().create_future()

    def _tell(self, state: Copying) -> None:
        self._show(state)
        self._changed()

    async def _session(self) -> None:
        sent = self._sent
        stream = Stream(sent.volume.dataset, sent.volume.uid, sent.token.epoch, "move")
        ours = {one.guid for one in await sent.backend.snapshots(sent.volume)}
        async with self._ask(sent, self.state.to, ours) as expected:
            async with self._path.connect(stream, expected.ticket) as outgoing:
                there = {one.guid for one in expected.snapshots}
                while not isinstance(self.state.verdict, CutOver):
                    if self.state.verdict.because:
                        await asyncio.sleep(LATER)
                    await self._round(outgoing, there, last=False)
                await sent.backend.presync(sent.volume)
                self._changed()
                await self._last_asked.wait()
                await self._round(outgoing, there, last=True)
                if not self._last_done.done():
                    self._last_done.set_result(None)
                await asyncio.Event().wait()  # until it is stopped: the target stays ready

    async def _round(self, outgoing: Outgoing, there: set[str], last: bool) -> None:
        sent, began = self._sent, time.monotonic()
        take = sent.backend.seal if last else sent.backend.snapshot
        snapshot = await take(sent.volume, sent.token)
        here = [one for one in await sent.backend.snapshots(sent.volume) if one != snapshot]
        size, full = 0, False
        if snapshot.guid not in there:
            parent = next((one for one in reversed(here) if one.guid in there), None)
            sending = sent.backend.send(sent.volume, snapshot, parent)
            full = sending.full
            self._show(replace(self.state, full=full))
            both, about = sent.backend.both_ways, asdict(snapshot)
            size = (
                await outgoing.send(sending.command, about, deterministic=not both, both=both, progress=self._note)
            ).bytes
            there.add(snapshot.guid)
        done = Round(size, time.monotonic() - began, full)
        rounds = (*self.state.rounds, done)
        what = "all of it" if full else "the difference"
        words = (sent.volume.dataset, self.state.to, len(rounds), what, done.bytes, done.seconds)
        log.info("%s to %s: round %d: %s, %d bytes in %.3f s", *words)
        if last:
            self._tell(replace(self.state, rounds=rounds, base=snapshot.guid, sent=0))
        else:
            await sent.backend.prune(sent.volume, sent.kept | {one.guid for one in here[1 - KEPT :]})
            found = verdict(rounds, *sent.limits())
            if isinstance(found, CutOver):
                log.info("%s to %s: the last increment is next: %s", sent.volume.dataset, self.state.to, found.because)
            self._tell(replace(self.state, rounds=rounds, verdict=found, sent=0, full=False, trouble=""))

    def _note(self, done: int) -> None:
        self._show(replace(self.state, sent=done))

    def _show(self, state: Copying) -> None:
        """For those who watch only."""
        self.state = state
        self._progressed()


class Copier:
    """All datasets that this node sends. changed: called with one whose state has changed; progressed: when more has
    been sent."""

    def __init__(
        self, ask: Ask, path: DataPath, changed: Callable[[str], None], progressed: Callable[[], None]
    ) -> None:
        self._progressed = progressed
        self._ask, self._path, self._changed = ask, path, changed
        self._copies: dict[str, tuple[_Copy, asyncio.Task[None]]] = {}
        self._group: asyncio.TaskGroup | None = None

    @property
    def states(self) -> Mapping[str, Copying]:
        return {name: copy.state for name, (copy, _) in self._copies.items()}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            await asyncio.Event().wait()

    def start(self, sent: Sent, to: str) -> None:
        """In the background; nothing where it is on its way there already."""
        name = sent.volume.dataset
        if self._group is None or name in self._copies:
            return
        copy = _Copy(sent, to, self._ask, self._path, lambda: self._changed(name), self._progressed)
        self._copies[name] = (copy, self._group.create_task(copy.run()))
        self._changed(name)

    async def last(self, dataset: str) -> None:
        """The end of the epoch here, and all of it at the target. Raises StorageError."""
        if (found := self._copies.get(dataset)) is None:
            raise StorageError(f"{dataset} is not on its way to another node")
        await found[0].last()

    async def stop(self, dataset: str) -> None:
        if (found := self._copies.pop(dataset, None)) is not None:
            found[1].cancel()
            await asyncio.wait([found[1]], timeout=_ENDS)  # what hangs after it is cancelled holds up no step
            self._changed(dataset)
