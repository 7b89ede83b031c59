"""Input that cannot be used is said once in the log and counted, by one node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from drover.agent.ignored import IgnoredInput
from drover.agent.telemetry import Telemetry
from drover.coordinator.protocol.placement import rank
from tests.unit.making import node, spec, tenure, workload
from tests.unit.test_view import KEYS, Etcd, settled

FIRST, SECOND = rank("w", ["a", "b"])


class Node:
    def __init__(self, name: str, etcd: Etcd) -> None:
        self.name, self.etcd, self.telemetry = name, etcd, Telemetry(name)

    def counted(self, kind: str) -> float:
        return self.telemetry.registry.get_sample_value("drover_ignored_input_total", {"kind": kind}) or 0.0

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[IgnoredInput]:
        async with self.etcd.view() as view:
            made = IgnoredInput(view, self.name, self.telemetry)
            task = asyncio.create_task(made.run())
            try:
                yield made
                await settled(view, self.etcd)
                made.look("d")
            finally:
                task.cancel()
                await asyncio.wait([task])


@pytest.fixture
def etcd() -> Etcd:
    made = Etcd()
    for name in ("a", "b"):
        made.put(KEYS.node(name), node(name).record)
    made.put(KEYS.dataset("d"), spec())
    made.put(KEYS.owner("d"), tenure())
    return made


async def test_a_wish_that_cannot_be_followed_is_said_once_a_value(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    it = Node("a", etcd)
    etcd.put(KEYS.desired("d"), "nowhere")
    async with it.looking() as made:
        for _ in range(3):
            made.look("d")
        etcd.put(KEYS.node("c"), node("c").record)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages == ["/drover/desired/d: desired node 'nowhere' is not here; here are: a b"]
    assert it.counted("desired") == 1


async def test_another_value_that_cannot_be_followed_is_said_again(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    it = Node("a", etcd)
    etcd.put(KEYS.desired("d"), "nowhere")
    async with it.looking() as made:
        made.look("d")
        etcd.put(KEYS.desired("d"), "no where")
    assert len(caplog.messages) == 2
    assert "the name has ' '" in caplog.messages[1]
    assert it.counted("desired") == 2


async def test_a_workload_that_names_no_dataset_is_said_by_one_node(
    etcd: Etcd, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [Node(FIRST, etcd), Node(SECOND, etcd)]
    etcd.put(KEYS.workload("w"), "nonsense")
    for it in nodes:
        async with it.looking():
            etcd.put(KEYS.workload("v"), workload("d"))
    assert caplog.messages == ["/drover/workloads/w: the value is not JSON: 'nonsense'"]
    assert [it.counted("workloads") for it in nodes] == [1, 0]
