"""The agent's side of a workload's tiny parent (parent.py): the job that it is given, and the few words to start it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from drover.agent.workloads.base import NotAllowedNow, WorkloadError
from drover.coordinator.clock import read_clock
from drover.coordinator.protocol.clock import Deadline
from drover.coordinator.specs import ProcessSpec

PARENT = Path(__file__).with_name("parent.py")

TIMEOUT = 10.0
"""Seconds for each answer of a parent: between two it does nothing that takes long, unless a disk hangs."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where commands are looked for, unless the spec's environment says otherwise."""

Gate = Callable[[], Deadline | None]
"""The deadline that holds now; None while the gate is closed."""


class ParentGone(WorkloadError):
    """It was killed, or never started: nothing of the workload runs."""


@dataclass(frozen=True)
class User:
    """Whom a command runs as. groups: all of them, the first one included."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


@dataclass(frozen=True)
class Job:
    """What a parent is told. cgroup: the workload's, with `parent` and `main` below; directory: where it writes
    `started` and `ended`; user: None: that of the agent."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    working_dir: str
    user: User | None
    cgroup: str
    directory: str
    log: str


class Parent:
    """A parent that waits for its job. It ends with this process, and with `close`, unless it was started."""

    def __init__(self) -> None:
        """Blocking. Raises WorkloadError."""
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(TIMEOUT)
        try:
            subprocess.run(
                [sys.executable, "-IS", str(PARENT), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                timeout=TIMEOUT,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            self._ours.close()
            raise WorkloadError(f"no process can be started on this node: {error}") from error
        finally:
            theirs.close()
        self._answers = self._ours.makefile("r")

    def launch(self, job: Job, gate: Gate) -> None:
        """Returns once the command runs. Blocking; whatever it raises, the parent starts nothing any more, but what is
        in the cgroup may need killing. Raises ParentGone, NotAllowedNow, WorkloadError."""
        try:
            self._say(json.dumps(asdict(job)))
            if self._answers.readline() != "entered\n":
                raise ParentGone("the process that was to start it was killed")
            deadline = gate()
            if deadline is None or deadline.passed(read_clock()):
                raise NotAllowedNow("this node may not start anything now (it has no contact to the cluster)")
            self._say("go")
            if wrong := self._answers.read():
                raise WorkloadError(f"cannot start it: {wrong}")
        except TimeoutError:
            raise WorkloadError(f"it did not start within {TIMEOUT:g} s: a disk or the machine hangs") from None
        except (BrokenPipeError, ConnectionResetError):
            raise ParentGone("the process that was to start it was killed") from None
        finally:
            self.close()

    def close(self) -> None:
        self._answers.close()
        self._ours.close()

    def _say(self, line: str) -> None:
        self._ours.sendall(line.encode() + b"\n")


def find_user(name: str) -> User:
    """By name or number; a number that nobody has is used as it is. Blocking. Raises WorkloadError."""
    number = int(name) if name.isascii() and name.isdigit() else None
    try:
        entry = pwd.getpwnam(name) if number is None else pwd.getpwuid(number)
    except (KeyError, OverflowError):
        if number is None or number >= 2**32 - 1:
            raise WorkloadError(f"this node has no user {name!r}; make one, or give its number") from None
        return User(name, number, number, (number,), "/")
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(groups), entry.pw_dir)


def environment(name: str, spec: ProcessSpec, paths: Mapping[str, Path], user: User | None) -> dict[str, str]:
    """Nothing of the agent's own environment. DROVER_PATH is the first dataset's path; DROVER_PATH_<NAME> is that of
    each, in capitals and with underscores for what is neither letter nor digit. Blocking."""
    as_whom = user or find_user(str(os.geteuid()))
    known = {"USER": as_whom.name, "LOGNAME": as_whom.name, "HOME": as_whom.home}
    by_name = {f"DROVER_PATH_{_capitals(dataset)}": str(paths[dataset]) for dataset in reversed(spec.datasets)}
    ours = {"DROVER_WORKLOAD": name, "DROVER_PATH": str(paths[spec.datasets[0]])} | by_name
    return {"PATH": PATH, "LANG": "C.UTF-8"} | known | spec.environment | ours


def check(spec: ProcessSpec, mounts: Path) -> None:
    """What can be known before the datasets are mounted (below `mounts`). Blocking. Raises WorkloadError."""
    if spec.user is not None:
        find_user(spec.user)
    command, path = spec.command[0], spec.environment.get("PATH", PATH)
    if "/" not in command:
        searched = [Path(part) for part in path.split(":")]
        if not shutil.which(command, path=path) and all(_known_now(part, mounts) for part in searched):
            raise WorkloadError(f"the command {command} is not on this node's PATH ({path})")
    elif _known_now(Path(command), mounts) and not os.access(command, os.X_OK):
        raise WorkloadError(f"the command {command} is not on this node, or is not executable")
    directory = spec.working_dir
    if directory is not None and _known_now(Path(directory), mounts) and not Path(directory).is_dir():
        raise WorkloadError(f"the working directory {directory} is not on this node")


def _known_now(path: Path, mounts: Path) -> bool:
    return path.is_absolute() and not Path(os.path.normpath(path)).is_relative_to(mounts)


def _capitals(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name).upper()
