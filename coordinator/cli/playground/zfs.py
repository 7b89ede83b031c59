"""The playground's ZFS: a zfs-fuse and a pool on a file inside each node, in its own mount namespace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drover.coordinator.cli.playground import tools

ROOT = "tank/drover"
_SIZE = 16 << 30
"""Bytes of a pool; its file is sparse."""
_DAEMON = """
mkdir -p /run/zfs /run/lock/zfs
for own in /etc/zfs /var/lib/zfs; do [ ! -d "$own" ] || mount -t tmpfs none "$own"; done
(
  until zpool list > /dev/null; do sleep 0.05; done
  if [ -e "$1" ]; then
    zpool import -f -d "${1%/*}" tank
  else
    truncate -s "$2" "$1.new" && zpool create -f -m none tank "$1.new" && zfs create tank/drover &&
      zpool export tank && mv "$1.new" "$1" && zpool import -d "${1%/*}" tank
  fi
) &
exec "$0" --no-daemon --no-kstat-mount
"""
_WAIT = 'until zfs list "$0" > /dev/null 2>&1; do sleep 0.05; done; exec "$@"'


def check() -> None:
    """Raises NotPossible with the package to install."""
    for tool in ("zfs-fuse", "zfs", "zpool"):
        tools.find(tool)


def command(home: Path) -> list[str]:
    """The daemon, and its pool: made if there is none. home: the node's."""
    return ["/bin/sh", "-c", _DAEMON, tools.find("zfs-fuse"), str(home / "zfs.img"), str(_SIZE)]


def after(service: Sequence[str]) -> list[str]:
    """A command that runs once the pool is there."""
    return ["/bin/sh", "-c", _WAIT, ROOT, *service]


def settings() -> str:
    """The agent's."""
    return f'[backends.zfs]\nroot = "{ROOT}"\nprograms = "{Path(tools.find("zfs")).parent}"\n\n'
