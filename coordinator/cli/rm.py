"""`drover rm`: a dataset is not wanted any more."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

import typer

from drover.coordinator.cli import options, output
from drover.coordinator.cli.connection import commit, connection, run
from drover.coordinator.cli.describe import now, the_dataset
from drover.coordinator.cli.errors import InUse, NotPossible, Usage
from drover.coordinator.cli.picture import Dataset, Misdeclared, Picture, Undeclared, take
from drover.coordinator.cli.shapes import RemovedJson
from drover.coordinator.cli.wish import unwish, user
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.record import timestamp
from drover.coordinator.records import State, Tenure, Trashed
from drover.coordinator.sizes import format_size
from drover.coordinator.store import Store
from drover.coordinator.trash import lay_aside, name_in_trash
from drover.coordinator.txn import Delete, Put, Txn, unchanged

DAYS = 7.0
"""That a dataset stays in the trash."""
PATIENCE = 15.0
"""Seconds to wait for its node to give it up."""


@dataclass(frozen=True)
class Kept:
    """Removing the spec leaves the data where it is."""


@dataclass(frozen=True)
class Destroyed:
    """Removing the spec makes the dataset's node destroy the data."""


@dataclass(frozen=True)
class InTrash:
    """It can be had again until then. trashed: the record, put with the removal."""

    trashed: Trashed


@dataclass(frozen=True)
class NeverWas:
    """No node ever had it."""


Fate = Kept | InTrash | Destroyed | NeverWas


@dataclass(frozen=True)
class Removal:
    """What `rm` would do, as of one look at etcd."""

    dataset: Dataset
    fate: Fate
    txn: Txn


async def plan(store: Store, keys: Keys, name: str, days: float | None = None) -> Removal:
    """Looks, and changes nothing. days: that it stays in the trash, whatever its spec says. Raises InUse,
    NotPossible, StoreError."""
    picture = await take(store, keys)
    dataset = the_dataset(name, picture)
    if isinstance(dataset.declaration, Undeclared) and dataset.desired is None:
        told = {State.DESTROYED: "destroyed", State.RELEASED: "kept"}
        what = told.get(dataset.tenure.state, "being given up by its node") if dataset.tenure else "none"
        raise NotPossible(f"{name} is removed already; its data: {what}")
    if users := picture.users_of(name):
        raise _in_use(name, users, picture, keys)
    spec_entry = None if isinstance(dataset.declaration, Undeclared) else dataset.declaration.entry
    fate = _fate(dataset)
    if days and isinstance(fate, Destroyed):
        raise NotPossible(
            f"{name} says reclaim: delete, so its node would destroy the data at once",
            f"Say otherwise first: drover set {name} --reclaim trash",
        )
    trash: tuple[Put, ...] = ()
    if isinstance(fate, Kept) and dataset.spec and dataset.tenure and (days or dataset.spec.reclaim == "trash"):
        until = now().replace(microsecond=0) + timedelta(days=days or DAYS)
        trashed = Trashed(
            dataset=name, uid=dataset.tenure.uid, spec=dataset.spec, until=until, by=user(), at=timestamp(now())
        )
        fate, trash = InTrash(trashed), (Put(keys.trash(name_in_trash(trashed.uid)), trashed.encode()),)
    txn = Txn(
        compare=(
            unchanged(keys.dataset(name), spec_entry),
            unchanged(keys.desired(name), dataset.desired.entry if dataset.desired else None),
        ),
        then=(Delete(keys.dataset(name)), *unwish(keys, name), *trash),
    )
    return Removal(dataset, fate, txn)


def _in_use(name: str, users: list[str], picture: Picture, keys: Keys) -> InUse:
    invalid = [
        f"workload {user} cannot be read ({picture.workloads[user].invalid})"
        for user in users
        if picture.workloads[user].invalid
    ]
    return InUse(
        f"{name} is in use by workload {output.listing(users)}" + "".join(f"; {text}" for text in invalid),
        "Remove it first: " + ", ".join(f"etcdctl del {keys.workload(user)}" for user in users),
    )


