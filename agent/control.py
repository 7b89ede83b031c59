"""The agent's own socket, on this machine only: `drover-agent shutdown` asks the agent to leave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path

from drover.agent.leave import STOPS, TELLS, Leave, Outcome
from drover.agent.sockets import restrict

log = logging.getLogger(__name__)

SOCKET = "control"
_ASK = b"shutdown\n"


class NoAgent(Exception):
    """No agent answers on this machine."""


@contextlib.asynccontextmanager
async def serving(run_dir: Path, leave: Leave, group: str) -> AsyncIterator[None]:
    """Until the block is left; for root and this group. Raises OSError."""
    path = run_dir / SOCKET
    path.unlink(missing_ok=True)  # one agent at a time has run_dir
    with socket.socket(socket.AF_UNIX) as listening:
        before = os.umask(0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        restrict(path, group)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                if await reader.readline() == _ASK:
                    writer.write(json.dumps(asdict(await leave.ask())).encode() + b"\n")
                    await writer.drain()
            except (OSError, ValueError) as error:
                log.debug("who asked has gone: %s", error)
            finally:
                writer.close()

        server = await asyncio.start_unix_server(answer, sock=listening)
        try:
            yield
        finally:
            server.close()
            path.unlink(missing_ok=True)


async def shut_down(run_dir: Path, timeout: float) -> Outcome:
    """Asks the agent to leave, and waits for it. timeout: what its settings allow, seconds. Raises NoAgent."""
    try:
        async with asyncio.timeout(timeout + STOPS + TELLS + 5):
            reader, writer = await asyncio.open_unix_connection(str(run_dir / SOCKET))
            writer.write(_ASK)
            said = await reader.readline()
            writer.close()
    except OSError as error:
        raise NoAgent(f"no agent answers at {run_dir / SOCKET}: {error.strerror or error}") from None
    except TimeoutError:
        raise NoAgent("the agent does not answer in time") from None
    if not said:
        raise NoAgent("the agent ended before it had left")
    return Outcome(**json.loads(said))
