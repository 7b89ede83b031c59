"""The gate: a page of memory (a file on tmpfs) that agent, guard and helpers share. Standard library only.

Each field has one writer and is stored with one machine word, so that nobody ever needs a lock or an answer. Where two
belong together (a moment on two clocks), a reader that comes between them sees the more cautious one.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from drover.coordinator.protocol.clock import Deadline, Instant

SIZE = 4096
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MAGIC = 0x44524F5645520001
"""Changes with the layout: an agent does not go on with the page of another one."""


class Field(IntEnum):
    """Words of 8 bytes."""

    MAGIC = 0
    BOOT = 15
    # Written by the agent.
    SENT_BOOT = 1
    SENT_RAW = 2
    D_SOFT = 3
    D_IO = 4
    ASKED = 6
    OPEN_FOR = 7
    AGENT_SEEN = 8
    STAYS_BOOT = 9
    STAYS_RAW = 10
    STAYS_SOFT = 11
    STAYS_IO = 12
    # Written by the guard.
    OPEN = 16
    ROUND = 17
    DONE = 18
    LEFT = 19
    GUARD_SEEN = 20
    GUARD_PID = 21
    ARMED = 22
    LOADED = 23
    BEGAN = 24
    SWORN = 25
    VERIFIED = 26


@dataclass(frozen=True)
class Seen:
    """The page at one moment. Times in seconds.

    sent: when the newest answered heartbeat was sent; d_soft, d_io: counted from then. stays: when the others were
    asked that have promised not to call this node silent; stays_soft, stays_io: counted from then. asked: the ladder's
    round that the agent wants to be run. open_for: the round after which it wants the gate open; agent_seen:
    CLOCK_BOOTTIME when it last tried a heartbeat. open: whether anything may begin to write. round: of the ladder,
    begun; began: when, on CLOCK_BOOTTIME; done: ended; left: how many things it could not verify as gone. sworn: the
    last round of which the cluster may have been told that it left nothing. verified: a round has left nothing since
    the gate was last open, and none has left anything since.
    """

    sent: Instant
    d_soft: float
    d_io: float
    stays: Instant
    stays_soft: float
    stays_io: float
    asked: int
    open_for: int
    agent_seen: float
    open: bool
    round: int
    began: float
    done: int
    left: int
    sworn: int
    verified: bool

    @property
    def soft(self) -> Deadline:
        """When an open gate is closed."""
        return self.sent.plus(self.d_soft).later(self.stays.plus(self.stays_soft))

    def io(self, grace: float = 0.0) -> Deadline:
        """When it has to be verified that nothing writes, `grace` seconds added."""
        return self.sent.plus(self.d_io + grace).later(self.stays.plus(self.stays_io + grace))

    @property
    def climbing(self) -> bool:
        return self.done < self.round

    @property
    def clean(self) -> bool:
        """Nothing of this node writes, and nothing can begin to. Not so where a guard died after it had closed the gate
        and before it had begun the round, though what the round before has `left` may be nothing."""
        return not self.open and not self.climbing and self.verified


class Page:
    """A context manager."""

    def __init__(self, path: Path) -> None:
        """Made where there is none of this boot: closed, with a first round to be run. Raises OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < SIZE:
                os.truncate(descriptor, SIZE)
            self._memory = mmap.mmap(descriptor, SIZE)
        finally:
            os.close(descriptor)
        self.path = path
        self._bytes = memoryview(self._memory)
        self._numbers, self._times = self._bytes.cast("Q"), self._bytes.cast("d")
        boot = zlib.crc32(BOOT_ID.read_bytes())
        if (self._numbers[Field.MAGIC], self._numbers[Field.BOOT]) != (MAGIC, boot):  # clocks began anew, too
            self._bytes[:] = bytes(SIZE)
            self._numbers[Field.ROUND] = 1
            self._numbers[Field.BOOT] = boot
            self._numbers[Field.MAGIC] = MAGIC

    def seen(self) -> Seen:
        numbers, times = self._numbers, self._times
        return Seen(
            sent=Instant(times[Field.SENT_BOOT], times[Field.SENT_RAW]),
            d_soft=times[Field.D_SOFT],
            d_io=times[Field.D_IO],
            stays=Instant(times[Field.STAYS_BOOT], times[Field.STAYS_RAW]),
            stays_soft=times[Field.STAYS_SOFT],
            stays_io=times[Field.STAYS_IO],
            asked=numbers[Field.ASKED],
            open_for=numbers[Field.OPEN_FOR],
            agent_seen=times[Field.AGENT_SEEN],
            open=bool(numbers[Field.OPEN]),
            round=numbers[Field.ROUND],
            began=times[Field.BEGAN],
            done=numbers[Field.DONE],
            left=numbers[Field.LEFT],
            sworn=numbers[Field.SWORN],
            verified=bool(numbers[Field.VERIFIED]),
        )

    def admits(self, round_: int, now: Instant) -> bool:
        """Whether what was decided on in this round may begin to write. To be asked inside the cgroup that the guard
        kills after it has closed the gate."""
        seen = self.seen()
        return seen.open and seen.round == round_ and not seen.soft.passed(now)

    # The agent writes.

    def extend(self, sent: Instant, d_soft: float, d_io: float) -> None:
        """An answered heartbeat was sent then."""
        self._times[Field.D_SOFT], self._times[Field.D_IO] = d_soft, d_io
        self._times[Field.SENT_BOOT], self._times[Field.SENT_RAW] = sent.boot, sent.raw

    def stay(self, since: Instant, d_soft: float, d_io: float) -> None:
        """All others were asked then that could call this node silent, and have promised not to. It keeps a gate open,
        and opens none."""
        self._times[Field.STAYS_SOFT], self._times[Field.STAYS_IO] = d_soft, d_io
        self._times[Field.STAYS_BOOT], self._times[Field.STAYS_RAW] = since.boot, since.raw

    def agent_is_seen(self, now: Instant) -> None:
        self._times[Field.AGENT_SEEN] = now.boot

    def ask_round(self, round_: int) -> None:
        self._numbers[Field.ASKED] = round_

    def ask_open(self, round_: int) -> None:
        """Once this round of the ladder has left nothing behind. 0: not any more."""
        self._numbers[Field.OPEN_FOR] = round_

    # The guard writes.

    def open(self) -> None:
        self._numbers[Field.VERIFIED] = 0
        self._numbers[Field.OPEN] = 1

    def begin_round(self, clock: Callable[[], Instant]) -> None:
        """The gate is closed first; the clock is read last: who still finds the earlier round on the page has read a
        heartbeat that was sent before this one began."""
        self._numbers[Field.OPEN] = 0
        if self._numbers[Field.DONE] >= self._numbers[Field.ROUND]:
            self._numbers[Field.ROUND] += 1
        self._times[Field.BEGAN] = clock().boot

    def swear(self) -> None:
        """That the last round has left nothing; before anybody is told."""
        self._numbers[Field.SWORN] = self._numbers[Field.ROUND]

    def end_round(self, left: int) -> None:
        self._numbers[Field.LEFT] = left
        self._numbers[Field.VERIFIED] = left == 0
        self._numbers[Field.DONE] = self._numbers[Field.ROUND]

    def guard_is_seen(self, now: Instant) -> None:
        self._times[Field.GUARD_SEEN] = now.boot

    def guard_starts(self, armed: bool, loaded: int) -> None:
        self._numbers[Field.ARMED], self._numbers[Field.LOADED] = armed, loaded
        self._numbers[Field.GUARD_PID] = os.getpid()

    @property
    def guard_seen(self) -> float:
        """CLOCK_BOOTTIME when the guard last looked, seconds."""
        return self._times[Field.GUARD_SEEN]

    @property
    def guard_pid(self) -> int:
        return self._numbers[Field.GUARD_PID]

    @property
    def armed(self) -> bool:
        """Whether this machine is reset where the ladder does not succeed in time."""
        return bool(self._numbers[Field.ARMED])

    @property
    def loaded(self) -> int:
        """Stands for the settings that the guard has read."""
        return self._numbers[Field.LOADED]

    def close(self) -> None:
        for view in (self._numbers, self._times, self._bytes):
            view.release()
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
