"""What systemd is told of this agent: that it serves, one line of how it is, and that its event loop turns.

sd_notify(3) is one datagram of text to the socket that systemd names. The libraries for it are either not kept up or
need systemd's headers to install, for what are a few lines.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import MutableMapping

from drover.agent.api.source import Source, summary

log = logging.getLogger(__name__)

OF_D_SOFT = 1 / 3
"""A hung agent is killed after this part of D_soft, so that its successor is heard before the deadline."""
PER_WATCHDOG = 4
"""Signs of life in that time."""
_SOCKET, _WATCHDOG, _PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class Systemd:
    """The manager that started this process. Nothing is sent where it was started by something else."""

    def __init__(self, address: str = "", watched: bool = False) -> None:
        self._watched, self._socket = watched, None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            self._address = "\0" + address[1:] if address.startswith("@") else address

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Systemd:
        """What it says in the environment, taken out of it: guard, helpers and workloads are not to speak for us."""
        _, watched = environ.pop(_PID, None), environ.pop(_WATCHDOG, None)
        return cls(environ.pop(_SOCKET, ""), watched is not None)

    @property
    def started_us(self) -> bool:
        return self._socket is not None

    async def keep(self, source: Source, d_soft: float) -> None:
        """Says READY, then the status whenever it is another one, and signs of life, until it is cancelled: then
        STOPPING. d_soft: seconds."""
        if self._socket is None:
            return
        limit, said, rung = d_soft * OF_D_SOFT, "", asyncio.Event()
        first = ["READY=1", *([f"WATCHDOG_USEC={limit * 1e6:.0f}"] if self._watched else [])]
        unsubscribe = source.subscribe(rung.set)
        try:
            while True:
                rung.clear()
                now = summary(source)
                self._say(*first, *([f"STATUS={now}"] if now != said else []), "WATCHDOG=1")
                first, said = [], now
                try:
                    async with asyncio.timeout(limit / PER_WATCHDOG):
                        await rung.wait()
                except TimeoutError:
                    continue
        finally:
            unsubscribe()
            self._say("STOPPING=1")

    def _say(self, *lines: str) -> None:
        assert self._socket is not None
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:  # its queue is full, or it is being executed anew: the next one tells
            log.debug("systemd was not told: %s", error)
