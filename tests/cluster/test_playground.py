"""What a playground promises: power cuts, hangs and partitions are real, and nothing of it is left behind."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drover.coordinator.cli.errors import Failed, NotPossible
from drover.coordinator.cli.playground import tools
from drover.coordinator.cli.playground.cgroup import mount_point
from drover.coordinator.cli.playground.down import down
from drover.coordinator.cli.playground.layout import Layout
from drover.coordinator.cli.playground.lock import locked
from drover.coordinator.cli.playground.machine import State
from drover.coordinator.cli.playground.up import up
from tests.playground import DROVER, Playground, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("playground")]

PYTHON = (sys.executable, "-I", "-S", "-c")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    directory = tmp_path_factory.mktemp("playground") / "with a space"
    with Playground(directory, nodes=3, etcd=1, agents=False) as playground:
        yield playground
    assert traces(playground.layout) == []


@pytest.fixture
def cluster(shared: Playground) -> Iterator[Playground]:
    """Three nodes and one member, all running, whatever a test does to them."""
    yield shared
    shared.restore()


def traces(layout: Layout) -> list[str]:
    """Whatever on this computer names the playground; found without its own code."""
    directory, word = str(layout.directory), f"dp-{layout.id}"
    escaped = directory.replace(" ", r"\040")
    inodes = {path.stat().st_ino for path in layout.directory.rglob("*")} if layout.directory.exists() else set()
    found = [str(path) for path in Path("/run").glob(f"netns/*{layout.id}*")]
    found += [str(path) for path in Path("/sys/class/net").iterdir() if layout.id in path.name]
    found += [str(path) for path in mount_point().rglob(f"*{layout.id}*")]
    for loop in json.loads(
        subprocess.check_output(["losetup", "-J", "-l", "-O", "NAME,BACK-INO,BACK-FILE"]) or "{}"
    ).get("loopdevices", []):
        if int(loop["back-ino"] or 0) in inodes or directory in (loop["back-file"] or ""):
            found.append(f"{loop['name']} {loop['back-file']}")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            mounts = (process / "mountinfo").read_text()
            group = (process / "cgroup").read_text()
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile, or is a zombie
        if process.name != str(os.getpid()) and (f"drover-{layout.id}" in group or directory in command):
            found.append(f"process {process.name} {command}")
        found += [f"mount in {process.name}: {line}" for line in mounts.splitlines() if word in line or escaped in line]
    return found


def drover(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [DROVER, "playground", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


# Up and down.


def test_the_search_for_traces_sees_a_playground_that_is_up(cluster: Playground) -> None:
    kinds = {
        trace.split()[0].split("/")[1] if trace[0] == "/" else trace.split()[0] for trace in traces(cluster.layout)
    }
    assert {"run", "sys", "process", "mount"} <= kinds


def test_two_playgrounds_side_by_side_do_not_disturb_each_other(cluster: Playground, tmp_path: Path) -> None:
    with Playground(tmp_path / "other", nodes=1, etcd=1, agents=False) as other:
        assert other.settings.subnet != cluster.settings.subnet
        other.etcdctl("put", "/who", "other")
        cluster.etcdctl("put", "/who", "cluster")
        device = other.volume("node-a")
        cluster.kill("node-a")
        assert other.state("node-a") is State.RUNNING
        assert other.etcdctl("get", "/who", "--print-value-only") == "other"
        assert device in {str(loop.device) for loop in other.place("node-a").devices()}
        assert (
            other.sh("node-a", f"ETCDCTL_API=3 etcdctl --endpoints {other.endpoints[0]} get /who --print-value-only")
            == "other"
        )
    assert traces(other.layout) == []
    assert cluster.etcdctl("get", "/who", "--print-value-only") == "cluster"


CONDITIONS: dict[str, Callable[[Layout], bool]] = {
    "the switch is there": lambda layout: layout.switch.exists(),
    "a node's namespace is there": lambda layout: bool(list(Path("/run/netns").glob(f"dp-{layout.id}-node-*"))),
    "a node starts": lambda layout: bool(list((mount_point() / layout.cgroup).glob("node-*"))),
    "etcd starts": lambda layout: (layout.directory / "etcd/etcd-1/etcd.log").exists(),
}


def up_killed_when(moment: str, layout: Layout) -> None:
    command = subprocess.Popen(
        [DROVER, "playground", "up", str(layout.directory), "--no-agents", "--nodes", "2"], stdout=subprocess.DEVNULL
    )
    try:
        eventually(lambda: CONDITIONS[moment](layout), moment)
    finally:
        command.kill()
        command.wait()


@pytest.mark.parametrize("moment", CONDITIONS)
def test_after_kill_9_of_up_at_any_moment_down_leaves_nothing(moment: str, tmp_path: Path) -> None:
    layout = Layout.of(tmp_path / "pg")
    try:
        up_killed_when(moment, layout)
    finally:
        down(layout)
    assert traces(layout) == []


def test_up_after_kill_9_of_up_removes_what_is_left_and_starts(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path / "pg")
    up_killed_when("a node starts", layout)
    with Playground(layout.directory, nodes=1, agents=False) as playground:
        assert playground.sh("node-a", "hostname") == "node-a"
    assert traces(layout) == []


def test_down_removes_devices_mounts_and_frozen_machines_and_the_data_stays(tmp_path: Path) -> None:
    playground = Playground(tmp_path / "pg", nodes=2, agents=False)
    with playground:
        playground.volume("node-a")
        playground.volume("node-b", "w")
        playground.sh("node-b", "echo precious > /srv/w/file; sync -f /srv/w")
        playground.etcdctl("put", "/kept", "yes")
        playground.freeze("node-a")
        playground.freeze("node-b", whole=True)
    assert traces(playground.layout) == []
    with playground:
        assert playground.etcdctl("get", "/kept", "--print-value-only") == "yes"
        playground.mount("node-a", "w")
        assert playground.sh("node-a", "cat /srv/w/file") == "precious"


def test_namespaces_that_others_make_meanwhile_do_not_hide_its_own_from_down(tmp_path: Path) -> None:
    other = f"drover-other-{os.getpid()}"
    playground = Playground(tmp_path / "pg", nodes=1, agents=False)
    try:
        with playground:
            subprocess.run(["ip", "netns", "add", other], check=True)
        assert traces(playground.layout) == []
    finally:
        subprocess.run(["ip", "netns", "del", other], check=True)


def test_down_works_where_the_directory_was_deleted(tmp_path: Path) -> None:
    with Playground(tmp_path / "pg", nodes=1, agents=False) as playground:
        device = Path(playground.volume("node-a")).name
        inode = (playground.layout.shared / "v").stat().st_ino
        shutil.rmtree(playground.directory)
        done = drover("down", playground.directory)
        assert done.returncode == 0, done.stderr
        assert traces(playground.layout) == []
        listed = subprocess.run(["losetup", "-nl", "-O", "BACK-INO", f"/dev/{device}"], capture_output=True, text=True)
        assert listed.stdout.split() != [str(inode)]


def test_down_delete_deletes_the_directory_and_nothing_that_is_no_playground(tmp_path: Path) -> None:
    with Playground(tmp_path / "pg", nodes=1, agents=False) as playground:
        assert drover("down", "--delete", playground.directory).returncode == 0
        assert not playground.directory.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter").write_text("dear")
    done = drover("down", "--delete", tmp_path / "mine")
    assert done.returncode != 0
    assert "not a playground" in done.stderr
    assert (tmp_path / "mine/letter").exists()


def test_up_refuses_a_directory_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    done = drover("up", tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (3, [tmp_path / "letter"])
    assert "not empty and not a playground" in done.stderr


def test_up_refuses_a_playground_that_is_up_and_leaves_it_alone(cluster: Playground) -> None:
    first = cluster.place("node-a").first_process()
    done = drover("up", cluster.directory)
    assert done.returncode == 3
    assert "is up" in done.stderr
    assert cluster.place("node-a").first_process() == first


def _stand_in(monkeypatch: pytest.MonkeyPatch, directory: Path, script: str) -> None:
    agent = directory / "agent"
    agent.write_text(f"#!/bin/sh\n{script}\n")
    agent.chmod(0o755)
    find = tools.find
    monkeypatch.setattr(tools, "find", lambda tool: str(agent) if tool == "drover-agent" else find(tool))


def test_up_waits_until_every_agent_has_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
        endpoint=$(sed -n 's/^endpoints = ."\\(.*\\)".$/\\1/p' "$2")
        until etcdctl --endpoints "$endpoint" put /drover/nodes/$(hostname) {}; do sleep 0.1; done
        exec sleep 1000"""
    _stand_in(monkeypatch, tmp_path, script)
    with Playground(tmp_path / "pg", nodes=2, agents=True) as playground:
        found = playground.etcdctl("get", "--prefix", "/drover/nodes/", "--keys-only").split()
        assert found == ["/drover/nodes/node-a", "/drover/nodes/node-b"]


