"""`drover resolve`: a person decides which copy of a dataset counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer

from drover.coordinator.cli import options, output
from drover.coordinator.cli.completion import nodes
from drover.coordinator.cli.connection import commit, connection, run
from drover.coordinator.cli.describe import check_target, diverged_json, the_dataset
from drover.coordinator.cli.errors import NotPossible, Usage
from drover.coordinator.cli.output import listing
from drover.coordinator.cli.picture import Dataset, Picture, take
from drover.coordinator.cli.shapes import ResolvedJson
from drover.coordinator.cli.wish import wish
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.protocol import promotion
from drover.coordinator.records import Accepted, Copies, Copy, Diverged, Tenure
from drover.coordinator.sizes import format_size
from drover.coordinator.store import Store
from drover.coordinator.txn import Compare, Delete, Put, Txn, absent, unchanged


@dataclass(frozen=True)
class Request:
    """keep: the node whose copy counts; "": the dataset stays where it is. discard: nodes whose diverged copies go."""

    name: str
    keep: str = ""
    discard: tuple[str, ...] = ()
    dry_run: bool = False


@dataclass(frozen=True)
class Resolved:
    """lost: by dataset that goes on from an older copy: that copy, and the seconds that may be missing; None: not
    known. discarded: by node."""

    request: Request
    changed: bool
    lost: dict[str, tuple[Copy, float | None]]
    discarded: dict[str, Diverged]


async def resolve_it(store: Store, keys: Keys, request: Request) -> Resolved:
    """Raises CliError, StoreError."""
    picture = await take(store, keys)
    dataset = the_dataset(request.name, picture)
    if not request.keep:
        return await _discard(store, keys, request, dataset, request.discard)
    tenure = dataset.tenure
    if tenure is not None and tenure.held and tenure.incarnation not in picture.fences:
        if tenure.node != request.keep:
            raise _goes_on(dataset, tenure, request.keep)
        return await _discard(store, keys, request, dataset, tuple(sorted(dataset.diverged)))
    return await _promote(store, keys, request, picture)


def _goes_on(dataset: Dataset, tenure: Tenure, keep: str) -> NotPossible:
    name = dataset.name
    if (apart := dataset.diverged.get(keep)) is None:
        return NotPossible(
            f"{tenure.node} has {name} and goes on with it; nothing diverged on {keep}",
            f"To move it: drover move {name} {keep}",
        )
    where = listing([one.path for one in apart.copies])
    return NotPossible(
        f"{tenure.node} has {name} and goes on with it in epoch {tenure.epoch}; what {keep} had besides is in {where}",
        f"Copy from there what is needed, then: drover resolve {name} --discard {keep}",
    )


async def _discard(store: Store, keys: Keys, request: Request, dataset: Dataset, where: Sequence[str]) -> Resolved:
    """Marks what diverged on these nodes, compared: each of them removes what it has told of, and nothing else."""
    if missing := [node for node in where if node not in dataset.diverged]:
        there = listing(list(dataset.diverged)) if dataset.diverged else ""
        raise NotPossible(
            f"nothing of {dataset.name} diverged on {listing(missing)}",
            f"It did on {there}." if there else f"Look: drover show {dataset.name}",
        )
    found: dict[str, Diverged] = {}
    compare: list[Compare] = []
    puts: list[Put] = []
    for node in where:
        key = keys.diverged(dataset.name, node)
        entry = await store.get(key)
        told = found[node] = dataset.diverged[node]
        if entry is None or Diverged.decode(entry.value) != told:
            raise NotPossible(f"{node} tells something else by now", f"Look again: drover show {dataset.name}")
        marked = [one.model_copy(update={"discard": True}) for one in told.copies]
        compare.append(unchanged(key, entry))
        puts.append(Put(key, told.model_copy(update={"copies": tuple(marked)}).encode()))
    if puts and not request.dry_run:
        await commit(store, Txn(tuple(compare), tuple(puts)), "a node tells something else by now")
    return Resolved(request, bool(puts) and not request.dry_run, {}, found)


async def _promote(store: Store, keys: Keys, request: Request, picture: Picture) -> Resolved:
    """All of the unit that nobody has goes on from that node's copies, in one transaction."""
    name, node = request.name, request.keep
    unit = [picture.datasets[one] for one in (name, *picture.together(name)) if one in picture.datasets]
    orphans = [
        (it, it.tenure) for it in unit if it.tenure and (not it.tenure.held or it.tenure.incarnation in picture.fences)
    ]
    lost: dict[str, tuple[Copy, float | None]] = {}
    for dataset, tenure in orphans:
        check_target(node, tenure.backend, picture)
        lost[dataset.name] = _copy(dataset, tenure, node, picture)
    if not request.dry_run:
        await _accept(store, keys, node, [it for it, _ in orphans], lost)
    return Resolved(request, not request.dry_run, lost, {})


