"""What was made of a stream and is not yet acknowledged: sent again where the connection was cut. Bounded."""

from __future__ import annotations

from collections import deque

from drover.agent.transfer.checksum import checksum
from drover.agent.transfer.wire import CHUNK

SIZE = 16 * CHUNK
"""Bytes: more than both kernels hold on the way (4 MiB out, 6 MiB in, unless they are told otherwise)."""
APART = 1 << 16
"""Bytes between two marks, at least."""


class Ring:
    """Bytes `start` to `end` of a stream, counted from its beginning, and the checksum of all before any of them."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._memory = memoryview(bytearray(size))
        self.begin(0, 0, sampled=False)

    def begin(self, at: int, crc: int, sampled: bool) -> None:
        """A stream whose first `at` bytes are acknowledged already."""
        self.start = self.end = at
        self.crc = crc
        self._sampled = sampled
        self._marks = deque([(at, crc)])

    def room(self) -> memoryview:
        """Where the next bytes go; empty: wait for acknowledgements."""
        at = self.end % self._size
        free = self._size - (self.end - self.start)
        return self._memory[at : at + min(free, self._size - at, CHUNK)]

    def add(self, length: int) -> None:
        """So many bytes were written into `room`."""
        at = self.end % self._size
        self.crc = checksum(self._memory[at : at + length], self.end, self.crc, self._sampled)
        self.end += length
        if self.end - self._marks[-1][0] >= APART:
            self._marks.append((self.end, self.crc))

    def read(self, at: int) -> memoryview:
        """The bytes from there on, or the first of them."""
        where = at % self._size
        return self._memory[where : where + min(self.end - at, self._size - where, CHUNK)]

    def acknowledged(self, to: int) -> None:
        """All before `to`. Kept from the last mark on, so that `crc_at` knows every place from `to` on."""
        if to <= self.end:
            while len(self._marks) > 1 and self._marks[1][0] <= to:
                self._marks.popleft()
            self.start = self._marks[0][0]

    def crc_at(self, at: int) -> int | None:
        """Checksum of all before; None: it is not known any more, or not yet."""
        if not self.start <= at <= self.end:
            return None
        reached, crc = next(mark for mark in reversed(self._marks) if mark[0] <= at)
        while reached < at:
            piece = self.read(reached)[: at - reached]
            crc = checksum(piece, reached, crc, self._sampled)
            reached += len(piece)
        return crc
