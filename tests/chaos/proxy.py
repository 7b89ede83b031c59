"""A TCP proxy in front of one etcd member, in its network: delays, stalls, resets, answers that never come.

Standard library only. Arguments: port to listen on, port to connect to. Each line on standard input is JSON and says
what it does from now on: {"delay": seconds, "jitter": seconds, "stall": chance, "reset": chance, "swallow": bool}.
stall: a piece of data waits as long as a lost packet does (0.2 to 1.6 s: retransmission backs off); reset: the
connection ends; swallow: requests go through, answers are thrown away, and those connections end afterwards: what was
asked for happens, and nobody is told.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Behaviour:
    delay: float = 0.0
    jitter: float = 0.0
    stall: float = 0.0
    reset: float = 0.0
    swallow: bool = False


class Proxy:
    def __init__(self, target: int) -> None:
        self.behaviour = Behaviour()
        self._target = target
        self._random = random.Random(target)
        self._spoiled: set[asyncio.StreamWriter] = set()

    def behave(self, line: str) -> None:
        self.behaviour = replace(Behaviour(), **json.loads(line))
        if not self.behaviour.swallow:
            for writer in self._spoiled:  # bytes are missing in them
                writer.transport.abort()
            self._spoiled.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, inner_writer, answers=False))
                group.create_task(self._pump(inner_reader, writer, answers=True))
        except* (OSError, EOFError):
            pass
        finally:
            self._spoiled.discard(writer)
            writer.transport.abort()
            inner_writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, answers: bool) -> None:
        """Raises EOFError at the end of the stream, so that the other direction ends, too."""
        while data := await source.read(65536):
            now = self.behaviour
            wait = now.delay + self._random.uniform(-now.jitter, now.jitter)
            if self._random.random() < now.stall:
                wait += self._random.choice((0.2, 0.4, 0.8, 1.6))
            if wait > 0:
                await asyncio.sleep(wait)
            if self._random.random() < now.reset:
                raise EOFError
            if answers and (self.behaviour.swallow or to in self._spoiled):
                self._spoiled.add(to)
                continue
            to.write(data)
            await to.drain()
        raise EOFError


async def main() -> None:
    listen, target = int(sys.argv[1]), int(sys.argv[2])
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "0.0.0.0", listen)
    print("ready", flush=True)  # noqa: T201
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with server:
        while line := await commands.readline():
            proxy.behave(line.decode())


if __name__ == "__main__":
    asyncio.run(main())
