"""The units in a real, booted systemd: what happens to datasets when systemd does something to the agent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booted import HUP, INT, SPEC, Booted, Cluster
from tests.cluster import writer
from tests.etcd import EtcdCluster
from tests.playground import eventually


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with EtcdCluster() as etcd:
        yield Cluster(tmp_path_factory.mktemp("booted"), etcd.members[0].endpoint)


@pytest.fixture(scope="module")
def machine(cluster: Cluster) -> Iterator[Booted]:
    identity = Path("/etc/machine-id").read_text()
    with cluster.machine("node-a") as booted:
        cluster.write("notes", "node-a")
        yield booted
    assert Path("/etc/machine-id").read_text() == identity, "the computer that tests run on has kept its identity"


def mount_of(machine: Booted, dataset: str) -> str:
    """Its line in the mount table of the whole machine, with the mount's id."""
    return machine.run("grep", f" /srv/drover/{dataset} ", "/proc/1/mountinfo")


def pid(machine: Booted) -> int:
    return int(machine.shows()["MainPID"])


def test_under_systemd_it_is_active_healthy_and_says_so_in_one_line(cluster: Cluster, machine: Booted) -> None:
    shows = machine.shows()
    assert (shows["ActiveState"], shows["SubState"]) == ("active", "running")
    assert shows.get("StatusText") == "ready, 1 dataset here"
    assert shows["ControlGroup"] == "/system.slice/drover-agent.service"
    assert "0::/system.slice/drover-agent.service" in machine.run("cat", f"/proc/{pid(machine)}/cgroup").splitlines()
    assert machine.asked("/readyz")[0] == 200
    assert machine.asked("/healthz")[0] == 200
    assert cluster.get("nodes/node-a")["boot"] == (machine.directory / "boot-id").read_text().strip()
    assert mount_of(machine, "notes"), "what the agent mounts is mounted for the whole machine"


def test_no_commit_fails_while_systemd_restarts_the_agent(cluster: Cluster, machine: Booted) -> None:
    before, mount = pid(machine), mount_of(machine, "notes")
    machine.run("systemctl", "restart", "drover-agent")
    assert pid(machine) != before
    eventually(lambda: machine.shows().get("StatusText") == "ready, 1 dataset here", "it is ready again", 20, 0.1)
    cluster.goes_on("notes", "node-a")
    cluster.check("notes", machine)
    assert len(writer.turns(cluster.acknowledged("notes"))) == 1, "a writer whose commit fails ends"
    assert mount_of(machine, "notes") == mount
    assert cluster.get("owners/notes")["epoch"] == 1
    assert cluster.keys("fences") == []


def test_asked_to_leave_it_stops_what_it_has_and_keeps_it_until_it_is_started_again(
    cluster: Cluster, machine: Booted
) -> None:
    tenure = cluster.get("owners/notes")
    told = machine.run("drover-agent", "shutdown", "--config", str(machine.directory / "etc/agent.toml"))
    assert told == "drover-agent: notes kept for 300 s"
    assert machine.run("grep", " /srv/drover/notes ", "/proc/1/mountinfo", check=False) == ""
    assert machine.asked("/readyz")[0] == 503
    assert cluster.keys("nodes") == []
    last = cluster.get("heartbeats/node-a")
    assert (last["left"], last["longer"]) == (True, 300.0)
    assert "shuts down; it waits for node-a until" in cluster.get("status/notes")["reason"]
    machine.run("systemctl", "restart", "drover-agent")
    cluster.goes_on("notes", "node-a")
    cluster.check("notes", machine)
    now = cluster.get("owners/notes")
    assert (now["incarnation"], now["epoch"]) == (tenure["incarnation"], tenure["epoch"])
    assert cluster.keys("fences") == []


@pytest.mark.long
def test_an_agent_that_hangs_is_killed_by_systemds_watchdog_and_back_before_its_deadline(
    cluster: Cluster, machine: Booted
) -> None:
    turns = len(writer.turns(cluster.acknowledged("notes")))
    before, mount, restarts = pid(machine), mount_of(machine, "notes"), int(machine.shows()["NRestarts"])
    machine.run("kill", "-STOP", str(before))
    eventually(lambda: int(machine.shows()["NRestarts"]) > restarts, "the watchdog has ended it", 10, 0.1)
    eventually(lambda: machine.shows().get("StatusText") == "ready, 1 dataset here", "it is ready again", 20, 0.1)
    assert pid(machine) != before
    assert "Fatal Python error: Aborted" in machine.log(), "where it hung is in the journal"
    assert "gate closed: no heartbeat" not in machine.run("journalctl", "-b", "--no-pager", "-o", "cat")
    cluster.goes_on("notes", "node-a")
    cluster.check("notes", machine)
    assert len(writer.turns(cluster.acknowledged("notes"))) == turns
    assert mount_of(machine, "notes") == mount
    assert cluster.get("owners/notes")["epoch"] == 1
    assert cluster.keys("fences") == []


