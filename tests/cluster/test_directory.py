"""Datasets in plain folders: nothing was formatted, and they move while their writers go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.cluster import Cluster
from tests.playground import Playground, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("folders")]

SPEC: dict[str, Any] = {"backend": "directory", "size": "1GiB", "fs": None}


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("folders") / "pg"
    with Playground(directory, nodes=2, etcd=1, etcd_fast=True, folders=True) as playground:
        yield Cluster(playground)


def test_from_a_to_b_and_back_nothing_is_lost_and_the_way_back_is_an_increment(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    cluster.playground.sh("node-a", f"cd {data.path}; for i in $(seq 300); do head -c 9000 /dev/urandom > $i; done")
    writer = cluster.writer(data)
    writer.goes_on("node-a")
    for node in ("node-b", "node-a"):
        cluster.move(data, node)
        data.active_on(node)
        writer.goes_on(node)
        writer.check()
    assert [turn.node for turn in writer.turns] == ["node-a", "node-b", "node-a"]
    rounds = [line for line in cluster.log("node-b").splitlines() if f"{data.name} to node-a: round" in line]
    assert rounds
    assert all("the difference" in line for line in rounds)


@pytest.mark.long
def test_what_was_moved_survives_a_power_cut_of_the_target_right_after_it(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    writer = cluster.writer(data)
    writer.goes_on("node-a", records=100)
    cluster.move(data, "node-b")
    eventually(lambda: data.node == "node-b", "it is handed over", 15)
    cluster.playground.kill("node-b")
    cluster.playground.start("node-b")
    data.active_on("node-a", "node-b", within=40)
    writer.goes_on(within=30)
    writer.check()


@pytest.mark.long
@pytest.mark.parametrize("victim", ["node-a", "node-b"])
def test_a_killed_agent_on_either_side_loses_nothing_and_the_move_comes_to_its_end(
    cluster: Cluster, victim: str
) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    cluster.playground.sh("node-a", f"head -c 64M /dev/urandom > {data.path}/large")
    writer = cluster.writer(data)
    writer.goes_on("node-a")
    cluster.move(data, "node-b")
    eventually(lambda: "copying" in data.status.get("reason", "") or data.node == "node-b", "it is on its way", 10)
    cluster.playground.kill_agent(victim)
    data.active_on("node-b", within=60)
    writer.goes_on("node-b", within=30)
    writer.check()
