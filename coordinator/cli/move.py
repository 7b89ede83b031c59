"""`drover move`: say where a dataset should be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated

import typer

from drover.coordinator import trace
from drover.coordinator.cli import options, output
from drover.coordinator.cli.change import Change, change_json, tell
from drover.coordinator.cli.completion import nodes
from drover.coordinator.cli.connection import Access, Connection, commit, connection, from_environment, run
from drover.coordinator.cli.describe import check_target, the_declared
from drover.coordinator.cli.errors import CliError, Interrupted, NotPossible, Usage
from drover.coordinator.cli.fits import fits
from drover.coordinator.cli.follow import Arrived, follow
from drover.coordinator.cli.foresee import Foreseen, foresee
from drover.coordinator.cli.picture import Dataset, Misdeclared, Picture, take
from drover.coordinator.cli.shapes import MoveJson
from drover.coordinator.cli.watching import Board, watch
from drover.coordinator.cli.wish import wish
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.records import State, Status
from drover.coordinator.store import Store, StoreError
from drover.coordinator.txn import Delete, Txn, absent, unchanged


@dataclass(frozen=True)
class Request:
    """force: also where the node is not here."""

    name: str
    node: str
    force: bool = False


@dataclass(frozen=True)
class Asked:
    """revision: etcd's, once the wish stood in etcd; 0 where the dataset is there already and nothing was written.
    trace: the id of the move's trace."""

    change: Change
    revision: int = 0
    trace: str = ""


async def ask(store: Store, keys: Keys, request: Request, access: Access) -> Asked:
    """Put desired/<d>. Raises CliError, StoreError."""
    name, node = request.name, request.node
    before = await take(store, keys)
    dataset = the_declared(name, before)
    warnings = check_target(node, _backend(dataset), before, request.force)
    wanted = dataset.desired.node if dataset.desired else ""
    if _is_there(dataset, node, before) and wanted == node:
        return Asked(Change(name, before, f"{name} is on {node} already", changed=False, warnings=warnings))
    if dataset.tenure is not None and dataset.tenure.copies and not request.force:
        await fits(dataset, _backend(dataset), node, before, access)
    parent = trace.new()
    revision = await _put(store, keys, dataset, node, parent)
    after = await take(store, keys)
    together = after.together(name)
    facts = [("moves with it", output.listing(together) if together else "")]
    return Asked(
        Change(name, after, _headline(dataset, node, before), facts, warnings=warnings),
        revision,
        trace.trace_id(parent),
    )


async def _first_of(store: Store, keys: Keys, workload: str) -> str:
    """The dataset that the others of a workload follow: they live together. Raises NotPossible, StoreError."""
    picture = await take(store, keys)
    found = picture.workloads.get(workload)
    if found is None:
        known = output.listing(sorted(picture.workloads))
        raise NotPossible(
            f"there is no workload {output.plain(workload)!r}",
            output.near(workload, picture.workloads, f"There are: {known}."),
        )
    if found.spec is None:
        raise NotPossible(f"the workload {workload} cannot be used: {found.invalid}", "Put a good one first.")
    return found.spec.datasets[0]


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


async def dry_run(store: Store, keys: Keys, request: Request, access: Access) -> tuple[Foreseen, list[str]]:
    """What `ask` would lead to, and warnings; changes nothing. Raises CliError, StoreError."""
    picture = await take(store, keys)
    dataset = the_declared(request.name, picture)
    warnings = check_target(request.node, _backend(dataset), picture, request.force)
    record = picture.nodes[request.node].record if request.node in picture.live else None
    new = dataset.spec if dataset.tenure is None else None
    limits = record.limits.get(new.backend) if new and record else None
    if new and limits and (wrong := limits.refuse(new.size, new.fs)):
        raise NotPossible(f"{request.node} cannot make it: {wrong}")
    if picture.pause is not None:
        warnings.append(f"{picture.pause.words}: it moves after that")
    room = await fits(dataset, _backend(dataset), request.node, picture, access)
    return replace(foresee(dataset, request.node, picture), room=room), warnings


