"""Nodes whose guard does what their agent cannot, and resets the machine where it cannot either."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drover.coordinator.cli.playground.machine import State
from drover.coordinator.timings import PROFILES
from tests.cluster.cluster import Cluster, Dataset, Writer, boottime
from tests.playground import Playground, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("guarded")]

TIMINGS = PROFILES["default"]
OTHERS = ("node-b", "node-c")


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Every node is armed. Default deadlines: agents and guards are started again in time on a busy machine, too."""
    directory = tmp_path_factory.mktemp("guarded") / "pg"
    with Playground(directory, nodes=3, etcd=3, timings=None, reset=True) as playground:
        yield Cluster(playground)


def committing(cluster: Cluster, **spec: Any) -> tuple[Dataset, Writer]:
    """A dataset on node-a and a writer that commits to it. It asks for hard fencing."""
    data = cluster.dataset(on="node-a", **{"fencing": "hard"} | spec)
    return data, cluster.writer(data)


def cluster_is_told(cluster: Cluster, incarnation: str) -> None:
    """By its guard; on a busy machine others may have heard its silence first."""
    fence = f"fences/{incarnation}"
    eventually(lambda: cluster.record(fence)["evidence"] == "stopped", "the guard has testified", 10)
    assert "its guard has stopped everything and verified it" in cluster.record(fence)["detail"]


def test_silence_of_an_armed_node_proves_that_it_has_stopped(cluster: Cluster) -> None:
    data, writer = committing(cluster)
    assert cluster.heartbeat("node-a")["armed"] is True
    cluster.playground.kill("node-a")
    node = data.active_on(*OTHERS)
    writer.goes_on(node)
    writer.check()
    assert data.owner["evidence"] == "silence"


def test_where_an_agent_hangs_its_guard_stops_the_writer_in_time_and_tells_the_cluster(cluster: Cluster) -> None:
    data, writer = committing(cluster)
    before = cluster.incarnation("node-a")
    cluster.playground.freeze_agent("node-a")
    node = data.active_on(*OTHERS)
    last_heartbeat = float(cluster.heartbeat("node-a")["clock"])
    cluster_is_told(cluster, before)
    writer.goes_on(node)
    assert data.path not in cluster.playground.sh("node-a", "cat /proc/mounts")
    first, second = writer.turns
    assert first.done < last_heartbeat + TIMINGS.d_io
    assert second.began > first.done
    cluster.playground.thaw_agent("node-a")
    cluster.until_all_joined()
    assert cluster.incarnation("node-a") != before
    writer.goes_on(node)
    writer.check()
    assert [turn.node for turn in writer.turns] == ["node-a", node]


class Sectors:
    """What has been written to the device that is mounted somewhere, looked at all the time. changed: CLOCK_BOOTTIME
    of the last look that found more than the one before."""

    def __init__(self, cluster: Cluster, node: str, path: str) -> None:
        table = cluster.playground.sh(node, "cat /proc/mounts").splitlines()
        device = next(line.split()[0] for line in table if line.split()[1] == path)
        self._device = Path("/sys/block", Path(device).name)
        self._image = self._backing()
        self.changed, self.looks = boottime(), 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _backing(self) -> str:
        try:
            return (self._device / "loop/backing_file").read_text()
        except OSError:
            return ""

    def _look(self) -> None:
        written = -1
        while not self._over.wait(0.02):
            try:
                now = int((self._device / "stat").read_text().split()[6])
            except OSError:
                continue
            if self._backing() != self._image:
                return  # detached; whatever has this number now is another device
            if now > written >= 0:
                self.changed = boottime()
            written, self.looks = now, self.looks + 1

    def end(self) -> None:
        self._over.set()
        self._thread.join(5)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_of_an_agent_that_hangs_for_a_minute_no_sector_is_written_after_d_io(cluster: Cluster) -> None:
    data, writer = committing(cluster)
    sectors = Sectors(cluster, "node-a", data.path)
    began = boottime()
    cluster.playground.freeze_agent("node-a")
    node = data.active_on(*OTHERS)
    last_heartbeat = float(cluster.heartbeat("node-a")["clock"])
    eventually(lambda: boottime() - began > 60, "it has hung for a minute", 70)
    sectors.end()
    assert sectors.looks
    assert began < sectors.changed < last_heartbeat + TIMINGS.d_io
    cluster.playground.thaw_agent("node-a")
    cluster.until_all_joined()
    writer.goes_on(node)
    writer.check()
    assert [turn.node for turn in writer.turns] == ["node-a", node]


def test_an_agent_that_is_ended_for_good_gives_its_datasets_up_by_its_guards_word(cluster: Cluster) -> None:
    data, writer = committing(cluster)
    before = cluster.incarnation("node-a")
    cluster.playground.stop_agent("node-a")
    node = data.active_on(*OTHERS)
    cluster_is_told(cluster, before)
    writer.goes_on(node)
    cluster.playground.start_agent("node-a")
    cluster.until_all_joined()
    assert cluster.incarnation("node-a") != before
    writer.check()


def test_agent_and_guard_killed_at_once_are_back_before_the_writer_notices(cluster: Cluster) -> None:
    data, writer = committing(cluster)
    before = cluster.incarnation("node-a")
    cluster.playground.send_guard("node-a", signal.SIGKILL)
    cluster.playground.kill_agent("node-a")
    cluster.until_all_joined()
    writer.goes_on("node-a")
    cluster.playground.send_guard("node-a", signal.SIGKILL)
    eventually(lambda: "the guard has died; starting it again" in cluster.log("node-a"), "the agent notices", 5)
    writer.goes_on("node-a")
    writer.check()
    assert len(writer.turns) == 1
    assert (cluster.incarnation("node-a"), data.epoch) == (before, 1)


def test_a_guard_that_hangs_is_replaced_before_the_writer_notices(cluster: Cluster) -> None:
    data, writer = committing(cluster)
    cluster.playground.send_guard("node-a", signal.SIGSTOP)
    eventually(lambda: "the guard hangs; killing it" in cluster.log("node-a"), "the agent notices", 5)
    cluster.until_all_joined()
    writer.goes_on("node-a")
    writer.check()
    assert len(writer.turns) == 1
    assert data.epoch == 1


def test_cut_off_with_a_guard_that_hangs_a_new_guard_stops_the_writer_in_time(cluster: Cluster) -> None:
    data, writer = committing(cluster)
    cluster.playground.partition("node-a", "etcd")
    cluster.playground.send_guard("node-a", signal.SIGSTOP)
    eventually(lambda: "nothing is left" in cluster.log("node-a"), "the ladder has run on node-a", 10)
    last_heartbeat = float(cluster.heartbeat("node-a")["clock"])
    node = data.active_on(*OTHERS)
    writer.goes_on(node)
    writer.check()
    assert writer.turns[0].done < last_heartbeat + TIMINGS.d_io
    cluster.playground.heal("node-a")


def test_a_machine_that_was_paused_beyond_its_deadline_is_reset_when_it_goes_on(cluster: Cluster) -> None:
    data, writer = committing(cluster)
    cluster.playground.freeze("node-a", whole=True)
    node = data.active_on(*OTHERS)
    writer.goes_on(node)
    cluster.playground.thaw("node-a")
    eventually(lambda: cluster.playground.state("node-a") is State.OFF, "node-a is reset", 5)
    assert "resetting this machine" in cluster.log("node-a")
    cluster.playground.start("node-a")
    cluster.until_all_joined()
    writer.goes_on(node)
    writer.check()
    assert [turn.node for turn in writer.turns] == ["node-a", node]
