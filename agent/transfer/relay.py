"""A relay helper, from the agent's side: its job in the pool, and what the two say to each other."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

from drover.agent.storage.base import HelperDied, Runner
from drover.agent.transfer.control import LARGEST, packed

START_TIMEOUT = 25.0
"""Seconds for a helper to be there: one that must be started needs its own time for that."""
END_TIMEOUT = 5.0
LIVES = 3
"""Helpers that one connection may use up: one that dies again and again does not die of an accident."""
LONG = 366 * 24 * 3600.0
"""Seconds that a relay may run: how long a move takes is not known, and each wait in it has its own limit."""
_CREDENTIALS = struct.Struct("iii")


class Relay:
    """A helper that runs `sender.relay` or `receiver.relay`. Close it, whatever happens."""

    def __init__(self, connection: socket.socket, job: asyncio.Task[Any]) -> None:
        self._connection = connection
        self._job = job
        self._heard: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection, self._readable)
        job.add_done_callback(self._ended)

    @classmethod
    async def start(cls, runner: Runner, dataset: str, function: str, arguments: Mapping[str, Any]) -> Self:
        """Raises GateClosed, HelperDied."""
        name = f"drover-relay-{secrets.token_hex(16)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(f"\0{name}")
            listening.listen(1)
            listening.setblocking(False)
            job = asyncio.create_task(runner.run(dataset, function, {**arguments, "control": name}, LONG))
            accept = asyncio.create_task(_accepted(listening))
            try:
                await asyncio.wait([job, accept], timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
                if accept.done() and not job.done():
                    return cls(accept.result(), job)
            except BaseException:
                await _cancelled(job)
                raise
            finally:
                if not accept.done() or job.done():
                    await _cancelled(accept)
            if not job.done():
                await _cancelled(job)
                raise HelperDied(f"no helper was free for {dataset} within {START_TIMEOUT:g} s; nothing was done")
            await job
            raise HelperDied(f"the helper for {dataset} ended at once; nothing was done")

    def order(self, message: Mapping[str, Any], connection: socket.socket | None = None) -> None:
        """Lost where it is gone: `hear` says so."""
        with suppress(OSError):
            if connection is None:
                self._connection.send(packed(message))
            else:
                socket.send_fds(self._connection, [packed(message)], [connection.fileno()])

    async def hear(self) -> dict[str, Any]:
        """What it says next. Raises StorageError when it has ended, and why."""
        if (message := await self._heard.get()) is not None:
            return message
        self._heard.put_nowait(None)
        await asyncio.wait([self._job])
        if not self._job.cancelled():
            self._job.result()
        raise HelperDied("the helper has ended")

    @property
    def ended(self) -> bool:
        return self._job.done()

    async def close(self) -> None:
        """It ends what it runs; where it does not, it is killed."""
        self._loop.remove_reader(self._connection)
        self._connection.close()
        try:
            await asyncio.wait([self._job], timeout=END_TIMEOUT)
        finally:
            await _cancelled(self._job)

    def _readable(self) -> None:
        with suppress(BlockingIOError):
            while packet := self._received():
                self._heard.put_nowait(json.loads(packet))
            self._loop.remove_reader(self._connection)

    def _received(self) -> bytes:
        try:
            return self._connection.recv(LARGEST)
        except ConnectionError:
            return b""

    def _ended(self, _: asyncio.Task[Any]) -> None:
        if self._connection.fileno() >= 0:
            self._readable()
        self._heard.put_nowait(None)


class Relays:
    """The relay of one end: another one where it died, LIVES times in all."""

    def __init__(self, runner: Runner, dataset: str, function: str, arguments: Mapping[str, Any]) -> None:
        self._runner = runner
        self._dataset = dataset
        self._function = function
        self._arguments = arguments
        self._left = LIVES
        self.now: Relay | None = None

    async def start(self) -> None:
        """A new one, if any is left. Raises HelperDied, GateClosed."""
        await self.close()
        if not self._left:
            raise HelperDied(f"{LIVES} helpers of this stream have died, one after the other")
        self._left -= 1
        self.now = await Relay.start(self._runner, self._dataset, self._function, self._arguments)

    def order(self, message: Mapping[str, Any], connection: socket.socket | None = None) -> None:
        if self.now is not None:
            self.now.order(message, connection)

    async def hear(self) -> dict[str, Any]:
        """Raises StorageError when the relay has ended."""
        if self.now is None:
            raise HelperDied("the helper of this stream has ended")
        return await self.now.hear()

    async def close(self) -> None:
        if (relay := self.now) is not None:
            self.now = None
            await relay.close()


async def _accepted(listening: socket.socket) -> socket.socket:
    """Names of abstract sockets are no secret: whoever connects must be the same user. Not by the loop's `sock_accept`,
    which loses a connection that comes while it is cancelled."""
    loop, waiting = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(listening, waiting.set)
    try:
        while True:
            await waiting.wait()
            waiting.clear()
            with suppress(BlockingIOError):
                connection, _ = listening.accept()
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
                if _CREDENTIALS.unpack(credentials)[1] == os.geteuid():
                    connection.setblocking(False)
                    return connection
                connection.close()
    finally:
        loop.remove_reader(listening)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Waits for its end; what it raises is said elsewhere or of no matter any more."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None and isinstance(task.result(), socket.socket):
        task.result().close()
