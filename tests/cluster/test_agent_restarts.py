"""Agents that are killed, started twice, or started too early: what they run and hold goes on."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drover.agent.priority import NICE
from drover.coordinator.timings import PROFILES, Timings
from tests.cluster.cluster import Cluster, Dataset
from tests.playground import Playground, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("agent-restarts")]

AGENT = str(Path(sys.executable).with_name("drover-agent"))


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Relaxed timings: on a busy machine an agent may take some seconds to start."""
    with Playground(tmp_path_factory.mktemp("agents") / "pg", nodes=3, etcd=3, timings="relaxed") as playground:
        yield Cluster(playground)


def mount_of(data: Dataset) -> str:
    """The line of the mount table, with the mount's id: another one where it was mounted again."""
    return data.cluster.playground.sh(data.node, f"grep ' {data.path} ' /proc/self/mountinfo")


def restarted(cluster: Cluster, node: str, pid: int | None) -> None:
    """Until another process is the agent, and heartbeats move."""
    playground = cluster.playground
    eventually(lambda: playground.service_pid(node) not in (None, pid), f"the agent of {node} runs again", 15)
    eventually(lambda: "goes on as" in cluster.log(node), f"the agent of {node} goes on", 30)
    counter = cluster.heartbeat(node)["counter"]
    eventually(lambda: cluster.heartbeat(node)["counter"] > counter, f"{node} is heard")


def guard_of(cluster: Cluster, node: str) -> str:
    """Its PID, as the machine counts."""
    return cluster.playground.sh(node, "pgrep -f '[a]gent.guard.main'")


def second_agent(cluster: Cluster, machine: str, **settings: str) -> tuple[int, str]:
    """An agent beside the one of this machine, with the same settings but for these; its exit status and last line."""
    text = (cluster.playground.home(machine) / "agent.toml").read_text()
    for name, value in settings.items():
        old = next(line for line in text.splitlines() if line.startswith(f"{name} = "))
        text = text.replace(old, f'{name} = "{value}"')
    file = cluster.playground.home(machine) / "second.toml"
    file.write_text(text)
    done = cluster.playground.exec(machine, AGENT, "--config", str(file), check=False, timeout=20)
    return done.returncode, done.stderr.strip()


