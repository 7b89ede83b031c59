"""Working copies on ZFS that are mounted: found, taken out of use, and cut off at the deadline. Standard library only.

The source of such a mount is the dataset's name, and each has a device number of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from drover.agent.storage import mounts
from drover.agent.storage.base import StorageError
from drover.agent.storage.loopdev import until
from drover.agent.storage.mounts import Mount
from drover.agent.storage.snapshot_names import UID
from drover.agent.storage.zfs_command import Failed, Zfs

PATIENCE = 0.5
"""Seconds that something which is busy may take to become free: a process that was just killed still closes files."""
_KINDS = ("zfs", "fuse.zfs", "fuse")
_CUT = 0.4
"""Seconds that each of two commands may take at the deadline: other back ends wait for their turn."""


def of_root(root: str) -> dict[str, list[Mount]]:
    """Mounted working copies in this mount namespace, by uid. One look at the mount table."""
    return _by_uid(mounts.table(), root)


def elsewhere(root: str) -> list[tuple[int, str, Mount]]:
    """Process, uid and mount, in the other mount namespaces."""
    found = mounts.all_elsewhere()
    return [(pid, uid, m) for pid, mount in found for uid, those in _by_uid([mount], root).items() for m in those]


def _by_uid(table: Iterable[Mount], root: str) -> dict[str, list[Mount]]:
    found: dict[str, list[Mount]] = {}
    for mount in table:
        if mount.fs not in _KINDS or not mount.source.startswith(f"{root}/"):
            continue
        uid, _, rest = mount.source.removeprefix(f"{root}/").partition("/")
        if rest == "data" and UID.fullmatch(uid):
            found.setdefault(uid, []).append(mount)
    return found


def take_out(root: str, uid: str) -> str:
    """Unmounts it everywhere. What is in the way: "" nothing, else who, in words."""
    here = of_root(root).get(uid, [])
    for mount in reversed(here):
        if not until(lambda mount=mount: mounts.unmounted(mount), PATIENCE):  # type: ignore[misc]
            return _who(mount)
    paths = {mount.path for mount in here}
    left: list[tuple[int, Mount]] = []

    def gone() -> bool:
        """From mount namespaces that somebody made while it was mounted here (a service, unshare). A container that is
        just being made has it until it has a root of its own."""
        for pid, theirs, mount in elsewhere(root):
            if theirs == uid and (mount.path in paths or not paths) and mounts.same_root(pid):
                with suppress(OSError):
                    mounts.unmount_elsewhere(pid, mount.path)
        left[:] = [(pid, mount) for pid, theirs, mount in elsewhere(root) if theirs == uid]
        return not left

    until(gone, PATIENCE)
    return ", ".join(f"the mount {mount.path} in the namespace of process {pid}" for pid, mount in left)


def _who(mount: Mount) -> str:
    """Looked up only now, since it costs a look at every process."""
    by = mounts.holders(mount.device) + [f"the mount {path} inside it" for path in mounts.below(mount.device)]
    return ", ".join(by) or "something in the kernel (a swap file, a loop device, an NFS export)"


def cut(root: str, programs: str) -> list[str]:
    """The last means: no working copy below this root is mounted any more, and all are read-only. zfs-fuse lets files
    be written that are open in something unmounted lazily. Returns a line for each that is not certain.

    Nobody else can write to this node's copies, so it is enough that whoever wrote here has stopped: the ladder has
    killed them before, and who still holds one is named.
    """
    left: list[str] = []
    devices: dict[str, str] = {}
    for pid, uid, mount in elsewhere(root):
        devices[mount.device] = uid
        with suppress(OSError):
            mounts.unmount_elsewhere(pid, mount.path, mounts.MNT_DETACH)
    for uid, those in of_root(root).items():
        for mount in reversed(those):
            devices[mount.device] = uid
            if not mounts.unmounted(mount):
                mounts.unmount(mount.path, mounts.MNT_DETACH)
    for device, uid in devices.items():
        if by := mounts.holders(device):
            left.append(f"{root}/{uid} is unmounted, but still held by {', '.join(by)}")
    try:
        _make_read_only(root, Zfs(programs))
    except Failed as error:
        if not error.no_zfs and not error.absent:
            left.append(f"{root} cannot be made read-only: {error}")
    except StorageError as error:
        left.append(f"{root} cannot be made read-only: {error}")
    return left


def _make_read_only(root: str, zfs: Zfs) -> None:
    zfs.zfs("set", "readonly=on", root, timeout=_CUT)
    if zfs.zfs("get", "-H", "-o", "value", "readonly", root, timeout=_CUT).strip() != "on":
        raise Failed("'zfs set' said nothing, and it is not", "")