def test_a_failed_up_shows_the_agents_log_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch, tmp_path, "echo the disk is on fire; exit 1")
    layout = Layout.of(tmp_path / "pg")
    with pytest.raises(Failed, match=r"(?s)not all agents.*node-a.*the disk is on fire"):
        up(layout, nodes=1, timeout=3)
    assert traces(layout) == []


def test_a_second_command_waits_for_the_first_and_then_says_who_it_is(cluster: Playground) -> None:
    with locked(cluster.directory):
        with pytest.raises(NotPossible, match=f"another command.*process {os.getpid()}"):
            with locked(cluster.directory, patience=0.1):
                pass


# Inside.


def test_a_node_has_an_identity_of_its_own_and_a_new_boot_at_each_start(cluster: Playground) -> None:
    identity = "cat /etc/machine-id /proc/sys/kernel/random/boot_id; hostname"
    machine, boot, name = cluster.sh("node-b", identity).split()
    assert name == "node-b"
    assert machine not in (Path("/etc/machine-id").read_text().strip(), cluster.sh("node-a", "cat /etc/machine-id"))
    cluster.kill("node-b")
    cluster.start("node-b")
    again = cluster.sh("node-b", identity).split()
    assert (again[0], again[2]) == (machine, "node-b")
    assert again[1] != boot


