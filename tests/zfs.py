"""Real ZFS for tests: a zfs-fuse and a pool on a file for each node, side by side on this machine; or a pool of OpenZFS
for each, where DROVER_TEST_OPENZFS names the directory of zfs and zpool of a kernel that has it.

Each daemon has a mount namespace of its own, in which its lock, its socket and what it knows of pools are; what it
mounts below the directory that they share is seen here as well. `programs` is a directory of zfs and zpool that speak
to it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drover.agent.storage import mounts
from drover.agent.storage.zfs_command import Failed, Zfs

OPENZFS = "DROVER_TEST_OPENZFS"
"""Names, in the environment, the directory of zfs and zpool of a kernel that has OpenZFS."""
BIN = Path(sys.executable).parent
_DAEMON = """
for mount in / /run /etc /var /var/lib; do mount --make-private "$mount" 2>/dev/null; done
for own in /run /etc/zfs /var/lib/zfs; do [ ! -d "$own" ] || mount -t tmpfs none "$own" || exit 1; done
mkdir -p /run/lock/zfs /run/zfs
exec "$0" --no-daemon --no-kstat-mount
"""


@dataclass(frozen=True)
class Node:
    """pool: its name. image: the file that it is on."""

    pool: str
    image: Path
    programs: Path
    daemon: subprocess.Popen[bytes] | None = None

    @property
    def zfs(self) -> Zfs:
        return Zfs(str(self.programs))

    @property
    def root(self) -> str:
        return f"{self.pool}/drover"


@contextmanager
def zfs_nodes(
    directory: Path, *names: str, size: int = 512 << 20, image: Path | None = None
) -> Iterator[dict[str, Node]]:
    """Below `directory`, which is a mount of its own meanwhile. size: bytes of each pool. image: of a pool whose
    machine has stopped; it is copied, and the copy imported."""
    directory.mkdir(parents=True, exist_ok=True)
    mounts.mount(str(directory), str(directory), "none", mounts.MS_BIND)
    mounts.mount("none", str(directory), "none", mounts.MS_SHARED)
    nodes: dict[str, Node] = {}
    try:
        for name in names:
            programs = os.environ.get(OPENZFS)
            nodes[name] = (
                Node(f"drover-{name}", directory / f"{name}.img", Path(programs))
                if programs
                else _start(directory, name)
            )
        for node in nodes.values():
            _ready(node)
            if image is None:
                _make_pool(node, size)
            else:
                shutil.copy(image, node.image)
                node.zfs.zpool("import", "-f", "-a", "-d", str(directory))
        yield nodes
    finally:
        for mount in reversed(mounts.table()):
            if mount.fs in ("fuse.zfs", "zfs") and mount.path.startswith(f"{directory}/"):
                mounts.unmount(mount.path, mounts.MNT_DETACH)
        for node in nodes.values():
            if node.daemon is None:
                node.zfs.zpool("destroy", "-f", node.pool)
            else:
                node.daemon.kill()
                node.daemon.wait()
        mounts.unmount(str(directory), mounts.MNT_DETACH)


def _start(directory: Path, name: str) -> Node:
    command = ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", _DAEMON, str(BIN / "zfs-fuse")]
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    programs = directory / f"bin-{name}"
    programs.mkdir(exist_ok=True)
    for program in ("zfs", "zpool"):
        script = f'#!/bin/sh\nexec nsenter --mount=/proc/{daemon.pid}/ns/mnt -- {BIN / program} "$@"\n'
        (programs / program).write_text(script)
        (programs / program).chmod(0o755)
    return Node(f"drover-{daemon.pid}-{name}", directory / f"{name}.img", programs, daemon)


def _ready(node: Node) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            node.zfs.zpool("list")
            break
        except Failed as error:
            if not error.no_zfs or time.monotonic() > deadline or (node.daemon and node.daemon.poll() is not None):
                raise
        time.sleep(0.01)


def _make_pool(node: Node, size: int) -> None:
    with node.image.open("wb") as file:
        file.truncate(size)
    node.zfs.zpool("create", "-m", "none", node.pool, str(node.image))
    node.zfs.zfs("create", node.root)
