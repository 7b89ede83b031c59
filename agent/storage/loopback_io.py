"""What the loopback back end does to images, devices and mounts. Runs in a helper, one call a verb, with arguments and
results that are JSON. Standard library only.

A volume is `<uid>.img` and, beside it, `<uid>.json` (sidecar.py), which is made first and removed last: an image
without one was put there by somebody else. An attached image keeps its flock, since the loop device keeps the open
file: so two nodes that attach at the same moment cannot both succeed.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from drover.agent.storage import filesystems, loopdev, mounts, sidecar
from drover.agent.storage.base import Busy, NoRoom, NotBlank, NotFound, StorageError, Token, check_token
from drover.agent.storage.loopback_place import (
    Place,
    allocate,
    check_room,
    missing,
    opened_image,
    room,
    rounded,
    unknown,
)
from drover.agent.storage.loopdev import Loop
from drover.agent.storage.mounts import Mount
from drover.agent.storage.sidecar import Sidecar
from drover.coordinator.sizes import format_size

PATIENCE = 0.5
"""Seconds that something which is busy may take to become free: a process that was just killed still closes files."""

_MOUNT_FLAGS = mounts.MS_NOATIME | mounts.MS_NODEV | mounts.MS_NOSUID


def create(place: Mapping[str, str], size: int, fs: str, token: Mapping[str, Any], node: str) -> None:
    """See `Backend.create`."""
    at, mine = Place(**place), Token(**token)
    size = rounded(size)
    with room(at, size):
        found = Sidecar.read(at.sidecar)
        if found is not None:
            check_token(found.token, mine)
            if found.formatted:
                if not os.path.exists(at.image):
                    raise missing(at)
                return
        elif _holds_something(at.image):
            raise NotBlank(
                f"{at.image} is there, holds something and has no record of whose it is ({at.sidecar}): it was left "
                "alone; move it away, or put its record back"
            )
        check_room(at, size)
        record = Sidecar(at.dataset, at.uid, size, fs, mine.cluster, mine.epoch, mine.incarnation, node, False)
        try:
            record.write(at.sidecar)
            _make_image(at, size, fs)
            replace(record, formatted=True).write(at.sidecar)
        except (OSError, NoRoom):
            _forget(at)
            raise


def publish(
    place: Mapping[str, str], token: Mapping[str, Any], node: str, path: str, direct_io: bool
) -> dict[str, Any]:
    """See `Backend.publish`. Returns device, path, size (bytes) and direct_io as granted."""
    at, mine = Place(**place), Token(**token)
    with room(at), opened_image(at) as image:
        loop, held = _attached(at, image)
        others = loopdev.backed_by(image) if held else []
        if loop is None and not (others and all(map(loopdev.is_cut, others))):  # what was cut off keeps its lock
            _lock(at, image)
        record = _stamped(at, mine, node)
        attached = loop or loopdev.attach(image, direct_io)
        try:
            _mount(at, attached, record, os.fstat(image).st_size, path)
        except BaseException:
            if loop is None and not attached.alive():
                loopdev.clear(attached)
            raise
        return {
            "device": attached.path,
            "path": path,
            "size": attached.size(),
            "direct_io": attached.direct_io(),
        }


def unpublish(place: Mapping[str, str]) -> None:
    """See `Backend.unpublish`. Looks at nothing in the shared directory: only at what is here."""
    at = Place(**place)
    for loop in ours(at):
        number = loop.number()
        here = mounts.of_device(number)
        for mount in reversed(here):
            _unmount(at, mount)
        _detach(at, loop, number, {mount.path for mount in here})


def sever(place: Mapping[str, str], token: Mapping[str, Any]) -> None:
    """See `Backend.sever`. Such a device is detached when the last who use it have gone."""
    at, mine = Place(**place), Token(**token)
    record = Sidecar.read(at.sidecar)
    if record is None or not os.path.exists(at.image):
        return
    check_token(record.token, mine)
    with opened_image(at) as image:
        for loop in loopdev.backed_by(image):
            if loop.image != at.image:
                loopdev.cut_off(loop)
                loopdev.clear(loop)


def grow(place: Mapping[str, str], size: int) -> None:
    """See `Backend.grow`."""
    at = Place(**place)
    size = rounded(size)
    record = _record(at)
    with opened_image(at) as image:
        loop, _ = _attached(at, image)
        where = mounts.of_device(loop.number()) if loop else []
        if loop is None or not where:
            raise StorageError(f"{at.dataset} is not mounted here: it can only grow while it is")
        have = os.fstat(image).st_size
        if size < have:
            used = _used(where[0].path)
            now, wanted = format_size(have), format_size(size)
            raise StorageError(
                f"{at.dataset} has {now} and cannot shrink to {wanted}: {record.fs} does not do it under a mount, and "
                f"the data needs {format_size(used)} of it; set the size back to {now}, or make a new dataset and copy"
            )
        with room(at, size):
            check_room(at, size - have)
            allocate(image, size)
            loopdev.set_capacity(loop)
            try:
                filesystems.grow_mounted(record.fs, loop.path, where[0].path)
            except filesystems.NotOnline as error:
                raise StorageError(
                    f"{at.dataset} cannot grow while it is mounted on this machine ({error}); it will grow to "
                    f"{format_size(size)} when it is published the next time: move it, or stop and start it"
                ) from error
            replace(record, size=size).write(at.sidecar)


def destroy(place: Mapping[str, str], token: Mapping[str, Any]) -> None:
    """See `Backend.destroy`."""
    at, mine = Place(**place), Token(**token)
    record = Sidecar.read(at.sidecar)
    if record is not None:
        check_token(record.token, mine)
    try:
        with opened_image(at) as image:
            if record is None:
                raise unknown(at)
            if loops := loopdev.backed_by(image):
                raise Busy(
                    f"{at.dataset} is attached as {loops[0].path} (from {loops[0].backing}): unpublish it there first",
                    loops[0].backing,
                )
            _lock(at, image)
            os.unlink(at.image)
    except NotFound:
        if record is None:
            return
    _forget(at)


def ours(at: Place) -> list[Loop]:
    """This node's devices of the volume: those attached through this node's own directory."""
    return [loop for loop in loopdev.scan() if loop.image == at.image]


def _make_image(at: Place, size: int, fs: str) -> None:
    """From nothing: the record says that the image was never finished."""
    image = os.open(at.image, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if loops := loopdev.backed_by(image):
            raise Busy(f"{at.image} is attached as {loops[0].path} (from {loops[0].backing})", loops[0].backing)
        _lock(at, image)
        os.ftruncate(image, 0)
        os.ftruncate(image, size)
        filesystems.make(fs, at.image)
        allocate(image, size)
    finally:
        os.close(image)


def _holds_something(path: str) -> bool:
    try:
        image = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not filesystems.blank(image)
    finally:
        os.close(image)


def _forget(at: Place) -> None:
    """Image first: while the record is there, what is left can be understood."""
    sidecar.remove(at.image)
    sidecar.remove(f"{at.sidecar}.tmp")
    sidecar.remove(at.sidecar)
    sidecar.sync_directory(at.directory)


def _attached(at: Place, image: int) -> tuple[Loop | None, bool]:
    """Our device of it, and whether another node has one that was cut off. Raises Busy where one was not, or where ours
    was and is still held."""
    found = loopdev.backed_by(image)
    loops = [loop for loop in found if loop.image == at.image]
    held = len(loops) < len(found)
    for loop in found:
        if loop.image != at.image and not loopdev.is_cut(loop):
            raise Busy(
                f"{at.dataset} is attached by another node: {loop.path} stands for {loop.backing}; if nothing lives "
                f"there any more, 'losetup -d {loop.path}'",
                loop.backing,
            )
    if len(loops) > 1:
        names = ", ".join(loop.path for loop in loops)
        raise Busy(f"{at.dataset} is attached more than once ({names}): unpublish it first", names)
    if not loops or not loopdev.is_cut(loops[0]):
        return (loops[0] if loops else None), held
    unpublish({"directory": at.directory, "dataset": at.dataset, "uid": at.uid})
    return None, held


def _lock(at: Place, image: int) -> None:
    """Raises Busy where another attaches it at this moment, or one that is out of sight has it."""

    def locked() -> bool:
        try:
            fcntl.flock(image, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    if not loopdev.until(locked, PATIENCE):
        raise Busy(f"{at.image} is locked: another process works on it (see /proc/locks)")


def _record(at: Place) -> Sidecar:
    record = Sidecar.read(at.sidecar)
    if record is None:
        raise unknown(at) if os.path.exists(at.image) else missing(at)
    if not record.formatted:
        raise NotFound(f"{at.image} was never finished: the volume must be created first")
    return record


def _stamped(at: Place, mine: Token, node: str) -> Sidecar:
    """The record, with our token in it, durably."""
    record = _record(at)
    check_token(record.token, mine)
    stamped = replace(record, epoch=mine.epoch, incarnation=mine.incarnation, holder=node, dataset=at.dataset)
    if stamped != record:
        stamped.write(at.sidecar)
    return stamped


def _mount(at: Place, loop: Loop, record: Sidecar, size: int, path: str) -> None:
    """At `path`, with the file system as large as its image."""
    for mount in reversed(mounts.table()):
        if mount.path == path:
            if mount.device == loop.number() and mount.root == "/":
                return
            raise Busy(f"{path} is taken: {mount.source} is mounted there; unmount it", mount.source)
    _make_mount_point(path)
    if loop.size() < size:
        loopdev.set_capacity(loop)
    smaller = record.size < size
    if smaller and record.fs == "ext4" and not loop.alive():
        filesystems.grow_unmounted(loop.path)
    if not loop.alive():
        filesystems.check_if_marked(record.fs, loop.path)
    options = filesystems.KINDS[record.fs].options
    try:
        mounts.mount(loop.path, path, record.fs, _MOUNT_FLAGS, options)
    except OSError as error:
        if loop.alive() or error.errno == errno.EBUSY:
            raise _busy(at, f"cannot be mounted at {path} ({error.strerror})", loop.number()) from error
        if record.fs == "xfs" and (twin := filesystems.twin(loop.path)) is not None:
            raise _mounted_twice(at, twin) from error
        raise filesystems.diagnosis(record.fs, loop.path, error) from error
    if smaller:
        if record.fs == "xfs":
            filesystems.grow_mounted(record.fs, loop.path, path)
        replace(record, size=size).write(at.sidecar)


def _make_mount_point(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the mount point {path} cannot be made: {error.strerror}") from error


def _unmount(at: Place, mount: Mount) -> None:
    if not loopdev.until(lambda: mounts.unmounted(mount), PATIENCE):
        raise _busy(at, f"cannot be unmounted from {mount.path}", mount.device)


def _detach(at: Place, loop: Loop, number: str, paths: set[str]) -> None:
    if not loopdev.until(lambda: _let_go(loop, number, paths), PATIENCE):
        raise _busy(at, f"is still mounted or in use on {loop.path}", number)
    try:
        gone = loopdev.detach(loop, PATIENCE)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        gone = False
    if not gone:
        raise _busy(at, f"cannot be detached from {loop.path}", number)


def _let_go(loop: Loop, number: str, paths: set[str]) -> bool:
    """Whether no file system lives on it any more. A mount namespace that somebody made while we had it mounted (a
    service, unshare) has inherited a copy: that is unmounted, too, unless it is in use. A mount that a container has on
    purpose (another root directory, another path) is not touched."""
    if loop.alive():
        for pid, mount in mounts.elsewhere(number):
            inherited = mount.root == "/" and (mount.path in paths or not paths) and mounts.same_root(pid)
            if inherited:
                with suppress(OSError):
                    mounts.unmount_elsewhere(pid, mount.path)
    return not loop.alive()


def _busy(at: Place, what: str, number: str) -> Busy:
    """Says who: looked up only now, since it costs a look at every process."""
    by = mounts.holders(number) + [f"the mount {path} inside it" for path in mounts.below(number)]
    by += [f"the mount {mount.path} in the namespace of process {pid}" for pid, mount in mounts.elsewhere(number)]
    who = ", ".join(by) or "something in the kernel (a swap file, a loop device, an NFS export)"
    return Busy(f"{at.dataset} {what}: in use by {who}", who)


def _mounted_twice(at: Place, twin: str) -> Busy:
    """By a node on this kernel, for example, that was cut off and whose agent does not run and unmount it."""
    loop = next((loop for loop in loopdev.scan() if loop.name == twin), Loop(twin, "another image or disk"))
    return _busy(
        at,
        f"cannot be mounted: a file system with its UUID is still mounted on this computer as {loop.path} (from "
        f"{loop.backing}), and xfs mounts no second one. Unmount that, start the agent that has it again, or switch "
        "its machine off",
        loop.number(),
    )


def _used(path: str) -> int:
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize
