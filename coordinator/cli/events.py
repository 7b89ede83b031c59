"""`drover events`: what happened in the cluster, and what happens now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import typer

from drover.coordinator.cli import options, output
from drover.coordinator.cli.connection import connection, run
from drover.coordinator.cli.describe import now, the_dataset
from drover.coordinator.cli.errors import Interrupted
from drover.coordinator.cli.picture import take
from drover.coordinator.cli.shapes import EventJson
from drover.coordinator.keys import DEFAULT_PREFIX, Key, Keys, Kind, range_end
from drover.coordinator.record import InvalidRecord, R, timestamp
from drover.coordinator.records import Cordon, Fence, HistoryEntry, NodeRecord, Pause
from drover.coordinator.store import Change, Compacted, Store, Unavailable, WatchBroken
from drover.coordinator.txn import Entry

_AGAIN = 0.2
"""Seconds between two tries to watch, where etcd is away."""


@dataclass(frozen=True)
class Event:
    """at: by the clock of whoever wrote it, "" where it says none. dataset, node, epoch: what it is about, if any."""

    revision: int
    at: str
    kind: str
    what: str
    dataset: str = ""
    node: str = ""
    epoch: int = 0

    def as_json(self) -> EventJson:
        return EventJson(
            revision=self.revision,
            at=self.at,
            kind=self.kind,
            what=self.what,
            dataset=self.dataset or None,
            node=self.node or None,
            epoch=self.epoch or None,
        )

    def line(self) -> str:
        try:
            at = datetime.fromisoformat(self.at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        except ValueError:
            at = "-"
        return output.plain(f"{at:<19}  {self.dataset or self.node or '-':<12}  {self.kind:<8}  {self.what}".rstrip())


def event(change: Change, keys: Keys) -> Event | None:
    """What a change of a key tells; None: nothing that anybody has to know. Pure."""
    key = keys.parse(change.key)
    if key is None:
        return None
    if change.entry is None:
        return _gone(key, change.revision)
    value, revision = change.entry.value, change.entry.mod_revision
    match key.kind:
        case Kind.HISTORY if entry := _read(HistoryEntry, value):
            return _epoch(key.name.rpartition("/")[0], entry, revision)
        case Kind.FENCES if fence := _read(Fence, value):
            detail = f" ({fence.detail})" if fence.detail else ""
            replaced = change.entry.create_revision != revision
            verb = "its fence says more, by" if replaced else "fenced by"
            what = f"{verb} {fence.by}: {fence.evidence.value}{detail}, incarnation {key.name}"
            return Event(revision, fence.at, "fence", what, node=fence.node)
        case Kind.CORDONS if cordon := _read(Cordon, value):
            told = f"by {cordon.by}" if cordon.by else ""
            what = ": ".join(filter(None, (told, cordon.reason)))
            return Event(revision, cordon.at, "cordon", what, node=key.name)
        case Kind.PAUSE if pause := _read(Pause, value):
            return Event(revision, "", "pause", pause.words)
        case Kind.NODES if record := _read(NodeRecord, value):
            if change.entry.create_revision != revision:
                return None
            return Event(revision, "", "here", f"incarnation {record.incarnation}", node=key.name)
    return None


def _replaced(entry: Entry, keys: Keys) -> Event | None:
    """That a fence was there before the one that stands now: what followed from it comes after it. Of the earlier one
    etcd keeps the revision only, not the time."""
    key = keys.parse(entry.key)
    if key is None or key.kind is not Kind.FENCES or entry.create_revision == entry.mod_revision:
        return None
    if (fence := _read(Fence, entry.value)) is None:
        return None
    return Event(entry.create_revision, "", "fence", f"fenced, incarnation {key.name}", node=fence.node)


def _epoch(dataset: str, entry: HistoryEntry, revision: int) -> Event:
    way = f"{entry.before} → {entry.node}" if entry.before and entry.before != entry.node else entry.node
    told = [f"{way}, epoch {entry.epoch}: {entry.because}"]
    if entry.asked:
        told.append(f"asked by {entry.asked}")
    if entry.gap_ms is not None:
        told.append(f"gap {output.milliseconds(entry.gap_ms)}")
    kind = "active" if entry.gap_ms is not None else "epoch"
    return Event(revision, entry.at, kind, ", ".join(told), dataset, entry.node, entry.epoch)


def _which(it: Event) -> tuple[int, str, str, str]:
    return it.revision, it.kind, it.dataset, it.node


def _gone(key: Key, revision: int) -> Event | None:
    at = timestamp(now())
    match key.kind:
        case Kind.CORDONS:
            return Event(revision, at, "uncordon", "takes datasets again", node=key.name)
        case Kind.PAUSE:
            return Event(revision, at, "resume", "the cluster goes on")
        case Kind.NODES:
            return Event(revision, at, "away", "its session has ended", node=key.name)
    return None


def _read(record: type[R], value: bytes) -> R | None:
    try:
        return record.decode(value)
    except InvalidRecord:
        return None


def _ranges(keys: Keys, dataset: str) -> Iterator[tuple[str, str]]:
    """What is watched. None of these ranges has heartbeats in it."""
    if dataset:
        start = keys.of(Kind.HISTORY, f"{dataset}/")
        yield start, range_end(start)
        return
    yield keys.under(Kind.CORDONS), range_end(keys.under(Kind.CORDONS))
    yield keys.under(Kind.FENCES), range_end(keys.under(Kind.FENCES))
    yield keys.under(Kind.HISTORY), range_end(keys.under(Kind.HISTORY))
    yield keys.under(Kind.NODES), range_end(keys.under(Kind.NODES))
    yield keys.pause, keys.pause + "\0"


async def past(store: Store, keys: Keys, dataset: str = "") -> tuple[list[Event], int]:
    """What etcd still knows, oldest first, and as of which revision. Raises StoreError."""
    found: list[Event] = []
    revision = 0
    for start, end in _ranges(keys, dataset):
        listed = await store.range(start, end)
        # What is read first is the oldest picture: from there on nothing is missed, and what comes twice is told once.
        revision = revision or listed.revision
        changes = (Change(entry.key, entry, entry.mod_revision) for entry in listed.entries)
        found += [told for change in changes if (told := event(change, keys)) and told.kind != "here"]
        found += [told for entry in listed.entries if (told := _replaced(entry, keys))]
    return sorted(found, key=lambda it: it.revision), revision


async def follow(store: Store, keys: Keys, after: int, dataset: str, tell: Callable[[Event], None]) -> None:
    """Tells what happens after a revision, for ever; goes on when an etcd that was away is back. Raises Denied."""

    async def one(start: str, end: str) -> None:
        seen = after
        while True:
            try:
                async with aclosing(store.watch(start, end, seen + 1)) as batches:
                    async for batch in batches:
                        for change in batch.changes:
                            if told := event(change, keys):
                                tell(told)
                        seen = max(seen, batch.revision)
            except Compacted as compacted:
                seen = max(seen, compacted.revision - 1)
            except (WatchBroken, Unavailable):
                await asyncio.sleep(_AGAIN)

    async with asyncio.TaskGroup() as group:
        for start, end in _ranges(keys, dataset):
            group.create_task(one(start, end))


def events(
    name: Annotated[
        str, typer.Argument(metavar="[DATASET]", show_default=False, help="Only this one. Default: all, and the nodes.")
    ] = "",
    following: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens from now on.")] = False,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Tell what happened: changes of owner with who asked, fences, cordons, pauses; with -f what happens now.

    Oldest first. With --json one object a line.
    """

    def tell(it: Event) -> None:
        if as_json:
            output.say_json(it.as_json(), indent=None)
        else:
            output.say(it.line())

    async def work(store: Store, keys: Keys) -> None:
        if name:
            the_dataset(name, await take(store, keys))
        told, revision = await past(store, keys, name)
        for it in told:
            tell(it)
        if following:
            known = {_which(it) for it in told}  # one transaction can tell several things
            await follow(store, keys, revision, name, lambda it: None if _which(it) in known else tell(it))

    try:
        run(connection(endpoints, prefix), work)
    except KeyboardInterrupt:
        raise Interrupted("stopped watching", outcome="") from None
