"""Where a loopback volume is, and whether there is room for it. Standard library only."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from drover.agent.storage.base import Foreign, NoRoom, NotFound
from drover.coordinator.sizes import format_size

_BLOCK = 4096


@dataclass(frozen=True)
class Place:
    """Where a volume is. directory: as this node sees it, without symbolic links: by it the kernel names the node that
    has attached an image."""

    directory: str
    dataset: str
    uid: str

    @property
    def image(self) -> str:
        return os.path.join(self.directory, f"{self.uid}.img")

    @property
    def sidecar(self) -> str:
        return os.path.join(self.directory, f"{self.uid}.json")


@contextmanager
def opened_image(at: Place) -> Iterator[int]:
    try:
        image = os.open(at.image, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise missing(at) from None
    try:
        yield image
    finally:
        os.close(image)


def missing(at: Place) -> NotFound:
    return NotFound(
        f"the image {at.image} is not there: look whether the directory is the right one and completely mounted, or "
        "restore the image; Drover never makes an empty one in its place"
    )


def unknown(at: Place) -> Foreign:
    return Foreign(
        f"{at.image} has no record of whose it is ({at.sidecar} is missing): nothing was touched; put that file back "
        "from a backup"
    )


@contextmanager
def room(at: Place, size: int | None = None) -> Iterator[None]:
    """A full directory becomes NoRoom."""
    try:
        yield
    except NoRoom as error:
        raise _full(at, str(error), size) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(at, str(error.strerror), size) from error


def _full(at: Place, what: str, size: int | None) -> NoRoom:
    need = f" for {format_size(size)}" if size else ""
    free = format_size(_free(at))
    return NoRoom(f"no room{need} in {at.directory} ({what}; {free} free): delete something or enlarge it")


def check_room(at: Place, size: int) -> None:
    """Before `allocate`, which would take all that is left before it fails."""
    if _free(at) < size:
        raise NoRoom("it would not fit")


def allocate(image: int, size: int) -> None:
    """All blocks of an open image: when the directory is full one day, no write to the file system in it may fail. What
    is in the image stays. Trimming (fstrim) gives blocks back, and so does each write where the directory is on a file
    system that copies on write. Raises OSError ENOSPC; the image is as large as before."""
    before = os.fstat(image).st_size
    try:
        os.posix_fallocate(image, 0, size)
    except OSError:
        os.ftruncate(image, before)
        raise
    os.fsync(image)


def _free(at: Place) -> int:
    found = os.statvfs(at.directory)
    return found.f_bavail * found.f_frsize


def rounded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
