"""Running a command inside a machine. Standard library only: tests run it as a script, 15 ms."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from drover.coordinator.cli.playground import syscalls

NOT_FOUND, NOT_EXECUTABLE, BY_SIGNAL = 127, 126, 128
"""Exit statuses as shells give them."""

_NAMESPACES = (
    ("cgroup", syscalls.CLONE_NEWCGROUP),
    ("ipc", syscalls.CLONE_NEWIPC),
    ("uts", syscalls.CLONE_NEWUTS),
    ("net", syscalls.CLONE_NEWNET),
    ("mnt", syscalls.CLONE_NEWNS),
)
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_FROM_KERNEL = 0x80
"""si_code of signals that no process sent."""


def main() -> NoReturn:
    """Arguments: the PID of the machine's first process, its cgroup, the command."""
    sys.exit(enter(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))


def enter(first: int, group: Path, command: Sequence[str]) -> int:
    """Runs the command in all namespaces and in the cgroup of a machine, with this process's standard streams,
    environment and signals; returns its exit status, 128 + number where a signal ended it.

    This process itself stays outside, so that neither a freeze nor a power cut takes it along. When it ends, the
    command is killed.

    Raises OSError where the machine has gone.
    """
    handles = [(os.open(f"/proc/{first}/ns/{name}", os.O_RDONLY), kind) for name, kind in _NAMESPACES]
    processes = os.open(f"/proc/{first}/ns/pid", os.O_RDONLY)
    syscalls.setns(processes, syscalls.CLONE_NEWPID)  # for children only
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, *_PASSED_ON})
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _become(group, handles, command)
    while True:
        received = signal.sigwaitinfo({signal.SIGCHLD, *_PASSED_ON})
        # What the terminal sends (Ctrl-C) the command gets, too.
        if received.si_signo != signal.SIGCHLD and received.si_code != _FROM_KERNEL:
            with suppress(ProcessLookupError):
                os.kill(child, received.si_signo)
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else BY_SIGNAL - code


def _become(group: Path, handles: list[tuple[int, int]], command: Sequence[str]) -> NoReturn:
    try:
        syscalls.die_with_parent(signal.SIGKILL)
        (group / "exec/cgroup.procs").write_text("0")
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        directory = os.getcwd()
        for handle, kind in handles:
            syscalls.setns(handle, kind)
        with suppress(OSError):
            os.chdir(directory)  # entering a mount namespace leads to its root
        os.execvp(command[0], list(command))
    except FileNotFoundError as error:
        code, reason = NOT_FOUND, error.strerror
    except OSError as error:
        code, reason = NOT_EXECUTABLE, error.strerror
    os.write(2, f"{command[0]}: {reason}\n".encode())
    os._exit(code)
