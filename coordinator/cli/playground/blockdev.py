"""A machine's block devices: loop devices, cut off from their images as a power cut does, and detached.

Whose a loop device is says the path of its image, as long as the machine's mount namespace lives (every machine opens
images through its own directory). Afterwards the kernel forgets the path, and what is left is known by its inode.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_SYSFS = Path("/sys/block")
_LOOP_CLR_FD, _LOOP_SET_STATUS64, _LOOP_GET_STATUS64 = 0x4C01, 0x4C04, 0x4C05
_STATUS_SIZE, _SIZE_LIMIT = 232, 32
"""Bytes of struct loop_info64, and where lo_sizelimit stands in it (linux/loop.h)."""
_SECTOR = 512


@dataclass(frozen=True)
class Loop:
    """An attached loop device. image: the path as the kernel tells it now."""

    name: str
    image: str

    @property
    def device(self) -> Path:
        return Path("/dev", self.name)

    def below(self, directory: Path) -> bool:
        return self.image.startswith(f"{directory}/")

    def written(self) -> int:
        """Sectors of 512 bytes that were written to it since it was attached."""
        return int((_SYSFS / self.name / "stat").read_text().split()[6])


def loops() -> list[Loop]:
    """All that are attached on this computer."""
    found = []
    for file in sorted(_SYSFS.glob("loop*/loop/backing_file")):
        with suppress(OSError):  # detached meanwhile
            found.append(Loop(file.parts[3], file.read_text().strip().removesuffix(" (deleted)")))
    return [loop for loop in found if loop.image]


def orphans(directory: Path) -> list[Loop]:
    """Loop devices of dead machines below `directory`: the kernel has lost the path, but the image is one of ours."""
    others = {loop: _identity(loop) for loop in loops() if not loop.below(directory)}
    lost = {loop: identity for loop, identity in others.items() if identity and identity != _file(Path(loop.image))}
    if not lost:
        return []
    ours = {_file(Path(below, name)) for below, _, names in os.walk(directory) for name in names}
    return [loop for loop, identity in lost.items() if identity in ours]


def still(loop: Loop) -> bool:
    """Whether it is attached to what it was. The path is lost with the mount namespace; the number may be another's."""
    try:
        image = (_SYSFS / loop.name / "loop/backing_file").read_text().strip().removesuffix(" (deleted)")
    except OSError:
        return False
    return image == loop.image or (Path(image).name == Path(loop.image).name and not os.path.lexists(image))


def shrink(descriptor: int) -> None:
    """To one sector: every other write is an I/O error from now on. Nothing where it was detached. Raises OSError."""
    try:
        status = bytearray(fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, bytes(_STATUS_SIZE)))
        struct.pack_into("=Q", status, _SIZE_LIMIT, _SECTOR)
        fcntl.ioctl(descriptor, _LOOP_SET_STATUS64, bytes(status))
    except OSError as error:
        if error.errno != errno.ENXIO:  # detached meanwhile
            raise


def clear(descriptor: int) -> None:
    """Detaches it: at once, or when its file system goes. Idempotent. Raises OSError."""
    try:
        fcntl.ioctl(descriptor, _LOOP_CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise


def _file(path: Path) -> tuple[int, int] | None:
    """(device, inode) of what is there now."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _identity(loop: Loop) -> tuple[int, int] | None:
    """(device, inode) of the image."""
    try:
        descriptor = os.open(loop.device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, bytes(_STATUS_SIZE))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    device, inode = struct.unpack_from("=QQ", status)
    return int(device), int(inode)
