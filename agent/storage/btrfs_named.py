"""What the btrfs back end does to snapshots that users have asked for. Runs in a helper, one call a verb; arguments and
results are JSON. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from drover.agent.storage import btrfs_ioctl, btrfs_mounts
from drover.agent.storage.base import Busy, NotBlank, NotFound, Superseded, Token, check_token
from drover.agent.storage.btrfs_io import ensure_live, limit_size
from drover.agent.storage.btrfs_place import Place, make_directories, record, room, stranger
from drover.agent.storage.named import Named
from drover.agent.storage.sidecar import Sidecar, sync_directory


def take(place: Mapping[str, str], token: Mapping[str, Any], name: str) -> dict[str, Any]:
    """See `NamedSnapshots.take`."""
    at, mine = Place(**place), Token(**token)
    with room(at):
        _check_mine(at, mine)
        path = at.named_snapshot(name)
        if btrfs_ioctl.info(path) is None:
            ensure_live(at)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            btrfs_ioctl.snapshot(at.live, path, read_only=True)
            btrfs_ioctl.sync(at.pool)
        return asdict(_told(at, name))


def _check_mine(at: Place, mine: Token) -> None:
    found = record(at)
    check_token(found.token, mine)
    if found.token != mine:
        raise Superseded(f"the working copy of {at.dataset} here is of epoch {found.epoch}, not of {mine.epoch}")


def _told(at: Place, name: str) -> Named:
    """Raises NotFound, OSError."""
    path = at.named_snapshot(name)
    if (found := btrfs_ioctl.info(path)) is None or not found.read_only:
        raise NotFound(f"{at.dataset} has no snapshot {name} on this node")
    return Named(name, found.guid, os.stat(os.path.dirname(path)).st_mtime, btrfs_ioctl.exclusive(path))


def named(at: Place) -> list[Named]:
    """See `NamedSnapshots.named`. Raises StorageError."""
    with room(at):
        names = os.listdir(at.named) if os.path.isdir(at.named) else []
        there = [name for name in names if (it := btrfs_ioctl.info(at.named_snapshot(name))) and it.read_only]
        return sorted((_told(at, name) for name in there), key=lambda one: (one.taken, one.name))


def remove(place: Mapping[str, str], token: Mapping[str, Any], name: str) -> None:
    """See `NamedSnapshots.remove`."""
    at = Place(**place)
    with room(at):
        check_token(record(at).token, Token(**token))
        btrfs_ioctl.delete(at.named_snapshot(name))
        if os.path.isdir(os.path.dirname(at.named_snapshot(name))):
            os.rmdir(os.path.dirname(at.named_snapshot(name)))


def clone(
    place: Mapping[str, str], name: str, new: Mapping[str, str], size: int, token: Mapping[str, Any], node: str
) -> None:
    """See `NamedSnapshots.clone`. As create, whose record says in the same way whether it has come to its end."""
    source, at, mine = Place(**place), Place(**new), Token(**token)
    with room(at):
        _told(source, name)
        found = Sidecar.read(at.sidecar)
        if found is not None:
            check_token(found.token, mine)
            if found.formatted:
                return
        elif stranger(at):
            raise NotBlank(f"{at.directory} is there and has no record of whose it is: it was left alone; move it away")
        make_directories(at)
        made = Sidecar(at.dataset, at.uid, size, "btrfs", mine.cluster, mine.epoch, mine.incarnation, node, False)
        made.write(at.sidecar)
        if btrfs_ioctl.info(at.live) is None:
            btrfs_ioctl.snapshot(source.named_snapshot(name), at.live, read_only=False)
        btrfs_ioctl.limit(at.live, size)
        btrfs_ioctl.sync(at.pool)
        replace(made, formatted=True).write(at.sidecar)


def restore(place: Mapping[str, str], token: Mapping[str, Any], name: str, kept: str) -> None:
    """See `NamedSnapshots.restore`. The new working copy is made first, so that there is always one of the two."""
    at, mine = Place(**place), Token(**token)
    with room(at):
        _check_mine(at, mine)
        if at.uid in btrfs_mounts.of_pool(at.pool):
            raise Busy(f"{at.dataset} is still mounted here: unpublish it first", "a mount here")
        aside, coming = at.named_snapshot(kept), os.path.join(at.directory, "restoring")
        there = btrfs_ioctl.info(aside)
        if there is not None and btrfs_ioctl.info(coming) is None and btrfs_ioctl.info(at.live) is not None:
            return
        _told(at, name)
        if there is None:
            ensure_live(at)
            if btrfs_ioctl.info(coming) is not None:
                btrfs_ioctl.delete(coming)
            btrfs_ioctl.snapshot(at.named_snapshot(name), coming, read_only=False)
            os.makedirs(os.path.dirname(aside), mode=0o700, exist_ok=True)
            os.rename(at.live, aside)
        btrfs_ioctl.set_read_only(aside)
        os.rename(coming, at.live)
        limit_size(at)
        btrfs_ioctl.sync(at.pool)
        sync_directory(at.directory)
