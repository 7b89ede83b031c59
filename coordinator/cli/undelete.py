"""`drover undelete`: a dataset comes out of the trash."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer

from drover.coordinator.cli import options, output
from drover.coordinator.cli.change import Change, tell
from drover.coordinator.cli.connection import commit, connection, run
from drover.coordinator.cli.describe import check_target
from drover.coordinator.cli.errors import NotPossible, StillGoing
from drover.coordinator.cli.output import listing, near
from drover.coordinator.cli.picture import Picture, Undeclared, take
from drover.coordinator.cli.spec import check_name
from drover.coordinator.cli.wish import wish
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.records import State, Trashed
from drover.coordinator.store import Store
from drover.coordinator.trash import take_back


@dataclass(frozen=True)
class Request:
    """which: the name that it had, or has in the trash. name: the one it shall have, "" for its old one. on: a node."""

    which: str
    name: str = ""
    on: str = ""


def find(which: str, picture: Picture) -> tuple[str, Trashed]:
    """Its name in the trash. Raises NotPossible where there is none, or are several."""
    if which in picture.trash:
        return which, picture.trash[which]
    found = [aside for aside, it in picture.trash.items() if it.dataset == which]
    if len(found) == 1:
        return found[0], picture.trash[found[0]]
    if found:
        raise NotPossible(
            f"there are several {which} in the trash", f"Say which: {listing(found)}. Look: drover ls --all"
        )
    there = sorted({it.dataset for it in picture.trash.values()})
    raise NotPossible(
        f"there is no {output.plain(which)!r} in the trash", near(which, there, f"There are: {listing(there)}")
    )


async def undelete_it(store: Store, keys: Keys, request: Request) -> Change:
    """Raises CliError, StoreError."""
    picture = await take(store, keys)
    aside, trashed = find(request.which, picture)
    name = request.name or trashed.dataset
    check_name(name, "dataset")
    there = picture.datasets.get(name)
    before = there.tenure if there else None
    if (there and not isinstance(there.declaration, Undeclared)) or (before and before.state is not State.DESTROYED):
        raise NotPossible(
            f"there is another {name}", f"Take it back under another name: drover undelete {aside} --as NAME"
        )
    warnings = check_target(request.on, trashed.spec.backend, picture) if request.on else []
    tenure = picture.datasets[aside].tenure if aside in picture.datasets else None
    entries = [await store.get(key) for key in (keys.trash(aside), keys.owner(aside), keys.owner(name))]
    trash, owner, other = entries
    if trash is None or owner is None or tenure is None:
        raise StillGoing(
            f"{trashed.dataset} is not quite in the trash yet: its node has not given it up",
            f"Look: drover show {trashed.dataset}. Then give the command again.",
        )
    puts = wish(keys, name, request.on, "undelete") if request.on else ()
    txn = take_back(keys, trash, trashed, owner, tenure, name, other, before, puts, secrets.token_hex(8))
    await commit(store, txn, f"somebody else changed {name} or the trash just now")
    after = await take(store, keys)
    return Change(
        name, after, f"{name} is there again, with the data of {trashed.dataset} (uid {trashed.uid})", warnings=warnings
    )


def undelete(
    which: Annotated[
        str, typer.Argument(metavar="DATASET", show_default=False, help="The name it had, or has in the trash.")
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", show_default=False, help="Another name for it.")] = "",
    on: Annotated[str, typer.Option("--on", metavar="NODE", show_default=False, help="Where it should be.")] = "",
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Take a dataset out of the trash, under its old name or another one."""
    where = connection(endpoints, prefix)
    tell(run(where, partial(undelete_it, request=Request(which, name, on))), as_json)
