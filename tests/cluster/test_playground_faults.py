"""Power cuts, hangs and partitions of a playground are real ones, and they end where they should."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest

from drover.coordinator.cli.playground.machine import State
from tests.playground import Playground, eventually, running

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("playground-faults")]

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
    with Playground(tmp_path_factory.mktemp("faults") / "with a space", nodes=3, etcd=1, agents=False) as playground:
        yield playground


@pytest.fixture
def cluster(shared: Playground) -> Iterator[Playground]:
    """Three nodes and one member, all running, whatever a test does to them."""
    yield shared
    shared.restore()


# Power cuts.


WRITE = "head -c 8000000 /dev/urandom > /srv/v/file"


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_a_power_cut_loses_what_was_not_synced_and_nothing_that_was(cluster: Playground, fs: str) -> None:
    cluster.volume("node-a", fs=fs)
    cluster.sh("node-a", f"{WRITE}; cd /srv/v; mv file synced; md5sum < synced > sum; sync synced sum .")
    cluster.sh("node-a", f"{WRITE}; mv /srv/v/file /srv/v/unsynced")
    cluster.kill("node-a")
    assert cluster.place("node-a").devices() == []
    cluster.start("node-a")
    cluster.mount("node-a")
    assert cluster.sh("node-a", "ls /srv/v | grep -v lost.found").split() == ["sum", "synced"]
    assert cluster.sh("node-a", "md5sum < /srv/v/synced") == cluster.sh("node-a", "cat /srv/v/sum")


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_a_machine_that_hangs_can_be_cut_off_too_and_its_disk_is_whole(cluster: Playground, fs: str) -> None:
    cluster.volume("node-a", fs=fs)
    cluster.sh("node-a", f"{WRITE}; sync -f /srv/v")
    cluster.freeze("node-a", whole=True)
    cluster.kill("node-a")
    assert cluster.place("node-a").devices() == []
    cluster.start("node-a")
    cluster.mount("node-a")
    assert cluster.sh("node-a", "wc -c < /srv/v/file; umount /srv/v") == "8000000"
    check = {"ext4": ["e2fsck", "-f", "-n"], "xfs": ["xfs_repair", "-n"]}[fs]
    checked = subprocess.run([*check, str(cluster.layout.shared / "v")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_a_machine_that_is_killed_from_outside_while_it_hangs_leaves_no_device(cluster: Playground) -> None:
    device = cluster.volume("node-a")
    cluster.freeze("node-a", whole=True)
    first = cluster.place("node-a").first_process()
    assert first
    os.kill(first, signal.SIGKILL)
    eventually(lambda: cluster.state("node-a") is State.OFF, "node-a is off")
    assert attached(device, cluster.layout.shared / "v"), "its file system is held with nobody to thaw it"
    cluster.start("node-a")
    assert not attached(device, cluster.layout.shared / "v")


def attached(device: str, image: Path) -> bool:
    """Whether the device has this image, by its inode: the path may be lost."""
    said = subprocess.run(["losetup", "-nl", "-O", "BACK-INO", device], capture_output=True, text=True).stdout
    return said.split() == [str(image.stat().st_ino)]


def test_a_node_keeps_nothing_in_use_that_this_computer_had_mounted_before_it(
    cluster: Playground, tmp_path: Path
) -> None:
    image, where = tmp_path / "image", tmp_path / "where"
    where.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    device = subprocess.check_output(["findmnt", "-nro", "SOURCE", where], text=True).strip()
    try:
        cluster.kill("node-a")
        cluster.start("node-a")
        assert str(where) not in cluster.sh("node-a", "cat /proc/self/mountinfo")
    finally:
        subprocess.run(["umount", where], check=True)
    eventually(lambda: not attached(device, image), "the device is free")


def test_killing_the_processes_alone_is_no_power_cut(cluster: Playground) -> None:
    cluster.volume("node-a")
    cluster.sh("node-a", f"{WRITE}; mv /srv/v/file /srv/v/unsynced")
    cluster.kill("node-a", soft=True)
    cluster.start("node-a")
    cluster.mount("node-a")
    assert cluster.sh("node-a", "wc -c < /srv/v/unsynced") == "8000000"


def test_a_power_cut_leaves_other_nodes_devices_alone(cluster: Playground) -> None:
    cluster.volume("node-a")
    device = cluster.volume("node-b", "w")
    cluster.kill("node-a")
    assert [str(loop.device) for loop in cluster.place("node-b").devices()] == [device]
    cluster.sh("node-b", "echo still here > /srv/w/file; sync -f /srv/w; umount /srv/w")
    cluster.mount("node-b", "w")
    assert cluster.sh("node-b", "cat /srv/w/file") == "still here"


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
    cluster.volume("node-a")
    reset = "import ctypes; ctypes.CDLL(None).reboot(0x01234567)"
    cluster.exec("node-a", *PYTHON, reset, check=False)
    eventually(lambda: cluster.state("node-a") is State.OFF, "node-a is off")
    cluster.start("node-a")
    assert cluster.place("node-a").devices() == []
    cluster.mount("node-a")


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
    device = cluster.volume("node-a")
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
