"""Working copies of a folder that are mounted: found, taken out of use, and cut off at the deadline. Standard library
only.

A working copy is bound to its path. It shares a file system with whatever else is on it, so what holds it is found by
the mount and not by the device.
"""

from __future__ import annotations

import os
from contextlib import suppress

from drover.agent.storage import mounts
from drover.agent.storage.btrfs_mounts import FLAGS, by_uid
from drover.agent.storage.btrfs_mounts import PATIENCE as SHORT
from drover.agent.storage.directory_place import Place
from drover.agent.storage.loopdev import until
from drover.agent.storage.mounts import Mount

KINDS = ("ext4", "xfs", "ext3", "btrfs", "f2fs")
"""File systems that keep what a dataset needs: all kinds of files, extended attributes, times of nanoseconds."""


def where(folder: str) -> tuple[str, str, str]:
    """Device number of the file system that it is on, the folder inside it, and the kind. Raises OSError."""
    under = [m for m in mounts.table() if folder == m.path or folder.startswith(m.path.rstrip("/") + "/")]
    mount = max(reversed(under), key=lambda m: len(m.path))
    return mount.device, os.path.normpath(os.path.join(mount.root, os.path.relpath(folder, mount.path))), mount.fs


def of_folder(folder: str) -> dict[str, list[Mount]]:
    """Mounted working copies in this mount namespace, by uid. One look at the mount table."""
    return by_uid(mounts.table(), where(folder)[:2])


def elsewhere(device: str, root: str) -> list[tuple[int, str, Mount]]:
    """Process, uid and mount, in the other mount namespaces."""
    found = mounts.elsewhere(device)
    return [
        (pid, uid, m) for pid, mount in found for uid, those in by_uid([mount], (device, root)).items() for m in those
    ]


def bind(at: Place, path: str) -> None:
    """Raises OSError."""
    mounts.mount(at.live, path, "none", mounts.MS_BIND)
    mounts.mount("none", path, "none", mounts.MS_BIND | mounts.MS_REMOUNT | FLAGS)


def take_out(at: Place) -> str:
    """Unmounts it everywhere. What is in the way: "" nothing, else who, in words."""
    device, root, _ = where(at.pool)
    here = of_folder(at.pool).get(at.uid, [])
    for mount in reversed(here):
        if not until(lambda mount=mount: mounts.unmounted(mount), SHORT):  # type: ignore[misc]
            return _who(at)
    paths = {mount.path for mount in here}
    for pid, uid, mount in elsewhere(device, root):
        # Inherited by a mount namespace that somebody made while it was mounted here (a service, unshare).
        if uid == at.uid and (mount.path in paths or not paths) and mounts.same_root(pid):
            with suppress(OSError):
                mounts.unmount_elsewhere(pid, mount.path)
    left = [(pid, mount) for pid, uid, mount in elsewhere(device, root) if uid == at.uid]
    return ", ".join(f"the mount {mount.path} in the namespace of process {pid}" for pid, mount in left)


def _who(at: Place) -> str:
    """Looked up only now, since it costs a look at every process."""
    here = {mount.id for mount in of_folder(at.pool).get(at.uid, [])}
    by = mounts.holders_by_mount(here)
    by += [f"the mount {m.path} inside it" for m in mounts.table() if m.parent in here and m.id not in here]
    return ", ".join(by) or "something in the kernel (a swap file, a loop device, an NFS export)"


def cut(folder: str, device: str, root: str) -> list[str]:
    """The last means: no working copy of this folder is mounted any more. Returns a line for each that is not certain.

    Nobody else can write to this node's copies, so it is enough that whoever wrote here has stopped: the ladder has
    killed them before, and who still holds one is named. device, root: where the folder was when the agent started: a
    file system that was unmounted lazily since is still bound.
    """
    ids: dict[str, set[int]] = {}
    for pid, uid, mount in elsewhere(device, root):
        ids.setdefault(uid, set()).add(mount.id)
        with suppress(OSError):
            mounts.unmount_elsewhere(pid, mount.path, mounts.MNT_DETACH)
    for uid, those in by_uid(mounts.table(), (device, root)).items():
        for mount in reversed(those):
            if not mounts.unmounted(mount):
                ids.setdefault(uid, set()).add(mount.id)
                mounts.unmount(mount.path, mounts.MNT_DETACH)
    return [
        f"{uid} in {folder} is unmounted, but still held by {', '.join(by)}"
        for uid, those in ids.items()
        if (by := mounts.holders_by_mount(those))
    ]
