"""The kernel's watchdog device: it resets the machine when nobody pets it (Linux, Documentation/watchdog/watchdog-api).

Where the path is a FIFO, each call is written to it as a line instead: a device for tests.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from contextlib import suppress

_SET_TIMEOUT, _GET_TIMEOUT, _KEEP_ALIVE = 0xC0045706, 0x80045707, 0x80045705
_DISARM = b"V"


class WatchdogError(Exception):
    """The device cannot be used. The text says what is wrong and what to do."""


class Watchdog:
    """Armed from the moment it is opened."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self._path = path
        self._fifo = stat.S_ISFIFO(os.fstat(descriptor).st_mode)

    @classmethod
    def open(cls, path: str, timeout: float) -> Watchdog:
        """timeout: seconds within which the machine must be reset. Raises WatchdogError where the device cannot be
        that quick, or belongs to somebody else."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise WatchdogError(
                f"the watchdog {path} cannot be opened: {error.strerror}; is another daemon petting it?"
            ) from error
        watchdog = cls(descriptor, path)
        try:
            watchdog.must_reset_within(timeout)
        except WatchdogError:
            watchdog.disarm()
            raise
        return watchdog

    def is_at(self, path: str) -> bool:
        """Whether it is what `path` names now."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(self.descriptor), os.stat(path))
        return False

    def must_reset_within(self, timeout: float) -> None:
        """Of the last time it was petted, which this is; seconds. Raises WatchdogError where it is not that quick."""
        timeout = round(timeout, 3)  # 4.6 - 3.6 is less than 1
        granted = self._set_timeout(max(int(timeout), 1))
        if granted > timeout:
            raise WatchdogError(
                f"the watchdog {self._path} resets after {granted} s at the earliest, but d_hard - d_io is "
                f"{timeout:g} s: choose timings with a later d_hard and wait"
            )

    def _set_timeout(self, seconds: int) -> int:
        """What the device made of it, seconds: read back, since drivers round."""
        if self._fifo:
            self._write(f"SETTIMEOUT {seconds}\n".encode())
            return seconds
        try:
            fcntl.ioctl(self.descriptor, _SET_TIMEOUT, struct.pack("i", seconds))
            answer = fcntl.ioctl(self.descriptor, _GET_TIMEOUT, struct.pack("i", 0))
        except OSError as error:
            raise WatchdogError(f"the watchdog {self._path} takes no time-out: {error.strerror}") from error
        granted: int = struct.unpack("i", answer)[0]
        return granted

    def pet(self) -> None:
        if self._fifo:
            self._write(b"KEEPALIVE\n")
        else:
            fcntl.ioctl(self.descriptor, _KEEP_ALIVE, 0)

    def disarm(self) -> None:
        """Closes it so that it does not reset, unless the kernel was built or told never to let go."""
        self._write(b"DISARM\n" if self._fifo else _DISARM)
        os.close(self.descriptor)

    def _write(self, what: bytes) -> None:
        with suppress(BlockingIOError):  # a FIFO that nobody empties
            os.write(self.descriptor, what)
