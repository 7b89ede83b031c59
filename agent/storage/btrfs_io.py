"""What the btrfs back end does to a dataset's working copy; to copies and snapshots: btrfs_copies.py. Runs in a helper,
one call a verb, with arguments and results that are JSON. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from drover.agent.storage import btrfs_ioctl, btrfs_mounts, mounts, sidecar
from drover.agent.storage.base import Busy, NotBlank, StorageError, Superseded, Token, check_token
from drover.agent.storage.btrfs_place import (
    Place,
    make_directories,
    missing,
    record,
    room,
    stranger,
    subvolumes,
    unknown,
)
from drover.agent.storage.sidecar import Sidecar
from drover.agent.storage.snapshot_names import END
from drover.coordinator.sizes import format_size


def create(place: Mapping[str, str], size: int, token: Mapping[str, Any], node: str) -> None:
    """See `Backend.create`."""
    at, mine = Place(**place), Token(**token)
    with room(at):
        found = Sidecar.read(at.sidecar)
        if found is not None:
            check_token(found.token, mine)
            if found.formatted:
                if not (os.path.exists(at.live) or subvolumes(at)):
                    raise missing(at)
                return
        elif stranger(at):
            raise NotBlank(f"{at.directory} is there and has no record of whose it is: it was left alone; move it away")
        make_directories(at)
        made = Sidecar(at.dataset, at.uid, size, "btrfs", mine.cluster, mine.epoch, mine.incarnation, node, False)
        made.write(at.sidecar)
        if btrfs_ioctl.info(at.live) is None:
            btrfs_ioctl.create(at.live)
        btrfs_ioctl.limit(at.live, size)
        btrfs_ioctl.sync(at.pool)
        replace(made, formatted=True).write(at.sidecar)


def publish(place: Mapping[str, str], token: Mapping[str, Any], path: str) -> dict[str, Any]:
    """See `Backend.publish`. Returns path and size (bytes)."""
    at, mine = Place(**place), Token(**token)
    with room(at):
        found = record(at)
        check_token(found.token, mine)
        if found.token != mine:
            raise Superseded(
                f"the working copy of {at.dataset} here is of epoch {found.epoch}, and this is epoch {mine.epoch}: it "
                "is never used again; a new one has to be made first"
            )
        ensure_live(at)
        for mount in reversed(mounts.table()):
            if mount.path == path:
                if mount in btrfs_mounts.of_pool(at.pool).get(at.uid, []):
                    return {"path": path, "size": found.size}
                raise Busy(f"{path} is taken: {mount.source} is mounted there; unmount it", mount.source)
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise StorageError(f"the mount point {path} cannot be made: {error.strerror}") from error
        btrfs_mounts.bind(at, path)
        return {"path": path, "size": found.size}


def ensure_live(at: Place) -> None:
    """There is a working copy: the one that is there, or what the epoch had ended with, undone. Raises NotFound: data
    that is missing is an error, and an older snapshot never stands in for it."""
    _undo_half_an_end(at)
    if btrfs_ioctl.info(at.live) is not None:
        return
    there = subvolumes(at)
    if not there or not there[-1][0].endswith(END):
        raise missing(replace(at, uid=f"{at.uid}/live"))
    btrfs_ioctl.snapshot(at.snapshot(there[-1][0]), at.live, read_only=False)
    limit_size(at)


def _undo_half_an_end(at: Place) -> None:
    """What was renamed for the end of an epoch, and is still writable, is the working copy."""
    for name in os.listdir(at.snapshots):
        path = at.snapshot(name)
        if name.endswith(END) and (found := btrfs_ioctl.info(path)) is not None and not found.read_only:
            os.rename(path, at.live)
            os.rmdir(os.path.dirname(path))


def limit_size(at: Place) -> None:
    btrfs_ioctl.limit(at.live, record(at).size)


def unpublish(place: Mapping[str, str]) -> None:
    """See `Backend.unpublish`."""
    at = Place(**place)
    if not os.path.exists(at.live):
        return
    with room(at):
        if who := btrfs_mounts.take_out(at):
            raise Busy(f"{at.dataset} cannot be unmounted: in use by {who}", who)
        btrfs_ioctl.sync(at.pool)


def grow(place: Mapping[str, str], size: int) -> None:
    """See `Backend.grow`."""
    at = Place(**place)
    with room(at):
        found = record(at)
        used = btrfs_ioctl.referenced(at.live) or 0
        if size < found.size:
            now, wanted = format_size(found.size), format_size(size)
            raise StorageError(
                f"{at.dataset} has {now} and cannot shrink to {wanted}; the data needs {format_size(used)} of it; set "
                f"the size back to {now}"
            )
        replace(found, size=size).write(at.sidecar)
        btrfs_ioctl.limit(at.live, size)


def destroy(place: Mapping[str, str], token: Mapping[str, Any]) -> None:
    """See `Backend.destroy`. All of this node's copies; the record last: with it, what is left can be understood."""
    at, mine = Place(**place), Token(**token)
    found = Sidecar.read(at.sidecar)
    if found is None:
        if os.path.exists(at.directory):
            raise unknown(at)
        return
    check_token(found.token, mine)
    if at.uid in btrfs_mounts.of_pool(at.pool):
        raise Busy(f"{at.dataset} is mounted here: unpublish it first", "a mount here")
    with room(at):
        remove_all(at)


def remove_all(at: Place) -> None:
    """Every subvolume of it, and then whose it was."""
    for directory, names, _ in os.walk(at.directory, topdown=True):
        for name in list(names):
            path = os.path.join(directory, name)
            if btrfs_ioctl.info(path) is not None:
                names.remove(name)
                btrfs_ioctl.delete(path)
    for directory, names, _ in os.walk(at.directory, topdown=False):
        for name in names:
            os.rmdir(os.path.join(directory, name))
    sidecar.remove(f"{at.sidecar}.tmp")
    sidecar.remove(at.sidecar)
    os.rmdir(at.directory)
    btrfs_ioctl.start_sync(at.pool)
