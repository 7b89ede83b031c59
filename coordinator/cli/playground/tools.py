"""Running the tools that a playground is built with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import drover
from drover.coordinator.cli.errors import Failed, NotPossible

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PACKAGES = {
    "ip": "iproute2",
    "nft": "nftables",
    "etcd": "etcd-server",
    "etcdctl": "etcd-client",
    "mkfs.btrfs": "btrfs-progs",
    "rsync": "rsync",
    "dockerd": "docker.io",
    "iptables": "iptables",
    "busybox": "busybox-static",
    "zfs-fuse": "zfs-fuse",
    "zfs": "zfs-fuse",
    "zpool": "zfs-fuse",
}


def search_path() -> str:
    """Beside this Python first: a virtual environment need not be activated."""
    return f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}:{_SYSTEM_PATH}"


def service_path() -> str:
    """PATH of what runs inside a machine: it does not depend on who typed the command."""
    return f"{Path(sys.executable).parent}:{_SYSTEM_PATH}"


def find(tool: str) -> str:
    """Where a tool is. Raises NotPossible with the package to install."""
    if path := shutil.which(tool, path=search_path()):
        return path
    package = _PACKAGES.get(tool)
    raise NotPossible(
        f"{tool} is not installed",
        f"Install it: apt-get install {package}" if package else f"{tool} belongs beside {sys.executable}.",
    )


def run(command: Sequence[str], text: str = "") -> str:
    """What it printed. Descriptors that were made inheritable go to it, the playground's lock among them.

    Raises NotPossible, Failed.
    """
    done = subprocess.run(
        [find(command[0]), *command[1:]],
        input=text,
        capture_output=True,
        text=True,
        close_fds=False,
        timeout=30,
    )
    if done.returncode:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise Failed(f"{' '.join(command)}: {said}", outcome="")
    return done.stdout


def python(module: str) -> list[str]:
    """The command that runs `main` of a module of this package with the standard library only: 15 ms, not 50."""
    root = Path(drover.__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from {__package__}.{module} import main; main()"
    return [sys.executable, "-I", "-S", "-c", code]