def _copy(dataset: Dataset, tenure: Tenure, node: str, picture: Picture) -> tuple[Copy, float | None]:
    """What it would go on from, and how much is lost by it. Raises NotPossible."""
    name = dataset.name
    if here := [one for one in tenure.copies if one in picture.live]:
        raise NotPossible(
            f"{listing(here)} has all of {name} and is here: nothing has to be lost",
            f"It takes it by itself. Look: drover show {name}",
        )
    holders = [*tenure.unfenced, *([tenure.holder] if tenure.held else [])]
    for holder in holders:
        if not promotion.proven(picture.fences.get(holder.incarnation), dataset.spec):
            raise NotPossible(
                f"{holder.node} may still be writing {name}: it fell silent, and nothing proves that it has stopped",
                f"Make sure that it is off, then: drover fence {holder.incarnation} --confirm",
            )
    copies = dataset.copies if dataset.copies and dataset.copies.uid == tenure.uid else None
    if copies is None or (copy := copies.nodes.get(node)) is None:
        there = listing(list(copies.nodes)) if copies and copies.nodes else ""
        raise NotPossible(
            f"{node} has no copy of {name} that anybody knows of",
            f"Copies are on {there}." if there else f"Bring {listing(list(tenure.copies))} back.",
        )
    known = copies.epoch == tenure.epoch
    return copy, promotion.loss(copy, picture.fences.get(tenure.incarnation)) if known else None


async def _accept(
    store: Store, keys: Keys, node: str, orphans: Sequence[Dataset], lost: dict[str, tuple[Copy, float | None]]
) -> None:
    """A wish that was answered is made anew, as only a newer one counts."""
    conflict = "something has changed meanwhile"
    wishes = {it.name: it.desired for it in orphans if it.desired is not None}
    old = [(keys.desired(name), it.entry) for name, it in wishes.items()]
    if old:
        await commit(store, Txn(tuple(unchanged(*one) for one in old), tuple(Delete(key) for key, _ in old)), conflict)
    compare: list[Compare] = [absent(keys.desired(it.name)) for it in orphans]
    puts: list[Put] = []
    for dataset in orphans:
        owner = await store.get(keys.owner(dataset.name))
        copies = await store.get(keys.copies(dataset.name))
        tenure, copy = dataset.tenure, lost[dataset.name][0]
        if owner is None or Tenure.decode(owner.value) != tenure or copies is None:
            raise NotPossible(conflict, f"Look: drover show {dataset.name}")
        if Copies.decode(copies.value) != dataset.copies:
            raise NotPossible(conflict, f"Look: drover show {dataset.name}")
        compare += [unchanged(owner.key, owner), unchanged(copies.key, copies)]
        puts += wish(keys, dataset.name, node, "resolve", accepts=Accepted(epoch=tenure.epoch, guid=copy.guid))
    await commit(store, Txn(tuple(compare), tuple(puts)), conflict)


def _lines(done: Resolved) -> Iterator[str]:
    would = "would go" if done.request.dry_run else "goes"
    for name, (copy, seconds) in done.lost.items():
        much = "; what was written after it is lost"
        if seconds is not None:
            much = f"; what was written in the last {output.seconds(seconds)} at most is lost"
        yield f"{name} {would} on from the copy of {copy.at or copy.name} on {done.request.keep}{much}"
    for node, told in done.discarded.items():
        for one in told.copies:
            size = f", {format_size(one.size)}" if one.size is not None else ""
            yield f"{node}: what diverged in epoch {one.epoch} {would} ({one.path}{size})"
    if not done.lost and not done.discarded:
        yield f"{done.request.name} is on {done.request.keep}, and nothing diverged"
    if done.request.dry_run:
        yield "Nothing was changed."


def tell(done: Resolved, as_json: bool) -> None:
    if not as_json:
        for line in _lines(done):
            output.say(output.plain(line))
        return
    copy, seconds = done.lost.get(done.request.name, (None, None))
    output.say_json(
        ResolvedJson(
            dataset=done.request.name,
            changed=done.changed,
            keep=done.request.keep or None,
            copy=copy.at if copy else None,
            lost_seconds=seconds,
            discarded=diverged_json(done.discarded),
        )
    )


def resolve(
    name: options.DatasetName,
    keep: Annotated[
        str,
        typer.Option(
            metavar="NODE",
            show_default=False,
            help="Its copy counts: the dataset goes on from it where nobody has it; else what diverged elsewhere goes.",
            autocompletion=nodes,
        ),
    ] = "",
    discard: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NODE",
            show_default=False,
            help="What diverged there is destroyed; may be given several times.",
            autocompletion=nodes,
        ),
    ] = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Only say what would be lost.")] = False,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Decide which copy of a dataset counts, where copies have diverged or only an older one is left.

    When the node that had a dataset with local copies has died, --keep NODE lets NODE go on from its copy, and what was
    written after that is lost, unless the dead node comes back: then it is kept there as diverged, until --discard.
    """
    if bool(keep) is bool(discard):
        raise Usage("say either --keep NODE or --discard NODE", "Help: drover resolve --help. Look: drover show", "")
    request = Request(name, keep, tuple(discard or ()), dry)
    tell(run(connection(endpoints, prefix), partial(resolve_it, request=request)), as_json)
