"""Who watches heartbeats puts a stand-in for one that is missing only where somebody may still be waited for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from drover.coordinator.keys import Keys
from drover.coordinator.member import Member
from drover.coordinator.observers import _Watch
from drover.coordinator.protocol.dataset import Cluster
from drover.coordinator.protocol.ownership import Seat
from drover.coordinator.records import Heartbeat, Tenure
from drover.coordinator.txn import Put, Txn
from tests.unit.making import tenure

KEYS = Keys("/drover")


class _Store:
    def __init__(self) -> None:
        self.put: list[Put] = []

    async def txn(self, txn: Txn) -> Any:
        self.put += [op for op in txn.then if isinstance(op, Put)]
        return SimpleNamespace(succeeded=True)


def watch(store: _Store, *tenures: Tenure) -> _Watch:
    """By `a`, of `b`, which is not in nodes/."""
    view = SimpleNamespace(cluster=Cluster(nodes={}), tenures=lambda: tenures, entry=lambda kind, name: None)
    seat = Seat(KEYS, "a", "a.1.1", 1, "now", "2", "")
    member = SimpleNamespace(node="a", view=view, store=store, keys=KEYS, seat=lambda: seat)
    return _Watch(cast(Member, member), "b", "b.1.1")


@pytest.mark.parametrize("named", [True, False])
async def test_a_node_that_is_gone_gets_a_stand_in_only_while_a_tenure_names_it(named: bool) -> None:
    store = _Store()
    held = [tenure(node="b", incarnation="b.1.1")] if named else []
    await watch(store, *held)._put_placeholder(0)
    assert [(op.key, Heartbeat.decode(op.value).incarnation) for op in store.put] == (
        [(KEYS.heartbeat("b"), "b.1.1")] if named else []
    )
