"""The `drover` command as a process, against real etcd; etcdctl reads and writes the same keys beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest

from drover.coordinator.keys import Keys
from drover.coordinator.record import Record
from drover.coordinator.records import Answers, Heartbeat, HistoryEntry, NodeRecord, Phase, State, Status, Tenure
from tests.etcd import EtcdCluster, free_ports

pytest_plugins = ("tests.etcd",)

BIN = Path(sys.executable).parent


@dataclass
class Shell:
    """A user's shell: `drover` and `etcdctl` with their environment."""

    endpoint: str
    keys: Keys
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        ours = {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": self.endpoint, "DROVER_PREFIX": self.keys.prefix}
        return {
            name: value for name, value in os.environ.items() if not name.startswith(("DROVER_", "ETCDCTL_"))
        } | ours

    def drover(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "drover", *arguments], env=self.environment, capture_output=True, text=True, timeout=30
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [BIN / "drover", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def etcdctl(self, *arguments: str) -> str:
        ran = subprocess.run(
            [BIN / "etcdctl", *arguments], env=self.environment, capture_output=True, text=True, timeout=30, check=True
        )
        return ran.stdout

    def put(self, key: str, record: Record | str) -> None:
        self.etcdctl("put", "--", key, record if isinstance(record, str) else record.encode().decode())

    def get(self, key: str) -> str:
        return self.etcdctl("get", "--print-value-only", key).strip()

    def node(self, name: str) -> None:
        beat = Heartbeat(incarnation=f"{name}.1", counter=1, clock=1.0, d_hard=0.5)
        self.put(self.keys.heartbeat(name), beat)
        record = NodeRecord(incarnation=f"{name}.1", machine="m", boot="b", lease=1, backends=("loopback",))
        self.put(self.keys.node(name), record)

    def owned(self, dataset: str, node: str, epoch: int, state: State = State.ACTIVE) -> None:
        tenure = Tenure(
            node=node,
            incarnation=f"{node}.1",
            epoch=epoch,
            state=state,
            answers=Answers(),
            uid="cafe",
            created=1,
            backend="loopback",
            txn=str(epoch),
        )
        self.put(self.keys.owner(dataset), tenure)

    def says(self, dataset: str, node: str, epoch: int, phase: Phase, **more: object) -> None:
        said = {"phase": phase, "node": node, "epoch": epoch} | more
        self.put(self.keys.status(dataset), Status.model_validate(said))


@pytest.fixture
def shell(etcd_one: EtcdCluster, etcd_prefix: str) -> Iterator[Shell]:
    made = Shell(etcd_one.endpoints[0], Keys(etcd_prefix))
    for name in ("node-a", "node-b"):
        made.node(name)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def read_until(stream: IO[str] | None, text: str) -> str:
    """Lines up to the first that holds `text`."""
    assert stream is not None
    seen = ""
    for line in stream:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} never came; this did:\n{seen}")


def test_what_drover_declares_etcdctl_reads_and_the_other_way_round(shell: Shell) -> None:
    assert shell.drover("create", "notes", "--size", "1GiB", "--on", "node-a").returncode == 0
    assert json.loads(shell.get(shell.keys.dataset("notes"))) == {"backend": "loopback", "size": "1GiB"}
    assert shell.get(shell.keys.desired("notes")) == "node-a"
    shell.put(shell.keys.dataset("mail"), '{"backend": "loopback", "size": "2GiB"}')
    shell.put(shell.keys.desired("mail"), "node-b")
    listed = {it["name"]: it for it in json.loads(shell.drover("ls", "--json").stdout)["datasets"]}
    assert listed["mail"]["size"] == 2 * 2**30
    assert listed["mail"]["desired"] == "node-b"
    assert "notes" in listed


def test_create_set_move_and_rm_end_where_they_say(shell: Shell) -> None:
    assert shell.drover("create", "notes", "--size", "1GiB").returncode == 0
    assert shell.drover("create", "notes", "--size", "1GiB").returncode == 3
    assert shell.drover("set", "notes", "--size", "2GiB", "--failover", "any").returncode == 0
    assert json.loads(shell.get(shell.keys.dataset("notes")))["failover"] == "any"
    assert shell.drover("move", "notes", "node-b").returncode == 0
    assert shell.get(shell.keys.desired("notes")) == "node-b"
    assert shell.drover("rm", "notes").returncode == 0
    assert shell.get(shell.keys.dataset("notes")) == ""
    assert shell.get(shell.keys.desired("notes")) == ""


def test_one_of_two_creates_at_the_same_time_wins(shell: Shell) -> None:
    racers = [shell.start("create", "notes", "--size", f"{size}GiB") for size in (1, 2, 3)]
    assert sorted(process.wait(timeout=30) for process in racers) == [0, 3, 3]


def test_wait_follows_a_move_to_its_end(shell: Shell) -> None:
    shell.put(shell.keys.dataset("notes"), '{"backend": "loopback", "size": "1GiB"}')
    shell.owned("notes", "node-a", 3)
    shell.says("notes", "node-a", 3, Phase.ACTIVE)
    process = shell.start("move", "notes", "node-b", "--wait", "--timeout", "20")
    read_until(process.stdout, "notes: node-a → node-b")
    shell.says("notes", "node-a", 3, Phase.MOVING, reason="stops workload web")
    read_until(process.stdout, "stops workload web")
    shell.owned("notes", "node-b", 4, State.ASSIGNED)
    shell.says("notes", "node-b", 4, Phase.STARTING)
    shell.owned("notes", "node-b", 4)
    shell.says("notes", "node-b", 4, Phase.ACTIVE, cutover_ms=58)
    read_until(process.stdout, "active on node-b, epoch 4, cut-over 58 ms")
    assert process.wait(timeout=30) == 0


def test_wait_ends_with_6_at_its_limit(shell: Shell) -> None:
    shell.put(shell.keys.dataset("notes"), '{"backend": "loopback", "size": "1GiB"}')
    ran = shell.drover("move", "notes", "node-b", "--wait", "--timeout", "0.5")
    assert ran.returncode == 6
    assert "The move goes on." in ran.stderr


def test_ctrl_c_ends_the_watching_with_130_and_leaves_the_wish(shell: Shell) -> None:
    shell.put(shell.keys.dataset("notes"), '{"backend": "loopback", "size": "1GiB"}')
    process = shell.start("move", "notes", "node-b", "--wait")
    read_until(process.stdout, "notes → node-b")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopped watching. The move of notes to node-b goes on." in err
    assert shell.get(shell.keys.desired("notes")) == "node-b"


def test_a_node_whose_heartbeat_stands_still_is_fenced_by_a_persons_word(shell: Shell) -> None:
    assert shell.drover("fence", "node-a").returncode == 2
    assert shell.get(shell.keys.fence("node-a.1")) == ""
    assert shell.drover("fence", "node-a", "--confirm").returncode == 0
    assert json.loads(shell.get(shell.keys.fence("node-a.1")))["evidence"] == "operator"
    (first, _) = json.loads(shell.drover("nodes", "--json").stdout)["nodes"]
    assert (first["name"], first["state"]) == ("node-a", "fenced")


def test_a_node_whose_heartbeat_moves_is_not(shell: Shell) -> None:
    shell.put(shell.keys.heartbeat("node-a"), Heartbeat(incarnation="node-a.1", counter=1, clock=1.0, d_hard=20))
    process = shell.start("fence", "node-a", "--confirm")
    limit = time.monotonic() + 20
    counter = 1
    while process.poll() is None and time.monotonic() < limit:
        counter += 1
        beat = Heartbeat(incarnation="node-a.1", counter=counter, clock=1.0, d_hard=20)
        shell.put(shell.keys.heartbeat("node-a"), beat)
    assert process.returncode == 3
    assert shell.get(shell.keys.fence("node-a.1")) == ""


def test_without_etcd_a_command_ends_with_5_in_a_few_seconds(shell: Shell) -> None:
    (port,) = free_ports(1)
    shell.endpoint = f"http://127.0.0.1:{port}"
    began = time.monotonic()
    ran = shell.drover("ls")
    assert ran.returncode == 5
    assert f"127.0.0.1:{port}" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert time.monotonic() - began < 8


def test_a_reader_that_stops_reading_is_no_error(shell: Shell) -> None:
    command = f"set -o pipefail; {BIN / 'drover'} nodes | true"
    ran = subprocess.run(["bash", "-c", command], env=shell.environment, capture_output=True, text=True, timeout=30)
    assert "Traceback" not in ran.stderr
    assert "Exception" not in ran.stderr


def test_ctrl_c_in_a_drain_stops_watching_and_says_what_goes_on_and_what_was_not_begun(shell: Shell) -> None:
    for name in ("mail", "notes"):
        shell.put(shell.keys.dataset(name), '{"backend": "loopback", "size": "1GiB"}')
        shell.owned(name, "node-a", 1)
    draining = shell.start("drain", "node-a", "--parallel", "1")
    read_until(draining.stdout, "2 to move")
    deadline = time.monotonic() + 10
    while not shell.get(shell.keys.desired("mail")):
        assert time.monotonic() < deadline
    draining.send_signal(signal.SIGINT)
    _, err = draining.communicate(timeout=30)
    assert draining.returncode == 130
    assert "0 moved; mail moves on by itself; notes was not begun." in err
    assert shell.get(shell.keys.desired("mail")) == "node-b"
    assert shell.get(shell.keys.desired("notes")) == ""


def test_events_follows_what_happens_and_goes_on_over_a_compaction(shell: Shell) -> None:
    shell.put(shell.keys.history("notes", 1), HistoryEntry(epoch=1, node="node-a", because="new", at="x"))
    watching = shell.start("events", "-f", "--json")
    first = json.loads(read_until(watching.stdout, "notes"))
    assert (first["dataset"], first["epoch"]) == ("notes", 1)
    shell.etcdctl("compact", str(first["revision"]))
    shell.put(shell.keys.cordon("node-b"), '{"by": "ann", "reason": "disks"}')
    cordon = json.loads(read_until(watching.stdout, "node-b"))
    assert (cordon["kind"], cordon["what"]) == ("cordon", "by ann: disks")
    shell.etcdctl("del", shell.keys.cordon("node-b"))
    assert json.loads(read_until(watching.stdout, "node-b"))["kind"] == "uncordon"
    watching.send_signal(signal.SIGINT)
    _, err = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert "stopped watching" in err
