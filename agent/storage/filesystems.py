"""What Drover asks of xfs and ext4: make, check, grow. Runs their programs; none of this is on the fast path of a move.
Standard library only."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from drover.agent.storage.base import Damaged, NoRoom, StorageError

MiB = 1 << 20


@dataclass(frozen=True)
class FileSystem:
    """minimum: bytes. options: of mount(2). programs: what must be installed."""

    minimum: int
    options: str
    programs: tuple[str, ...]


KINDS: Mapping[str, FileSystem] = {
    # mkfs.xfs refuses less than 300 MiB (xfsprogs 5.19).
    "xfs": FileSystem(300 * MiB, "", ("mkfs.xfs", "xfs_repair", "xfs_growfs")),
    "ext4": FileSystem(16 * MiB, "errors=remount-ro", ("mkfs.ext4", "e2fsck", "resize2fs")),
}
DEFAULT = "xfs"
PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
"""Where their programs are looked for."""

_NO_SPACE = os.strerror(errno.ENOSPC)
_NOT_PERMITTED = "Permission denied"
_MENDED = (0, 1, 2)  # e2fsck: clean, mended, mended and (for a root file system) reboot


class NotOnline(StorageError):
    """The file system cannot grow while it is mounted, on this machine."""


def blank(image: int) -> bool:
    """Whether the beginning of an open file or device, where every file system and partition table puts its mark, holds
    only zeros: the first MiB."""
    return not any(os.pread(image, MiB, 0))


def make(fs: str, image: str) -> None:
    """An empty file system in an image file. Durable when it returns. Raises NoRoom, StorageError."""
    commands = {
        "xfs": ["mkfs.xfs", "-q", "-f", "-K", "-s", "size=512", image],
        "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", image],
    }
    _run(commands[fs])
    descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_if_marked(fs: str, device: str) -> None:
    """ext4 that noted an error in its superblock is checked before it is mounted, and mended as far as e2fsck does it
    without asking. A clean one, or one that only has to replay its journal, costs one read. Raises Damaged."""
    if fs == "ext4" and _marked(device):
        code, text = _call(["e2fsck", "-p", device])
        if code not in _MENDED:
            raise _damaged(fs, "it has noted errors", f"e2fsck -p does not mend it: {_short(text)}")


def diagnosis(fs: str, device: str, why: OSError) -> Damaged:
    """Why a mount was refused. Changes nothing: xfs_repair -L would throw the journal, and with it acknowledged writes,
    away, and e2fsck -p has nothing to do where nothing was noted."""
    command = ["xfs_repair", "-n", device] if fs == "xfs" else ["e2fsck", "-n", device]
    code, text = _call(command)
    found = _short(text) if code else "no damage; see the kernel's log"
    return _damaged(fs, f"it cannot be mounted ({why.strerror})", f"{' '.join(command[:2])} finds: {found}")


def twin(device: str) -> str | None:
    """The name in /dev of another device on which this kernel has this very xfs file system mounted, in whatever mount
    namespace: then it mounts no second one (xfs_uuid_mount, EINVAL), and `nouuid` would only hide that two could write.
    Read from the beginning of the first sector, which also a device that was cut off still shows."""
    mine = _xfs_uuid(device)
    others = [name for name in os.listdir("/sys/fs/xfs") if name != os.path.basename(device)] if mine else []
    return next((name for name in others if _xfs_uuid(f"/dev/{name}") == mine), None)


def grow_mounted(fs: str, device: str, path: str) -> None:
    """To the size of its device. Raises NotOnline, StorageError."""
    if fs == "xfs":
        _run(["xfs_growfs", "-d", path])
        return
    code, text = _call(["resize2fs", device])
    if code and _NOT_PERMITTED in text:
        raise NotOnline(_short(text))
    if code:
        raise StorageError(f"resize2fs failed: {_short(text)}")


def grow_unmounted(device: str) -> None:
    """ext4 to the size of its device; it is checked first, as resize2fs demands. Raises Damaged, StorageError."""
    code, text = _call(["e2fsck", "-f", "-p", device])
    if code not in _MENDED:
        raise _damaged("ext4", "it should grow", f"the check before failed: {_short(text)}")
    _run(["resize2fs", device])


def _damaged(fs: str, what: str, found: str) -> Damaged:
    advice = "xfs_repair (its -L loses acknowledged writes)" if fs == "xfs" else "e2fsck -f"
    return Damaged(
        f"the {fs} file system is damaged: {what}; {found}; the data was left as it is: run {advice} on a copy of the "
        "image, or restore a backup"
    )


def _marked(device: str) -> bool:
    """s_magic and s_state of ext4's superblock (ext4.wiki.kernel.org, "Super Block"): 2 is EXT4_ERROR_FS."""
    magic, state = struct.unpack("<HH", _read(device, 4, 1024 + 56).ljust(4, b"\0"))
    return bool(magic == 0xEF53 and state & 2)


def _xfs_uuid(device: str) -> bytes | None:
    """sb_uuid of an xfs superblock (fs/xfs/libxfs/xfs_format.h); None where there is none, or no such device."""
    try:
        head = _read(device, 48, 0)
    except OSError:
        return None
    return head[32:48] if head.startswith(b"XFSB") else None


def _read(device: str, size: int, at: int) -> bytes:
    descriptor = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, size, at)
    finally:
        os.close(descriptor)


def _run(command: list[str]) -> None:
    code, text = _call(command)
    if code and _NO_SPACE in text:
        raise NoRoom(f"{command[0]}: {_NO_SPACE}")
    if code:
        raise StorageError(f"{command[0]} failed: {_short(text)}")


def _call(command: list[str]) -> tuple[int, str]:
    """Exit status and all that it said. Its time limit is the helper's: killed with it."""
    environment = {"PATH": PATH, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
    except FileNotFoundError:
        raise StorageError(f"{command[0]} is not installed: install xfsprogs and e2fsprogs") from None
    return done.returncode, done.stdout.decode(errors="replace")


def _short(text: str) -> str:
    """The lines that matter of a program's output, as one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines[:4])[:300] or "no output"
