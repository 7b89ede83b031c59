"""Frames on one connection, plain or TLS: kind, length, payload. Nothing here blocks, and nothing is unbounded.

Whoever has a `Wire` polls `fileno`, then calls `flush` and `next`. Signs of life go both ways, so keep-alives of TCP
are not needed; TCP_USER_TIMEOUT would even cut a receiver that is only slow (it counts zero windows, too).
Standard library only.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

HEADER = struct.Struct("!BI")
LARGEST = 1 << 16
"""Bytes of a frame's payload, where it is no data."""
CHUNK = 1 << 20
"""Bytes of the largest data frame, and read at once."""
VERSION = 1


class Kind(IntEnum):
    """Sender to receiver: HELLO, BEGIN, DATA, END, ABORT, BYE; back: WELCOME, REFUSED, ACK, DONE, FAILED; both: PING.
    In a round that talks both ways the receiver sends DATA, too, with SAID before the first and after the last. All but
    DATA carry JSON."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    BEGIN = 4
    DATA = 5
    END = 6
    ABORT = 7
    ACK = 8
    DONE = 9
    FAILED = 10
    PING = 11
    BYE = 12
    SAID = 13


class Lost(Exception):
    """The connection is gone, or of no use any more; the text says why."""


class Wire:
    """beat: seconds after which a sign of life is sent; silence: after which none that came means that the other side
    is gone."""

    def __init__(self, connection: socket.socket, silence: float) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._tls = connection if isinstance(connection, ssl.SSLSocket) else None
        self._silence = silence
        self.beat = silence / 5
        self._out: deque[memoryview] = deque()
        self._buffer = memoryview(bytearray(CHUNK))
        self._at = self._end = 0
        self._kind: Kind | None = None
        self._left = 0
        """Bytes of the frame's payload that have not arrived."""
        self._parts = bytearray()
        self._heard = self._said = time.monotonic()

    def fileno(self) -> int:
        return self._connection.fileno()

    def close(self) -> None:
        self._out.clear()
        self._connection.close()

    # Out.

    @property
    def pending(self) -> bool:
        """Whether `flush` has left something: poll for writing."""
        return bool(self._out)

    def say(self, kind: Kind, message: Mapping[str, Any]) -> None:
        """Queued: `flush` sends it."""
        payload = json.dumps(message, separators=(",", ":")).encode()
        self._out.append(memoryview(HEADER.pack(kind, len(payload)) + payload))

    def data(self, chunk: memoryview) -> None:
        """Queued. The memory must stay as it is until it was flushed."""
        self._out.append(memoryview(HEADER.pack(Kind.DATA, len(chunk))))
        self._out.append(chunk)

    def flush(self) -> None:
        """As much as the kernel takes. Raises Lost."""
        try:
            while self._out:
                if self._tls is None and len(self._out) > 1:
                    sent = self._connection.sendmsg([self._out[0], self._out[1]])
                else:
                    sent = self._connection.send(self._out[0])
                self._said = time.monotonic()
                while self._out and sent >= len(self._out[0]):
                    sent -= len(self._out.popleft())
                if sent:
                    self._out[0] = self._out[0][sent:]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            raise Lost(f"the connection was cut: {reason(error)}") from error

    # In.

    @property
    def buffered(self) -> bool:
        """Whether `next` may have something that poll does not know of."""
        return self._at < self._end or bool(self._tls is not None and self._tls.pending())

    def next(self) -> tuple[Kind, memoryview] | None:
        """A frame, or a piece of a data frame, valid until the next call; None: nothing is here now. Raises Lost."""
        while True:
            if self._kind is None:
                if not self._collect(HEADER.size):
                    return None
                kind, self._left = HEADER.unpack(self._parts)
                self._parts.clear()
                try:
                    self._kind = Kind(kind)
                except ValueError:
                    raise Lost(f"the other side sent what is no frame (kind {kind})") from None
                if self._left > (CHUNK if self._kind is Kind.DATA else LARGEST):
                    raise Lost(f"the other side sent what is no frame ({self._left} bytes of {self._kind.name})")
            if self._kind is Kind.DATA:
                if not self._left:
                    self._kind = None
                    continue
                if not self._fill():
                    return None
                length = min(self._end - self._at, self._left)
                piece = self._buffer[self._at : self._at + length]
                self._at += length
                self._left -= length
                return Kind.DATA, piece
            if not self._collect(len(self._parts) + self._left):
                return None
            whole = self._kind, memoryview(bytes(self._parts))
            self._kind = None
            self._parts.clear()
            if whole[0] is not Kind.PING:
                return whole

    def keep_alive(self, listening: bool) -> None:
        """To be called at least every `beat`. listening: `next` has just said that nothing is here; else the other side
        is not blamed for what was not read. Raises Lost."""
        now = time.monotonic()
        if not listening:
            self._heard = now
        elif now - self._heard > self._silence:
            raise Lost(f"nothing was heard of the other side for {self._silence:g} s")
        if now - self._said > self.beat and not self._out:
            self.say(Kind.PING, {})
            self.flush()

    def _collect(self, length: int) -> bool:
        """Bytes into `_parts`, until there are so many."""
        while (missing := length - len(self._parts)) > 0:
            if not self._fill():
                return False
            taken = self._buffer[self._at : min(self._end, self._at + missing)]
            self._parts += taken
            self._at += len(taken)
            if self._kind is not None:
                self._left -= len(taken)
        return True

    def _fill(self) -> bool:
        """Whether there is a byte to be looked at."""
        if self._at < self._end:
            return True
        self._at = self._end = 0
        try:
            while self._end < CHUNK:
                got = self._connection.recv_into(self._buffer[self._end :])
                if not got:
                    raise Lost("the other side closed the connection")
                self._end += got
                if self._tls is None:  # TLS gives one record of 16 KiB at a time
                    break
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            if not self._end:
                raise Lost(f"the connection was cut: {reason(error)}") from error
        except Lost:
            if not self._end:
                raise
        if self._end:
            self._heard = time.monotonic()
        return self._end > 0


def reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}".replace("_", " ").lower().replace("tls", "TLS", 1)
    return error.strerror or str(error)


def parsed(payload: memoryview) -> dict[str, Any]:
    """Raises Lost where it is no JSON object."""
    try:
        message = json.loads(bytes(payload))
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise Lost("the other side sent what is no message")
    return message