def test_a_node_has_namespaces_a_run_directory_and_a_cgroup_tree_of_its_own(cluster: Playground) -> None:
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "uts")
    inside = set(cluster.sh("node-a", f"cd /proc/self/ns; readlink {' '.join(kinds)}").split())
    other = set(cluster.sh("node-b", f"cd /proc/self/ns; readlink {' '.join(kinds)}").split())
    outside = {os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}
    assert len(inside) == len(kinds)
    assert not inside & (other | outside)
    cluster.sh("node-a", "touch /run/mine /srv/mine; mkdir -p /sys/fs/cgroup/mine")
    assert cluster.sh("node-b", "ls /run /srv /sys/fs/cgroup | grep -c mine || true") == "0"
    assert not Path("/run/mine").exists()
    assert cluster.sh("node-a", "grep 0:: /proc/self/cgroup") == "0::/exec"
    assert cluster.sh("node-a", "cat /proc/1/cgroup | grep 0::") == "0::/init"


def test_exec_passes_on_status_streams_arguments_and_signals(cluster: Playground) -> None:
    run = ("exec", cluster.directory, "node-a", "--")
    script = 'cat; echo err >&2; echo "$1"; exit 7'
    done = drover(*run, "sh", "-c", script, "sh", "two words", input="in ")
    assert (done.returncode, done.stdout, done.stderr) == (7, "in two words\n", "err\n")
    assert drover(*run, "sh", "-c", "kill -9 $$").returncode == 128 + 9
    assert drover(*run, "no-such-command").returncode == 127
    waiting = cluster.popen(
        "node-a", "sh", "-c", "trap 'echo got it; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    )
    assert waiting.stdout
    assert waiting.stdout.readline() == "ready\n"
    waiting.terminate()
    assert waiting.communicate(timeout=10)[0] == "got it\n"
    assert waiting.returncode == 3


def test_a_command_that_is_executed_dies_with_the_power_and_with_who_asked_for_it(cluster: Playground) -> None:
    for end in (lambda _: cluster.kill("node-a"), lambda process: process.kill()):
        if cluster.state("node-a") is State.OFF:
            cluster.start("node-a")
        waiting = cluster.popen("node-a", "sh", "-c", "echo $$; exec sleep 1000")
        assert waiting.stdout
        assert waiting.stdout.readline()
        processes = len(cluster.place("node-a").group.child("exec").pids())
        assert processes == 1
        end(waiting)
        waiting.communicate(timeout=10)
        assert waiting.returncode in (128 + 9, -9)
        eventually(lambda: not cluster.place("node-a").group.child("exec").pids(), "the command has ended")


def test_env_prints_what_etcdctl_needs(cluster: Playground) -> None:
    lines = drover("env", cluster.directory).stdout
    beside = shlex.quote(str(Path(DROVER).parent))
    script = f"{lines}\nPATH=$PATH:{beside}; etcdctl put /from/env 1 && etcdctl get /from/env --print-value-only"
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["OK", "1"], done.stderr
    shown = json.loads(drover("env", "--json", cluster.directory).stdout)
    assert shown["DROVER_ENDPOINTS"] == shown["ETCDCTL_ENDPOINTS"] == f"http://{cluster.address('etcd-1')}:2379"


def test_status_tells_what_was_done_to_each_machine(cluster: Playground) -> None:
    cluster.freeze("node-a", whole=True)
    cluster.kill("node-b")
    cluster.partition("node-c", "etcd", one_way=True)
    found = json.loads(drover("status", "--json", cluster.directory).stdout)
    machines = {one["name"]: one for one in found["machines"]}
    assert found["up"] is True
    assert machines["node-a"]["state"] == "machine frozen"
    assert machines["node-b"]["state"] == "off"
    assert machines["node-c"]["cannot_reach"] == ["etcd-1"]
    assert machines["etcd-1"]["cannot_hear"] == ["node-c"]
    assert machines["etcd-1"]["service"] == "running"
    assert "cannot reach etcd-1" in drover("status", cluster.directory).stdout


def test_what_is_impossible_now_is_said_with_the_way_out(cluster: Playground) -> None:
    cluster.kill("node-a")
    off = drover("exec", cluster.directory, "node-a", "--", "true")
    assert off.returncode == 3
    assert "node-a is off" in off.stderr
    assert "playground start" in off.stderr
    assert "off already" in drover("kill", cluster.directory, "node-a").stderr
    cluster.start("node-a")
    assert "running already" in drover("start", cluster.directory, "node-a").stderr
    unknown = drover("kill", cluster.directory, "node-x")
    assert unknown.returncode == 2
    assert "node-a, node-b" in unknown.stderr


# etcd, and services.


@pytest.mark.parametrize("how", ["kill", "freeze", "freeze whole"])
def test_an_etcd_member_that_was_ended_or_frozen_comes_back_with_its_data(cluster: Playground, how: str) -> None:
    cluster.etcdctl("put", "/kept", how)
    ask = ("--command-timeout", "0.5s", "--dial-timeout", "0.5s", "get", "/kept", "--print-value-only")
    if how == "kill":
        cluster.kill("etcd-1")
    else:
        cluster.freeze("etcd-1", whole=how.endswith("whole"))
    assert cluster.etcdctl(*ask, check=False) == ""
    if how == "kill":
        cluster.start("etcd-1")
    else:
        cluster.thaw("etcd-1")
    eventually(lambda: cluster.etcdctl(*ask, check=False) == how, "the value is there")


def test_a_service_that_dies_is_started_again_and_one_that_was_stopped_is_not(cluster: Playground) -> None:
    first = cluster.service_pid("etcd-1")
    cluster.kill_agent("etcd-1")
    eventually(lambda: cluster.service_pid("etcd-1") not in (first, None), "it was started again")
    cluster.freeze_agent("etcd-1")
    eventually(lambda: cluster.service("etcd-1") == "hung", "it hangs")
    cluster.thaw_agent("etcd-1")
    cluster.stop_agent("etcd-1")
    assert cluster.service("etcd-1") == "stopped"
    assert drover("kill", "--agent", cluster.directory, "etcd-1").returncode == 3
    cluster.start_agent("etcd-1")
    assert cluster.service("etcd-1") == "running"
    eventually(lambda: cluster.etcdctl("put", "/x", "y", check=False) == "OK", "etcd answers")


def test_three_members_elect_another_leader_when_theirs_is_cut_off(tmp_path: Path) -> None:
    with Playground(tmp_path / "pg", nodes=1, etcd=3, agents=False, etcd_fast=True) as playground:
        found = json.loads(playground.etcdctl("endpoint", "status", "-w", "json"))
        leader = next(
            name
            for name, one in zip(playground.members, found, strict=True)
            if one["Status"]["leader"] == one["Status"]["header"]["member_id"]
        )
        playground.partition(leader, "all")
        eventually(lambda: playground.etcdctl("put", "/x", "y", check=False) == "OK", "the majority goes on")
        playground.heal(leader)
