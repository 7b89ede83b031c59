"""The data path over TCP: what transfer/base.py promises, made of a data port and relays.

The agent connects and accepts; a relay gets the connection itself and does all the rest. The agent keeps a descriptor
of what it has connected, so that a limit is a socket option, and the relay has nothing to do with it.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import Any

from drover.agent import tls
from drover.agent.config import Settings
from drover.agent.storage.base import Runner
from drover.agent.transfer.base import Incoming, Outgoing, Stream, Ticket, Waits
from drover.agent.transfer.greeting import NAME
from drover.agent.transfer.incoming import TcpIncoming
from drover.agent.transfer.meter import Meter
from drover.agent.transfer.outgoing import TcpOutgoing
from drover.agent.transfer.port import Port, bound
from drover.agent.transfer.relay import Relays
from drover.coordinator.addresses import host_port, joined

SENDER = "drover.agent.transfer.sender:relay"
RECEIVER = "drover.agent.transfer.receiver:relay"


@contextmanager
def data_path(settings: Settings, runner: Runner, meter: Meter) -> Iterator[TcpDataPath]:
    """As the settings say. `run` it. Blocks where the address is a name. Raises CannotListen."""
    listen = settings.listen
    files = settings.tls.files if settings.tls and listen.data_peers == "certificate" else None
    with bound(listen.data) as port:
        address = joined(settings.storage_address, host_port(port.address)[1])
        rate = settings.moves.rate
        yield TcpDataPath(runner, settings.node, port, files, address=address, limit=rate, meter=meter)


class TcpDataPath:
    """node: this one's name. address: where others reach the data port, if not where it listens. files: this node's
    certificate; None: the network is trusted, and nothing is encrypted. limit: bytes a second for each connection.
    meter: told of what is sent."""

    def __init__(
        self,
        runner: Runner,
        node: str,
        port: Port,
        files: tls.Files | None,
        *,
        address: str = "",
        waits: Waits = Waits(),  # noqa: B008 - frozen
        limit: int | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._runner = runner
        self._node = node
        self._port = port
        self._files = files
        self._address = address or port.address
        self._waits = waits
        self._limit = limit
        self._meter = meter

    async def run(self) -> None:
        """Takes connections, until it is cancelled."""
        await self._port.run()

    @asynccontextmanager
    async def expect(self, stream: Stream, sender: str) -> AsyncIterator[Incoming]:
        ticket = Ticket(self._node, self._address, secrets.token_hex(NAME), secrets.token_hex(16))
        terms = self._terms(stream, sender, ticket)
        arguments = {"terms": terms, "keep": self._waits.keep}
        incoming = TcpIncoming(ticket, Relays(self._runner, stream.dataset, RECEIVER, arguments))
        await incoming.relays.start()
        try:
            with self._port.expecting(bytes.fromhex(ticket.name), incoming.admit):
                yield incoming
        finally:
            await incoming.relays.close()

    @asynccontextmanager
    async def connect(self, stream: Stream, ticket: Ticket) -> AsyncIterator[Outgoing]:
        terms = self._terms(stream, self._node, ticket)
        relays = Relays(self._runner, stream.dataset, SENDER, {"terms": terms})
        outgoing = TcpOutgoing(stream, ticket, relays, self._waits, self._meter)
        outgoing.limit(self._limit)
        try:
            await outgoing.begin()
            yield outgoing
            await outgoing.finish()
        finally:
            await outgoing.close()

    def _terms(self, stream: Stream, sender: str, ticket: Ticket) -> Mapping[str, Any]:
        files = self._files
        return {
            "stream": asdict(stream),
            "sender": sender,
            "receiver": ticket.node,
            "secret": ticket.secret,
            "files": None if files is None else {name: str(path) for name, path in vars(files).items()},
            "silence": self._waits.silence,
            "connect": self._waits.connect,
        }
