"""`drover snapshot` and `drover snapshots ...`: snapshots of datasets for users."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated

import typer

from drover.coordinator.cli import options, output
from drover.coordinator.cli.connection import commit, connection, run
from drover.coordinator.cli.describe import now, the_dataset
from drover.coordinator.cli.errors import Failed, NotPossible, Usage
from drover.coordinator.cli.picture import take
from drover.coordinator.cli.shapes import SnapshotJson
from drover.coordinator.keys import DEFAULT_PREFIX, Keys, Kind, name_error, range_end
from drover.coordinator.record import InvalidRecord
from drover.coordinator.records import UserSnapshot
from drover.coordinator.sizes import format_size
from drover.coordinator.store import Compacted, Store, WatchBroken
from drover.coordinator.txn import Delete, Put, Txn, absent, unchanged

app = typer.Typer(
    name="snapshots",
    help="The snapshots of datasets: list them, remove one. To take one: drover snapshot.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=1, help="How long to wait for it.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Return when it is done, or as soon as it is asked for.")]


@dataclass(frozen=True)
class Found:
    dataset: str
    name: str
    record: UserSnapshot


async def _all(store: Store, keys: Keys, dataset: str) -> list[Found]:
    start = keys.under(Kind.SNAPSHOTS) + (f"{dataset}/" if dataset else "")
    found = []
    for entry in (await store.range(start, range_end(start))).entries:
        key = keys.parse(entry.key)
        if key is None or "/" not in key.name:
            continue
        of, _, name = key.name.partition("/")
        try:
            record = UserSnapshot.decode(entry.value)
        except InvalidRecord as error:
            record = UserSnapshot(trouble=f"the record cannot be read: {error}")
        found.append(Found(of, name, record))
    return sorted(found, key=lambda one: (one.dataset, one.record.taken or "~", one.name))


async def ask(store: Store, keys: Keys, dataset: str, name: str, wait: float | None) -> Found:
    """Raises CliError, StoreError."""
    tenure = the_dataset(dataset, await take(store, keys)).tenure
    key, wanted = keys.snapshot(dataset, name), UserSnapshot(uid=tenure.uid if tenure else "")
    if not (await store.txn(Txn((absent(key),), (Put(key, wanted.encode()),)))).succeeded:
        raise NotPossible(
            f"{dataset} has a snapshot {name} already, or one is being taken",
            f"Look: drover snapshots ls {dataset}. Another name: --name NAME",
        )
    if wait is None:
        return Found(dataset, name, wanted)
    record = await _until(store, key, wait, lambda it: it is None or bool(it.node or it.trouble))
    if record is None:
        raise Failed(f"snapshot {name} of {dataset} was removed while it was waited for", "Ask for it again.")
    if not record.node:
        raise Failed(
            f"snapshot {name} of {dataset} was not taken: {record.trouble}",
            f"It is tried again. To give it up: drover snapshots rm {dataset} {name}",
        )
    return Found(dataset, name, record)


async def _until(
    store: Store, key: str, seconds: float, done: Callable[[UserSnapshot | None], bool]
) -> UserSnapshot | None:
    """What the record says when it is so. Raises Failed."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                entry = await store.get(key)
                record = UserSnapshot.decode(entry.value) if entry else None
                since = entry.mod_revision + 1 if entry else 1
                if done(record):
                    return record
                try:
                    async with aclosing(store.watch(key, f"{key}\0", since)) as it:
                        async for changes in it:
                            if changes.changes:
                                break
                except (WatchBroken, Compacted):
                    await asyncio.sleep(0.2)
    except TimeoutError:
        raise Failed(
            f"not done within {output.seconds(seconds)}; it is still asked for",
            "Is the dataset active, and its node up? Look: drover ls, drover snapshots ls",
        ) from None