async def cancel(store: Store, keys: Keys, name: str) -> Change:
    """if the tenure has not acted on desired/<d> yet, wish for the node that has it. A handover that is under way
    compares desired, so it has happened or never will. Raises NotPossible, StoreError."""
    before = await take(store, keys)
    dataset = the_declared(name, before)
    tenure, desired = dataset.tenure, dataset.desired
    if desired is None or tenure is None or not tenure.held or dataset.answered or desired.node == tenure.node:
        where = f"it is on {tenure.node}" if tenure and tenure.held else "nobody has it"
        raise NotPossible(f"{name} has no move that can be called off: {where}", f"Look: drover show {name}")
    compare = (unchanged(desired.entry.key, desired.entry),)
    puts = wish(keys, name, tenure.node, "move --cancel")
    await commit(store, Txn(compare, puts), f"somebody else said just now where {name} should be")
    after = await take(store, keys)
    now = after.datasets[name].tenure
    if now is None or now.node != tenure.node:
        moved = now.node if now else "nowhere"
        raise NotPossible(
            f"{name} was handed over to {moved} just before",
            f"It goes back, as {tenure.node} is desired now. To leave it there: drover move {name} {moved}",
            outcome="",
        )
    return Change(name, after, f"{name} stays on {tenure.node}: the move to {desired.node} is called off")


async def _put(store: Store, keys: Keys, dataset: Dataset, node: str, parent: str) -> int:
    """Returns the revision. The same wish put again is no new one to the nodes (they compare the value and the create
    revision), so where it was answered already, before a fail-over for example, the key is made anew."""
    key, before = keys.desired(dataset.name), dataset.desired
    conflict = f"somebody else said just now where {dataset.name} should be"
    if before is not None and before.node == node and dataset.answered:
        await commit(store, Txn((unchanged(key, before.entry),), (Delete(key),)), conflict)
        again = Txn((absent(key),), wish(keys, dataset.name, node, "move", parent))
        return (await commit(store, again, conflict)).revision
    put = Txn((unchanged(key, before.entry if before else None),), wish(keys, dataset.name, node, "move", parent))
    return (await commit(store, put, conflict)).revision


