"""`drover create`: declare a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from drover.coordinator.cli import options, spec
from drover.coordinator.cli.change import Change, tell
from drover.coordinator.cli.connection import commit, connection, run
from drover.coordinator.cli.describe import check_target, now
from drover.coordinator.cli.errors import NotPossible
from drover.coordinator.cli.output import listing
from drover.coordinator.cli.picture import Dataset, Picture, Undeclared, take
from drover.coordinator.cli.situation import failover_words, situation
from drover.coordinator.cli.wish import wish
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.records import State
from drover.coordinator.sizes import format_size
from drover.coordinator.store import Store
from drover.coordinator.txn import Put, Txn, absent


@dataclass(frozen=True)
class Request:
    """raw: the fields of the spec, as typed. on: the node that should have it, "" for none yet."""

    name: str
    raw: dict[str, Any]
    on: str = ""
    force: bool = False


async def declare(store: Store, keys: Keys, request: Request) -> Change:
    """if datasets/<d> is absent, put it, and desired/<d> with it. Raises CliError, StoreError."""
    name = request.name
    wanted = spec.check(request.raw)
    before = await take(store, keys)
    earlier = before.datasets.get(name)
    if earlier and not isinstance(earlier.declaration, Undeclared):
        raise _exists(earlier, before)
    if any(
        it.dataset == name and earlier and earlier.tenure and earlier.tenure.uid == it.uid and not earlier.tenure.trash
        for it in before.trash.values()
    ):
        raise NotPossible(
            f"the last {name} is on its way into the trash", f"Try again in a moment. Look: drover show {name}"
        )
    warnings = [
        *spec.check_backend(wanted.backend, before),
        *spec.failover_warnings(wanted, before),
        *spec.replicas_warnings(wanted, before),
        *_left_over(earlier),
    ]
    puts = [Put(keys.dataset(name), spec.encode(request.raw))]
    spec.check_size(wanted, before)
    if request.on:
        warnings += check_target(request.on, wanted.backend, before, request.force)
        puts += wish(keys, name, request.on, "create")
    txn = Txn(compare=(absent(keys.dataset(name)),), then=tuple(puts))
    await commit(store, txn, f"{name} was created by somebody else just now")
    after = await take(store, keys)
    headline = f"created {name}: {format_size(wanted.size)}, back end {wanted.backend}"
    together = after.together(name)
    facts = [("failover", failover_words(name, wanted)), ("moves with", listing(together) if together else "")]
    return Change(name, after, headline, facts, warnings=warnings)


def _exists(there: Dataset, picture: Picture) -> NotPossible:
    name, seen = there.name, situation(there, picture, now())
    size = f"{format_size(there.spec.size)}, " if there.spec else ""
    where = f" on {seen.node}" if seen.node else ""
    return NotPossible(
        f"{name} exists already ({size}{seen.phase}{where})",
        f"Look at it: drover show {name}. Change it: drover set {name}.",
    )


def _left_over(earlier: Dataset | None) -> list[str]:
    tenure = earlier.tenure if earlier else None
    if tenure is None or tenure.state is State.DESTROYED:
        return []
    if tenure.held:
        return [f"an earlier dataset of this name is still on {tenure.node} and is given up first (uid {tenure.uid})"]
    return [f"an earlier dataset of this name left its data behind (uid {tenure.uid}); this one starts empty"]


def create(
    name: options.DatasetName,
    size: Annotated[str, typer.Option(metavar="SIZE", show_default=False, help="10GiB, 500MB, or a number of bytes.")],
    backend: Annotated[str, typer.Option(metavar="NAME", help="The back end that keeps the data.")] = "loopback",
    fs: Annotated[
        str | None,
        typer.Option(metavar="xfs|ext4", show_default=False, help="File system; default: the back end's choice."),
    ] = None,
    failover: options.Failover = None,
    fencing: options.Fencing = None,
    group: options.Group = None,
    label: options.Label = None,
    reclaim: options.Reclaim = None,
    replicas: options.Replicas = None,
    replicate_every: options.ReplicateEvery = None,
    replicate_after: options.ReplicateAfter = None,
    max_data_loss: options.MaxDataLoss = None,
    on: Annotated[
        str,
        typer.Option(
            "--on", metavar="NODE", show_default=False, help="The node that should have it; else nobody does yet."
        ),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Write down --on also where that node is not here.")] = False,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Declare a dataset.

    The same with etcdctl: put PREFIX/datasets/NAME '{"backend": "loopback", "size": "10GiB"}', and
    PREFIX/desired/NAME for --on.
    """
    where = connection(endpoints, prefix)
    spec.check_name(name, "dataset")
    kept = (replicas, replicate_every, max_data_loss, replicate_after)
    raw = spec.typed(size, backend, fs, failover, fencing, group, label or (), reclaim, *kept)
    spec.check(raw)
    tell(run(where, lambda store, keys: declare(store, keys, Request(name, raw, on, force))), as_json)