@pytest.fixture
def other(cluster: Cluster) -> Iterator[Booted]:
    with cluster.machine("node-b") as booted:
        yield booted


@pytest.mark.long
def test_a_reboot_moves_what_may_move_without_a_fence_and_loses_no_commit(
    cluster: Cluster, machine: Booted, other: Booted
) -> None:
    cluster.write("orders", "node-a")
    cluster.write("local", "node-a", failover="none")
    epochs = {name: cluster.get(f"owners/{name}")["epoch"] for name in ("orders", "local")}
    machine.run("systemctl", "reboot")
    cluster.goes_on("orders", "node-b")
    assert machine.ended() == HUP
    before, after = writer.turns(cluster.acknowledged("orders"))
    assert (before.node, after.node) == ("node-a", "node-b")
    assert after.began - before.done < 2, "seconds between the last commit there and the first here"
    assert cluster.keys("fences") == []
    cluster.check("orders", other)
    assert "shuts down; it waits for node-a until" in str(cluster.get("status/local")["reason"])
    assert cluster.get("heartbeats/node-a")["left"] is True
    machine.boot()
    cluster.goes_on("local", "node-a")
    cluster.check("local", machine)
    cluster.goes_on("orders", "node-b")
    assert cluster.get("owners/orders")["epoch"] == epochs["orders"] + 1
    assert cluster.get("owners/local")["epoch"] == epochs["local"] + 1, "another incarnation, on the same node"


FAST = "timings = { heartbeat = 0.5, d_soft = 3.0, d_io = 3.6, d_hard = 4.6, wait = 5.0 }"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Cluster, Booted, Booted]]:
    """A cluster of its own, in which others take over after 5 s of silence."""
    with EtcdCluster() as etcd:
        cluster = Cluster(tmp_path, etcd.members[0].endpoint)
        settings = f'{FAST}\non_shutdown = "keep"\nshutdown_timeout = 3.0\nreboot_grace = 120.0'
        with cluster.machine("node-a", settings) as first, cluster.machine("node-b", FAST) as second:
            yield cluster, first, second


@pytest.mark.long
def test_what_is_kept_waits_for_its_machine_longer_than_silence_would_and_nobody_takes_it(
    pair: tuple[Cluster, Booted, Booted],
) -> None:
    cluster, first, second = pair
    cluster.write("notes", "node-a")
    first.run("systemctl", "poweroff")
    assert first.ended() == INT
    off = time.monotonic()
    eventually(lambda: time.monotonic() - off > 9, "the machine is off for longer than W", 20, 0.5)
    owner = cluster.get("owners/notes")
    assert (owner["node"], owner["epoch"]) == ("node-a", 1)
    assert cluster.keys("fences") == []
    first.boot()
    cluster.goes_on("notes", "node-a")
    cluster.check("notes", first)
    assert cluster.get("owners/notes")["epoch"] == 2, "by the same node in its next boot"
    assert [cluster.get(key.removeprefix("/drover/"))["evidence"] for key in cluster.keys("fences")] == ["reboot"]
    assert "/srv/drover/notes" not in second.run("cat", "/proc/mounts")


@pytest.mark.long
def test_a_workload_that_does_not_end_holds_up_a_shutdown_no_longer_than_its_limit(
    pair: tuple[Cluster, Booted, Booted],
) -> None:
    cluster, first, _ = pair
    command = ["/bin/sh", "-c", "trap '' TERM; touch $DROVER_PATH/begun; while :; do sleep 1; done"]
    cluster.put("datasets/stubborn", SPEC)
    cluster.put("desired/stubborn", "node-a")
    cluster.put("workloads/stubborn", {"command": command, "datasets": ["stubborn"], "stop_grace_period": 3600})
    eventually(lambda: first.run("ls", "/srv/drover/stubborn", check=False).find("begun") >= 0, "it runs", 30, 0.1)
    first.run("systemctl", "reboot")
    assert first.ended(within=45) == HUP
    assert cluster.get("heartbeats/node-a")["left"] is True, "it was killed, and nothing was left of it"


@pytest.mark.long
def test_without_etcd_a_shutdown_waits_for_nobody(tmp_path: Path) -> None:
    with EtcdCluster() as etcd:
        cluster = Cluster(tmp_path, etcd.members[0].endpoint)
        with cluster.machine("node-a") as machine:
            cluster.write("notes", "node-a")
            etcd.members[0].freeze()
            machine.run("systemctl", "reboot")
            assert machine.ended(within=60) == HUP
            etcd.members[0].thaw()
            assert not cluster.get("heartbeats/node-a")["left"]
            machine.boot()
            cluster.goes_on("notes", "node-a")
            cluster.check("notes", machine)
