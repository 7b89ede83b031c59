"""Machines that die, hang or are cut off: their datasets come back elsewhere, once, and nothing is lost."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from drover.coordinator.timings import PROFILES
from tests.cluster.cluster import Cluster, Dataset, Writer, boottime
from tests.playground import Playground, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("failover")]

FAST = PROFILES["fast"]
OTHERS = ("node-b", "node-c")


def committing(cluster: Cluster, **spec: Any) -> tuple[Dataset, Writer]:
    """A dataset on node-a and a writer that commits to it."""
    data = cluster.dataset(on="node-a", **spec)
    return data, cluster.writer(data)


def fenced(cluster: Cluster, incarnation: str, within: float = 15.0) -> None:
    eventually(lambda: bool(cluster.record(f"fences/{incarnation}")), f"{incarnation} is fenced", within)


def test_a_power_cut_under_a_writer_brings_it_back_elsewhere_with_all_that_was_acknowledged(cluster: Cluster) -> None:
    data, writer = committing(cluster)
    cluster.playground.kill("node-a")
    node = data.active_on(*OTHERS)
    writer.goes_on(node)
    writer.check()
    assert data.epoch == 2
    assert data.owner["evidence"] == "silence"
    assert [turn.node for turn in writer.turns] == ["node-a", node]


def test_with_default_timings_nobody_takes_over_before_the_dead_owner_is_sure_to_have_stopped(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    timings = PROFILES["default"]
    directory = tmp_path_factory.mktemp("default") / "pg"
    with Playground(directory, nodes=3, etcd=3, timings=None) as playground:
        cluster = Cluster(playground)
        data, writer = committing(cluster)
        playground.kill("node-a")
        last_heartbeat = float(cluster.heartbeat("node-a")["clock"])
        node = data.active_on(*OTHERS)
        writer.goes_on(node)
        writer.check()
        first, second = writer.turns
        assert first.done < last_heartbeat + timings.d_soft
        assert last_heartbeat + timings.d_hard < second.began < last_heartbeat + timings.wait + 4.0


def test_a_dataset_without_failover_waits_for_its_node_and_goes_on_there_at_once_when_it_is_back(
    cluster: Cluster,
) -> None:
    data, writer = committing(cluster, failover="none")
    before = cluster.incarnation("node-a")
    cluster.playground.kill("node-a")
    fenced(cluster, before)
    status = data.says("waits for node-a", "failover: none")
    assert status["phase"] == "waiting"
    assert data.epoch == 1
    cluster.playground.start("node-a")
    data.active_on("node-a", within=5)
    writer.goes_on("node-a")
    writer.check()
    assert data.epoch == 2
    assert data.owner["evidence"] == "reboot"


def test_a_machine_that_is_back_before_anybody_missed_it_goes_on_by_the_evidence_of_its_reboot(
    cluster: Cluster,
) -> None:
    data, writer = committing(cluster, fencing="hard")
    cluster.playground.kill("node-a")
    cluster.playground.start("node-a")
    data.active_on("node-a", within=5)
    writer.goes_on("node-a")
    writer.check()
    assert data.epoch == 2
    assert data.owner["evidence"] == "reboot"


def test_a_list_of_nodes_says_who_may_take_over(cluster: Cluster) -> None:
    data, writer = committing(cluster, failover=["node-c"])
    cluster.playground.kill("node-a")
    data.active_on("node-c")
    writer.goes_on("node-c")
    writer.check()


def test_a_dead_node_that_returns_does_not_get_its_dataset_back_unless_somebody_says_so(cluster: Cluster) -> None:
    data, writer = committing(cluster)
    cluster.playground.kill("node-a")
    node = data.active_on(*OTHERS)
    cluster.playground.start("node-a")
    cluster.until_all_joined()
    turn = writer.goes_on(node)
    data.says("failed over from node-a", f"desired node-a was answered; it stays on {node} until it is moved")
    for _ in range(10):
        cluster.move(data, "node-a")
    # What comes after the puts in etcd is done by now: another dataset has come and is written to.
    cluster.writer(cluster.dataset(on="node-a"))
    assert (data.node, data.epoch) == (node, 2)
    assert writer.goes_on(node).writer == turn.writer
    assert f"node-a (answered; it stays on {node}" in cluster.drover("show", data.name).stdout
    assert "desired node-a was answered" in cluster.drover("ls").stdout
    cluster.drover("move", data.name, "node-a", "--wait")
    writer.goes_on("node-a")
    writer.check()
    assert data.epoch == 3


def test_silence_of_a_node_that_nothing_would_have_reset_waits_for_somebodys_word(cluster: Cluster) -> None:
    data, writer = committing(cluster, fencing="hard")
    cluster.playground.kill("node-a")
    status = data.says("node-a may still be writing", "drover fence node-a --confirm", within=15)
    assert status["phase"] == "waiting"
    assert data.owner["state"] == "assigned"
    refused = cluster.drover("fence", "node-a", check=False)
    assert refused.returncode == 2
    assert "--confirm" in refused.stderr
    assert data.owner["state"] == "assigned"
    cluster.drover("fence", "node-a", "--confirm")
    node = data.active_on(*OTHERS)
    writer.goes_on(node)
    writer.check()


def test_datasets_of_a_group_fail_over_together(cluster: Cluster) -> None:
    one, two = (cluster.dataset(on="node-a", group="pair") for _ in range(2))
    writers = [cluster.writer(one), cluster.writer(two)]
    cluster.playground.kill("node-a")
    node = one.active_on(*OTHERS)
    two.active_on(node)
    for writer in writers:
        writer.goes_on(node)
        writer.check()
    assert (one.epoch, two.epoch) == (2, 2)


def test_a_machine_that_froze_and_goes_on_later_writes_nothing_more_and_joins_as_a_new_incarnation(
    cluster: Cluster,
) -> None:
    data, writer = committing(cluster)
    before = cluster.incarnation("node-a")
    cluster.playground.freeze("node-a", whole=True)
    frozen = boottime()
    node = data.active_on(*OTHERS)
    writer.goes_on(node)
    cluster.playground.thaw("node-a")
    eventually(lambda: "nothing is left" in cluster.log("node-a"), "the ladder has run on node-a", 10)
    cluster.until_all_joined()
    assert cluster.incarnation("node-a") != before
    writer.goes_on(node)
    writer.check()
    assert [turn.node for turn in writer.turns] == ["node-a", node]
    assert writer.turns[0].last < frozen


def test_an_agent_that_hangs_loses_its_dataset_and_its_writer_nothing_that_was_acknowledged(cluster: Cluster) -> None:
    data, writer = committing(cluster)
    before = cluster.incarnation("node-a")
    cluster.playground.freeze_agent("node-a")
    node = data.active_on(*OTHERS)
    writer.goes_on(node)
    cluster.playground.thaw_agent("node-a")
    cluster.until_all_joined()
    assert cluster.incarnation("node-a") != before
    assert data.path not in cluster.playground.sh("node-a", "cat /proc/mounts")
    writer.goes_on(node)
    writer.check()
    assert [turn.node for turn in writer.turns] == ["node-a", node]


def test_an_xfs_that_a_node_which_hangs_still_has_mounted_on_this_kernel_is_busy_and_comes_up_when_it_is_gone(
    cluster: Cluster,
) -> None:
    """Nodes of a playground share a kernel, which mounts no xfs twice."""
    data, writer = committing(cluster, fs="xfs", size="300MiB")
    image = data.image.name
    cluster.playground.send_guard("node-a", signal.SIGSTOP)
    cluster.playground.freeze_agent("node-a")
    status = data.says("cannot be mounted", "is still mounted on this computer", f"node-a/shared/{image}")
    assert "damaged" not in status["reason"]
    cluster.playground.send_guard("node-a", signal.SIGCONT)
    cluster.playground.thaw_agent("node-a")
    node = data.active_on(*OTHERS, within=40)
    writer.goes_on(node)
    writer.check()


def test_an_owner_cut_off_from_etcd_stops_by_its_own_deadline_and_another_takes_over_later(cluster: Cluster) -> None:
    data, writer = committing(cluster)
    before = cluster.incarnation("node-a")
    cluster.playground.partition("node-a", "etcd")
    eventually(lambda: "nothing is left" in cluster.log("node-a"), "the ladder has run on node-a", 6)
    last_heartbeat = float(cluster.heartbeat("node-a")["clock"])
    assert not cluster.record(f"fences/{before}")
    assert data.path not in cluster.playground.sh("node-a", "cat /proc/mounts")
    node = data.active_on(*OTHERS)
    writer.goes_on(node)
    writer.check()
    first, second = writer.turns
    assert first.done < last_heartbeat + FAST.d_io
    assert second.began > last_heartbeat + FAST.d_hard
    cluster.playground.heal("node-a")
    cluster.until_all_joined()
    assert cluster.incarnation("node-a") != before
    assert data.node == node


def test_a_partition_shorter_than_the_deadline_goes_unnoticed(cluster: Cluster) -> None:
    data, writer = committing(cluster)
    before = cluster.incarnation("node-a")
    cluster.playground.partition("node-a", "etcd")
    eventually(lambda: cluster.silence("node-a") > 1.6, "node-a has been silent for a while", 5)
    cluster.playground.heal("node-a")
    eventually(lambda: cluster.silence("node-a") < 0.6, "node-a is heard again", 5)
    writer.goes_on("node-a")
    writer.check()
    assert len(writer.turns) == 1
    assert cluster.incarnation("node-a") == before
    assert "gate closed" not in cluster.log("node-a")
    assert (data.epoch, data.status["phase"]) == (1, "active")
