"""All of etcd away, and nodes that promise each other to wait. Default timings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from drover.coordinator.timings import PROFILES, required_wait
from tests.cluster.cluster import Cluster, boottime
from tests.playground import Playground, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("promises")]

TIMINGS = PROFILES["default"]
HELD = "this node goes on, as all"


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Playground(tmp_path_factory.mktemp("promises") / "pg", nodes=3, etcd=1, timings=None) as playground:
        cluster = Cluster(playground)
        for node in playground.nodes:
            playground.stop_agent(node)
            with (playground.place(node).home / "agent.toml").open("a") as settings:
                settings.write("[etcd_away]\npromises = true\n")
            playground.start_agent(node)
        for node in playground.nodes:
            eventually(
                lambda n=node: len(cluster.heartbeat(n).get("candidates", ())) == 2,  # type: ignore[misc]
                f"{node} names both others",
                60,
            )
        yield cluster


def away_for(cluster: Cluster, seconds: float) -> None:
    began = boottime()
    for member in cluster.playground.members:
        cluster.playground.kill(member)
    eventually(lambda: boottime() - began > seconds, f"etcd has been away for {seconds:.0f} s", seconds + 10)


@pytest.mark.parametrize(
    "seconds",
    [required_wait(TIMINGS.d_hard) + 3, pytest.param(60.0, marks=[pytest.mark.long, pytest.mark.timeout(180)])],
)
def test_while_all_of_etcd_is_away_no_writer_stops_and_nothing_is_lost(cluster: Cluster, seconds: float) -> None:
    several = [cluster.dataset(on=node) for node in cluster.playground.nodes[:2]]
    writers = [cluster.writer(data) for data in several]
    before, fences = cluster.incarnation("node-a"), cluster.entries("fences/")
    away_for(cluster, seconds)
    for writer, node in zip(writers, cluster.playground.nodes, strict=False):
        writer.goes_on(node)
        assert HELD in cluster.log(node)
    for member in cluster.playground.members:
        cluster.playground.start(member)
    eventually(lambda: cluster.answers() and cluster.silence("node-a") < 1, "heartbeats are answered again", 15)
    for data, writer, node in zip(several, writers, cluster.playground.nodes, strict=False):
        writer.goes_on(node)
        writer.check()
        assert len(writer.turns) == 1
        assert data.epoch == 1
    assert (cluster.incarnation("node-a"), cluster.entries("fences/")) == (before, fences)
    assert "gate closed" not in cluster.log("node-a")


def test_with_one_node_that_cannot_be_asked_the_others_stop_by_their_deadline(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    cluster.playground.partition("node-c", "nodes")
    last_heartbeat = float(cluster.heartbeat("node-a")["clock"])
    for member in cluster.playground.members:
        cluster.playground.kill(member)
    eventually(lambda: "nothing is left" in cluster.log("node-a"), "the ladder has run on node-a", 10)
    stopped = writer.turns[-1]
    # The last heartbeat may have been answered just after it was read here.
    assert stopped.done < last_heartbeat + TIMINGS.heartbeat + TIMINGS.d_io
    for member in cluster.playground.members:
        cluster.playground.start(member)
    cluster.playground.heal("node-c")
    assert writer.goes_on("node-a", within=30).began > stopped.done
    writer.check()
