"""What goes between agents: one asks another to get ready, and snapshots on the wire. It is cut, and either end dies,
at any moment; a round that has ended well may be damaged all the same, until it was checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from drover.agent.copying import Ask, Expected
from drover.agent.copying import Sent as Sending
from drover.agent.storage.base import Damaged, HelperDied, StorageError, Volume
from drover.agent.transfer.base import Check, Received, Sent, Stream, Ticket
from tests.sim.copies import Arriving, SimCopies, Snap

if TYPE_CHECKING:
    from tests.sim.machine import Machine

READY = 10.0
"""Seconds that the other end may take to get ready, or to answer."""
SILENCE = 5.0
"""Seconds after which an end that is gone is given up."""


class Cut(StorageError):
    """The connection broke, and stayed so."""


@dataclass
class Wire:
    """What becomes of a round, while there is trouble: chances."""

    cut: float = 0.0
    damaged: float = 0.0
    killed_at_end: float = 0.0
    answer_lost: float = 0.0


class _Round:
    """One snapshot under way."""

    def __init__(self, about: Mapping[str, Any], to: SimIncoming) -> None:
        loop = asyncio.get_running_loop()
        self.number, self.about, self._to = 1, about, to
        self.taken: asyncio.Future[None] = loop.create_future()
        self.payload: asyncio.Future[tuple[Snap, str]] = loop.create_future()
        self.result: asyncio.Future[Received] = loop.create_future()

    async def receive(
        self,
        argv: Sequence[str],
        check: Check,
        *,
        both: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Received:
        to = self._to
        try:
            got = await to.copies._job(to.volume, lambda: self._receive(argv[1], check))
        except StorageError as error:
            _fail(self.result, error)
            raise
        if not self.result.done():
            self.result.set_result(got)
        return got

    async def _receive(self, uid: str, check: Check) -> Received:
        to, machine = self._to, self._to.machine
        world, storage = machine.world, machine.world.storage
        copy = storage.copies.get(machine.name, uid)
        if copy is None:
            raise Damaged("there is nothing to receive into")
        copy.arriving = Arriving(Snap("", "", ()), False)
        if not self.taken.done():
            self.taken.set_result(None)
        async with asyncio.timeout(READY + SILENCE):
            snap, parent = await asyncio.shield(self.payload)
        if parent and not any(one.guid == parent for one in copy.snapshots):
            raise Damaged("what it is based on is not here")
        wire, fate = world.wire, world.rng.random()
        copy.arriving = Arriving(snap, True)
        if fate < wire.damaged:
            world.fault("copy damaged on its way", machine.name)
            half = replace(snap, data=snap.data[: len(snap.data) // 2])
            copy.arriving = Arriving(half, False)
        elif fate < wire.damaged + wire.killed_at_end:
            world.fault("receiver killed at the end", machine.name)
            raise HelperDied("the helper was killed")
        await storage.takes(machine, 0.005, 0.05, "check of a copy")
        getattr(to.copies, check.function)(**check.arguments)
        return Received(1000, None)

    async def refuse(self, error: Exception) -> None:
        _fail(self.result, error)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()


class SimIncoming:
    def __init__(self, machine: Machine, copies: SimCopies, volume: Volume, sender: str) -> None:
        self.machine, self.copies, self.volume, self.sender = machine, copies, volume, sender
        world = machine.world
        self.ticket = Ticket(machine.name, machine.name, world.random_id(), "")
        self.rounds: asyncio.Queue[_Round | None] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[_Round]:
        world = self.machine.world
        while True:
            try:
                async with asyncio.timeout(SILENCE):
                    round_ = await self.rounds.get()
            except TimeoutError:
                sender = world.machines[self.sender]
                if not world.linked(self.machine, sender) or sender.agent_process is None:
                    raise Cut(f"{self.sender} is gone") from None
                continue
            if round_ is None:
                return
            yield round_
            if not round_.result.done():
                await round_.refuse(StorageError("it was not received"))


class SimOutgoing:
    def __init__(self, machine: Machine, copies: SimCopies, volume: Volume, to: SimIncoming) -> None:
        self._machine, self._copies, self._volume, self._to = machine, copies, volume, to

    def limit(self, rate: int | None) -> None:
        return None

    async def send(
        self,
        argv: Sequence[str],
        about: Mapping[str, Any] | None = None,
        *,
        deterministic: bool = False,
        both: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Sent:
        round_ = _Round(about or {}, self._to)
        try:
            return await self._copies._job(self._volume, lambda: self._send(argv, round_))
        except StorageError as error:
            _fail(round_.payload, Cut(f"the sender failed: {error}"))
            raise

    async def _send(self, argv: Sequence[str], round_: _Round) -> Sent:
        machine, world = self._machine, self._machine.world
        _, uid, guid, parent = argv
        copy = world.storage.copies.get(machine.name, uid)
        snap = next((one for one in copy.snapshots if one.guid == guid), None) if copy else None
        if snap is None:
            raise Damaged(f"the snapshot {guid} is not here")
        self._to.rounds.put_nowait(round_)
        await self._answer(round_.taken)
        await world.storage.takes(machine, 0.02, 0.6, "transfer")
        if world.rng.random() < world.wire.cut:
            world.fault("transfer cut", machine.name)
            raise Cut("the connection was cut")
        if not world.linked(machine, self._to.machine):
            raise Cut("the other end is not there any more")
        if not round_.payload.done():
            round_.payload.set_result((snap, parent))
        await self._answer(round_.result)
        if world.rng.random() < world.wire.answer_lost:
            world.fault("answer of a receiver lost", machine.name)
            raise Cut("the connection was cut at the end")
        return Sent(1000, 0.1, None)

    async def _answer(self, future: asyncio.Future[Any]) -> None:
        """Raises StorageError, Cut."""
        try:
            async with asyncio.timeout(READY):
                await asyncio.shield(future)
        except TimeoutError:
            raise Cut("the other end does not answer") from None
        if not self._machine.world.linked(self._machine, self._to.machine):
            raise Cut("the answer did not come through")


class SimPath:
    """A `DataPath`."""

    def __init__(self, machine: Machine, copies: SimCopies) -> None:
        self._machine, self._copies = machine, copies

    @asynccontextmanager
    async def expect(self, stream: Stream, sender: str) -> AsyncIterator[SimIncoming]:
        incoming = SimIncoming(self._machine, self._copies, Volume(stream.dataset, stream.uid, 0), sender)
        under_way = self._machine.world.under_way
        under_way[incoming.ticket.name] = incoming
        try:
            yield incoming
        finally:
            del under_way[incoming.ticket.name]

    @asynccontextmanager
    async def connect(self, stream: Stream, ticket: Ticket) -> AsyncIterator[SimOutgoing]:
        world = self._machine.world
        await asyncio.sleep(world.rng.uniform(0.001, 0.01))
        to = world.under_way.get(ticket.name)
        if to is None or not world.linked(self._machine, to.machine):
            raise Cut(f"{ticket.node} cannot be reached")
        try:
            yield SimOutgoing(self._machine, self._copies, Volume(stream.dataset, stream.uid, 0), to)
        finally:
            to.rounds.put_nowait(None)


@asynccontextmanager
async def _ask(machine: Machine, sent: Sending, to: str, ours: Collection[str]) -> AsyncIterator[Expected]:
    """As `api.copies` does over gRPC."""
    world = machine.world
    await asyncio.sleep(world.rng.uniform(0.001, 0.01))
    target = world.machines.get(to)
    if target is None or target.agent is None or target.agent_process is None or not world.linked(machine, target):
        raise StorageError(f"{to} is not here")
    ready: asyncio.Future[Expected] = world.loop.create_future()
    expecting = target.agent.receiver.expect(machine.name, sent.backend.name, sent.volume, sent.token, ours)

    async def serve() -> None:
        try:
            async for one in expecting:
                if not ready.done():
                    ready.set_result(one)
        except StorageError as error:
            _fail(ready, error)
        finally:
            await expecting.aclose()

    serving = world.loop.join(target.agent_process, serve())
    try:
        try:
            async with asyncio.timeout(READY):
                expected = await asyncio.shield(ready)
        except TimeoutError:
            raise StorageError(f"{to} did not get ready") from None
        yield expected
    finally:
        serving.cancel()


def asking(machine: Machine) -> Ask:
    """Other nodes' agents, over this network."""
    return lambda sent, to, ours: _ask(machine, sent, to, ours)
