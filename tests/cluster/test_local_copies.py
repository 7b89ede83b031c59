"""Datasets with local copies: each node has a btrfs of its own, and they move while their writers go on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import Cluster, Dataset, Writer, boottime
from tests.cluster.writer import RECORDS, check
from tests.playground import DROVER, Playground, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("copies")]

SPEC: dict[str, Any] = {"backend": "btrfs", "size": "1GiB", "fs": None}

LOSSY: dict[str, Any] = {"replicas": 1, "replicate_every": 1, "max_data_loss": 30, "fencing": "cooperative"}


def copies(cluster: Cluster, data: Dataset) -> dict[str, Any]:
    """What standbys have acknowledged in this epoch."""
    record = cluster.record(f"copies/{data.name}")
    return dict(record["nodes"]) if record.get("epoch") == data.epoch else {}


def acknowledged(cluster: Cluster, data: Dataset, within: float = 15) -> str:
    """The standby, once it has acknowledged a copy that was taken from now on."""
    now = boottime()
    eventually(lambda: any(c["taken"] > now for c in copies(cluster, data).values()), "a standby acknowledges", within)
    return next(iter(copies(cluster, data)))


def kept_up_to(writer: Writer, taken: float, before: str) -> None:
    """What was acknowledged on node `before` until then is all there, and all that was acknowledged since elsewhere."""
    promised = [one for one in writer.promised if one.node != before or one.done < taken]
    assert any(one.node == before for one in promised)
    check(promised, writer.dataset.read(RECORDS))


def rot(image: Path, start: bytes) -> None:
    """Changes a few bytes after those, wherever they are on the disk."""
    with image.open("r+b", buffering=0) as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            place = os.pread(file.fileno(), end - at, at).find(start)
            if place >= 0:
                os.pwrite(file.fileno(), b"rot", at + place + 100)
                return
            at = end
    raise AssertionError("it is not on the disk")


def promoted(cluster: Cluster) -> tuple[Dataset, Writer]:
    """A dataset whose node has lost power, and that goes on from a standby's copy."""
    data = cluster.dataset(on="node-a", **SPEC, **LOSSY)
    writer = cluster.writer(data)
    writer.goes_on("node-a", records=100)
    standby = acknowledged(cluster, data)
    writer.goes_on("node-a", records=200)
    cluster.playground.kill("node-a")
    copy = cluster.record(f"copies/{data.name}")["nodes"][standby]
    data.active_on(standby, within=20)
    assert (data.owner["base"], data.owner["copies"]) == (copy["guid"], [standby])
    assert 0 < data.owner["promoted"] <= LOSSY["max_data_loss"]
    writer.goes_on(standby, within=15)
    kept_up_to(writer, copy["taken"], "node-a")
    return data, writer


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("copies") / "pg"
    with Playground(directory, nodes=3, etcd=1, etcd_fast=True, btrfs=True) as playground:
        yield Cluster(playground)


def moving(cluster: Cluster, data: Dataset, source: str) -> None:
    """Until the first bytes are on their way."""
    eventually(lambda: "copying" in data.status.get("reason", "") or data.node != source, "it is on its way", 10)


