"""The demo's playground: made in a temporary directory, used by the commands that a user would type, removed again.

The directory's name holds the PID and the start time of the demo that made it, so that a later one finds what a killed
one left behind, and never takes down one that is at work.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from tools.demo.telling import typed

PREFIX = "drover-demo-"
KEPT = "kept"
"""A file in the directory of a playground that was left up on purpose."""


class DemoFailed(Exception):
    """expected: a sentence without its full stop. seen: what happened instead."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected that {expected}; seen: {seen}")
        self.expected, self.seen = expected, seen


def start_time(pid: int) -> str | None:
    """Of a process, in clock ticks since boot; None: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None


def own_name() -> str:
    return f"{PREFIX}{os.getpid()}-{start_time(os.getpid())}"


def abandoned(name: str, started: Callable[[int], str | None] = start_time) -> bool:
    """Whether a directory of this name was made by a demo that has ended."""
    pid, _, ticks = name.removeprefix(PREFIX).partition("-")
    return name.startswith(PREFIX) and pid.isdecimal() and ticks.isdecimal() and started(int(pid)) != ticks


def left_behind(parent: Path) -> list[Path]:
    """Directories of our own whose demo was killed."""
    found = []
    for path in sorted(parent.glob(f"{PREFIX}*")):
        with suppress(FileNotFoundError):  # another demo is just removing it
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and abandoned(path.name):
                found += [] if (path / KEPT).exists() else [path]
    return found


class Stage:
    """A playground of three nodes and three etcd members in a directory that exists already."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        beside = Path(sys.executable).parent  # drover, etcd and etcdctl: the environment need not be activated
        self._environment = os.environ | {"PATH": f"{beside}:{os.environ.get('PATH', os.defpath)}"}

    @classmethod
    def new(cls) -> Self:
        """In a directory of its own. Raises FileExistsError where somebody else has made one of its name."""
        directory = Path(tempfile.gettempdir(), own_name())
        directory.mkdir(mode=0o700)
        return cls(directory)

    def up(self, docker: bool) -> None:
        """docker: with an engine on every node. Raises DemoFailed."""
        options = ["--docker"] if docker else []
        self.show("drover", "playground", "up", str(self.directory), "--nodes", "3", "--etcd", "3", *options)
        typed(f'eval "$(drover playground env {self.directory})"')
        self._environment |= json.loads(self.run("drover", "playground", "env", str(self.directory), "--json"))

    def run(self, *command: str, within: float = 60.0) -> str:
        """What the command printed. within: seconds. Raises DemoFailed."""
        try:
            done = subprocess.run(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=within,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DemoFailed(f"{command[0]} runs", str(error)) from error
        if done.returncode:
            said = done.stderr.strip() or f"exit status {done.returncode}"
            raise DemoFailed(f"`{shlex.join(command[:4])} …` succeeds", said)
        return done.stdout

    def show(self, *command: str) -> str:
        """The same, told."""
        typed(command)
        return self.run(*command)

    def put(self, key: str, value: str) -> None:
        """`etcdctl put`, told. Raises DemoFailed."""
        self.show("etcdctl", "put", key, value)

    def get(self, key: str, *, prefix: bool = False) -> list[bytes]:
        """The values of a key, or of all that begin with it. Raises DemoFailed."""
        below = ["--prefix"] if prefix else []
        return self.run("etcdctl", "get", *below, key, "--print-value-only", within=10.0).encode().splitlines()

    def logs(self) -> list[Path]:
        """What agents and workloads wrote."""
        home = self.directory / "nodes"
        return sorted([*home.glob("*/agent.log"), *home.glob("*/state/log/*.log")])

    def keep(self) -> None:
        """From now on no later demo removes it."""
        (self.directory / KEPT).touch()

    def down(self) -> None:
        """Ends and deletes it, in whatever state it is; told. Raises DemoFailed with what is left."""
        self.show("drover", "playground", "down", "--delete", str(self.directory))
        shutil.rmtree(self.directory, ignore_errors=True)  # where it never became a playground