async def unwant(store: Store, keys: Keys, dataset: str, name: str, wait: float | None) -> None:
    """Raises CliError, StoreError."""
    key = keys.snapshot(dataset, name)
    if (entry := await store.get(key)) is None:
        raise NotPossible(f"{dataset} has no snapshot {name}", f"Look: drover snapshots ls {dataset}")
    record = UserSnapshot.decode(entry.value)
    marked = record.model_copy(update={"remove": True, "trouble": ""})
    change = Put(key, marked.encode()) if record.node else Delete(key)
    await commit(store, Txn((unchanged(key, entry),), (change,)), "the snapshot has changed meanwhile")
    if wait is not None and record.node:
        left = await _until(store, key, wait, lambda it: it is None or bool(it.trouble))
        if left is not None:
            raise Failed(f"snapshot {name} of {dataset} was not removed: {left.trouble}", "It is tried again.")


def _json(one: Found) -> SnapshotJson:
    it = one.record
    return SnapshotJson(
        dataset=one.dataset,
        name=one.name,
        node=it.node or None,
        taken=it.taken or None,
        size=it.size,
        removing=it.remove,
        trouble=it.trouble or None,
    )


def _table(found: Sequence[Found]) -> str:
    rows: list[tuple[str, ...]] = []
    for one in found:
        it = one.record
        state = "being removed" if it.remove else "" if it.node else "not taken yet"
        words = ": ".join(word for word in (state, it.trouble) if word)
        size = format_size(it.size) if it.size is not None else ""
        rows.append((one.dataset, one.name, it.node, it.taken, size, words))
    return output.table(["DATASET", "SNAPSHOT", "ON", "TAKEN", "SIZE", ""], rows)


def snapshot(
    dataset: options.DatasetName,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", show_default=False, help="Default: the time, as 20260102-030405.")
    ] = "",
    wait: Wait = True,
    timeout: Timeout = 60.0,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Take a snapshot of a dataset, while it is in use.

    It is of one moment: what a power cut would have left. It stays on the node that has taken it, also where the
    dataset moves on, until it is removed by `drover snapshots rm`, or the dataset is destroyed.

    The same with etcdctl: put PREFIX/snapshots/DATASET/NAME '{}'.
    """
    name = name or now().strftime("%Y%m%d-%H%M%S")
    if wrong := name_error(name):
        raise Usage(f"{output.plain(name)!r} cannot be a snapshot's name: {wrong}", "Another one: --name NAME", "")
    limit = timeout if wait else None
    done = run(connection(endpoints, prefix), lambda store, keys: ask(store, keys, dataset, name, limit))
    if as_json:
        output.say_json(_json(done))
    elif done.record.node:
        output.say(output.plain(f"{dataset}@{name} was taken on {done.record.node} at {done.record.taken}"))
    else:
        output.say(output.plain(f"{dataset}@{name} is asked for. Look: drover snapshots ls {dataset}"))


@app.command()
def ls(
    dataset: Annotated[str, typer.Argument(metavar="[DATASET]", show_default=False, help="Default: all.")] = "",
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """List snapshots, oldest first."""
    found = run(connection(endpoints, prefix), lambda store, keys: _all(store, keys, dataset))
    if as_json:
        output.say_json([_json(one) for one in found])
    else:
        output.say(_table(found) if found else "There are no snapshots. To take one: drover snapshot DATASET")


@app.command()
def rm(
    dataset: options.DatasetName,
    name: Annotated[str, typer.Argument(metavar="SNAPSHOT", show_default=False, help="Its name.")],
    wait: Wait = True,
    timeout: Timeout = 60.0,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Remove a snapshot. The dataset and its other snapshots stay as they are."""
    limit = timeout if wait else None
    run(connection(endpoints, prefix), lambda store, keys: unwant(store, keys, dataset, name, limit))
    if as_json:
        output.say_json({"dataset": dataset, "name": name})
    else:
        output.say(output.plain(f"{dataset}@{name} {'was removed' if wait else 'is being removed'}"))
