"""What the btrfs back end does to copies and snapshots: the verbs of local copies. Runs in a helper, one call a verb,
with arguments and results that are JSON. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from drover.agent.storage import btrfs_ioctl, btrfs_mounts
from drover.agent.storage.base import Busy, Damaged, NotFound, Superseded, Token, check_token
from drover.agent.storage.btrfs_io import ensure_live, limit_size
from drover.agent.storage.btrfs_place import (
    Place,
    being_read,
    diverged,
    make_directories,
    next_name,
    record,
    room,
    snapshots,
    stranger,
    subvolumes,
)
from drover.agent.storage.sidecar import Sidecar, sync_directory
from drover.agent.storage.snapshot_names import END


def materialise(
    place: Mapping[str, str], token: Mapping[str, Any], node: str, base: str | None, written: int
) -> dict[str, Any]:
    """See `LocalCopies.materialise`. Returns diverged: the path of what was set aside, or ""."""
    at, mine = Place(**place), Token(**token)
    with room(at):
        found = record(at)
        check_token(found.token, mine)
        if at.uid in btrfs_mounts.of_pool(at.pool):
            raise Busy(f"{at.dataset} is still mounted here: unpublish it first", "a mount here")
        stamped = replace(found, epoch=mine.epoch, incarnation=mine.incarnation, holder=node, dataset=at.dataset)
        if base is None:
            if found.epoch < written:
                raise NotFound(
                    f"the newest data of {at.dataset} was written in epoch {written}, and what is here is of epoch "
                    f"{found.epoch}: look for the node that had it then"
                )
            ensure_live(at)
            _stamp(at, stamped)
            return {"diverged": ""}
        if found.token == mine and btrfs_ioctl.info(at.live) is not None:
            return {"diverged": ""}
        name = next((name for name, subvolume in subvolumes(at) if subvolume.guid == base), None)
        if name is None:
            raise NotFound(f"the snapshot {base} that this epoch of {at.dataset} starts from is not in {at.snapshots}")
        diverged = _set_aside(at, found)
        _prepare(at, at.snapshot(name))
        _stamp(at, stamped)
        os.rename(at.next, at.live)
        limit_size(at)
        return {"diverged": diverged}


def _stamp(at: Place, stamped: Sidecar) -> None:
    if stamped != record(at):
        stamped.write(at.sidecar)


def _set_aside(at: Place, found: Sidecar) -> str:
    if not os.path.exists(at.live):
        return ""
    path = at.diverged(found.epoch)
    os.rename(at.live, path)
    return path


def _prepare(at: Place, snapshot: str) -> None:
    """The next working copy, made of this snapshot. That flushes and commits: the snapshot is durable then."""
    source, prepared = btrfs_ioctl.info(snapshot), btrfs_ioctl.info(at.next)
    if source is not None and prepared is not None:
        if prepared.parent == source.uuid:
            return
        btrfs_ioctl.delete(at.next)
    btrfs_ioctl.snapshot(snapshot, at.next, read_only=False)


def presync(place: Mapping[str, str]) -> None:
    """See `LocalCopies.presync`."""
    at = Place(**place)
    with room(at):
        btrfs_ioctl.sync(at.live)


def snapshot(place: Mapping[str, str], token: Mapping[str, Any]) -> dict[str, str]:
    """See `LocalCopies.snapshot`."""
    at, mine = Place(**place), Token(**token)
    with room(at):
        _check_mine(at, mine)
        if (ended := _ended(at)) is not None:
            return ended
        name = next_name(at, mine.epoch)
        os.mkdir(os.path.dirname(at.snapshot(name)))
        btrfs_ioctl.snapshot(at.live, at.snapshot(name), read_only=True)
        return _told(at, name)


def seal(place: Mapping[str, str], token: Mapping[str, Any]) -> dict[str, str]:
    """See `LocalCopies.seal`. The working copy itself becomes read-only and the last snapshot: nothing can be written
    between the two. Renamed first: one that is still writable was not finished, and is taken back."""
    at, mine = Place(**place), Token(**token)
    with room(at):
        _check_mine(at, mine)
        if at.uid in btrfs_mounts.of_pool(at.pool):
            raise Busy(f"{at.dataset} is still mounted here: unpublish it first", "a mount here")
        if (ended := _ended(at)) is not None:
            return ended
        name = next_name(at, mine.epoch) + END
        os.mkdir(os.path.dirname(at.snapshot(name)))
        os.rename(at.live, at.snapshot(name))
        btrfs_ioctl.set_read_only(at.snapshot(name))
        return _told(at, name)


def _ended(at: Place) -> dict[str, str] | None:
    """The end of the epoch here, where it has come already."""
    there = subvolumes(at)
    if not os.path.exists(at.live) and there and there[-1][0].endswith(END):
        return _told(at, there[-1][0])
    ensure_live(at)
    return None


def _check_mine(at: Place, mine: Token) -> None:
    found = record(at)
    check_token(found.token, mine)
    if found.token != mine:
        raise Superseded(f"the working copy of {at.dataset} here is of epoch {found.epoch}, not of {mine.epoch}")


def _told(at: Place, name: str) -> dict[str, str]:
    found = btrfs_ioctl.info(at.snapshot(name))
    if found is None:
        raise Damaged(f"{at.snapshot(name)} is not the snapshot that was made")
    return {"guid": found.guid, "name": name}


def expect(place: Mapping[str, str], token: Mapping[str, Any], node: str, size: int) -> list[dict[str, str]]:
    """See `LocalCopies.expect`. Returns the snapshots that are here."""
    at, theirs = Place(**place), Token(**token)
    with room(at):
        found = Sidecar.read(at.sidecar)
        if found is None:
            if stranger(at):
                raise Damaged(f"{at.directory} is there and has no record of whose it is: move it away")
            found = Sidecar(at.dataset, at.uid, size, "btrfs", theirs.cluster, 0, "", node, True)
        check_token(found.token, theirs)
        if at.uid in btrfs_mounts.of_pool(at.pool):
            raise Busy(f"{at.dataset} is still mounted here: unpublish it first", "a mount here")
        make_directories(at)  # a receive that was cut off has perhaps left none to receive into
        if found.token != theirs:
            _set_aside(at, found)
        now = replace(found, epoch=theirs.epoch, incarnation=theirs.incarnation, holder=node, size=size)
        if now != found:
            now.write(at.sidecar)
        discard(place)
        return [asdict(one) for one in snapshots(at)]


def set_aside(place: Mapping[str, str], token: Mapping[str, Any]) -> dict[str, str]:
    """See `LocalCopies.set_aside`."""
    at, theirs = Place(**place), Token(**token)
    with room(at):
        found = record(at)
        check_token(found.token, theirs)
        if at.uid in btrfs_mounts.of_pool(at.pool):
            raise Busy(f"{at.dataset} is still mounted here: unpublish it first", "a mount here")
        if found.token == theirs:
            return {"diverged": ""}
        done = _set_aside(at, found)
        replace(found, epoch=theirs.epoch, incarnation=theirs.incarnation).write(at.sidecar)
        return {"diverged": done}


def discard_diverged(place: Mapping[str, str], token: Mapping[str, Any], guid: str) -> None:
    """See `LocalCopies.discard_diverged`."""
    at = Place(**place)
    with room(at):
        check_token(record(at).token, Token(**token))
        for one in diverged(at):
            if one.guid == guid:
                btrfs_ioctl.delete(one.path)


def discard(place: Mapping[str, str]) -> None:
    """See `LocalCopies.discard`."""
    at = Place(**place)
    btrfs_ioctl.delete(at.arriving)


def received(place: Mapping[str, str], token: Mapping[str, Any], guid: str, name: str) -> None:
    """See `LocalCopies.arrived`."""
    at, theirs = Place(**place), Token(**token)
    with room(at):
        found = record(at)
        if found.token != theirs:
            raise Superseded(f"{at.dataset} here is of epoch {found.epoch} by now, not of {theirs.epoch}")
        if (come := btrfs_ioctl.info(at.arriving)) is None:
            kept = btrfs_ioctl.info(at.snapshot(name))
            if kept is None or kept.guid != guid:
                raise Damaged(f"snapshot {name} of {at.dataset} did not arrive")
            return
        if not (come.read_only and come.received and come.guid == guid):
            discard(place)
            raise Damaged(f"snapshot {name} of {at.dataset} did not arrive whole, and was removed")
        _prepare(at, at.arriving)
        os.rename(at.incoming, os.path.dirname(at.snapshot(name)))
        os.mkdir(at.incoming)
        sync_directory(at.snapshots)


def prune(place: Mapping[str, str], keep: Sequence[str]) -> None:
    """See `LocalCopies.prune`."""
    at = Place(**place)
    there = subvolumes(at)
    for name, subvolume in there[:-1]:
        if subvolume.guid not in keep:
            with room(at):
                if being_read(at.snapshot(name)):
                    continue
                btrfs_ioctl.delete(at.snapshot(name))
                os.rmdir(os.path.dirname(at.snapshot(name)))
