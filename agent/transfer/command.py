"""The command that makes a stream or takes it, seen from the relay. Standard library only."""

from __future__ import annotations

import fcntl
import os
import select
import shlex
import subprocess
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

from drover.agent.storage.base import NoRoom, StorageError
from drover.agent.transfer.errors import CommandFailed
from drover.agent.transfer.wire import CHUNK

KEPT = 4096
"""Bytes kept of what it says on its standard error: the last ones."""
SHOWN = 300
"""Characters of its name and arguments that are told."""
KILL_TIMEOUT = 5.0
FULL = ("No space left on device", "Disk quota exceeded", "out of space")


class Command:
    """Its pipe and its standard error do not block. It is in the process group and the cgroup of its helper."""

    def __init__(self, argv: Sequence[str], end: Literal["stdin", "stdout"], both: bool = False) -> None:
        """end: which of its ends is `pipe`. both: the other one is a pipe, too: `back`. Raises CommandFailed where it
        cannot be started."""
        self._shown = textwrap.shorten(shlex.join(argv), SHOWN, placeholder="…")
        pipe, other = subprocess.PIPE, subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=pipe if both or end == "stdin" else other,
                stdout=pipe if both or end == "stdout" else other,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                env=os.environ | {"LC_ALL": "C"},  # what it says is looked at
            )
        except OSError as error:
            raise CommandFailed(f"'{argv[0]}' cannot be started: {error.strerror}; install it") from error
        ends = (self._process.stdin, self._process.stdout)
        stream, back = ends if end == "stdin" else reversed(ends)
        assert stream is not None
        assert self._process.stderr is not None
        self._stream, self._back = stream, back
        self.errors = self._process.stderr
        self.ended = os.pidfd_open(self._process.pid)
        self._said = b""
        os.set_blocking(self.pipe, False)
        os.set_blocking(self.errors.fileno(), False)
        if back is not None:
            os.set_blocking(back.fileno(), False)
        with suppress(PermissionError):  # this user's pipes are many and large
            fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, CHUNK)

    @property
    def pipe(self) -> int:
        return self._stream.fileno()

    def close_pipe(self) -> None:
        self._stream.close()

    @property
    def piped(self) -> bool:
        return not self._stream.closed

    @property
    def back(self) -> int | None:
        """The other end; None: it is no pipe, or was closed."""
        return None if self._back is None else self._back.fileno()

    def close_back(self) -> None:
        if self._back is not None:
            self._back.close()
            self._back = None

    def listen(self) -> bool:
        """What it says on its standard error; False: it says no more."""
        with suppress(BlockingIOError):
            while said := os.read(self.errors.fileno(), 65536):
                self._said = (self._said + said)[-KEPT:]
            return False
        return True

    def failure(self) -> StorageError | None:
        """How it ended; it is given KILL_TIMEOUT where it has not. None: well."""
        if not select.select([self.ended], [], [], KILL_TIMEOUT)[0]:
            self.kill()
        status = self._process.wait()
        self.listen()
        if status == 0:
            return None
        lines = self._said.decode(errors="replace").strip().splitlines()[-5:]
        how = f"was killed by signal {-status}" if status < 0 else f"failed (status {status})"
        text = f"'{self._shown}' {how}: {'; '.join(lines) or 'it said nothing'}"
        return NoRoom(text) if any(word in line for word in FULL for line in lines) else CommandFailed(text)

    def kill(self) -> None:
        """And wait. Raises SystemExit where it hangs in the kernel: this helper must end, too, so that the agent knows
        what is still there."""
        if self._process.poll() is None:
            self._process.kill()
            if not select.select([self.ended], [], [], KILL_TIMEOUT)[0]:
                raise SystemExit(f"'{self._shown}' hangs in the kernel")
        self._process.wait()

    def close(self) -> None:
        """Kills what still runs."""
        try:
            self.kill()
        finally:
            self._stream.close()
            self.close_back()
            self.errors.close()
            os.close(self.ended)
