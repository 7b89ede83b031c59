"""Working copies that are mounted: found, taken out of use, and cut off at the deadline. Standard library only.

A working copy is bound to its path. All subvolumes of a pool have one device number in the mount table, so it is known
by its directory inside the file system; what holds it is found by the number that stat(2) tells of the subvolume.
"""

from __future__ import annotations

import os
from contextlib import suppress

from drover.agent.storage import mounts
from drover.agent.storage.btrfs_place import Place
from drover.agent.storage.loopdev import until
from drover.agent.storage.mounts import Mount
from drover.agent.storage.snapshot_names import UID

PATIENCE = 0.5
"""Seconds that something which is busy may take to become free: a process that was just killed still closes files."""
FLAGS = mounts.MS_NOATIME | mounts.MS_NODEV | mounts.MS_NOSUID


def pool_mount(pool: str) -> tuple[str, str] | None:
    """Device number of the file system that the pool is on, and the pool's directory inside it; None: that is no btrfs.
    Raises OSError."""
    under = [m for m in mounts.table() if pool == m.path or pool.startswith(m.path.rstrip("/") + "/")]
    if not under:
        return None
    mount = max(reversed(under), key=lambda m: len(m.path))
    if mount.fs != "btrfs":
        return None
    return mount.device, os.path.normpath(os.path.join(mount.root, os.path.relpath(pool, mount.path)))


def of_pool(pool: str) -> dict[str, list[Mount]]:
    """Mounted working copies in this mount namespace, by uid. One look at the mount table."""
    return by_uid(mounts.table(), pool_mount(pool))


def elsewhere(pool: str) -> list[tuple[int, str, Mount]]:
    """Process, uid and mount, in the other mount namespaces."""
    if (where := pool_mount(pool)) is None:
        return []
    found = mounts.elsewhere(where[0])
    return [(pid, uid, m) for pid, mount in found for uid, those in by_uid([mount], where).items() for m in those]


def by_uid(table: list[Mount], where: tuple[str, str] | None) -> dict[str, list[Mount]]:
    found: dict[str, list[Mount]] = {}
    for mount in table:
        directory, name = os.path.split(mount.root)
        above, uid = os.path.split(directory)
        if (mount.device, above) == where and name == "live" and UID.fullmatch(uid):
            found.setdefault(uid, []).append(mount)
    return found


def _of_any_pool(table: list[Mount]) -> dict[str, list[Mount]]:
    """What was bound from a pool outlives it (umount -l): by what a working copy looks like."""
    found: dict[str, list[Mount]] = {}
    for pool in {(m.device, os.path.dirname(os.path.dirname(m.root))) for m in table if m.fs == "btrfs"}:
        found |= by_uid(table, pool)
    return found


def bind(at: Place, path: str) -> None:
    """Raises OSError."""
    mounts.mount(at.live, path, "none", mounts.MS_BIND)
    mounts.mount("none", path, "none", mounts.MS_BIND | mounts.MS_REMOUNT | FLAGS)


def take_out(at: Place) -> str:
    """Unmounts it everywhere. What is in the way: "" nothing, else who, in words."""
    here = of_pool(at.pool).get(at.uid, [])
    for mount in reversed(here):
        if not until(lambda mount=mount: mounts.unmounted(mount), PATIENCE):  # type: ignore[misc]
            return _who(at)
    paths = {mount.path for mount in here}
    for pid, uid, mount in elsewhere(at.pool):
        # Inherited by a mount namespace that somebody made while it was mounted here (a service, unshare).
        if uid == at.uid and (mount.path in paths or not paths) and mounts.same_root(pid):
            with suppress(OSError):
                mounts.unmount_elsewhere(pid, mount.path)
    left = [(pid, mount) for pid, uid, mount in elsewhere(at.pool) if uid == at.uid]
    return ", ".join(f"the mount {mount.path} in the namespace of process {pid}" for pid, mount in left)


def _who(at: Place) -> str:
    """Looked up only now, since it costs a look at every process."""
    by = mounts.holders(_number(at.live))
    here = {mount.id for mount in of_pool(at.pool).get(at.uid, [])}
    by += [f"the mount {m.path} inside it" for m in mounts.table() if m.parent in here and m.id not in here]
    return ", ".join(by) or "something in the kernel (a swap file, a loop device, an NFS export)"


def _number(path: str) -> str:
    device = os.stat(path).st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def cut(pool: str) -> list[str]:
    """The last means: no working copy of this pool is mounted any more. Returns a line for each that is not certain.

    Nobody else can write to this node's copies, so it is enough that whoever wrote here has stopped: the ladder has
    killed them before, and who still holds one is named.
    """
    left: list[str] = []
    for pid, _, mount in elsewhere(pool):
        with suppress(OSError):
            mounts.unmount_elsewhere(pid, mount.path, mounts.MNT_DETACH)
    table, where = mounts.table(), pool_mount(pool)
    for uid, those in (by_uid(table, where) if where else _of_any_pool(table)).items():
        number = _number(those[-1].path)
        for mount in reversed(those):
            if not mounts.unmounted(mount):
                mounts.unmount(mount.path, mounts.MNT_DETACH)
        if by := mounts.holders(number):
            left.append(f"{uid} in {pool} is unmounted, but still held by {', '.join(by)}")
    return left
