"""What the ZFS back end does to a dataset's working copy; to copies and snapshots: zfs_copies.py. Runs in a helper, one
call a verb, with arguments and results that are JSON. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from drover.agent.storage import mounts, zfs_mounts
from drover.agent.storage.base import Busy, NotBlank, StorageError, Superseded, Token, check_token
from drover.agent.storage.loopdev import until
from drover.agent.storage.sidecar import Sidecar
from drover.agent.storage.snapshot_names import END
from drover.agent.storage.zfs_command import Failed
from drover.agent.storage.zfs_place import RECORD, Place, Seen, alone, look, missing, record, store, unknown
from drover.coordinator.sizes import format_size

_TOP = ("canmount=off", "mountpoint=none", "atime=off", "devices=off", "setuid=off")
"""Of what holds a dataset's copies, which inherit it. Nothing below is mounted but by Drover: not at boot, not by
receive."""


def create(place: Mapping[str, str], size: int, token: Mapping[str, Any], node: str) -> None:
    """See `Backend.create`."""
    at, mine = Place(**place), Token(**token)
    with alone(at):
        seen = look(at)
        found = seen.record
        made = Sidecar(at.dataset, at.uid, size, "zfs", mine.cluster, mine.epoch, mine.incarnation, node, False)
        if found is not None:
            check_token(found.token, mine)
            if found.formatted:
                if len(seen.all) == 1:
                    raise missing(at)
                return
            store(seen, made)
        elif seen.there:
            raise NotBlank(f"{at.top} is there and has no record of whose it is: it was left alone; rename it")
        else:
            make_top(at, made)
        if seen.data is None:
            at.zfs.zfs("create", "-o", "canmount=noauto", "-o", f"refquota={size}", at.data)
        limit_size(look(at), size)
        store(look(at), replace(made, formatted=True))


def make_top(at: Place, made: Sidecar, *more: str) -> None:
    options = [part for one in (*_TOP, f"{RECORD}={made.text()}", *more) for part in ("-o", one)]
    at.zfs.zfs("create", *options, at.top)


def publish(place: Mapping[str, str], token: Mapping[str, Any], path: str) -> dict[str, Any]:
    """See `Backend.publish`. Returns path and size (bytes)."""
    at, mine = Place(**place), Token(**token)
    with alone(at):
        seen = look(at)
        found = record(seen)
        check_token(found.token, mine)
        if found.token != mine:
            raise Superseded(
                f"the working copy of {at.dataset} here is of epoch {found.epoch}, and this is epoch {mine.epoch}: it "
                "is never used again; a new one has to be made first"
            )
        ensure_live(seen, found)
        for mount in reversed(mounts.table()):
            if mount.path == path:
                if mount.source == at.data:
                    return {"path": path, "size": found.size}
                raise Busy(f"{path} is taken: {mount.source} is mounted there; unmount it", mount.source)
        if already := zfs_mounts.of_root(at.root).get(at.uid):
            raise Busy(f"{at.dataset} is mounted at {already[0].path}: unmount it", already[0].path)
        _mount(at, path, seen)
        return {"path": path, "size": found.size}


def _mount(at: Place, path: str, seen: Seen) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the mount point {path} cannot be made: {error.strerror}") from error
    make_writable(seen)
    assert seen.data is not None
    for name, value in (("canmount", "noauto"), ("mountpoint", path)):  # in this order: the second could mount it
        if seen.data.local(name) != value:
            at.zfs.set(at.data, name, value)
    at.zfs.zfs("mount", at.data)
    if not any(mount.source == at.data and mount.path == path for mount in mounts.table()):
        raise StorageError(f"'zfs mount {at.data}' said nothing, but {path} is not mounted: see zpool status {at.pool}")


def make_writable(seen: Seen) -> None:
    """Where the guard has made all of it read-only: we are behind its gate."""
    value, source = seen.all[seen.at.top].properties["readonly"]
    if value == "on" and source not in ("local", "received"):
        seen.at.zfs.set(seen.at.root, "readonly", "off")


def ensure_live(seen: Seen, found: Sidecar) -> None:
    """There is a working copy: the one that is there, or what its epoch had ended with, undone. Raises NotFound: data
    that is missing is an error, and an older snapshot never stands in for it."""
    at = seen.at
    if seen.live:
        return
    if (end := seen.ended(found.epoch)) is None:
        raise missing(at)
    # No end of this epoch any more, before anything can be written that is not in it.
    at.zfs.zfs("rename", at.snapshot(end.name), at.snapshot(end.name.removesuffix(END)))
    go_live(at)


def go_live(at: Place) -> None:
    at.zfs.zfs("inherit", "readonly", at.top)


def limit_size(seen: Seen, size: int) -> None:
    """Of the working copy; not below what is in it, which ZFS refuses: on another pool it may take a little more."""
    if seen.data is None:
        return
    limit = str(max(size, int(seen.data.get("referenced"))))
    if seen.data.get("refquota") != limit:
        seen.at.zfs.set(seen.at.data, "refquota", limit)


def unpublish(place: Mapping[str, str]) -> None:
    """See `Backend.unpublish`."""
    at = Place(**place)
    with alone(at):
        mounted = at.uid in zfs_mounts.of_root(at.root)
        if who := zfs_mounts.take_out(at.root, at.uid):
            raise Busy(f"{at.dataset} cannot be unmounted: in use by {who}", who)
        if mounted:
            flush(at)


def flush(at: Place) -> None:
    """All that was written is durable: with any change of the pool's own records, the group of transactions that is
    open is written."""
    try:
        at.zfs.zpool("sync", at.pool)
    except Failed as error:
        if "unrecognized command" not in error.said:
            raise
        at.zfs.zfs("inherit", "drover:flushed", at.top)


def grow(place: Mapping[str, str], size: int) -> None:
    """See `Backend.grow`."""
    at = Place(**place)
    with alone(at):
        seen = look(at)
        found = record(seen)
        if size < found.size:
            [(_, _, used, _)] = at.zfs.properties(["referenced"], at.data)
            now, wanted = format_size(found.size), format_size(size)
            raise StorageError(
                f"{at.dataset} has {now} and cannot shrink to {wanted}; the data needs {format_size(int(used))} of it; "
                f"set the size back to {now}"
            )
        limit_size(seen, size)
        store(seen, replace(found, size=size))


def destroy(place: Mapping[str, str], token: Mapping[str, Any]) -> None:
    """See `Backend.destroy`. All of this node's copies; the record last: with it, what is left can be understood."""
    at, mine = Place(**place), Token(**token)
    with alone(at):
        seen = look(at)
        if not seen.there:
            return
        if (found := seen.record) is None:
            raise unknown(at)
        check_token(found.token, mine)
        if at.uid in zfs_mounts.of_root(at.root):
            raise Busy(f"{at.dataset} is mounted here: unpublish it first", "a mount here")
        remove_all(seen)


def remove_all(seen: Seen) -> None:
    """Clones before what they are made of, which stays for a clone that somebody has made outside."""
    at = seen.at
    for name in sorted(seen.all.keys() - {at.top}, key=lambda name: name == at.data):
        remove(at, name)
    remove(at, at.top)


def remove(at: Place, name: str) -> None:
    """A file system with its snapshots. Gone is fine. What was unmounted just now can be busy for a moment (FUSE)."""

    def gone() -> bool:
        try:
            at.zfs.zfs("destroy", "-r", name)
        except Failed as error:
            if error.busy:
                return False
            if not error.absent:
                raise
        return True

    if not until(gone, zfs_mounts.PATIENCE):
        raise Busy(f"{name} cannot be destroyed: it is busy; look who has it mounted", "")
