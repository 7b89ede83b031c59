"""`drover drain`: a node's datasets go elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import typer

from drover.coordinator.cli import options, output
from drover.coordinator.cli.connection import commit, connection, run
from drover.coordinator.cli.cordon import put_cordon
from drover.coordinator.cli.describe import the_node
from drover.coordinator.cli.errors import CliError, Failed, Interrupted, NotPossible, StillGoing
from drover.coordinator.cli.follow import Arrived, follow
from drover.coordinator.cli.picture import Dataset, NodeState, Picture, take
from drover.coordinator.cli.shapes import DrainJson
from drover.coordinator.cli.wish import wish
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.store import Store
from drover.coordinator.txn import Txn, unchanged


@dataclass(frozen=True)
class Leg:
    """Datasets that move together. to: where; "" where nobody can take them, for the reason in `why`."""

    datasets: tuple[str, ...]
    to: str
    why: str = ""


@dataclass
class Progress:
    """How far a drain got, by dataset. going: asked for, not there yet. stuck: and why."""

    moved: dict[str, Arrived] = field(default_factory=dict)
    going: dict[str, str] = field(default_factory=dict)
    stuck: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)


def plan(node: str, picture: Picture) -> list[Leg]:
    """Where each unit goes: to a live, uncordoned node with its back ends, which its spec names if it names any, and
    which has the fewest datasets by then. Pure."""
    load = {name: len(picture.held_by(name)) for name in picture.live}
    legs: list[Leg] = []
    seen: set[str] = set()
    for name in picture.held_by(node):
        if name in seen:
            continue
        unit = [name, *(other for other in picture.together(name) if other in picture.datasets)]
        held = tuple(it for it in unit if it in picture.held_by(node))
        seen |= set(unit)
        able = _able([picture.datasets[it] for it in held], node, picture)
        if not able:
            legs.append(Leg(held, "", "no other uncordoned node that is here offers what it needs"))
            continue
        to = min(able, key=lambda it: (load[it], it))
        load[to] += len(held)
        legs.append(Leg(held, to))
    return legs


def _able(datasets: Sequence[Dataset], leaving: str, picture: Picture) -> list[str]:
    backends = {it.tenure.backend for it in datasets if it.tenure}
    able = [
        name
        for name, it in picture.live.items()
        if name != leaving and it.cordon is None and it.record and backends <= set(it.record.backends)
    ]
    listed = [it.spec.failover for it in datasets if it.spec and isinstance(it.spec.failover, tuple)]
    preferred = [name for name in able if all(name in names for names in listed)]
    return preferred or able


class Drain:
    """Moves legs, at most `parallel` at a time, and keeps `progress`."""

    def __init__(self, store: Store, keys: Keys, progress: Progress, told: bool) -> None:
        self._store, self._keys, self.progress, self._told = store, keys, progress, told

    async def run(self, legs: Sequence[Leg], parallel: int, timeout: float) -> None:
        """timeout: seconds for each leg. What fails is in `progress`. Raises StoreError."""
        slots = asyncio.Semaphore(parallel)
        for leg in legs:
            if leg.to:
                self.progress.waiting += leg.datasets
            else:
                self._stuck(leg, leg.why)

        async def one(leg: Leg) -> None:
            async with slots:
                try:
                    await self._move(leg, timeout)
                except StillGoing:
                    self._say(f"{output.listing(leg.datasets)} is not on {leg.to} after {timeout:g} s, and goes on")
                except CliError as error:
                    self._stuck(leg, error.what)

        async with asyncio.TaskGroup() as group:
            for leg in legs:
                if leg.to:
                    group.create_task(one(leg))

    async def _move(self, leg: Leg, timeout: float) -> None:
        """By one wish, for the first of them: they move together."""
        lead = leg.datasets[0]
        self.progress.waiting = [it for it in self.progress.waiting if it not in leg.datasets]
        self.progress.going |= dict.fromkeys(leg.datasets, leg.to)
        key = self._keys.desired(lead)
        puts = wish(self._keys, lead, leg.to, "drain")
        before = await self._store.get(key)
        conflict = f"somebody else said just now where {lead} should be"
        revision = (await commit(self._store, Txn((unchanged(key, before),), puts), conflict)).revision
        for name in leg.datasets:
            arrived = await follow(self._store, self._keys, name, leg.to, revision, timeout)
            self.progress.going.pop(name)
            self.progress.moved[name] = arrived
            gap = f", cut-over {output.milliseconds(arrived.cutover_ms)}" if arrived.cutover_ms is not None else ""
            self._say(f"{name} → {leg.to}{gap}")

    def _stuck(self, leg: Leg, why: str) -> None:
        for name in leg.datasets:
            if name not in self.progress.moved:
                self.progress.going.pop(name, None)
                self.progress.stuck[name] = why
        self._say(f"{output.listing(leg.datasets)} stays: {why}")

    def _say(self, text: str) -> None:
        if self._told:
            done, all_ = len(self.progress.moved), self.progress
            total = done + len(all_.going) + len(all_.stuck) + len(all_.waiting)
            output.say(output.plain(f"  {done}/{total}  {text}"))


def drain(
    name: options.NodeName,
    parallel: Annotated[int, typer.Option("--parallel", metavar="N", min=1, help="How many move at a time.")] = 2,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How long each move is watched.")] = 600.0,
    reason: Annotated[str, typer.Option(metavar="TEXT", show_default=False, help="Why; shown in `drover nodes`.")] = "",
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Cordon a node and move all its datasets to others, a few at a time.

    Each goes to the node with the fewest datasets that can take it. Ctrl-C stops watching, not the moves under way.
    """
    where = connection(endpoints, prefix)
    progress = Progress()

    async def work(store: Store, keys: Keys) -> None:
        if the_node(name, await take(store, keys)).state is not NodeState.LIVE:
            raise NotPossible(
                f"{name} is not here, so it can hand nothing over", f"Look: drover nodes; drover show {name}"
            )
        await put_cordon(store, keys, name, reason or "drained")
        legs = plan(name, await take(store, keys))
        if not as_json:
            count = sum(len(leg.datasets) for leg in legs)
            output.say(output.plain(f"{name} takes no new datasets; {count} to move"))
        await Drain(store, keys, progress, not as_json).run(legs, parallel, timeout)

    try:
        run(where, work)
    except KeyboardInterrupt:
        raise Interrupted("stopped watching", f"Go on: drover drain {name}", outcome=_left(progress)) from None
    if as_json:
        output.say_json(_json(name, progress))
    if progress.stuck:
        reasons = "; ".join(sorted(set(progress.stuck.values())))
        error = Failed if progress.moved else NotPossible
        raise error(
            f"{name} keeps {output.listing(sorted(progress.stuck))}: {reasons}",
            f"Mend it, then go on: drover drain {name}",
            outcome=f"{len(progress.moved)} moved; {name} stays cordoned.",
        )
    if progress.going:
        raise StillGoing(
            f"{output.listing(sorted(progress.going))} did not leave {name} in {timeout:g} s",
            f"Watch on: drover drain {name}",
            outcome=_left(progress),
        )
    if not as_json:
        output.say(output.plain(f"{name} is empty. To let it take datasets again: drover uncordon {name}"))


def _left(progress: Progress) -> str:
    going, waiting = sorted(progress.going), progress.waiting
    parts = [f"{len(progress.moved)} moved"]
    if going:
        parts.append(f"{output.listing(going)} {'moves on by itself' if len(going) == 1 else 'move on by themselves'}")
    if waiting:
        parts.append(f"{output.listing(waiting)} {'was' if len(waiting) == 1 else 'were'} not begun")
    return "; ".join(parts) + "."


def _json(name: str, progress: Progress) -> DrainJson:
    return DrainJson(
        node=name,
        moved=[
            {"dataset": dataset, "node": it.node, "epoch": it.epoch, "cutover_ms": it.cutover_ms}
            for dataset, it in sorted(progress.moved.items())
        ],
        stuck=dict(sorted(progress.stuck.items())),
    )
