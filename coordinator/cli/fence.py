"""`drover fence`: a person's word that a machine is off."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated

import typer

from drover.coordinator.cli import options, output
from drover.coordinator.cli.connection import connection, run
from drover.coordinator.cli.describe import now
from drover.coordinator.cli.errors import NotPossible, Usage
from drover.coordinator.cli.output import listing, near, plain
from drover.coordinator.cli.picture import Picture, take
from drover.coordinator.cli.shapes import FenceJson
from drover.coordinator.cli.wish import user
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.record import timestamp
from drover.coordinator.records import Evidence, Fence, Heartbeat
from drover.coordinator.store import Compacted, Store, WatchBroken
from drover.coordinator.txn import Entry, Put, Txn, unchanged

_MARGIN = 0.5
"""Seconds added to the longest interval between two heartbeats."""


@dataclass(frozen=True)
class Suspect:
    """An incarnation that may be declared dead. heartbeat: its own, None where its node has none or a later one.
    entry: heartbeats/<n> as it was read, whosever it is."""

    node: str
    incarnation: str
    heartbeat: Heartbeat | None
    entry: Entry | None
    fence: Fence | None
    fence_entry: Entry | None

    @property
    def settled(self) -> bool:
        """A fence is there that already says as much as an operator's word does."""
        return self.fence is not None and (self.fence.evidence is not Evidence.SILENCE or self.fence.armed)


def suspect(word: str, picture: Picture) -> Suspect:
    """Whom the user means: an incarnation, or a node's newest one. Raises NotPossible."""
    known = {node.incarnation: node.name for node in picture.nodes.values() if node.incarnation}
    for dataset in picture.datasets.values():
        if dataset.tenure:
            holders = (dataset.tenure.holder, *dataset.tenure.unfenced)
            known |= {holder.incarnation: holder.node for holder in holders}
    known |= {incarnation: fence.node for incarnation, fence in picture.fences.items()}
    incarnation = word
    if word in picture.nodes:
        incarnation = picture.nodes[word].incarnation or _named_by_tenure(word, picture)
    if incarnation not in known:
        here = f"Known nodes: {listing(list(picture.nodes))}."
        raise NotPossible(
            f"there is no node or incarnation {plain(word)!r}", near(word, [*picture.nodes, *known], here)
        )
    name = known[incarnation]
    node = picture.nodes.get(name)
    beat = node.heartbeat if node and node.heartbeat and node.heartbeat.incarnation == incarnation else None
    return Suspect(
        name,
        incarnation,
        beat,
        node.heartbeat_entry if node else None,
        picture.fences.get(incarnation),
        picture.fence_entries.get(incarnation),
    )


def _named_by_tenure(node: str, picture: Picture) -> str:
    tenures = [dataset.tenure for dataset in picture.datasets.values() if dataset.tenure]
    return next((tenure.incarnation for tenure in tenures if tenure.held and tenure.node == node), "")


async def find(store: Store, keys: Keys, word: str) -> tuple[Suspect, list[str]]:
    """Whom the user means, and the datasets that wait for their end or would leave them."""
    picture = await take(store, keys)
    found = suspect(word, picture)
    concerned = [
        name
        for name, dataset in picture.datasets.items()
        if (tenure := dataset.tenure)
        and found.incarnation in {tenure.incarnation if tenure.held else "", *(h.incarnation for h in tenure.unfenced)}
    ]
    return found, concerned


async def declare_dead(store: Store, keys: Keys, found: Suspect, said_by: str) -> Fence:
    """If its heartbeat stands still for two intervals, and heartbeats/<n> and fences/<i> are as read, put the fence.
    (The heartbeat of a later incarnation proves nothing about this one, and is not compared.)

    A fence that says only `silence` becomes one that says `operator`: mere silence of an unarmed node frees nothing.
    Raises NotPossible where the node is alive, StoreError.
    """
    alive = NotPossible(
        f"{found.node} is alive: its heartbeat moves",
        "Stop its agent, or move its datasets away. A machine that is off sends nothing; look: drover nodes",
    )
    if found.heartbeat is not None and found.entry is not None and await _moves(store, found.heartbeat, found.entry):
        raise alive
    fence = Fence(
        node=found.node,
        by="operator",
        evidence=Evidence.OPERATOR,
        armed=found.heartbeat.armed if found.heartbeat else False,
        detail=f"confirmed by {said_by}",
        at=timestamp(now()),
        until=found.heartbeat.writes_until if found.heartbeat else None,
    )
    key = keys.fence(found.incarnation)
    compare = [unchanged(key, found.fence_entry)]
    if found.heartbeat is not None or found.entry is None:
        compare.append(unchanged(keys.heartbeat(found.node), found.entry))
    result = await store.txn(Txn(tuple(compare), (Put(key, fence.encode()),), read=(key,)))
    if result.succeeded:
        return fence
    if (there := result.read[key]) is not None and there != found.fence_entry:
        return Fence.decode(there.value)
    raise alive


async def _moves(store: Store, heartbeat: Heartbeat, entry: Entry) -> bool:
    """Whether the heartbeat is written again within the longest time between two: D_hard / 2, by the rule that timings
    keep. A watch that breaks counts as nothing heard: the transaction compares the revision again."""
    try:
        async with asyncio.timeout(heartbeat.d_hard / 2 + _MARGIN):
            changes = store.watch(entry.key, entry.key + "\0", entry.mod_revision + 1)
            async with aclosing(changes):
                async for batch in changes:
                    if batch.changes:
                        return True
    except (TimeoutError, WatchBroken, Compacted):
        return False
    return False


def promise(found: Suspect, concerned: list[str]) -> Usage:
    """What `--confirm` says, for somebody who has not said it."""
    taken = f"Others may then take {listing(concerned)} and write." if concerned else "No dataset waits for it."
    return Usage(
        f"this is your word that the machine of {found.node} (incarnation {found.incarnation}) is off, or cut off from "
        f"its storage, and stays so until it has booted again",
        f"{taken} If it still runs, two nodes write the same data and destroy it.\n"
        f"Make sure (power, console, cloud API), then: drover fence {found.incarnation} --confirm",
    )


def fence(
    who: Annotated[
        str, typer.Argument(metavar="NODE|INCARNATION", show_default=False, help="The node, or one incarnation of it.")
    ],
    confirm: Annotated[
        bool, typer.Option("--confirm", help="I have made sure that the machine is off, or cut off from its storage.")
    ] = False,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Give your word that a machine is off, so that others may take its datasets.

    Needed only where nothing else proves it: a silent node without a watchdog. Without --confirm it explains what is
    promised. A node whose heartbeat moves is never fenced; that takes half of its D_hard to see.
    """
    where = connection(endpoints, prefix)
    found, concerned = run(where, lambda store, keys: find(store, keys, who))
    if found.settled and found.fence is not None:
        _tell(found, found.fence, False, as_json)
        return
    if not confirm:
        raise promise(found, concerned)
    done = run(where, lambda store, keys: declare_dead(store, keys, found, user()))
    _tell(found, done, True, as_json)
    if not as_json and concerned:
        output.say(plain(f"  frees      {listing(concerned)}"))


def _tell(found: Suspect, done: Fence, changed: bool, as_json: bool) -> None:
    if as_json:
        output.say_json(
            FenceJson(changed=changed, incarnation=found.incarnation, node=found.node, evidence=done.evidence.value)
        )
        return
    already = "" if changed else " already"
    detail = f", {done.detail}" if done.detail else ""
    output.say(
        plain(f"{found.node} is fenced{already}: {done.evidence.value}{detail} (incarnation {found.incarnation})")
    )
