"""The sender's end of a connection, in the agent: connects, connects again, and sets limits."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from drover.agent.helper.wire import error_from_wire
from drover.agent.storage.base import HelperDied, StorageError
from drover.agent.transfer.base import Sent, Stream, Ticket, Waits
from drover.agent.transfer.errors import ConnectionCut, PeerRefused, PeerSilent, Unreachable
from drover.agent.transfer.greeting import KNOWN, MAGIC
from drover.agent.transfer.meter import Meter
from drover.agent.transfer.relay import Relays
from drover.coordinator.addresses import host_port

log = logging.getLogger("drover.transfer")

SO_MAX_PACING_RATE = 47
"""linux/asm-generic/socket.h; Python does not know it."""
UNLIMITED = (1 << 64) - 1
ABOUT = 1 << 15
"""Bytes of what is said about a round, as JSON."""
AGAIN = 0.1
"""Seconds between two tries to connect again, doubled up to 2."""


class TcpOutgoing:
    """One task attends to the relay all the time: a connection that is cut between two rounds is mended, too."""

    def __init__(
        self, stream: Stream, ticket: Ticket, relays: Relays, waits: Waits, meter: Meter | None = None
    ) -> None:
        self._stream, self._meter = stream, meter
        self._ticket = ticket
        self._relays = relays
        self._waits = waits
        self._rate: int | None = None
        self._connection: socket.socket | None = None
        self._number = 0
        self._order: dict[str, Any] = {}
        self._deterministic = False
        self._ready = False
        """Whether there is a relay that takes orders; else a new one gets the order when it is there."""
        self._result: asyncio.Future[Sent] | None = None
        self._progress: Callable[[int], None] | None = None
        self._began = 0.0
        self._broken: StorageError | None = None
        self._attending: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        await self._relays.start()
        await self._connect()
        self._ready = True
        self._attending = asyncio.create_task(self._attend())

    async def send(
        self,
        argv: Sequence[str],
        about: Mapping[str, Any] | None = None,
        *,
        deterministic: bool = False,
        both: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Sent:
        if self._broken is not None:
            raise self._broken
        if len(json.dumps(about)) > ABOUT:
            raise ValueError(f"what is said about a round is longer than {ABOUT} bytes")
        self._number += 1
        self._order = {
            "number": self._number,
            "argv": list(argv),
            "about": about or {},
            "deterministic": deterministic,
            "both": both,
            "again": False,
        }
        self._progress, self._began = progress, time.monotonic()
        if self._meter is not None:
            self._meter.began(self._stream)
        self._deterministic = deterministic
        result: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()
        self._result = result
        assert self._attending is not None
        try:
            if self._ready:
                self._relays.order({"send": self._order})
            either: set[asyncio.Future[Any]] = {result, self._attending}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                self._attending.result()  # a fault of ours, which nobody else would hear of
            sent = await result
            if self._meter is not None:
                self._meter.taken(self._stream, sent.bytes)
                self._meter.ended(self._stream, "ok")
            return sent
        except asyncio.CancelledError:
            self._result = None  # nobody hears of it any more
            if result.done() and not result.cancelled():
                result.exception()
            if self._broken is None:
                self._broken = ConnectionCut("a round was cancelled: connect again")
            await self._relays.close()
            raise
        finally:
            self._result = None
            if self._meter is not None:
                self._meter.ended(self._stream, "failed")  # where it has not ended well

    def limit(self, rate: int | None) -> None:
        self._rate = rate
        if self._connection is not None:
            pace = UNLIMITED if rate is None else max(rate, 1)
            self._connection.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, pace.to_bytes(8, "little"))

    async def finish(self) -> None:
        """The receiver is told that no more comes."""
        self._relays.order({"finish": True})

    async def close(self) -> None:
        if self._attending is not None:
            self._attending.cancel()
            await asyncio.wait([self._attending])
            if not self._attending.cancelled() and (fault := self._attending.exception()) is not None:
                log.error("what is sent to %s was not attended to any more: %r", self._ticket.node, fault)
        await self._relays.close()
        self._take(None)

    async def _attend(self) -> None:
        try:
            while True:
                try:
                    self._heard(message := await self._relays.hear())
                    if "cut" in message:
                        await self._mend(message["cut"])
                except HelperDied as died:
                    if self._broken is not None:
                        return  # given up: it is not to be had again
                    await self._revive(died)
        except StorageError as error:
            self._broken = error
            self._settle(error)

    def _heard(self, message: Mapping[str, Any]) -> None:
        if "progress" in message:
            self._progressed(message["progress"])
        elif "sent" in message:
            sent = message["sent"]
            self._settle(Sent(sent["bytes"], time.monotonic() - self._began, sent["answer"]))
        elif "failed" in message:
            self._settle(error_from_wire(message["failed"]))

    def _progressed(self, taken: int) -> None:
        if self._meter is not None:
            self._meter.taken(self._stream, taken)
        if self._progress is not None:
            self._progress(taken)

    def _settle(self, outcome: Sent | StorageError) -> None:
        if self._result is None or self._result.done():
            return
        if isinstance(outcome, Sent):
            self._result.set_result(outcome)
        else:
            self._result.set_exception(outcome)

    async def _revive(self, died: HelperDied) -> None:
        """Another helper; it goes on with the round where that can be done."""
        log.warning("%s: a new one takes its place", died)
        self._ready = False
        if not self._deterministic:
            self._settle(died)
        await self._relays.start()
        await self._mend(str(died))
        self._ready = True
        if self._result is not None and not self._result.done():
            self._relays.order({"send": {**self._order, "again": True}})

    async def _mend(self, why: str) -> None:
        """Connects again, as long as the receiver keeps what it has. Raises StorageError."""
        log.info("%s: connecting to %s again", why, self._ticket.node)
        deadline, pause = time.monotonic() + self._waits.keep, AGAIN
        while True:
            try:
                await self._connect()
                if self._meter is not None:
                    self._meter.resumed(self._stream)
                return
            except (Unreachable, ConnectionCut) as error:
                if time.monotonic() > deadline:
                    raise PeerSilent(
                        f"{self._ticket.node}: {why}; it did not come back within {self._waits.keep:g} s: {error}"
                    ) from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)

    async def _connect(self) -> None:
        """Raises Unreachable, PeerRefused, NotTrusted, ConnectionCut, HelperDied."""
        self._take(await _call(self._ticket, self._waits.connect))
        self.limit(self._rate)
        self._relays.order({"connect": True}, self._connection)
        while "connected" not in (message := await self._relays.hear()):
            if "not_connected" in message:
                raise error_from_wire(message["not_connected"])
            self._heard(message)

    def _take(self, connection: socket.socket | None) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = connection


async def _call(ticket: Ticket, timeout: float) -> socket.socket:
    """Connected to the receiver, which knows for which stream. Raises Unreachable, PeerRefused."""
    loop = asyncio.get_running_loop()
    host, number = host_port(ticket.address)
    why = f"no answer within {timeout:g} s"
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            try:
                for family, kind, protocol, _, where in await loop.getaddrinfo(host, number, type=socket.SOCK_STREAM):
                    connection = socket.socket(family, kind, protocol)
                    try:
                        connection.setblocking(False)
                        await loop.sock_connect(connection, where)
                        await loop.sock_sendall(connection, MAGIC + bytes.fromhex(ticket.name))
                        answer = await loop.sock_recv(connection, 1)
                    except BaseException as error:
                        connection.close()
                        if not isinstance(error, OSError):
                            raise
                        why = os.strerror(error.errno) if error.errno else str(error)
                        continue
                    if answer == KNOWN:
                        return connection
                    connection.close()
                    if answer:
                        raise PeerRefused(
                            f"{ticket.node} does not expect this stream any more: it was given up there, or its agent "
                            "was restarted"
                        )
                    why = "it closed the connection"
            except socket.gaierror as error:
                why = f"the address cannot be looked up: {error.strerror}"
    raise Unreachable(
        f"the data port of {ticket.node} ({ticket.address}) cannot be reached: {why}; is its agent up, and may "
        "this node connect there?"
    )
