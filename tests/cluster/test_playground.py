"""What a playground promises: power cuts, hangs and partitions are real, and nothing of it is left behind."""

from __future__ import annotations

import hashlib
import json
import os
import select
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

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
ANSWER = """
import socket, threading
def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("", 7000))
    while True:
        print("heard", s.recvfrom(64)[0].decode(), flush=True)
threading.Thread(target=udp, daemon=True).start()
s = socket.create_server(("", 7000))
print("ready", flush=True)
peers = []
while True:
    peers.append(s.accept()[0])
    peers[-1].sendall(b"hello")
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.4)"
GREETED = 'import socket, sys; s = socket.create_connection((sys.argv[1], 7000), 0.4); assert s.recv(5) == b"hello"'


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
        device = volume(other, "node-a")
        cluster.kill("node-a")
        assert other.state("node-a") is State.RUNNING
        assert other.etcdctl("get", "/who", "--print-value-only") == "other"
        assert device in {str(loop.device) for loop in other.place("node-a").devices()}
        assert reaches(other, "node-a", "etcd-1")
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
        volume(playground, "node-a")
        volume(playground, "node-b", "w")
        playground.sh("node-b", "echo precious > /srv/w/file; sync -f /srv/w")
        playground.etcdctl("put", "/kept", "yes")
        playground.freeze("node-a")
        playground.freeze("node-b", whole=True)
    assert traces(playground.layout) == []
    with playground:
        assert playground.etcdctl("get", "/kept", "--print-value-only") == "yes"
        assert mounted(playground, "node-a", "w", "cat /srv/w/file") == "precious"


def test_down_works_where_the_directory_was_deleted(tmp_path: Path) -> None:
    with Playground(tmp_path / "pg", nodes=1, agents=False) as playground:
        volume(playground, "node-a")
        playground.directory.rename(tmp_path / "elsewhere")
        done = drover("down", playground.directory)
        assert done.returncode == 0, done.stderr
        assert traces(playground.layout) == []


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


# Power cuts.


def volume(playground: Playground, node: str, name: str = "v") -> str:
    """A new ext4 volume, mounted at /srv/NAME; its device."""
    image = playground.home(node) / "shared" / name
    return playground.sh(
        node,
        f"truncate -s 64M '{image}'; mkfs.ext4 -q '{image}'; device=$(losetup -f --show '{image}');"
        f"mkdir -p /srv/{name}; mount $device /srv/{name}; echo $device",
    )


def mounted(playground: Playground, node: str, name: str, script: str) -> str:
    """Attaches and mounts a volume that exists, and runs a script."""
    image = playground.home(node) / "shared" / name
    return playground.sh(node, f"mkdir -p /srv/{name}; mount $(losetup -f --show '{image}') /srv/{name}; {script}")


WRITE = "head -c 8000000 /dev/urandom > /srv/v/file"


@pytest.mark.parametrize("before", ["nothing", "freeze", "freeze --machine"])
def test_a_power_cut_loses_what_was_not_synced_and_nothing_that_was(cluster: Playground, before: str) -> None:
    volume(cluster, "node-a")
    cluster.sh(
        "node-a",
        f"{WRITE}; cd /srv/v; mv file synced; md5sum < synced > sum; sync synced sum .",
    )
    if before == "nothing":
        cluster.sh("node-a", f"{WRITE}; mv /srv/v/file /srv/v/unsynced")
    else:
        cluster.freeze("node-a", whole=before.endswith("machine"))
    cluster.kill("node-a")
    assert cluster.place("node-a").devices() == []
    cluster.start("node-a")
    found = mounted(cluster, "node-a", "v", "ls /srv/v; md5sum < /srv/v/synced | cmp - /srv/v/sum").split()
    assert found == ["lost+found", "sum", "synced"]
    cluster.kill("node-a")
    checked = subprocess.run(["e2fsck", "-f", "-p", cluster.layout.shared / "v"], capture_output=True, text=True)
    assert checked.returncode in (0, 1), checked.stdout


def test_killing_the_processes_alone_is_no_power_cut(cluster: Playground) -> None:
    volume(cluster, "node-a")
    cluster.sh("node-a", f"{WRITE}; mv /srv/v/file /srv/v/unsynced")
    cluster.kill("node-a", soft=True)
    cluster.start("node-a")
    assert mounted(cluster, "node-a", "v", "wc -c < /srv/v/unsynced") == "8000000"


def test_a_power_cut_leaves_other_nodes_devices_alone(cluster: Playground) -> None:
    volume(cluster, "node-a")
    device = volume(cluster, "node-b", "w")
    cluster.kill("node-a")
    assert [str(loop.device) for loop in cluster.place("node-b").devices()] == [device]
    cluster.sh("node-b", "echo still here > /srv/w/file; sync -f /srv/w; umount /srv/w")
    assert mounted(cluster, "node-b", "w", "cat /srv/w/file") == "still here"


@contextmanager
def running(playground: Playground, node: str, *command: str, until: str) -> Iterator[IO[str]]:
    """A command on a node, from its first line on; what it prints after that."""
    process = playground.popen(node, *command)
    try:
        assert process.stdout
        assert process.stdout.readline().strip() == until
        yield process.stdout
    finally:
        process.kill()
        process.communicate()


HOLD_CONNECTION = """
import socket, sys
s = socket.create_connection((sys.argv[1], 7000), 2)
s.settimeout(None)
s.recv(5)
print("connected", flush=True)
print("end" if s.recv(1) == b"" else "data", flush=True)
"""


@pytest.mark.parametrize("soft", [True, False])
def test_peers_hear_of_a_kill_and_nothing_of_a_power_cut(cluster: Playground, soft: bool) -> None:
    with running(cluster, "node-a", *PYTHON, ANSWER, until="ready"):
        with running(
            cluster, "node-b", *PYTHON, HOLD_CONNECTION, cluster.address("node-a"), until="connected"
        ) as connection:
            cluster.kill("node-a", soft)
            assert bool(select.select([connection], [], [], 0.5)[0]) is soft


def test_a_node_that_resets_itself_is_off_and_starts_again(cluster: Playground) -> None:
    volume(cluster, "node-a")
    reset = "import ctypes; ctypes.CDLL(None).reboot(0x01234567)"
    cluster.exec("node-a", *PYTHON, reset, check=False)
    eventually(lambda: cluster.state("node-a") is State.OFF, "node-a is off")
    cluster.start("node-a")
    assert cluster.place("node-a").devices() == []
    assert mounted(cluster, "node-a", "v", "echo mounted") == "mounted"


# Hangs.


def test_a_frozen_node_runs_nothing_and_its_kernel_still_answers(cluster: Playground) -> None:
    with running(cluster, "node-a", *PYTHON, ANSWER, until="ready"):
        assert greeted(cluster, "node-b", "node-a")
        cluster.freeze("node-a")
        assert reaches(cluster, "node-b", "node-a", 7000), "the kernel takes connections"
        assert not greeted(cluster, "node-b", "node-a"), "no process answers them"
        cluster.thaw("node-a")
        assert greeted(cluster, "node-b", "node-a")
        cluster.freeze("node-a", whole=True)
        assert not reaches(cluster, "node-b", "node-a", 7000), "a machine that hangs is silent"
        cluster.thaw("node-a")
        eventually(lambda: greeted(cluster, "node-b", "node-a"), "node-a is back")


@pytest.mark.parametrize("whole", [False, True])
def test_the_disks_of_a_frozen_machine_stand_still_and_those_of_frozen_processes_do_not(
    cluster: Playground, whole: bool
) -> None:
    device = volume(cluster, "node-a")
    write = "while :; do head -c 100000 /dev/zero | tee -a /srv/v/log > /srv/v/again; echo wrote; done"
    with running(cluster, "node-a", "sh", "-c", write, until="wrote") as writer:
        cluster.freeze("node-a", whole)
        image = cluster.layout.shared / "v"
        mounted_at = f"/proc/{cluster.place('node-a').first_process()}/root/srv/v"
        before = _sectors(device), _digest(image)
        for what in (["-f", mounted_at], [device]):
            subprocess.run(["sync", *what], check=True, timeout=30)
        after = _sectors(device), _digest(image)
        assert (after == before) is whole
        cluster.thaw("node-a")
        for _ in range(3):
            assert writer.readline() == "wrote\n", "the writer goes on"
        cluster.sh("node-a", "sync -f /srv/v")
        assert _sectors(device) > after[0]


def _sectors(device: str) -> int:
    return int(Path("/sys/block", Path(device).name, "stat").read_text().split()[6])


def _digest(image: Path) -> str:
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Partitions.


def reaches(playground: Playground, source: str, target: str, port: int = 2379) -> bool:
    """Whether a TCP connection comes about."""
    done = playground.exec(source, *PYTHON, CONNECT, playground.address(target), str(port), check=False)
    return done.returncode == 0


def greeted(playground: Playground, source: str, target: str) -> bool:
    """Whether the listener there answers."""
    return playground.exec(source, *PYTHON, GREETED, playground.address(target), check=False).returncode == 0


def host_reaches(playground: Playground, target: str, port: int) -> bool:
    command = [*PYTHON, CONNECT, playground.address(target), str(port)]
    return subprocess.run(command, capture_output=True, timeout=10).returncode == 0


@pytest.fixture
def heard(cluster: Playground) -> Iterator[dict[str, IO[str]]]:
    """Every node listens on port 7000; what each says it heard."""
    with ExitStack() as stack:
        yield {
            node: stack.enter_context(running(cluster, node, *PYTHON, ANSWER, until="ready")) for node in cluster.nodes
        }


@pytest.mark.parametrize(
    ("separate", "etcd", "nodes", "host"),
    [("etcd", False, True, True), ("nodes", True, False, True), ("all", False, False, False)],
)
@pytest.mark.usefixtures("heard")
def test_a_partition_separates_from_what_it_says_and_nothing_else(
    cluster: Playground, separate: str, etcd: bool, nodes: bool, host: bool
) -> None:
    def seen() -> tuple[bool, bool, bool, bool]:
        return (
            reaches(cluster, "node-a", "etcd-1"),
            greeted(cluster, "node-a", "node-b"),
            greeted(cluster, "node-b", "node-a"),
            host_reaches(cluster, "node-a", 7000),
        )

    assert seen() == (True, True, True, True)
    cluster.partition("node-a", separate)
    assert seen() == (etcd, nodes, nodes, host)
    assert greeted(cluster, "node-b", "node-c"), "the others are not concerned"
    cluster.heal("node-a")
    eventually(lambda: seen() == (True, True, True, True), "all reach each other again")


def test_a_partition_cuts_connections_that_there_are(cluster: Playground) -> None:
    chat = """
