"""The receiver's end of a connection, in the agent."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from drover.agent.helper.wire import error_from_wire
from drover.agent.storage.base import HelperDied, StorageError
from drover.agent.transfer.base import Check, IncomingRound, Received, Ticket
from drover.agent.transfer.errors import PeerRefused, to_peer
from drover.agent.transfer.relay import Relays

log = logging.getLogger("drover.transfer")


class TcpIncoming:
    def __init__(self, ticket: Ticket, relays: Relays) -> None:
        self.ticket = ticket
        self.relays = relays

    def admit(self, connection: socket.socket) -> None:
        self.relays.order({"connection": True}, connection)

    async def __aiter__(self) -> AsyncIterator[IncomingRound]:
        """Raises TransferError, GateClosed, HelperDied."""
        round_ = None
        while (message := await self._hear()) is not None:
            if "begun" in message:
                begun = message["begun"]
                round_ = TcpIncomingRound(begun["number"], begun["about"], self.relays)
                yield round_
                if round_.waits:
                    await round_.refuse(StorageError("the receiver does not want it"))

    async def _hear(self) -> dict[str, Any] | None:
        """None: the sender has finished."""
        try:
            message = await self.relays.hear()
        except HelperDied as died:
            log.warning("%s: a new one takes its place", died)
            await self.relays.start()
            return {}
        if "gone" in message:
            raise error_from_wire(message["gone"])
        if "stray" in message:
            log.warning("%s", error_from_wire(message["stray"]))
        return None if "finished" in message else message


class TcpIncomingRound:
    def __init__(self, number: int, about: Mapping[str, Any], relays: Relays) -> None:
        self.number = number
        self.about = about
        self.waits = True
        """Neither received nor refused."""
        self._relays = relays

    async def receive(
        self, argv: Sequence[str], check: Check, *, both: bool = False, progress: Callable[[int], None] | None = None
    ) -> Received:
        self.waits = False
        self._relays.order({"number": self.number, "argv": list(argv), "check": asdict(check), "both": both})
        while True:
            message = await self._relays.hear()
            if "received" in message:
                return Received(**message["received"])
            if "failed" in message:
                raise error_from_wire(message["failed"])
            if "progress" in message and progress is not None:
                progress(message["progress"])
            if "stray" in message:
                log.warning("%s", error_from_wire(message["stray"]))

    async def refuse(self, error: Exception) -> None:
        self.waits = False
        self._relays.order({"number": self.number, "refuse": to_peer(PeerRefused(str(error)))})
        while not {"failed", "finished", "gone"} & (await self._relays.hear()).keys():
            pass
