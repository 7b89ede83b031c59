"""What the ZFS back end does to copies and snapshots: the verbs of local copies. Runs in a helper, one call a verb,
with arguments and results that are JSON. Standard library only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from drover.agent.storage import zfs_mounts
from drover.agent.storage.base import Busy, Damaged, NotFound, Snapshot, Superseded, Token, check_token
from drover.agent.storage.sidecar import Sidecar
from drover.agent.storage.snapshot_names import END, order
from drover.agent.storage.zfs_command import Failed
from drover.agent.storage.zfs_io import ensure_live, flush, go_live, limit_size, make_top, remove
from drover.agent.storage.zfs_place import Place, Seen, alone, diverged, look, ours, record, store


def materialise(
    place: Mapping[str, str], token: Mapping[str, Any], node: str, base: str | None, written: int
) -> dict[str, Any]:
    """See `LocalCopies.materialise`. Returns diverged: the name of what was set aside, or ""."""
    at, mine = Place(**place), Token(**token)
    with alone(at):
        seen = look(at)
        found = record(seen)
        check_token(found.token, mine)
        _check_free(at)
        stamped = replace(found, epoch=mine.epoch, incarnation=mine.incarnation, holder=node, dataset=at.dataset)
        if base is None:
            if found.epoch < written:
                raise NotFound(
                    f"the newest data of {at.dataset} was written in epoch {written}, and what is here is of epoch "
                    f"{found.epoch}: look for the node that had it then"
                )
            ensure_live(seen, found)
            store(seen, stamped)
            return {"diverged": ""}
        if found.token == mine and seen.live:
            return {"diverged": ""}
        if not any(one.guid == base for dataset in seen.all.values() for one in ours(dataset)):
            raise NotFound(f"the snapshot {base} that this epoch of {at.dataset} starts from is not below {at.top}")
        diverged = _end_live(seen, found)
        _continue_from(at, {base})
        seen = look(at)
        limit_size(seen, found.size)
        store(seen, stamped)
        go_live(at)
        return {"diverged": diverged}


def _check_free(at: Place) -> None:
    if at.uid in zfs_mounts.of_root(at.root):
        raise Busy(f"{at.dataset} is still mounted here: unpublish it first", "a mount here")


def _end_live(seen: Seen, found: Sidecar) -> str:
    """A working copy gets a name that nobody uses, which is returned, and leaves its snapshots in `data`. Nothing here
    can be written to from then on."""
    at, name = seen.at, ""
    if seen.live:
        name = seen.diverged(found.epoch)
        at.zfs.zfs("rename", at.data, name)
        at.zfs.set(name, "readonly", "on")
    if seen.all[at.top].local("readonly") != "on":
        at.zfs.set(at.top, "readonly", "on")
    if name and seen.snapshots:
        _continue_from(at, {seen.snapshots[-1].guid})
    return name


def _continue_from(at: Place, guids: Collection[str]) -> None:
    """`data` ends with the newest snapshot of those here that are among these; it is not there where none is. What
    cannot go on is put away as `old`."""
    seen = look(at)
    if seen.newest is not None and seen.newest.guid in guids:
        return
    if (waits := seen.all.get(at.next)) is not None:  # an earlier try
        if waits.taken and waits.taken[-1].guid in guids and seen.data is None:
            at.zfs.zfs("rename", at.next, at.data)
            return
        remove(at, at.next)
    if seen.data is not None:
        _remove_old(seen)  # of an earlier time: `data` had its place
        at.zfs.zfs("rename", at.data, at.old)
    found = [
        (order(one.name), f"{name}@{one.name}")
        for name, its in look(at).all.items()
        for one in ours(its)
        if one.guid in guids
    ]
    if found:
        at.zfs.zfs("clone", "-o", "canmount=noauto", max(found)[1], at.next)
        at.zfs.zfs("promote", at.next)
        at.zfs.zfs("rename", at.next, at.data)
        _remove_old(look(at))


def _remove_old(seen: Seen) -> None:
    if seen.at.old in seen.all:
        remove(seen.at, seen.at.old)


def presync(place: Mapping[str, str]) -> None:
    """See `LocalCopies.presync`."""
    flush(Place(**place))


def snapshot(place: Mapping[str, str], token: Mapping[str, Any]) -> dict[str, str]:
    """See `LocalCopies.snapshot`."""
    at, mine = Place(**place), Token(**token)
    with alone(at):
        seen = _mine(at, mine)
        if (end := seen.ended(mine.epoch)) is not None:
            return asdict(end)
        return asdict(_take(seen, seen.next_name(mine.epoch)))


def seal(place: Mapping[str, str], token: Mapping[str, Any]) -> dict[str, str]:
    """See `LocalCopies.seal`. Read-only first, so that nothing can be written after it; only an end that this epoch has
    taken since then counts, and it is undone before anything can be written again."""
    at, mine = Place(**place), Token(**token)
    with alone(at):
        seen = _mine(at, mine)
        _check_free(at)
        if (end := seen.ended(mine.epoch)) is not None:
            return asdict(end)
        if seen.live:
            at.zfs.set(at.top, "readonly", "on")
        return asdict(_take(seen, seen.next_name(mine.epoch) + END))


def _mine(at: Place, mine: Token) -> Seen:
    seen = look(at)
    found = record(seen)
    check_token(found.token, mine)
    if found.token != mine:
        raise Superseded(f"the working copy of {at.dataset} here is of epoch {found.epoch}, not of {mine.epoch}")
    if seen.data is None:
        raise NotFound(f"{at.data} is not there: look whether the pool is the right one and imported (zpool import)")
    return seen


def _take(seen: Seen, name: str) -> Snapshot:
    at = seen.at
    at.zfs.zfs("snapshot", at.snapshot(name))
    try:
        [(_, _, guid, _)] = at.zfs.properties(["guid"], at.snapshot(name))
    except Failed as error:
        raise Damaged(f"{at.snapshot(name)} was made, and is not there: see zpool status {at.pool}") from error
    return Snapshot(guid, name)


def expect(
    place: Mapping[str, str], token: Mapping[str, Any], node: str, size: int, theirs: Sequence[str]
) -> list[dict[str, str]]:
    """See `LocalCopies.expect`. Returns the snapshots that are here."""
    at, sender = Place(**place), Token(**token)
    with alone(at):
        seen = look(at)
        found = seen.record
        if found is None:
            if seen.there:
                raise Damaged(f"{at.top} is there and has no record of whose it is: rename it")
            found = Sidecar(
                at.dataset, at.uid, size, "zfs", sender.cluster, sender.epoch, sender.incarnation, node, True
            )
            make_top(at, found, "readonly=on")
            return []
        check_token(found.token, sender)
        _check_free(at)
        _end_live(seen, found)
        now = replace(found, epoch=sender.epoch, incarnation=sender.incarnation, holder=node, size=size, formatted=True)
        store(seen, now)
        _discard(at)
        _continue_from(at, set(theirs))
        seen = look(at)
        if seen.data is not None and seen.data.get("refquota") != "0":  # the sender's limit holds: not refused here
            at.zfs.zfs("set", "refquota=none", at.data)
        return [asdict(one) for one in seen.snapshots]


def set_aside(place: Mapping[str, str], token: Mapping[str, Any]) -> dict[str, str]:
    """See `LocalCopies.set_aside`."""
    at, theirs = Place(**place), Token(**token)
    with alone(at):
        seen = look(at)
        found = record(seen)
        check_token(found.token, theirs)
        _check_free(at)
        if found.token == theirs:
            return {"diverged": ""}
        name = _end_live(seen, found)
        store(look(at), replace(found, epoch=theirs.epoch, incarnation=theirs.incarnation))
        return {"diverged": name}


def discard_diverged(place: Mapping[str, str], token: Mapping[str, Any], guid: str) -> None:
    """See `LocalCopies.discard_diverged`."""
    at = Place(**place)
    with alone(at):
        seen = look(at)
        check_token(record(seen).token, Token(**token))
        for one in diverged(seen):
            if one.guid == guid:
                remove(at, one.path)


def discard(place: Mapping[str, str]) -> None:
    """See `LocalCopies.discard`."""
    at = Place(**place)
    with alone(at):
        _discard(at)


def _discard(at: Place) -> None:
    seen = look(at)
    if seen.data is not None and not seen.live and not seen.data.taken:
        remove(at, at.data)


def received(place: Mapping[str, str], token: Mapping[str, Any], guid: str, name: str) -> None:
    """See `LocalCopies.arrived`. Its end is a transaction of the pool: a snapshot that is there is whole and
    durable."""
    at, theirs = Place(**place), Token(**token)
    with alone(at):
        seen = look(at)
        found = record(seen)
        if found.token != theirs:
            raise Superseded(f"{at.dataset} here is of epoch {found.epoch} by now, not of {theirs.epoch}")
        newest = seen.newest
        if newest is not None and newest.guid != guid and newest.name == name:
            _take_back(seen)
        if newest != Snapshot(guid, name) or seen.live:
            _discard(at)
            raise Damaged(f"snapshot {name} of {at.dataset} did not arrive whole, and is not here")
        assert seen.data is not None
        if seen.data.local("canmount") != "noauto":
            at.zfs.set(at.data, "canmount", "noauto")
        _remove_old(seen)


def _take_back(seen: Seen) -> None:
    """The newest snapshot, which came and is not what was said. Nobody has written to it."""
    at, taken = seen.at, seen.data.taken if seen.data else []
    if len(taken) > 1:
        at.zfs.zfs("rollback", "-r", at.snapshot(taken[-2].name))
    else:
        remove(at, at.data)


def prune(place: Mapping[str, str], keep: Sequence[str]) -> None:
    """See `LocalCopies.prune`. What something set aside is made of stays with it."""
    at = Place(**place)
    with alone(at):
        for one in look(at).snapshots[:-1]:
            if one.guid in keep:
                continue
            try:
                at.zfs.zfs("destroy", at.snapshot(one.name))
            except Failed as error:
                if not (error.absent or error.busy or "clones" in error.said):
                    raise
