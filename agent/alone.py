"""One agent at a time on a node: by its run_dir, and by its name in the cluster."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path


class AlreadyRunning(Exception):
    """Another agent of this node runs on this machine."""


@contextlib.contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """One agent at a time has this node's run_dir; a second one is told so: raises AlreadyRunning."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / "agent.lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise AlreadyRunning(f"an agent of this node runs already (pid {pid} holds {run_dir}/agent.lock)") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


class Name:
    """A node's name in one cluster, on this machine: a second agent with another run_dir would find nothing of this one
    there, take it for one that has ended, and fence it. Held until `close`, or the end of this process: the kernel
    keeps it, as an abstract socket, for this network namespace."""

    def __init__(self, node: str, machine: str) -> None:
        self._node, self._machine = node, machine
        self._held: dict[str, socket.socket] = {}

    def hold(self, cluster: str) -> None:
        """Idempotent. Raises AlreadyRunning."""
        if cluster in self._held:
            return
        name = f"\0drover-agent/{cluster}/{self._node}/{self._machine}"
        mine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            mine.bind(name)
            mine.listen(1)
        except OSError as error:
            mine.close()
            if error.errno != errno.EADDRINUSE:
                raise
            raise AlreadyRunning(
                f"another agent of this machine is {self._node} in this cluster already ({_holder(name)}), with "
                "another run_dir: end that one, or give this one another name (node in its settings)"
            ) from None
        self._held[cluster] = mine

    def close(self) -> None:
        for held in self._held.values():
            held.close()
        self._held.clear()


def _holder(name: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect(name)
            pid, _, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except OSError:
            return "its process is not known"
    return f"process {pid}"
