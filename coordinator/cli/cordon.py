"""`drover cordon` and `drover uncordon`: whether a node takes new datasets."""

from __future__ import annotations

from typing import Annotated

import typer

from drover.coordinator.cli import options, output
from drover.coordinator.cli.connection import commit, connection, run
from drover.coordinator.cli.describe import now, the_node
from drover.coordinator.cli.picture import take
from drover.coordinator.cli.shapes import CordonJson
from drover.coordinator.cli.wish import user
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.record import timestamp
from drover.coordinator.records import Cordon
from drover.coordinator.store import Store
from drover.coordinator.txn import Delete, Put, Txn, absent


async def put_cordon(store: Store, keys: Keys, name: str, reason: str) -> bool:
    """if cordons/<n> is absent, put it. Returns whether it changed anything; a cordon that is there stays as it is.
    Raises NotPossible where there is no such node, StoreError."""
    node = the_node(name, await take(store, keys))
    if node.cordon is not None:
        return False
    cordon = Cordon(by=user(), reason=reason, at=timestamp(now()))
    key = keys.cordon(name)
    return (await store.txn(Txn((absent(key),), (Put(key, cordon.encode()),)))).succeeded


async def _delete_cordon(store: Store, keys: Keys, name: str) -> bool:
    node = the_node(name, await take(store, keys))
    if node.cordon is None:
        return False
    await commit(store, Txn((), (Delete(keys.cordon(name)),)), "")
    return True


def cordon(
    name: options.NodeName,
    reason: Annotated[str, typer.Option(metavar="TEXT", show_default=False, help="Why; shown in `drover nodes`.")] = "",
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Let a node take no new datasets. What it has stays there.

    No fail-over goes to it; `drover move` refuses it unless forced.

    The same with etcdctl: put PREFIX/cordons/NODE '{}'.
    """
    changed = run(connection(endpoints, prefix), lambda store, keys: put_cordon(store, keys, name, reason))
    said = "takes no new datasets" if changed else "is cordoned already"
    _tell(name, True, changed, f"{name} {said}. To move away what it has: drover drain {name}", as_json)


def uncordon(
    name: options.NodeName,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Let a node take datasets again. Nothing comes back by itself.

    The same with etcdctl: del PREFIX/cordons/NODE.
    """
    changed = run(connection(endpoints, prefix), lambda store, keys: _delete_cordon(store, keys, name))
    _tell(name, False, changed, f"{name} takes datasets again" if changed else f"{name} is not cordoned", as_json)


def _tell(node: str, cordoned: bool, changed: bool, words: str, as_json: bool) -> None:
    if as_json:
        output.say_json(CordonJson(changed=changed, node=node, cordoned=cordoned))
    else:
        output.say(output.plain(words))