def move(
    name: options.DatasetName,
    node: Annotated[
        str,
        typer.Argument(
            metavar="NODE", show_default=False, help="The node's name; not with --cancel.", autocompletion=nodes
        ),
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Watch until it is there. Ctrl-C stops watching, not the move.")
    ] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How long --wait watches.")] = 600.0,
    force: Annotated[bool, typer.Option("--force", help="Write it down also where the node is not here.")] = False,
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Only say whether it can be, what is stopped, and the likely gap.")
    ] = False,
    workload: Annotated[
        bool,
        typer.Option("--workload", help="DATASET is a workload: all its datasets move, in one transaction."),
    ] = False,
    cancel_: Annotated[bool, typer.Option("--cancel", help="Call off a move that has not happened yet.")] = False,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Move a dataset to a node, with all that uses it.

    The same with etcdctl: put PREFIX/desired/DATASET NODE.
    """
    where = connection(endpoints, prefix)
    if bool(node) is cancel_ or (cancel_ and (wait or dry or force)):
        raise Usage(
            "say either where it should be, or --cancel", "Help: drover move --help. Nodes: drover nodes", outcome=""
        )
    if workload:
        name = run(where, partial(_first_of, workload=name))
    if cancel_:
        tell(run(where, partial(cancel, name=name)), as_json)
        return
    if dry:
        _foretell(*run(where, partial(dry_run, request=Request(name, node, force), access=_access(where))), as_json)
        return
    asked = run(where, partial(ask, request=Request(name, node, force), access=_access(where)))
    if not wait or not asked.revision:
        _tell(asked, as_json)
        return
    board = Board((name, *asked.change.picture.together(name)), silent=as_json)
    try:
        if not as_json:
            for warning in asked.change.warnings:
                output.warn(warning)
            output.say(output.plain(asked.change.headline))
            output.say(output.facts(_expected(name, node, asked)))
        with board:
            arrived = run(where, partial(_see_through, where=where, asked=asked, node=node, limit=timeout, board=board))
        after = run(where, take) if as_json else asked.change.picture
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped watching", f"Look: drover show {name}", outcome=f"The move of {name} to {node} goes on."
        ) from None
    if as_json:
        _tell(replace(asked, change=replace(asked.change, picture=after)), as_json, board)
    else:
        output.say(f"  {arrival(arrived)}")


async def _see_through(
    store: Store, keys: Keys, where: Connection, asked: Asked, node: str, limit: float, board: Board
) -> Arrived:
    """Until the move has ended, with the rounds of copying meanwhile. Raises CliError, StoreError."""
    name, picture = asked.change.name, asked.change.picture
    tenure = picture.datasets[name].tenure
    async with asyncio.TaskGroup() as group:
        rounds: asyncio.Task[None] | None = None
        if tenure is not None and tenure.held and tenure.copies:
            source = picture.nodes[tenure.node]
            address = source.record.grpc if source.record else ""
            rounds = group.create_task(
                watch(board, (name, *picture.together(name)), tenure.node, address, _access(where))
            )
        following = follow(store, keys, name, node, asked.revision, limit, progress=lambda it: _progress(it, board))
        outcome = await _outcome(following)
        if rounds is not None:
            rounds.cancel()
    if isinstance(outcome, Arrived):
        return outcome
    raise outcome


def _access(where: Connection) -> Access:
    return where.access or from_environment()


async def _outcome(following: Awaitable[Arrived]) -> Arrived | CliError | StoreError:
    """As a value: what a group of tasks raises is wrapped."""
    try:
        return await following
    except (CliError, StoreError) as error:
        return error


def _tell(asked: Asked, as_json: bool, board: Board | None = None) -> None:
    if not as_json:
        tell(asked.change, as_json)
        return
    rounds = board.rounds if board else {}
    output.say_json(
        MoveJson(
            **change_json(asked.change),
            trace=asked.trace or None,
            rounds={name: [asdict(one) for one in its] for name, its in rounds.items()},
        )
    )


def _expected(name: str, node: str, asked: Asked) -> list[tuple[str, str]]:
    """What is known before the move: how long the last ones took, and where to look for this one."""
    picture = asked.change.picture
    gap = dict(foresee(picture.datasets[name], node, picture).facts())["gap"]
    return [("gap", gap), ("trace", asked.trace)]


def _foretell(foreseen: Foreseen, warnings: list[str], as_json: bool) -> None:
    if as_json:
        output.say_json(foreseen.as_json())
        return
    for warning in warnings:
        output.warn(warning)
    name = foreseen.datasets[0]
    if foreseen.source == foreseen.to:
        output.say(output.plain(f"{name} is on {foreseen.to} already. Nothing was changed."))
        return
    output.say(output.plain(f"{name}: {foreseen.source or 'nowhere'} → {foreseen.to} can be. Nothing was changed."))
    output.say(output.facts(foreseen.facts()))


def _progress(status: Status, board: Board) -> None:
    where = f"{status.node:<12}  " if status.node else ""
    board.say(f"  {status.phase.value:<8}  {where}{status.warning or status.reason}".rstrip())


def arrival(arrived: Arrived) -> str:
    """`active on node-b, epoch 4, cut-over 58 ms`"""
    cutover = f", cut-over {arrived.cutover_ms} ms" if arrived.cutover_ms is not None else ""
    return output.plain(f"active on {arrived.node}, epoch {arrived.epoch}{cutover}")