def test_from_a_to_b_and_back_and_on_to_c_nothing_is_lost_and_the_way_back_is_an_increment(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    writer = cluster.writer(data)
    writer.goes_on("node-a")
    for node in ("node-b", "node-a", "node-c"):
        cluster.move(data, node)
        data.active_on(node)
        writer.goes_on(node)
        writer.check()
    assert [turn.node for turn in writer.turns] == ["node-a", "node-b", "node-a", "node-c"]
    rounds = [line for line in cluster.log("node-b").splitlines() if f"{data.name} to node-a: round" in line]
    assert rounds
    assert all("the difference" in line for line in rounds)


def test_a_snapshot_is_taken_while_the_writer_goes_on_and_stays_where_it_is_until_it_is_removed(
    cluster: Cluster,
) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    writer = cluster.writer(data)
    writer.goes_on("node-a")
    taken = cluster.drover("snapshot", data.name, "--name", "monday", "--json").stdout
    assert json.loads(taken)["node"] == "node-a"
    where = f"{cluster.playground.home('node-a')}/pool/{data.owner['uid']}/named/monday/data"
    assert cluster.playground.exec("node-a", "ls", where).stdout
    cluster.move(data, "node-b")
    data.active_on("node-b")
    writer.goes_on("node-b")
    (told,) = json.loads(cluster.drover("snapshots", "ls", data.name, "--json").stdout)
    assert (told["name"], told["node"], told["trouble"]) == ("monday", "node-a", None)
    cluster.drover("snapshots", "rm", data.name, "monday")
    assert json.loads(cluster.drover("snapshots", "ls", data.name, "--json").stdout) == []
    assert "No such file" in cluster.playground.exec("node-a", "ls", where, check=False).stderr
    writer.check()


def test_what_was_moved_survives_a_power_cut_of_the_target_right_after_it(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    writer = cluster.writer(data)
    writer.goes_on("node-a", records=100)
    cluster.move(data, "node-b")
    eventually(lambda: data.node == "node-b", "it is handed over", 15)
    cluster.playground.kill("node-b")
    cluster.playground.start("node-b")
    data.active_on("node-a", "node-b", within=40)
    writer.goes_on(within=30)
    writer.check()


def test_a_standby_is_kept_and_promoted_within_max_data_loss(cluster: Cluster) -> None:
    promoted(cluster)


@pytest.mark.long
def test_what_the_old_node_had_besides_is_kept_and_told_until_it_is_discarded(cluster: Cluster) -> None:
    data, writer = promoted(cluster)
    cluster.playground.start("node-a")
    key = f"diverged/{data.name}/node-a"
    eventually(lambda: bool(cluster.record(key)), "node-a tells what it had besides", 60)
    (kept,) = cluster.record(key)["copies"]
    records = cluster.playground.exec("node-a", "cat", f"{kept['path']}/{RECORDS}").stdout
    check([one for one in writer.promised if one.node == "node-a"], records)
    assert "diverged, kept" in cluster.drover("ls").stderr
    assert cluster.drover("resolve", data.name, "--keep", "node-a", check=False).returncode == 3
    cluster.drover("resolve", data.name, "--discard", "node-a")
    eventually(lambda: not cluster.record(key), "node-a has removed it", 30)
    assert cluster.playground.exec("node-a", "sh", "-c", f"ls -d {kept['path']} || true").stdout == ""


@pytest.mark.long
def test_without_leave_a_person_decides_and_what_was_promoted_goes_on_at_once(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC, **LOSSY | {"max_data_loss": 0})
    writer = cluster.writer(data)
    writer.goes_on("node-a", records=100)
    standby = acknowledged(cluster, data)
    cluster.playground.kill("node-a")
    copy = cluster.record(f"copies/{data.name}")["nodes"][standby]
    said = data.says(f"needs you: {standby} has a copy of {copy['at']}", within=20)
    assert f"drover resolve {data.name} --keep {standby}" in said["reason"]
    tried = cluster.drover("resolve", data.name, "--keep", standby, "--dry-run").stdout
    assert f"the copy of {copy['at']} on {standby}" in tried
    assert data.node == "node-a"
    cluster.drover("resolve", data.name, "--keep", standby)
    data.active_on(standby, within=5)
    writer.goes_on(standby, within=15)
    kept_up_to(writer, copy["taken"], "node-a")


@pytest.mark.long
def test_a_node_that_is_back_before_anybody_decides_goes_on_with_nothing_lost(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC, **LOSSY | {"max_data_loss": 0})
    writer = cluster.writer(data)
    writer.goes_on("node-a", records=100)
    acknowledged(cluster, data)
    cluster.playground.kill("node-a")
    data.says("needs you", within=20)
    cluster.playground.start("node-a")
    data.active_on("node-a", within=40)
    writer.goes_on("node-a", within=30)
    writer.check()
    assert cluster.record(f"diverged/{data.name}/node-a") == {}


@pytest.mark.long
def test_a_move_to_a_standby_sends_the_difference_only_and_the_copies_stay_as_many(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC, **LOSSY | {"replicas": 2})
    cluster.playground.sh("node-a", f"head -c 32M /dev/urandom > {data.path}/large")
    writer = cluster.writer(data)
    eventually(lambda: len(copies(cluster, data)) == 2, "both have acknowledged", 30)
    cluster.move(data, "node-b")
    data.active_on("node-b", within=30)
    writer.goes_on("node-b")
    writer.check()
    rounds = [line for line in cluster.log("node-a").splitlines() if f"{data.name} to node-b: round" in line]
    assert rounds
    assert all("the difference" in line for line in rounds)
    eventually(lambda: set(copies(cluster, data)) == {"node-a", "node-c"}, "both others have acknowledged", 30)
    sent = [line for line in cluster.log("node-b").splitlines() if f"{data.name} to standby" in line]
    assert sent
    assert all("the difference" in line for line in sent)


@pytest.mark.long
def test_verify_says_that_copies_are_the_same_and_finds_what_has_rotted_on_a_disk(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC, **LOSSY | {"replicas": 2, "replicate_every": 600, "max_data_loss": 0})
    cluster.playground.sh("node-a", f"head -c 8M /dev/urandom > {data.path}/large; mkdir {data.path}/below")
    start = cluster.playground.sh("node-a", f"head -c 64 {data.path}/large | od -An -tx1 -v | tr -d ' \\n'").strip()
    cluster.move(data, "node-b")
    data.active_on("node-b", within=30)
    eventually(lambda: len(copies(cluster, data)) == 2, "both have acknowledged", 30)
    same = json.loads(cluster.drover("verify", data.name, "--json").stdout)
    assert same["same"]
    assert [copy["node"] for copy in same["copies"]] == ["node-a", "node-c"]
    assert all(copy["bytes"] >= 8 << 20 for copy in same["copies"])
    image = Path(cluster.playground.home("node-c")) / "pool.img"
    rot(image, bytes.fromhex(start))
    found = cluster.drover("verify", data.name, check=False)
    assert found.returncode == 1
    assert (
        f"{data.name} on node-a: the copy of {copies(cluster, data)['node-a']['at']}, 8 MiB: the same" in found.stdout
    )
    assert "large: cannot be read on node-c: Input/output error" in found.stdout


@pytest.mark.long
def test_a_standby_that_is_away_holds_up_nothing_and_catches_up_with_a_difference(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC, **LOSSY | {"replicas": 2})
    writer = cluster.writer(data)
    eventually(lambda: len(copies(cluster, data)) == 2, "both have acknowledged", 30)
    cluster.playground.partition("node-b", "nodes")
    before = copies(cluster, data)
    eventually(lambda: copies(cluster, data)["node-c"]["taken"] > before["node-c"]["taken"] + 5, "node-c goes on", 30)
    eventually(lambda: set(cluster.record(f"copies/{data.name}")["trouble"]) == {"node-b"}, "people are told", 60)
    assert copies(cluster, data)["node-b"]["taken"] <= before["node-b"]["taken"] + 3
    cluster.playground.heal("node-b")
    eventually(lambda: copies(cluster, data)["node-b"]["taken"] > before["node-b"]["taken"] + 5, "node-b is back", 90)
    sent = [line for line in cluster.log("node-a").splitlines() if f"{data.name} to standby node-b" in line]
    assert "the difference" in sent[-1]
    writer.check()


@pytest.mark.long
def test_copies_that_are_not_wanted_any_more_go_where_they_are(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC, **LOSSY | {"replicas": 2, "reclaim": "delete"})
    eventually(lambda: len(copies(cluster, data)) == 2, "both have acknowledged", 30)
    uid = data.owner["uid"]

    def having() -> set[str]:
        playground = cluster.playground
        looked = {n: playground.exec(n, "ls", f"{playground.home(n)}/pool").stdout for n in playground.nodes}
        return {node for node, found in looked.items() if uid in found}

    assert having() == {"node-a", "node-b", "node-c"}
    data.declare(**SPEC, **LOSSY | {"replicas": 1, "reclaim": "delete"})
    eventually(lambda: len(having()) == 2, "one has removed its own", 20)
    assert having() == {"node-a", *copies(cluster, data)}
    cluster.delete(f"datasets/{data.name}")
    eventually(lambda: not having(), "all are gone with the dataset", 30)


@pytest.mark.long
def test_a_node_that_lost_power_comes_back_with_its_data_and_nobody_else_takes_it(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    writer = cluster.writer(data)
    writer.goes_on("node-a")
    cluster.playground.kill("node-a")
    data.says("node-a", within=20)
    cluster.playground.start("node-a")
    data.active_on("node-a", within=40)
    writer.goes_on("node-a", within=30)
    writer.check()
    assert {turn.node for turn in writer.turns} == {"node-a"}


@pytest.mark.long
@pytest.mark.parametrize("victim", ["node-a", "node-b"])
def test_a_killed_agent_on_either_side_loses_nothing_and_the_move_comes_to_its_end(
    cluster: Cluster, victim: str
) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    cluster.playground.sh("node-a", f"head -c 64M /dev/urandom > {data.path}/large")
    writer = cluster.writer(data)
    writer.goes_on("node-a")
    cluster.move(data, "node-b")
    moving(cluster, data, "node-a")
    cluster.playground.kill_agent(victim)
    data.active_on("node-b", within=60)
    writer.goes_on("node-b", within=30)
    writer.check()


@pytest.mark.long
def test_a_target_that_is_cut_off_in_the_middle_leaves_the_writer_running_where_it_is(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    cluster.playground.sh("node-a", f"head -c 64M /dev/urandom > {data.path}/large")
    writer = cluster.writer(data)
    writer.goes_on("node-a")
    cluster.move(data, "node-b")
    moving(cluster, data, "node-a")
    cluster.playground.partition("node-b", "nodes")
    began = time.monotonic()
    writer.goes_on(records=50)
    assert time.monotonic() - began < 15
    cluster.playground.heal("node-b")
    data.active_on("node-b", within=90)
    writer.goes_on("node-b", within=30)
    writer.check()


@pytest.mark.long
def test_of_what_came_in_part_only_nothing_stays_at_the_target(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    cluster.playground.sh("node-a", f"head -c 64M /dev/urandom > {data.path}/large")
    cluster.move(data, "node-b")
    moving(cluster, data, "node-a")
    cluster.playground.kill_agent("node-a")
    data.active_on("node-b", within=60)
    pool = f"{cluster.playground.home('node-b')}/pool/{data.owner['uid']}"
    assert cluster.playground.exec("node-b", "ls", f"{pool}/incoming").stdout == ""


def begun(cluster: Cluster, data: Dataset, node: str) -> subprocess.Popen[str]:
    """`drover move --wait`, once it has told of the wish."""
    command = [DROVER, "move", data.name, node, "--wait", "--endpoints", ",".join(cluster.playground.endpoints)]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stdout
    assert f"→ {node}" in watching.stdout.readline()
    return watching


def test_whoever_waits_for_a_move_sees_its_trace_and_its_rounds(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", **SPEC)
    cluster.playground.sh("node-a", f"head -c 48M /dev/urandom > {data.path}/large")
    seen = cluster.drover("move", data.name, "node-b", "--wait").stdout
    assert re.search(r"^  trace +[0-9a-f]{32}$", seen, re.MULTILINE)
    assert re.search(r"^  round 1  4\d(\.\d)? MiB in .* MiB/s  all of it$", seen, re.MULTILINE)
    assert re.search(r"^  the last increment takes about .*; it comes next$", seen, re.MULTILINE)
    assert "active on node-b, epoch 2, cut-over" in seen.splitlines()[-1]


@pytest.mark.long
def test_a_move_in_the_middle_of_a_round_goes_on_after_ctrl_c_and_is_called_off_by_cancel(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-b", **SPEC)
    cluster.playground.sh("node-b", f"head -c 128M /dev/urandom > {data.path}/more")
    watching = begun(cluster, data, "node-c")
    moving(cluster, data, "node-b")
    cluster.playground.partition("node-c", "nodes")  # its round hangs in the middle for as long as the test needs
    watching.send_signal(signal.SIGINT)
    _, complaint = watching.communicate(timeout=20)
    assert watching.returncode == 130
    assert f"stopped watching. The move of {data.name} to node-c goes on." in complaint
    assert data.status["phase"] == "moving"

    told = cluster.drover("move", data.name, "--cancel").stdout
    assert f"{data.name} stays on node-b: the move to node-c is called off" in told
    cluster.playground.heal("node-c")
    eventually(lambda: data.status["phase"] == "active", "it is as before", 10)
    assert f"{data.name} to node-c: round" not in cluster.log("node-b")
    after = json.loads(cluster.drover("move", data.name, "node-a", "--wait", "--json").stdout)
    assert (after["dataset"]["node"], after["dataset"]["epoch"]) == ("node-a", 2)
    assert len(after["trace"]) == 32
    assert after["rounds"][data.name]
