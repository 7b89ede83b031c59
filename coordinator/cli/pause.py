"""`drover pause` and `drover resume`: nothing changes hands, and owners go on without etcd."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated

import typer

from drover.coordinator.cli import options, output
from drover.coordinator.cli.connection import commit, connection, run
from drover.coordinator.cli.describe import now
from drover.coordinator.cli.errors import Interrupted, StillGoing, Usage
from drover.coordinator.cli.output import listing
from drover.coordinator.cli.picture import Node, Picture, take
from drover.coordinator.cli.shapes import PausedJson
from drover.coordinator.cli.wish import user
from drover.coordinator.keys import DEFAULT_PREFIX, Keys, Kind, range_end
from drover.coordinator.records import Pause
from drover.coordinator.store import Compacted, Store, WatchBroken
from drover.coordinator.timings import MAX_PAUSE
from drover.coordinator.txn import Delete, Put, Txn, unchanged

_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600}


def duration(text: str) -> float:
    """`90s`, `20min`, `2h` in seconds. Raises Usage."""
    if (found := re.fullmatch(r"(\d{1,6}(?:\.\d+)?)\s*(s|m|min|h)", text.strip())) is None:
        raise Usage(f"{output.plain(text)!r} is not a duration", "Examples: 90s, 20min, 2h")
    seconds = float(found[1]) * _UNITS[found[2]]
    if not 1 <= seconds <= MAX_PAUSE:
        raise Usage(
            f"a pause lasts between 1 s and {MAX_PAUSE / 3600:g} h, not {text}",
            "It can be made longer while it lasts, as long as etcd answers: drover pause again.",
        )
    return seconds


async def begin(store: Store, keys: Keys, seconds: float, reason: str) -> tuple[Pause, int]:
    """Put `pause`, in place of what is there. Returns the revision, too. Raises NotPossible, StoreError."""
    before = await store.get(keys.pause)
    until = (now() + timedelta(seconds=seconds)).replace(microsecond=0) + timedelta(seconds=1)
    pause = Pause(until=until, by=user(), reason=reason)
    txn = Txn((unchanged(keys.pause, before),), (Put(keys.pause, pause.encode()),))
    return pause, (await commit(store, txn, "somebody else paused or resumed just now")).revision


async def end(store: Store, keys: Keys) -> tuple[bool, int]:
    """Delete `pause`. Whether it was there, and the revision. Raises StoreError."""
    there = await store.get(keys.pause)
    done = await store.txn(Txn((), (Delete(keys.pause),)))
    return there is not None, done.revision


async def until_all(store: Store, keys: Keys, revision: int, told: Callable[[Node], bool]) -> Picture:
    """Until every live node has sent a heartbeat after `revision` of which `told` is true. Raises StoreError."""
    start, end = keys.under(Kind.HEARTBEATS), range_end(keys.under(Kind.HEARTBEATS))
    while True:
        picture = await take(store, keys)
        if not lacking(picture, revision, told):
            return picture
        try:
            async with aclosing(store.watch(start, end, picture.revision + 1)) as batches:
                async for batch in batches:
                    if batch.changes:
                        break
        except (WatchBroken, Compacted):
            continue


def lacking(picture: Picture, revision: int, told: Callable[[Node], bool]) -> list[str]:
    """Live nodes of which it is not known yet."""
    return [
        name
        for name, node in picture.live.items()
        if node.heartbeat_entry is None or node.heartbeat_entry.mod_revision <= revision or not told(node)
    ]


def _writes_on(node: Node) -> bool:
    return node.heartbeat is not None and node.heartbeat.longer > 0


def pause(
    reason: Annotated[str, typer.Option(metavar="TEXT", show_default=False, help="Why; shown in `drover ls`.")] = "",
    duration_: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="How long at most: 90s, 20min, 2h; up to 6h.")
    ] = "2h",
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How long to wait for all nodes.")] = 30.0,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Pause the cluster: nothing moves or fails over, and owners go on writing though etcd is away.

    Returns when every node that is here has taken it up: from then on etcd may be stopped until the pause is over. A
    node that dies in a pause keeps its datasets until then; drover fence gives your word for it earlier.
    """
    where, seconds = connection(endpoints, prefix), duration(duration_)

    async def work(store: Store, keys: Keys) -> tuple[Pause, list[str], list[str]]:
        made, revision = await begin(store, keys, seconds, reason)
        try:
            async with asyncio.timeout(timeout):
                picture = await until_all(store, keys, revision, _writes_on)
            return made, list(picture.live), []
        except TimeoutError:
            picture = await take(store, keys)
            return made, list(picture.live), lacking(picture, revision, _writes_on)

    try:
        made, live, late = run(where, work)
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped watching", "Do not stop etcd before every node has taken it up: drover pause", outcome=""
        ) from None
    if late:
        raise StillGoing(
            f"{listing(late)} did not take the pause up in {timeout:g} s: they would stop their writers without etcd",
            "Look: drover nodes. Wait on: drover pause. Call it off: drover resume",
            outcome="The cluster is paused.",
        )
    _tell(made, True, f"{made.words}. Taken up by {listing(live)}", as_json)


def resume(
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How long to wait for all nodes.")] = 30.0,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """End a pause. Returns when every node that is here goes by its usual deadlines again.

    The same with etcdctl: del PREFIX/pause.
    """
    where = connection(endpoints, prefix)

    async def work(store: Store, keys: Keys) -> tuple[bool, Picture, list[str]]:
        there, revision = await end(store, keys)
        try:
            async with asyncio.timeout(timeout):
                return there, await until_all(store, keys, revision, lambda node: not _writes_on(node)), []
        except TimeoutError:
            picture = await take(store, keys)
            return there, picture, lacking(picture, revision, lambda node: not _writes_on(node))

    try:
        there, picture, late = run(where, work)
    except KeyboardInterrupt:
        raise Interrupted("stopped watching", outcome="The pause is over.") from None
    away = [name for name, node in picture.nodes.items() if name not in picture.live and _writes_on(node)]
    if late or any(picture.held_by(name) for name in away):
        names = listing(sorted({*late, *away}))
        raise StillGoing(
            f"{names} may not know yet that the pause is over: their datasets stay with them until it would have ended",
            "If such a machine is off: drover fence NODE --confirm",
            outcome="The pause is over.",
        )
    _tell(None, there, "the cluster goes on" if there else "the cluster is not paused", as_json)


def _tell(made: Pause | None, changed: bool, words: str, as_json: bool) -> None:
    if as_json:
        output.say_json(PausedJson(changed=changed, paused=paused_json(made)))
    else:
        output.say(output.plain(words))


def paused_json(made: Pause | None) -> dict[str, str] | None:
    """As `--json` shows a pause."""
    return {"until": made.until.isoformat(), "by": made.by, "reason": made.reason} if made else None
