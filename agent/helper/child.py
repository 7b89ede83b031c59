"""One helper process, seen from the agent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from drover.agent.cgroups import Cgroups
from drover.agent.helper.wire import LIMIT, line

START_TIMEOUT = 20.0
"""Seconds from the start of a helper until it says that it is ready; 0.2 on an idle machine."""


class Child:
    """A helper process and its socket. It leads a process group, so that the programs it starts end with it."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid = process.pid
        self.gone = asyncio.Event()
        self._process = process
        self._reader = reader
        self._writer = writer
        self._pidfd = os.pidfd_open(process.pid)
        self._owed = 1  # `ready` lines that were not read yet

    @classmethod
    async def start(cls, cgroups: Cgroups, gate: Path, modules: Sequence[str], on_gone: Callable[[], None]) -> Self:
        """Raises OSError where no process can be started. Starting blocks for 1 ms: in a thread, a cancelled start
        would leave a process that nobody knows."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "drover.agent.helper.main", str(theirs.fileno())]
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LIMIT)
            process = subprocess.Popen(  # noqa: ASYNC220
                [*command, str(cgroups.root), str(gate), *modules],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                cwd="/",
            )
        child = cls(process, reader, writer)
        asyncio.get_running_loop().add_reader(child._pidfd, child._reap, on_gone)
        return child

    @property
    def exit_status(self) -> int | None:
        """Minus the signal that killed it; None while it runs."""
        return self._process.returncode

    def send(self, message: Mapping[str, Any]) -> None:
        """May be lost where the helper is gone: `receive` says so."""
        self._writer.write(line(message))
        self._owed += 1

    async def receive(self) -> dict[str, Any] | None:
        """The next answer; None: it died. Raises TimeoutError under asyncio.timeout only."""
        with suppress(ConnectionError):
            answer = await self._reader.readline()
            if answer.endswith(b"\n"):
                message: dict[str, Any] = json.loads(answer)
                return message
        return None

    async def rested(self, timeout: float = START_TIMEOUT) -> bool:
        """Waits until it is ready for a job; False: it is not, and never will be."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._owed and await self.receive() is not None:
                    self._owed -= 1
        return not self._owed and not self._reader.at_eof() and not self._has_ended()

    def dismiss(self) -> None:
        """It ends by itself after what it is doing."""
        self._writer.close()

    def kill(self) -> None:
        """At once, with all programs that it started."""
        if not self.gone.is_set():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _has_ended(self) -> bool:
        """Asked of the kernel: the event loop may not have heard of it yet."""
        return (
            self.gone.is_set() or os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        )

    def _reap(self, on_gone: Callable[[], None]) -> None:
        """It has ended. What it started is killed before its own number, which is the group's, can be used again."""
        self.kill()
        self._process.wait()
        self.gone.set()
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._writer.close()
        on_gone()