def test_an_agent_killed_under_a_writer_is_missed_by_nobody(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    incarnation, mount = cluster.incarnation("node-a"), mount_of(data)
    for _ in range(3):
        pid = cluster.playground.service_pid("node-a")
        cluster.begin()
        cluster.playground.kill_agent("node-a")
        restarted(cluster, "node-a", pid)
    writer.goes_on("node-a")
    writer.check()
    assert len(writer.turns) == 1
    assert cluster.incarnation("node-a") == incarnation
    assert mount_of(data) == mount
    assert data.epoch == 1
    assert not cluster.record(f"fences/{incarnation}")


def test_no_commit_fails_while_the_agent_is_restarted_in_good_order_and_its_guard_stays(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    guard = guard_of(cluster, "node-a")
    for _ in range(2):
        pid = cluster.playground.service_pid("node-a")
        cluster.begin()
        cluster.playground.stop_agent("node-a")
        cluster.playground.start_agent("node-a")
        restarted(cluster, "node-a", pid)
    writer.goes_on("node-a")
    writer.check()
    assert len(writer.turns) == 1, "a writer whose commit fails ends, and another one is started"
    assert data.epoch == 1
    assert guard_of(cluster, "node-a") == guard


SHORTER = Timings(heartbeat=2.0, d_soft=16.0, d_io=20.0, d_hard=24.0, wait=26.0, lease_ttl=30)


def timed(cluster: Cluster, node: str, timings: Timings) -> None:
    """Its agent is started again with these timings, and is heard with them."""
    file = cluster.playground.home(node) / "agent.toml"
    said = ", ".join(f"{name} = {value}" for name, value in timings.model_dump().items())
    lines = [f"timings = {{{said}}}" if line.startswith("timings") else line for line in file.read_text().splitlines()]
    file.write_text("\n".join(lines))
    cluster.playground.kill_agent(node)
    eventually(lambda: cluster.heartbeat(node)["d_hard"] == timings.d_hard, f"{node} is heard with them", 40)


@pytest.mark.long
@pytest.mark.timeout(180)
def test_timings_change_node_by_node_under_a_writer_and_nobody_is_fenced(cluster: Cluster) -> None:
    """Observers go by the D_hard in each heartbeat, whatever their own is."""
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    before, fences = [cluster.incarnation(node) for node in cluster.playground.nodes], cluster.entries("fences/")
    for timings in (SHORTER, PROFILES["relaxed"]):
        for node in cluster.playground.nodes:
            timed(cluster, node, timings)
            writer.goes_on("node-a")
    writer.check()
    assert len(writer.turns) == 1
    assert [cluster.incarnation(node) for node in cluster.playground.nodes] == before
    assert cluster.entries("fences/") == fences


def test_the_kernel_prefers_the_agent_and_neither_its_helpers_nor_its_workloads(cluster: Cluster) -> None:
    writer = cluster.writer(cluster.dataset(on="node-a"))
    for process, nice in (
        ("$(cat /run/playground/service.pid)", NICE),
        ("$(pgrep -f '[a]gent.helper.main' | head -n 1)", 0),
        (f"$(pgrep -f '[w]riter.py.*{writer.name}' | head -n 1)", 0),
    ):
        told = cluster.playground.sh("node-a", f"cat /proc/{process}/autogroup")
        assert int(told.split()[-1]) == nice, process


def test_after_an_agents_restart_its_dataset_moves_as_before(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    cluster.playground.kill_agent("node-a")
    cluster.move(data, "node-b")
    data.active_on("node-b")
    writer.goes_on("node-b")
    writer.check()
    assert data.epoch == 2


def test_agents_killed_at_any_moment_of_a_move_end_it_where_it_was_put_and_lose_nothing(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    chance = random.Random(1)
    here, there = "node-a", "node-b"
    for _ in range(10):
        cluster.move(data, there)
        time.sleep(chance.uniform(0, 0.08))  # a random moment of a move of some 50 ms
        cluster.playground.kill_agent(chance.choice((here, there)))
        data.active_on(there, within=20)
        writer.goes_on(there, records=5, within=20)
        here, there = there, here
    writer.check()
    assert data.epoch == 11


def test_a_second_machine_with_a_living_nodes_name_is_refused_and_told_who_has_it(cluster: Cluster) -> None:
    before = cluster.incarnation("node-a")
    status, said = second_agent(
        cluster, "node-c", node="node-a", run_dir="/run/second", grpc="127.0.0.1:7480", http="127.0.0.1:7481"
    )
    machine = (cluster.playground.home("node-a") / "machine-id").read_text().strip()
    assert status == 1
    assert "node node-a is alive on another machine" in said
    assert machine in said
    assert cluster.incarnation("node-a") == before
    assert "gate closed" not in cluster.log("node-a")


def test_a_second_agent_of_one_node_is_refused_and_told_which_process_is_the_first(cluster: Cluster) -> None:
    status, said = second_agent(cluster, "node-a")
    assert status == 1
    assert "an agent of this node runs already" in said
    pid = cluster.playground.sh("node-a", "cat /run/playground/service.pid")
    assert f"pid {pid} holds /run/drover/agent.lock" in said
    assert len(said.splitlines()) == 1


def test_an_agent_that_starts_without_etcd_waits_and_says_so_and_joins_when_etcd_comes(cluster: Cluster) -> None:
    playground = cluster.playground
    before = cluster.incarnation("node-c")
    playground.kill("node-c")
    playground.start("node-c")
    playground.partition("node-c", "etcd")
    playground.kill_agent("node-c")
    cluster.begin()
    eventually(lambda: "waiting for etcd" in cluster.log("node-c"), "it says that it waits", 15)
    playground.heal("node-c")
    eventually(lambda: cluster.incarnation("node-c") not in ("", before), "it joins", 15)
    assert playground.service("node-c") == "running"
    data = cluster.dataset(on="node-c")
    assert data.node == "node-c"


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [("node", "not/a/name", "node"), ("mount_root", "relative", "mount_root")],
)
def test_a_wrong_setting_ends_the_agent_with_one_line_that_names_it(
    cluster: Cluster, setting: str, value: str, said: str
) -> None:
    status, error = second_agent(cluster, "node-a", **{setting: value})
    assert status == 2
    assert len(error.splitlines()) == 1
    assert said in error


def test_a_workload_that_exits_is_started_again_later_and_later_and_its_end_is_known_after_an_agents_restart(
    cluster: Cluster,
) -> None:
    data = cluster.dataset(on="node-a")
    name = cluster.name("failing")
    command = ["/bin/sh", "-c", "date +%s.%N >> $DROVER_PATH/starts; exit 7"]
    cluster.put(f"workloads/{name}", json.dumps({"command": command, "datasets": [data.name]}))
    data.says(f"workload {name} exited with status 7", "restarts")

    def starts() -> list[float]:
        return [float(line) for line in data.read("starts").split()]

    eventually(lambda: len(starts()) >= 4, "it was started four times", 20)
    first, second, third, fourth = starts()[:4]
    assert second - first < third - second < fourth - third
    pid = cluster.playground.service_pid("node-a")
    cluster.playground.kill_agent("node-a")
    restarted(cluster, "node-a", pid)
    data.says(f"workload {name} exited with status 7")
    assert data.status["phase"] == "active"