import socket, sys
s = socket.create_connection((sys.argv[1], 2379), 2)
s.settimeout(0.5)
print("connected", flush=True)
for line in sys.stdin:
    try:
        s.sendall(b"GET /version HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
        s.recv(4096)
        print("answered", flush=True)
    except TimeoutError:
        print("silence", flush=True)
"""
    process = cluster.popen("node-a", *PYTHON, chat, cluster.address("etcd-1"))
    assert process.stdin
    assert process.stdout

    def ask() -> str:
        assert process.stdin
        assert process.stdout
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    try:
        assert process.stdout.readline() == "connected\n"
        assert ask() == "answered"
        cluster.partition("node-a", "etcd")
        assert ask() == "silence"
    finally:
        process.kill()
        process.communicate()


def test_a_partition_holds_for_addresses_that_move_and_outlives_a_restart(cluster: Playground) -> None:
    moving = f"{cluster.settings.subnet}.200"
    cluster.partition("node-a", "nodes")
    cluster.kill("node-a")
    cluster.start("node-a")
    cluster.sh("node-a", f"ip addr add {moving}/32 dev eth0")

    def reached() -> bool:
        return cluster.exec("node-b", *PYTHON, CONNECT, moving, "7000", check=False).returncode == 0

    with running(cluster, "node-a", *PYTHON, ANSWER, until="ready"):
        assert not reached()
        cluster.heal("node-a")
        eventually(reached, "the moving address is reached")
    cluster.sh("node-a", f"ip addr del {moving}/32 dev eth0")


def test_a_one_way_partition_loses_only_what_the_node_sends(cluster: Playground, heard: dict[str, IO[str]]) -> None:
    def say(source: str, target: str, word: str) -> None:
        send = "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        send += "s.sendto(sys.argv[1].encode(), (sys.argv[2], 7000))"
        cluster.exec(source, *PYTHON, send, word, cluster.address(target))

    # They know each other's hardware addresses already, as machines do that have talked.
    assert greeted(cluster, "node-a", "node-b")
    cluster.partition("node-a", "nodes", one_way=True)
    say("node-a", "node-b", "lost")
    say("node-b", "node-a", "arrives")
    assert heard["node-a"].readline() == "heard arrives\n"
    cluster.heal("node-a")
    say("node-a", "node-b", "after")
    assert heard["node-b"].readline() == "heard after\n"


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
