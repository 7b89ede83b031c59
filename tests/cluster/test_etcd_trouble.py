"""etcd in trouble: a member or a leader lost, all of it away, its history compacted. Default timings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from drover.coordinator.timings import PROFILES, required_wait
from tests.cluster.cluster import Cluster, boottime
from tests.playground import Playground, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("etcd-trouble")]

TIMINGS = PROFILES["default"]


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Playground(tmp_path_factory.mktemp("etcd") / "pg", nodes=3, etcd=3, timings=None) as playground:
        yield Cluster(playground)


@contextmanager
def away(cluster: Cluster, *members: str) -> Iterator[None]:
    """These members are off, then on again."""
    for member in members:
        cluster.playground.kill(member)
    yield
    for member in members:
        cluster.playground.start(member)


def incarnations(cluster: Cluster) -> list[str]:
    return [cluster.incarnation(node) for node in cluster.playground.nodes]


def stopped_all(cluster: Cluster, node: str) -> bool:
    return "nothing is left" in cluster.log(node)


def test_a_move_goes_through_when_the_etcd_leader_dies_in_the_middle_of_it(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    before, leader = incarnations(cluster), cluster.leader()
    cluster.move(data, "node-b")
    with away(cluster, leader):
        data.active_on("node-b", within=20)
        writer.goes_on("node-b")
        assert cluster.leader() != leader
    writer.check()
    assert (data.epoch, incarnations(cluster)) == (2, before)


def test_with_one_member_down_moves_and_fail_over_go_on_and_its_return_changes_nothing(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    with away(cluster, "etcd-1"):
        for node in ("node-b", "node-c", "node-a"):
            cluster.move(data, node)
            data.active_on(node)
        writer.goes_on("node-a")
        cluster.playground.kill("node-a")
        node = data.active_on("node-b", "node-c", within=20)
        writer.goes_on(node)
    eventually(lambda: cluster.healthy("etcd-1"), "etcd-1 is back", 20)
    writer.goes_on(node)
    writer.check()
    assert data.epoch == 5


def test_etcd_without_a_majority_for_less_than_the_deadline_stops_nothing(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    before, fences, began = incarnations(cluster), cluster.entries("fences/"), boottime()
    for member in cluster.playground.members:
        cluster.playground.freeze(member)
    eventually(lambda: boottime() - began > 2.5, "etcd has been away for a while")
    writer.goes_on("node-a")
    for member in cluster.playground.members:
        cluster.playground.thaw(member)
    eventually(lambda: cluster.answers() and cluster.silence("node-a") < 1, "heartbeats are answered again", 10)
    writer.goes_on("node-a")
    writer.check()
    assert len(writer.turns) == 1
    assert (data.epoch, incarnations(cluster), cluster.entries("fences/")) == (1, before, fences)
    assert all("gate closed" not in cluster.log(node) for node in cluster.playground.nodes)


def test_etcd_that_is_away_for_longer_stops_all_writers_which_come_back_by_themselves_and_nobody_is_fenced(
    cluster: Cluster,
) -> None:
    several = [cluster.dataset(on=node) for node in cluster.playground.nodes]
    writers = [cluster.writer(data) for data in several]
    before, fences = incarnations(cluster), cluster.entries("fences/")
    heartbeats = {node: float(cluster.heartbeat(node)["clock"]) for node in cluster.playground.nodes}
    with away(cluster, *cluster.playground.members):
        for node in cluster.playground.nodes:
            eventually(partial(stopped_all, cluster, node), f"the ladder has run on {node}", 10)
        stopped = [writer.turns[-1] for writer in writers]
    for data, writer, turn in zip(several, writers, stopped, strict=True):
        # The last heartbeat may have been answered just after it was read here.
        assert turn.done < heartbeats[turn.node] + TIMINGS.heartbeat + TIMINGS.d_io
        assert writer.goes_on(turn.node, within=30).began > turn.done
        writer.check()
        assert data.active_on(turn.node) == turn.node
        assert data.epoch == 1
    assert incarnations(cluster) == before
    assert cluster.entries("fences/") == fences


@contextmanager
def full(cluster: Cluster) -> Iterator[None]:
    """etcd has raised its NOSPACE alarm, as one whose quota is used up does; then it is made room in, as its manual
    says: compacted, defragmented, disarmed."""
    member = cluster.ask("maintenance/status", {})["header"]["member_id"]
    cluster.ask("maintenance/alarm", {"action": "ACTIVATE", "memberID": member, "alarm": "NOSPACE"})
    try:
        with pytest.raises(AssertionError, match="space exceeded"):
            cluster.put("anything", "at all")
        yield
        cluster.playground.etcdctl("compact", str(cluster.revision()))
        cluster.playground.etcdctl("defrag")
    finally:
        cluster.playground.etcdctl("alarm", "disarm")


def test_an_etcd_that_is_full_for_less_than_the_deadline_stops_nothing(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    before = incarnations(cluster)
    with full(cluster):
        eventually(lambda: cluster.silence("node-a") > 1.5, "heartbeats are refused")
        writer.goes_on("node-a")
    eventually(lambda: cluster.silence("node-a") < 1, "heartbeats are answered again", 10)
    writer.goes_on("node-a")
    writer.check()
    assert len(writer.turns) == 1
    assert (data.epoch, incarnations(cluster)) == (1, before)


def test_an_etcd_that_stays_full_stops_every_owner_by_its_deadline_and_all_go_on_when_there_is_room(
    cluster: Cluster,
) -> None:
    several = [cluster.dataset(on=node) for node in cluster.playground.nodes]
    writers = [cluster.writer(data) for data in several]
    before, fences = incarnations(cluster), cluster.entries("fences/")
    with full(cluster):
        for node in cluster.playground.nodes:
            eventually(partial(stopped_all, cluster, node), f"the ladder has run on {node}", 10)
        stopped = [writer.turns[-1] for writer in writers]
    for data, writer, turn in zip(several, writers, stopped, strict=True):
        assert writer.goes_on(turn.node, within=30).began > turn.done
        writer.check()
        assert data.active_on(turn.node) == turn.node
        assert data.epoch == 1
    assert (incarnations(cluster), cluster.entries("fences/")) == (before, fences)


def test_an_agent_whose_watch_was_compacted_away_finds_out_what_it_missed(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    playground = cluster.playground
    playground.freeze_agent("node-a")
    cluster.move(data, "node-b")
    playground.etcdctl("compact", str(cluster.revision()))
    # Its streams end, so that it has to ask for what is not there any more.
    for member in playground.members:
        playground.kill_agent(member)
    playground.thaw_agent("node-a")
    data.active_on("node-b", within=20)
    writer.goes_on("node-b")
    writer.check()
    assert data.epoch == 2


def test_in_a_pause_etcd_may_be_away_for_long_and_no_writer_stops(cluster: Cluster) -> None:
    several = [cluster.dataset(on=node) for node in cluster.playground.nodes]
    writers = [cluster.writer(data) for data in several]
    before, fences = incarnations(cluster), cluster.entries("fences/")
    logs = {node: cluster.log(node) for node in cluster.playground.nodes}
    cluster.drover("pause", "--for", "5min", "--reason", "etcd is upgraded")
    with away(cluster, *cluster.playground.members):
        began = boottime()
        eventually(lambda: boottime() - began > required_wait(TIMINGS.d_hard) + 1, "etcd has been away for long", 15)
    for data, writer in zip(several, writers, strict=True):
        writer.goes_on()
        assert len(writer.turns) == 1
        writer.check()
        assert data.epoch == 1
    eventually(lambda: cluster.drover("resume", check=False).returncode == 0, "all know that the pause is over", 60)
    assert incarnations(cluster) == before
    assert cluster.entries("fences/") == fences
    assert all("gate closed" not in cluster.log(node).removeprefix(logs[node]) for node in logs)


def test_in_a_pause_a_wish_waits_until_it_is_over(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    cluster.drover("pause", "--for", "5min")
    cluster.move(data, "node-b")
    data.says("paused by", "goes to node-b after that")
    cluster.drover("resume")
    data.active_on("node-b")
