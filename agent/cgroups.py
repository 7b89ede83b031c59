"""Drover's cgroups: what runs for a dataset or a workload is found, frozen and killed by its cgroup v2 directory.

A cgroup needs no controllers for this, so it works on hybrid hosts, too. Below the root stand `agent`, `helpers`,
`datasets/<dataset>`, `workloads/<workload>` and `containers/<workload>`. Standard library only: the guard and the
helpers import this.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from drover.coordinator.keys import name_error

AGAIN = 0.05
"""Seconds after which a cgroup that is not empty is killed again: somebody may have entered after the first kill."""


CONTAINERS = "containers"
"""Below it, by workload, an engine makes the cgroups of containers."""


class CgroupError(Exception):
    """Base. The text says what is wrong and what to do."""


class CgroupsUnavailable(CgroupError):
    """This machine has no cgroup v2 that Drover may use."""


class BadPath(CgroupError):
    """Not a path of names below the root."""


class NotEmpty(CgroupError):
    """Processes are in it."""


class Watch:
    """`cgroup.events` of one cgroup. Its descriptor is readable when the cgroup may have become empty or not, until
    `populated` is asked: for `loop.add_reader`. A context manager.

    cgroup.events itself always polls as readable and says a change with POLLPRI, so an epoll that looks for nothing
    else stands before it.
    """

    def __init__(self, directory: Path) -> None:
        """Raises FileNotFoundError where there is no such cgroup."""
        self._events = os.open(directory / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._events, select.EPOLLPRI)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def populated(self) -> bool:
        try:
            return b"populated 1" in os.pread(self._events, 4096, 0)
        except OSError as error:
            if error.errno == errno.ENODEV:  # the cgroup was removed
                return False
            raise

    def wait(self, timeout: float) -> None:
        """Until something changed, at most `timeout` seconds."""
        self._epoll.poll(max(timeout, 0), 1)

    def close(self) -> None:
        self._epoll.close()
        if self._events >= 0:
            os.close(self._events)
            self._events = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Cgroups:
    """The cgroups below one directory. Paths are names with slashes between them: `datasets/pgdata`; anything else
    raises BadPath. What is said of a cgroup holds for those below it, too."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def find(cls, name: str = "drover") -> Cgroups:
        """`name` below the place where cgroup v2 is mounted. Raises CgroupsUnavailable."""
        if mount := _cgroup2():
            return cls(mount / name)
        raise CgroupsUnavailable(
            "no cgroup v2 is mounted here, and Drover needs it to be sure that nothing writes: boot with "
            "systemd.unified_cgroup_hierarchy=1, or 'mount -t cgroup2 none /sys/fs/cgroup' where nothing is mounted"
        )

    def directory(self, path: str) -> Path:
        """Where the cgroup is or would be. The kernel's own files have a dot in their names, so names with a dot get
        an underscore in front, which no name begins with."""
        names = path.split("/")
        for name in names:
            if reason := name_error(name):
                raise BadPath(f"cgroup path {path!r}: {reason}")
        return self.root.joinpath(*(f"_{name}" if "." in name else name for name in names))

    def make(self, path: str) -> Path:
        """Idempotent; those above are made, too. Raises CgroupsUnavailable."""
        directory = self.directory(path)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CgroupsUnavailable(
                f"cannot make the cgroup {directory}: {error.strerror}; Drover needs to be root with a writable cgroup "
                "v2 (a unit with Delegate=yes, a container with its own cgroup namespace)"
            ) from error
        return directory

    def enter(self, path: str, pid: int = 0) -> None:
        """Move a process (0: this one) into a cgroup that was made. Raises FileNotFoundError where it was not,
        ProcessLookupError where there is no such process."""
        (self.directory(path) / "cgroup.procs").write_text(str(pid))

    def pids(self, path: str) -> list[int]:
        """Of this PID namespace; [] where there is no such cgroup."""
        return [pid for directory in self._tree(path) for pid in _pids(directory)]

    def contains(self, path: str, pid: int) -> bool:
        """Whether a process is in it, or below."""
        return self._below(self.directory(path), pid)

    def owns(self, pid: int) -> bool:
        """Whether a process is in any of them."""
        return self._below(self.root, pid)

    def _below(self, directory: Path, pid: int) -> bool:
        try:
            text = Path(f"/proc/{pid}/cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True  # it is gone
        own = next((line.removeprefix("0::") for line in text.splitlines() if line.startswith("0::")), "")
        return f"{own}/".startswith(f"{self.seen_as(directory)}/")

    def seen_as(self, directory: Path) -> str:
        """The path of one of these cgroups from cgroup v2's root, as engines and /proc name it."""
        mount = _cgroup2()
        return "/" + str(directory.relative_to(mount)) if mount else str(directory)

    def populated(self, path: str) -> bool:
        """Whether processes are in it, those of other PID namespaces included. Zombies do not count."""
        try:
            with Watch(self.directory(path)) as watch:
                return watch.populated()
        except FileNotFoundError:
            return False

    def watch(self, path: str) -> Watch:
        """Raises FileNotFoundError where there is no such cgroup."""
        return Watch(self.directory(path))

    def freeze(self, path: str) -> None:
        """Nothing where there is no such cgroup. The kernel needs some milliseconds for it. SIGKILL still works."""
        self._write(self.directory(path), "cgroup.freeze", "1")

    def thaw(self, path: str) -> None:
        self._write(self.directory(path), "cgroup.freeze", "0")

    def seal(self, path: str) -> None:
        """Nobody makes a cgroup below it any more: an engine that is just about to start a container there fails.
        Nothing where there is no such cgroup."""
        self._write(self.directory(path), "cgroup.max.descendants", "0")

    def unseal(self, path: str) -> None:
        self._write(self.directory(path), "cgroup.max.descendants", "max")

    def kill(self, path: str, timeout: float) -> bool:
        """As kill_all, for one; whether it is empty."""
        return not self.kill_all([path], timeout)

    def kill_all(self, paths: Sequence[str], timeout: float) -> list[str]:
        """SIGKILL to everything in them at once, blocking until they are empty, for at most `timeout` seconds. Returns
        those that are not: a process is in the kernel and does not come back. Who enters meanwhile is killed as well;
        afterwards they are thawed."""
        deadline = time.monotonic() + timeout
        directories = {path: self.directory(path) for path in paths}
        left = [path for path, directory in directories.items() if directory.is_dir()]
        for path in left:
            self._signal(directories[path])
        while left:
            try:
                with Watch(directories[left[0]]) as watch:
                    if watch.populated():
                        watch.wait(min(AGAIN, deadline - time.monotonic()))
                    emptied = not watch.populated()
            except FileNotFoundError:
                emptied = True
            if emptied:
                self.thaw(left.pop(0))
            elif time.monotonic() >= deadline:
                break
            else:
                for path in left:
                    self._signal(directories[path])
        return [path for path in left if self.populated(path)]

    def names(self, path: str) -> list[str]:
        """The cgroups directly below; [] where there is no such cgroup."""
        return sorted(child.name.removeprefix("_") for child in _children(self.directory(path)))

    def remove(self, path: str) -> None:
        """With all below it. Idempotent. Raises NotEmpty."""
        for directory in self._tree(path):
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise
                raise NotEmpty(f"processes are in the cgroup {directory}: {self.pids(path)}") from error

    def _tree(self, path: str) -> list[Path]:
        """The cgroup and all below, children first."""
        found, waiting = [], [self.directory(path)]
        while waiting:
            directory = waiting.pop()
            found.append(directory)
            waiting.extend(_children(directory))
        return found[::-1]

    def _signal(self, directory: Path) -> None:
        if not self._write(directory, "cgroup.kill", "1"):
            # Linux before 5.14. Frozen, so that nobody forks faster than this kills.
            self._write(directory, "cgroup.freeze", "1")
            for below, _, _ in os.walk(directory):
                for pid in _pids(Path(below)):
                    _kill(pid, Path(below))

    @staticmethod
    def _write(directory: Path, file: str, value: str) -> bool:
        """Whether there is such a file. A cgroup that vanishes meanwhile is as good as one that was never there."""
        try:
            descriptor = os.open(directory / file, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            os.write(descriptor, value.encode())
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
        finally:
            os.close(descriptor)
        return True


def _children(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def _pids(directory: Path) -> list[int]:
    """0 stands for a process of another PID namespace, and must never reach kill(2)."""
    try:
        text = (directory / "cgroup.procs").read_text()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return []
        raise
    return [pid for pid in map(int, text.split()) if pid > 0]


def _kill(pid: int, directory: Path) -> None:
    """SIGKILL, unless the number has gone to a process outside meanwhile."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            if pid in _pids(directory):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _cgroup2() -> Path | None:
    """The mount point that was mounted last and can be reached: a mount may lie over others."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] == "cgroup2":
            mount = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left.split()[4]))
            if (mount / "cgroup.procs").exists():
                found = mount
    return found
