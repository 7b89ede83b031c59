"""What the directory back end does to a dataset, in a helper: one call a verb, arguments and results are JSON. What
sends and receives: directory_rsync.py. Standard library only."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from drover.agent.storage import directory_mounts, directory_quota, mounts, sidecar
from drover.agent.storage.base import Busy, Damaged, NotBlank, NotFound, StorageError, Superseded, Token, check_token
from drover.agent.storage.btrfs_place import missing, record, room, unknown
from drover.agent.storage.directory_place import PAST, Place, State, alone, diverged, sync
from drover.agent.storage.sidecar import Sidecar, sync_directory
from drover.coordinator.sizes import format_size

_OURS = {"live", "copy", "copies.json", "copies.json.tmp", "volume.json.tmp", "lock"}


def create(place: Mapping[str, str], size: int, token: Mapping[str, Any], node: str) -> None:
    """See `Backend.create`."""
    at, mine = Place(**place), Token(**token)
    with room(at):
        found = Sidecar.read(at.sidecar)
        if found is not None:
            check_token(found.token, mine)
            if found.formatted:
                if not os.path.isdir(at.tree):
                    raise missing(at)
                return
        elif _stranger(at):
            raise NotBlank(f"{at.directory} is there and has no record of whose it is: it was left alone; move it away")
        os.makedirs(at.directory, mode=0o700, exist_ok=True)
        made = Sidecar(at.dataset, at.uid, size, "directory", mine.cluster, mine.epoch, mine.incarnation, node, False)
        made.write(at.sidecar)
        make_tree(at.live, at.uid, size)
        sync(at.directory)
        replace(made, formatted=True).write(at.sidecar)


def make_tree(path: str, uid: str, size: int) -> None:
    """Empty, and limited where the file system can. Raises OSError."""
    os.makedirs(path, mode=0o755, exist_ok=True)
    directory_quota.limit(path, uid, size)


def _stranger(at: Place) -> bool:
    """Whether something is there that is not ours, while there is no record of whose it is."""
    if not os.path.exists(at.directory):
        return False
    inside = [os.listdir(path) for path in (at.live, at.copy) if os.path.isdir(path)]
    return bool(set(os.listdir(at.directory)) - _OURS or any(inside))


def publish(place: Mapping[str, str], token: Mapping[str, Any], path: str) -> dict[str, Any]:
    """See `Backend.publish`. Returns path and size (bytes)."""
    at, mine = Place(**place), Token(**token)
    with room(at):
        found = _mine(at, mine)
        _ensure_live(at)
        for mount in reversed(mounts.table()):
            if mount.path == path:
                if mount in directory_mounts.of_folder(at.pool).get(at.uid, []):
                    return {"path": path, "size": found.size}
                raise Busy(f"{path} is taken: {mount.source} is mounted there; unmount it", mount.source)
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as error:
            raise StorageError(f"the mount point {path} cannot be made: {error.strerror}") from error
        directory_mounts.bind(at, path)
        return {"path": path, "size": found.size}


def _mine(at: Place, mine: Token) -> Sidecar:
    found = record(at)
    check_token(found.token, mine)
    if found.token != mine:
        raise Superseded(
            f"the working copy of {at.dataset} here is of epoch {found.epoch}, and this is epoch {mine.epoch}: it is "
            "never used again; a new one has to be made first"
        )
    return found


def _ensure_live(at: Place) -> None:
    """There is a working copy: the one that is there, or what the epoch had ended with, undone. Raises NotFound: data
    that is missing is an error."""
    if os.path.isdir(at.live):
        return
    if _ended(at) is None:
        raise missing(replace(at, uid=f"{at.uid}/live"))
    os.rename(at.copy, at.live)
    sync_directory(at.directory)


def _ended(at: Place) -> dict[str, str] | None:
    """The end of the epoch here, where it has come already."""
    state = State.read(at)
    if os.path.lexists(at.live) or not os.path.isdir(at.copy) or state.torn or not state.marks:
        return None
    last = state.marks[-1]
    return {"guid": last.guid, "name": last.name} if last.sealed else None


def unpublish(place: Mapping[str, str]) -> None:
    """See `Backend.unpublish`."""
    at = Place(**place)
    if not os.path.exists(at.live):
        return
    with room(at):
        if who := directory_mounts.take_out(at):
            raise Busy(f"{at.dataset} cannot be unmounted: in use by {who}", who)
        sync(at.live)


def grow(place: Mapping[str, str], size: int) -> None:
    """See `Backend.grow`."""
    at = Place(**place)
    with room(at):
        found = record(at)
        if size < found.size:
            used = directory_quota.used(at.live, at.uid) or directory_quota.measured(at.live)
            now, wanted = format_size(found.size), format_size(size)
            raise StorageError(
                f"{at.dataset} has {now} and cannot shrink to {wanted}; the data needs {format_size(used)} of it; set "
                f"the size back to {now}"
            )
        replace(found, size=size).write(at.sidecar)
        directory_quota.limit(at.live, at.uid, size)


def destroy(place: Mapping[str, str], token: Mapping[str, Any]) -> None:
    """See `Backend.destroy`. The record last: with it, what is left can be understood."""
    at, mine = Place(**place), Token(**token)
    found = Sidecar.read(at.sidecar)
    if found is None:
        if os.path.exists(at.directory):
            raise unknown(at)
        return
    check_token(found.token, mine)
    _not_mounted(at)
    with room(at):
        with alone(at):
            for name in os.listdir(at.directory):
                path = os.path.join(at.directory, name)
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                elif path not in (at.sidecar, at.lock):
                    os.unlink(path)
        sidecar.remove(at.lock)
        sidecar.remove(at.sidecar)
        os.rmdir(at.directory)


def _not_mounted(at: Place) -> None:
    if at.uid in directory_mounts.of_folder(at.pool):
        raise Busy(f"{at.dataset} is still mounted here: unpublish it first", "a mount here")


# Local copies.


def materialise(
    place: Mapping[str, str], token: Mapping[str, Any], node: str, base: str | None, written: int
) -> dict[str, Any]:
    """See `LocalCopies.materialise`. Returns diverged: the path of what was set aside, or ""."""
    at, mine = Place(**place), Token(**token)
    with room(at), alone(at):
        found = record(at)
        check_token(found.token, mine)
        _not_mounted(at)
        stamped = replace(found, epoch=mine.epoch, incarnation=mine.incarnation, holder=node, dataset=at.dataset)
        if base is None:
            if found.epoch < written:
                raise NotFound(
                    f"the newest data of {at.dataset} was written in epoch {written}, and what is here is of epoch "
                    f"{found.epoch}: look for the node that had it then"
                )
            _ensure_live(at)
            _stamp(at, stamped)
            return {"diverged": ""}
        if found.token == mine and os.path.isdir(at.live):
            return {"diverged": ""}
        state = State.read(at)
        mark = state.mark(base)
        if mark is None or (mark.sealed and state.torn) or not os.path.isdir(at.copy):
            raise NotFound(f"the copy {base} that this epoch of {at.dataset} starts from is not there ({at.copy})")
        aside = _set_aside(at, found)
        _stamp(at, stamped)
        replace(state, past=(*state.past, base)[-PAST:]).write(at)
        os.rename(at.copy, at.live)
        sync_directory(at.directory)
        directory_quota.limit(at.live, at.uid, found.size)
        return {"diverged": aside}


def _stamp(at: Place, stamped: Sidecar) -> None:
    if stamped != record(at):
        stamped.write(at.sidecar)


def _set_aside(at: Place, found: Sidecar) -> str:
    if not os.path.lexists(at.live):
        return ""
    path = at.diverged(found.epoch)
    os.rename(at.live, path)
    sync_directory(at.directory)
    return path


def presync(place: Mapping[str, str]) -> None:
    """See `LocalCopies.presync`."""
    at = Place(**place)
    with room(at):
        sync(at.tree)


def snapshot(place: Mapping[str, str], token: Mapping[str, Any]) -> dict[str, str]:
    """See `LocalCopies.snapshot`. A mark: see directory_place.py. What is mapped and was dirty is written after the
    mark was made, so whatever stores there later gets a later time."""
    at, mine = Place(**place), Token(**token)
    with room(at):
        _mine(at, mine)
        if (ended := _ended(at)) is not None:
            return ended
        _ensure_live(at)
        return _marked(at, mine, sealed=False)


def seal(place: Mapping[str, str], token: Mapping[str, Any]) -> dict[str, str]:
    """See `LocalCopies.seal`. Nothing has it mounted, and its name is gone: nothing can be written any more. The mark
    is made first: one whose tree is still the working copy was not finished."""
    at, mine = Place(**place), Token(**token)
    with room(at), alone(at):
        _mine(at, mine)
        _not_mounted(at)
        if (ended := _ended(at)) is not None:
            return ended
        _ensure_live(at)
        if os.path.lexists(at.copy):
            raise Damaged(f"{at.live} and {at.copy} are both there: one is not of Drover's making; move it away")
        told = _marked(at, mine, sealed=True)
        os.rename(at.live, at.copy)
        sync_directory(at.directory)
        return told


def _marked(at: Place, mine: Token, sealed: bool) -> dict[str, str]:
    state = replace(State.read(at), torn=False).marked(at, str(uuid.uuid4()), sealed, epoch=mine.epoch)
    sync(at.live)
    state.write(at)
    return asdict(state.snapshots[-1])


def expect(place: Mapping[str, str], token: Mapping[str, Any], node: str, size: int) -> list[dict[str, str]]:
    """See `LocalCopies.expect`. Returns what is here, whole or in part: rsync finds out what is missing."""
    at, theirs = Place(**place), Token(**token)
    with room(at):
        found = Sidecar.read(at.sidecar)
        if found is None:
            if _stranger(at):
                raise Damaged(f"{at.directory} is there and has no record of whose it is: move it away")
            os.makedirs(at.directory, mode=0o700, exist_ok=True)
            found = Sidecar(at.dataset, at.uid, size, "directory", theirs.cluster, 0, "", node, True)
        check_token(found.token, theirs)
        _not_mounted(at)
        with alone(at):
            if found.token != theirs and _set_aside(at, found):
                State().write(at)
            now = replace(found, epoch=theirs.epoch, incarnation=theirs.incarnation, holder=node, size=size)
            if now != found:
                now.write(at.sidecar)
            if not os.path.isdir(at.copy):
                return []
            directory_quota.limit(at.copy, at.uid, size)
            return [asdict(one) for one in State.read(at).snapshots]


def set_aside(place: Mapping[str, str], token: Mapping[str, Any]) -> dict[str, str]:
    """See `LocalCopies.set_aside`."""
    at, theirs = Place(**place), Token(**token)
    with room(at), alone(at):
        found = record(at)
        check_token(found.token, theirs)
        _not_mounted(at)
        if found.token == theirs:
            return {"diverged": ""}
        if done := _set_aside(at, found):
            State().write(at)
        replace(found, epoch=theirs.epoch, incarnation=theirs.incarnation).write(at.sidecar)
        return {"diverged": done}


def discard_diverged(place: Mapping[str, str], token: Mapping[str, Any], guid: str) -> None:
    """See `LocalCopies.discard_diverged`."""
    at = Place(**place)
    with room(at):
        check_token(record(at).token, Token(**token))
        for one in diverged(at):
            if one.guid == guid:
                shutil.rmtree(one.path)


def received(place: Mapping[str, str], token: Mapping[str, Any], guid: str, name: str) -> None:
    """See `LocalCopies.arrived`."""
    at, theirs = Place(**place), Token(**token)
    with room(at), alone(at):
        found = record(at)
        if found.token != theirs:
            raise Superseded(f"{at.dataset} here is of epoch {found.epoch} by now, not of {theirs.epoch}")
        state = State.read(at)
        if not state.torn and state.mark(guid) is not None:
            return
        if state.arrived != guid:
            raise Damaged(f"{name} of {at.dataset} did not arrive whole; what is here is gone on from the next time")
        sync(at.copy)
        # Whether it is the end of an epoch is of no matter here: this node's own token will be another one.
        replace(state, torn=False, arrived="").marked(at, guid, sealed=False, name=name).write(at)


def prune(place: Mapping[str, str], keep: Sequence[str]) -> None:
    """See `LocalCopies.prune`. Marks take no room."""
    at = Place(**place)
    with room(at):
        state = State.read(at)
        kept = tuple(one for one in state.marks[:-1] if one.guid in keep)
        replace(state, marks=(*kept, *state.marks[-1:])).write(at)
