"""The database's client: outside all nodes, it asks for notes and remembers what was acknowledged, when, and by whom.

The database calls the client, wherever it runs. Every caller is asked at once: two databases would both be heard.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from types import TracebackType
from typing import Self

from tools.demo.evidence import Ack, Note

PACE = 0.005
"""Seconds between an acknowledgement and the next note: a gap is seen to some milliseconds, and the processors have
time for the cluster."""
_PATIENCE = 30.0
"""Seconds after which a silent connection is given up."""


class Client:
    """Listens as long as the context lasts."""

    def __init__(self, host: str) -> None:
        """host: an address of this computer that nodes reach. Raises OSError."""
        self._server = socket.create_server((host, 0))
        self.address = "{}:{}".format(*self._server.getsockname())
        self._changed = threading.Condition()
        self._acks: list[Ack] = []
        self._asked: list[str] = []
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._listen, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        _end(self._server)
        self._threads[0].join(_PATIENCE)  # from here on there are no new connections
        for connection in self._connections:
            _end(connection)
        for thread in self._threads[1:]:
            thread.join(_PATIENCE)

    def acks(self) -> list[Ack]:
        """In the order in which they were heard."""
        with self._changed:
            return list(self._acks)

    def asked(self) -> list[str]:
        """The texts of all notes that were sent, acknowledged or not, in order."""
        with self._changed:
            return list(self._asked)

    def heard(self, nodes: Collection[str], since: int, within: float, count: int = 1) -> bool:
        """Waits until the acknowledgements after the first `since` hold `count` of one of these nodes; False: not
        within so many seconds."""

        def enough() -> bool:
            return sum(ack.note.node in nodes for ack in self._acks[since:]) >= count

        with self._changed:
            return self._changed.wait_for(enough, within)

    def _listen(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._server.accept()
                self._connections.append(connection)
                self._threads.append(threading.Thread(target=self._ask, args=(connection,), daemon=True))
                self._threads[-1].start()

    def _ask(self, connection: socket.socket) -> None:
        connection.settimeout(_PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError), connection, connection.makefile("r") as answers:
            while True:
                text = self._next()
                connection.sendall(f"{text}\n".encode())
                answer = answers.readline()
                if not answer.endswith("\n"):  # the database has ended
                    return
                number, node = answer.split()
                with self._changed:
                    self._acks.append(Ack(Note(int(number), text, node), time.time()))
                    self._changed.notify_all()
                time.sleep(PACE)

    def _next(self) -> str:
        with self._changed:
            self._asked.append(f"note {len(self._asked) + 1}")
            return self._asked[-1]


def _end(sock: socket.socket) -> None:
    """Wakes whoever waits on it."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
