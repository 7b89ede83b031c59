"""Datasets with local copies: each node has a btrfs of its own, and they move while their writers go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.cluster import Cluster, Dataset, Writer
from tests.cluster.writer import RECORDS, check
from tests.playground import Playground, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("copies")]

SPEC: dict[str, Any] = {"backend": "btrfs", "size": "1GiB", "fs": None}

LOSSY: dict[str, Any] = {"replicas": 1, "replicate_every": 1, "max_data_loss": 12, "fencing": "cooperative"}


def acknowledged(cluster: Cluster, data: Dataset, within: float = 15) -> str:
    """The standby, once it has acknowledged a copy."""

    def copies() -> dict[str, Any]:
        return dict(cluster.record(f"copies/{data.name}").get("nodes", {}))

    eventually(lambda: bool(copies()), "a standby has acknowledged", within)
    return next(iter(copies()))


def kept_up_to(writer: Writer, taken: float, before: str) -> None:
    """What was acknowledged on node `before` until then is all there, and all that was acknowledged since elsewhere."""
    promised = [one for one in writer.promised if one.node != before or one.done < taken]
    assert any(one.node == before for one in promised)
    check(promised, writer.dataset.read(RECORDS))


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("copies") / "pg"
    with Playground(directory, nodes=3, etcd=1, etcd_fast=True, btrfs=True) as playground:
        yield Cluster(playground)


def moving(cluster: Cluster, data: Dataset, source: str) -> None:
    """Until the first bytes are on their way."""
    eventually(lambda: "copying" in data.status.get("reason", "") or data.node != source, "it is on its way", 10)


def test_from_a_to_b_and_back_and_on_to_c_nothing_is_lost_and_the_way_back_is_an_increment(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    writer = cluster.writer(data)
    writer.goes_on("node-a")
    for node in ("node-b", "node-a", "node-c"):
        cluster.move(data, node)
        data.active_on(node)
        writer.goes_on(node)
        writer.check()
    assert [turn.node for turn in writer.turns] == ["node-a", "node-b", "node-a", "node-c"]
    rounds = [line for line in cluster.log("node-b").splitlines() if f"{data.name} to node-a: round" in line]
    assert rounds
    assert all("the difference" in line for line in rounds)


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


def test_a_standby_is_kept_promoted_within_max_data_loss_and_what_the_old_node_had_besides_is_kept(
    cluster: Cluster,
) -> None:
    data = cluster.dataset(on="node-a", **SPEC, **LOSSY)
    writer = cluster.writer(data)
    writer.goes_on("node-a", records=100)
    standby = acknowledged(cluster, data)
    writer.goes_on("node-a", records=200)
    cluster.playground.kill("node-a")
    copy = cluster.record(f"copies/{data.name}")["nodes"][standby]
    data.active_on(standby, within=20)
    assert (data.owner["base"], data.owner["copies"]) == (copy["guid"], [standby])
    assert 0 < data.owner["promoted"] <= LOSSY["max_data_loss"]
    writer.goes_on(standby, within=15)
    kept_up_to(writer, copy["taken"], "node-a")
    cluster.playground.start("node-a")


@pytest.mark.long
def test_a_node_that_lost_power_comes_back_with_its_data_and_nobody_else_takes_it(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    writer = cluster.writer(data)
    writer.goes_on("node-a")
    cluster.playground.kill("node-a")
    data.says("node-a", within=20)
    cluster.playground.start("node-a")
    data.active_on("node-a", within=40)
    writer.goes_on("node-a", within=30)
    writer.check()
    assert {turn.node for turn in writer.turns} == {"node-a"}


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
    moving(cluster, data, "node-a")
    cluster.playground.kill_agent(victim)
    data.active_on("node-b", within=60)
    writer.goes_on("node-b", within=30)
    writer.check()


@pytest.mark.long
def test_a_target_that_is_cut_off_in_the_middle_leaves_the_writer_running_where_it_is(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    cluster.playground.sh("node-a", f"head -c 64M /dev/urandom > {data.path}/large")
    writer = cluster.writer(data)
    writer.goes_on("node-a")
    cluster.move(data, "node-b")
    moving(cluster, data, "node-a")
    cluster.playground.partition("node-b", "nodes")
    began = time.monotonic()
    writer.goes_on(records=50)
    assert time.monotonic() - began < 15
    cluster.playground.heal("node-b")
    data.active_on("node-b", within=90)
    writer.goes_on("node-b", within=30)
    writer.check()


@pytest.mark.long
def test_of_what_came_in_part_only_nothing_stays_at_the_target(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    cluster.playground.sh("node-a", f"head -c 64M /dev/urandom > {data.path}/large")
    cluster.move(data, "node-b")
    moving(cluster, data, "node-a")
    cluster.playground.kill_agent("node-a")
    data.active_on("node-b", within=60)
    pool = f"{cluster.playground.home('node-b')}/pool/{data.owner['uid']}"
    assert cluster.playground.exec("node-b", "ls", f"{pool}/incoming").stdout == ""