def _fate(dataset: Dataset) -> Fate:
    """The tenure's copy of `reclaim` is what the node acts on. Raises NotPossible where it is older than the spec and
    would destroy what the spec says to keep."""
    tenure, spec = dataset.tenure, dataset.spec
    if tenure is None or tenure.state is State.DESTROYED:
        return NeverWas()
    if tenure.reclaim != "delete":
        return Kept()
    if spec is not None and spec.reclaim == "retain":
        raise NotPossible(
            f"{dataset.name} says reclaim: retain, but {tenure.node} has not taken that up and would destroy the data",
            f"Try again when {tenure.node} is here.",
        )
    return Destroyed()


async def remove(store: Store, removal: Removal) -> None:
    """if spec and desired are as read, delete both. Raises NotPossible, StoreError."""
    await commit(store, removal.txn, f"{removal.dataset.name} was changed by somebody else just now")


async def laid_aside(store: Store, keys: Keys, trashed: Trashed) -> bool:
    """Until its node has given it up and the name is free, but not for long: an agent does it otherwise, within a
    minute."""
    owner, trash = keys.owner(trashed.dataset), keys.trash(name_in_trash(trashed.uid))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while (entry := await store.get(owner)) is not None and (there := await store.get(trash)) is not None:
                tenure = Tenure.decode(entry.value)
                if tenure.trash:
                    return True
                if tenure.state is State.RELEASED:
                    await store.txn(lay_aside(keys, there, trashed, entry, tenure, secrets.token_hex(8)))
                    continue
                await asyncio.sleep(0.1)
    return False


def rm(
    name: options.DatasetName,
    trash: Annotated[
        float | None,
        typer.Option(
            "--trash", metavar="DAYS", min=0.01, show_default=False, help="Keep the data for so long, then destroy it."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before data is destroyed.")] = False,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Remove a dataset: its data is kept, put in the trash or destroyed, as its reclaim says.

    In the trash it stays for 7 days: drover undelete. With etcdctl: del PREFIX/datasets/DATASET and
    PREFIX/desired/DATASET, which keeps the data unless the spec says delete.
    """
    where = connection(endpoints, prefix)
    removal = run(where, lambda store, keys: plan(store, keys, name, trash))
    if isinstance(removal.fate, Destroyed) and not yes:
        _confirm(removal.dataset)
    run(where, lambda store, _: remove(store, removal))
    if isinstance(fate := removal.fate, InTrash):
        run(where, lambda store, keys: laid_aside(store, keys, fate.trashed))
    if as_json:
        output.say_json(_json(removal))
        return
    output.say(output.plain(f"removed {name}. {_words(removal)}"))


def _confirm(dataset: Dataset) -> None:
    uid = dataset.tenure.uid if dataset.tenure else ""
    if not sys.stdin.isatty():
        raise Usage(
            f"this destroys the data of {dataset.name} (reclaim: delete, uid {uid})",
            f"Say that it is meant: drover rm {dataset.name} --yes\n"
            f"To keep the data: drover set {dataset.name} --reclaim retain",
        )
    if not typer.confirm(f"Destroy the data of {dataset.name} (uid {uid}) for good?"):
        raise Usage("not confirmed")


def _words(removal: Removal) -> str:
    tenure = removal.dataset.tenure
    match removal.fate:
        case Destroyed() if tenure:
            return f"Its data (uid {tenure.uid}) is destroyed by {tenure.node} (reclaim: delete)."
        case InTrash(trashed):
            left = f"until {trashed.until.isoformat()}: drover undelete {trashed.dataset}"
            return f"Its data ({format_size(trashed.spec.size)}, uid {trashed.uid}) is in the trash {left}."
        case Kept() if tenure:
            where = f"back end {tenure.backend}" + (f", object {tenure.object}" if tenure.object else "")
            held = f" {tenure.node} gives it up now;" if tenure.held else ""
            return f"Its data is kept (reclaim: retain):{held} uid {tenure.uid}, {where}."
        case _ if isinstance(removal.dataset.declaration, Undeclared):
            return "There was only a desired node."
        case _ if isinstance(removal.dataset.declaration, Misdeclared):
            return "Its spec was never usable; there is no data."
        case _:
            return "No node ever had it; there is no data."


def _json(removal: Removal) -> RemovedJson:
    tenure = removal.dataset.tenure
    words = {Kept: "kept", InTrash: "trash", Destroyed: "destroyed", NeverWas: "none"}
    return RemovedJson(
        removed=removal.dataset.name,
        data=words[type(removal.fate)],
        uid=tenure.uid if tenure and not isinstance(removal.fate, NeverWas) else None,
        node=tenure.node if tenure and tenure.held else None,
    )
