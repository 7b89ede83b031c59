"""The data port: takes connections, and gives each to the relay that waits for it.

Before its stream is known a connection costs a descriptor and some seconds, and there are at most STRANGERS of those;
no process is started for it. What is not expected is told so, and closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from drover.agent.api.errors import CannotListen
from drover.agent.transfer.greeting import KNOWN, MAGIC, NAME, UNKNOWN
from drover.coordinator.addresses import host_port, joined

log = logging.getLogger("drover.transfer")

STRANGERS = 64
PATIENCE = 5.0
"""Seconds in which a connection must say which stream it is for."""

Taker = Callable[[socket.socket], None]
"""Gives a connection away; whoever called closes its own descriptor."""


class Port:
    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._takers: dict[bytes, Taker] = {}
        self._strangers = asyncio.Semaphore(STRANGERS)

    @property
    def address(self) -> str:
        """Where it listens, with the port that was free where 0 was asked for."""
        host, port = self._listening.getsockname()[:2]
        return joined(host, port)

    @contextmanager
    def expecting(self, name: bytes, taker: Taker) -> Iterator[None]:
        self._takers[name] = taker
        try:
            yield
        finally:
            del self._takers[name]

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                await self._strangers.acquire()
                try:
                    connection, where = await loop.sock_accept(self._listening)
                except OSError as error:  # no descriptors left, or it went away again
                    self._strangers.release()
                    log.warning("the data port cannot take a connection: %s", error.strerror)
                    await asyncio.sleep(1)
                    continue
                group.create_task(self._look(connection, joined(*where[:2])))

    async def _look(self, connection: socket.socket, where: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            with connection, suppress(OSError):
                connection.setblocking(False)
                try:
                    async with asyncio.timeout(PATIENCE):
                        said = b""
                        while len(said) < len(MAGIC) + NAME and MAGIC.startswith(said[: len(MAGIC)]):
                            more = await loop.sock_recv(connection, len(MAGIC) + NAME - len(said))
                            if not more:
                                return
                            said += more
                except TimeoutError:
                    said = b""
                taker = self._takers.get(said[len(MAGIC) :]) if said.startswith(MAGIC) else None
                if taker is None:
                    log.info("a connection from %s to the data port is for no stream that is expected", where)
                    if said.startswith(MAGIC):
                        connection.send(UNKNOWN)
                else:
                    connection.send(KNOWN)
                    taker(connection)
        finally:
            self._strangers.release()


@contextmanager
def bound(address: str) -> Iterator[Port]:
    """Blocks where the address is a name that must be looked up. Raises CannotListen."""
    host, number = host_port(address)
    listening = None
    try:
        [(family, kind, protocol, _, where), *_] = socket.getaddrinfo(
            host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setblocking(False)
        listening.bind(where)
        listening.listen(STRANGERS)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise CannotListen(
            f"the data port cannot listen on {address}: {error.strerror}; set transfer.listen"
        ) from error
    with listening:
        yield Port(listening)
