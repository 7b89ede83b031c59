"""A machine's cgroup: the handle by which all of it is frozen and killed."""

from __future__ import annotations

import errno
import os
import select
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from drover.coordinator.cli.errors import Failed, NotPossible


def mount_point() -> Path:
    """Where cgroup v2 is: /sys/fs/cgroup, or below it on hybrid machines. Raises NotPossible."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] == "cgroup2":
            return Path(left.split()[4])
    raise NotPossible("cgroup v2 is not mounted on this machine", "Mount it: mount -t cgroup2 none /sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    """A cgroup v2 directory, which need not exist."""

    path: Path

    def child(self, name: str) -> Group:
        return Group(self.path / name)

    def children(self) -> list[Group]:
        return [Group(path) for path in sorted(self.path.glob("*/"))]

    def make(self) -> None:
        """Hands on the controllers that it was given, if any. Idempotent."""
        self.path.mkdir(parents=True, exist_ok=True)

    def delegate(self) -> None:
        """Lets the groups below use what controllers this one has (none on hybrid machines)."""
        controllers = (self.path / "cgroup.controllers").read_text().split()
        (self.path / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in controllers))

    def enter(self, pid: int = 0) -> None:
        """0: this process."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def pids(self) -> list[int]:
        """Of all processes in it and below, as this PID namespace counts; [] where there is no such group."""
        found = []
        for directory in self._tree():
            with suppress(FileNotFoundError, OSError):
                found += [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
        return sorted({pid for pid in found if pid})

    def populated(self) -> bool:
        return self._event("populated")

    def frozen(self) -> bool:
        """Whether it was told to be; it may take a moment."""
        try:
            return (self.path / "cgroup.freeze").read_text().strip() == "1"
        except FileNotFoundError:
            return False

    def freeze(self, timeout: float = 2.0) -> bool:
        """Nothing in it runs any more. False: not all of it within `timeout` seconds (uninterruptible sleep)."""
        (self.path / "cgroup.freeze").write_text("1")
        return self._wait("frozen", True, timeout)

    def thaw(self) -> None:
        (self.path / "cgroup.freeze").write_text("0")

    def kill(self, timeout: float = 10.0) -> None:
        """SIGKILL to all of it, until it is empty. Raises Failed with the processes that remain."""
        if not self.path.exists():
            return
        (self.path / "cgroup.kill").write_text("1")
        if not self._wait("populated", False, timeout):
            left = ", ".join(str(pid) for pid in self.pids())
            raise Failed(f"processes of {self.path.name} cannot be killed: {left}", "dmesg may say why.", outcome="")

    def remove(self) -> None:
        """With all below it. Raises Failed where processes are in it."""
        for directory in sorted(self._tree(), reverse=True):
            try:
                directory.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise Failed(f"cgroup {directory} cannot be removed: {error.strerror}", outcome="") from error

    def _tree(self) -> list[Path]:
        """It and all below; os.walk does not mind that some are removed meanwhile."""
        return [Path(directory) for directory, _, _ in os.walk(self.path)]

    def _event(self, name: str) -> bool:
        try:
            return f"{name} 1" in (self.path / "cgroup.events").read_text()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV):
                return False
            raise

    def _wait(self, name: str, value: bool, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        descriptor = os.open(self.path / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLPRI)
            while (f"{name} 1" in os.pread(descriptor, 4096, 0).decode()) != value:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                poll.poll(left * 1000)
            return True
        finally:
            os.close(descriptor)
