"""`drover move`: say where a dataset should be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import typer

from drover.coordinator.cli import options, output
from drover.coordinator.cli.change import Change, tell
from drover.coordinator.cli.connection import commit, connection, run
from drover.coordinator.cli.describe import check_target, the_declared
from drover.coordinator.cli.errors import Interrupted, NotPossible
from drover.coordinator.cli.follow import Arrived, follow
from drover.coordinator.cli.picture import Dataset, Misdeclared, Picture, take
from drover.coordinator.cli.wish import wish
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.records import State, Status
from drover.coordinator.store import Store
from drover.coordinator.txn import Delete, Txn, absent, unchanged


@dataclass(frozen=True)
class Request:
    """force: also where the node is not here."""

    name: str
    node: str
    force: bool = False


@dataclass(frozen=True)
class Asked:
    """revision: etcd's, once the wish stood in etcd; 0 where the dataset is there already and nothing was written."""

    change: Change
    revision: int = 0


async def ask(store: Store, keys: Keys, request: Request) -> Asked:
    """Put desired/<d>. Raises CliError, StoreError."""
    name, node = request.name, request.node
    before = await take(store, keys)
    dataset = the_declared(name, before)
    warnings = check_target(node, _backend(dataset), before, request.force)
    wanted = dataset.desired.node if dataset.desired else ""
    if _is_there(dataset, node, before) and wanted == node:
        return Asked(Change(name, before, f"{name} is on {node} already", changed=False, warnings=warnings))
    revision = await _put(store, keys, dataset, node)
    after = await take(store, keys)
    together = after.together(name)
    facts = [("moves with it", output.listing(together) if together else "")]
    return Asked(Change(name, after, _headline(dataset, node, before), facts, warnings=warnings), revision)


def _backend(dataset: Dataset) -> str:
    """Raises NotPossible where nobody can know it."""
    if dataset.tenure is not None and dataset.tenure.state is not State.DESTROYED:
        return dataset.tenure.backend
    if isinstance(dataset.declaration, Misdeclared):
        raise NotPossible(
            f"the spec of {dataset.name} cannot be used: {dataset.declaration.reason}", "Put a good one first."
        )
    return dataset.spec.backend if dataset.spec else ""


def _is_there(dataset: Dataset, node: str, picture: Picture) -> bool:
    tenure = dataset.tenure
    if tenure is None or tenure.node != node or tenure.state is not State.ACTIVE:
        return False
    return tenure.incarnation not in picture.fences


def _headline(dataset: Dataset, node: str, picture: Picture) -> str:
    tenure = dataset.tenure
    if _is_there(dataset, node, picture):
        return f"{dataset.name} is on {node} already, and is meant to stay there"
    if tenure is not None and tenure.held and tenure.node != node:
        return f"{dataset.name}: {tenure.node} → {node}"
    return f"{dataset.name} → {node}"


async def _put(store: Store, keys: Keys, dataset: Dataset, node: str) -> int:
    """Returns the revision. The same wish put again is no new one to the nodes (they compare the value and the create
    revision), so where it was answered already, before a fail-over for example, the key is made anew."""
    key, before = keys.desired(dataset.name), dataset.desired
    conflict = f"somebody else said just now where {dataset.name} should be"
    if before is not None and before.node == node and dataset.answered:
        await commit(store, Txn((unchanged(key, before.entry),), (Delete(key),)), conflict)
        return (await commit(store, Txn((absent(key),), wish(keys, dataset.name, node, "move")), conflict)).revision
    put = Txn((unchanged(key, before.entry if before else None),), wish(keys, dataset.name, node, "move"))
    return (await commit(store, put, conflict)).revision


def move(
    name: options.DatasetName,
    node: options.NodeName,
    wait: Annotated[
        bool, typer.Option("--wait", help="Watch until it is there. Ctrl-C stops watching, not the move.")
    ] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How long --wait watches.")] = 600.0,
    force: Annotated[bool, typer.Option("--force", help="Write it down also where the node is not here.")] = False,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Move a dataset to a node, with all that uses it.

    The same with etcdctl: put PREFIX/desired/DATASET NODE.
    """
    where = connection(endpoints, prefix)
    asked = run(where, partial(ask, request=Request(name, node, force)))
    if not wait or not asked.revision:
        tell(asked.change, as_json)
        return
    try:
        if not as_json:
            for warning in asked.change.warnings:
                output.warn(warning)
            output.say(output.plain(asked.change.headline))
        arrived = run(
            where,
            lambda store, keys: follow(
                store, keys, name, node, asked.revision, timeout, progress=None if as_json else _progress
            ),
        )
        after = run(where, take) if as_json else asked.change.picture
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped watching", f"Look: drover show {name}", outcome=f"The move of {name} to {node} goes on."
        ) from None
    if as_json:
        tell(replace(asked.change, picture=after), as_json)
    else:
        output.say(f"  {arrival(arrived)}")


def _progress(status: Status) -> None:
    where = f"{status.node:<12}  " if status.node else ""
    output.say(output.plain(f"  {status.phase.value:<8}  {where}{status.warning or status.reason}".rstrip()))


def arrival(arrived: Arrived) -> str:
    """`active on node-b, epoch 4, cut-over 58 ms`"""
    cutover = f", cut-over {arrived.cutover_ms} ms" if arrived.cutover_ms is not None else ""
    return output.plain(f"active on {arrived.node}, epoch {arrived.epoch}{cutover}")
