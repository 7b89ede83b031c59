"""etcd restored from a backup under a cluster that lives on it: all stops, and goes on after `drover recover`."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from drover.coordinator.cli.playground import etcd, tools
from drover.coordinator.cli.playground.layout import HTTP_PORT
from tests.cluster.cluster import Cluster
from tests.playground import Playground, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("etcd-restored")]


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Playground(tmp_path_factory.mktemp("restored") / "pg", nodes=3, etcd=3, etcd_fast=True) as playground:
        yield Cluster(playground)


def backup(cluster: Cluster, path: Path) -> Path:
    command = [tools.find("etcdctl"), "--endpoints", cluster.playground.endpoints[0], "snapshot", "save", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return path


def restore(cluster: Cluster, snapshot: Path, token: str = "") -> None:
    """As an operator does: all members off, each made anew from the snapshot, and on again. token: the new cluster's,
    where it is to have another id; what the members had stays beside."""
    playground = cluster.playground
    for member in playground.members:
        playground.kill(member)
    for member in playground.members:
        data = playground.home(member) / "data"
        data.rename(data.with_name("before"))
        words = [*etcd.command(playground.layout, playground.settings, playground.settings.machine(member))]
        flags = (
            "--name",
            "--data-dir",
            "--initial-advertise-peer-urls",
            "--initial-cluster",
            "--initial-cluster-token",
        )
        if token:
            words[words.index("--initial-cluster-token") + 1] = token
        chosen = [word for flag in flags for word in (flag, words[words.index(flag) + 1])]
        command = [tools.find("etcdctl"), "snapshot", "restore", str(snapshot), *chosen]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
    for member in playground.members:
        playground.start(member)


def put_back(cluster: Cluster) -> None:
    """The members as they were before `restore`."""
    playground = cluster.playground
    for member in playground.members:
        playground.kill(member)
        data = playground.home(member) / "data"
        shutil.rmtree(data)
        data.with_name("before").rename(data)
    for member in playground.members:
        playground.start(member)


def ready(cluster: Cluster, node: str) -> dict[str, str]:
    """What is wrong with its agent, by its own word."""
    url = f"http://{cluster.playground.address(node)}:{HTTP_PORT}/readyz"
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return dict(json.load(reply)["wrong"])
    except urllib.error.HTTPError as error:
        return dict(json.load(error)["wrong"])


def halted(cluster: Cluster, node: str) -> bool:
    try:
        return "drover recover" in ready(cluster, node).get("etcd", "")
    except OSError:
        return False


def all_halt(cluster: Cluster) -> None:
    for node in cluster.playground.nodes:
        eventually(lambda node=node: halted(cluster, node), f"{node} halts", 30)  # type: ignore[misc]
        eventually(lambda node=node: "nothing here writes" in cluster.log(node), f"{node} has stopped", 20)  # type: ignore[misc]


def reports(cluster: Cluster, directory: Path) -> list[str]:
    """What the operator collects."""
    files = []
    for node in cluster.playground.nodes:
        config = str(cluster.playground.home(node) / "agent.toml")
        said = cluster.playground.exec(node, tools.find("drover-agent"), "tokens", "--config", config).stdout
        (directory / f"{node}.json").write_text(said)
        files.append(str(directory / f"{node}.json"))
    return files


def contents(cluster: Cluster) -> dict[str, tuple[str, int]]:
    return {key: (entry.value, entry.mod_revision) for key, entry in cluster.entries("").items() if "leases" not in key}


def test_a_copy_in_the_place_of_etcd_stops_everything_until_the_right_one_is_back(
    cluster: Cluster, tmp_path: Path
) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    restore(cluster, backup(cluster, tmp_path / "backup"), token="another")
    all_halt(cluster)
    turn = writer.turns[-1]
    assert "has cluster id" in ready(cluster, "node-a")["etcd"]
    for verb in ("ls", "nodes"):
        assert "began on" in cluster.drover(verb).stderr
    put_back(cluster)
    data.active_on("node-a", within=30)
    assert writer.goes_on("node-a", within=30).began > turn.done
    writer.check()
    assert data.epoch <= 2


def test_a_restored_etcd_stops_everything_and_after_the_recovery_all_goes_on_without_loss(
    cluster: Cluster, tmp_path: Path
) -> None:
    moved, stayed = cluster.dataset(on="node-a"), cluster.dataset(on="node-c")
    writers = [cluster.writer(moved), cluster.writer(stayed)]
    snapshot = backup(cluster, tmp_path / "backup")
    # What etcd will have lost: a move and back and on, a fail-over's worth of epochs, and a whole dataset.
    for node in ("node-b", "node-a", "node-b"):
        cluster.move(moved, node)
        moved.active_on(node)
    writers[0].goes_on("node-b")
    late = cluster.dataset(on="node-b")
    late_writer = cluster.writer(late)
    newest = {data.name: data.epoch for data in (moved, stayed, late)}
    uid = late.owner["uid"]

    restore(cluster, snapshot)
    all_halt(cluster)
    stopped = [writer.turns[-1] for writer in (*writers, late_writer)]
    assert moved.epoch == 1, "the restored etcd has the old owner"
    before = contents(cluster)

    # It survives a restart of the agent, and nothing is written meanwhile.
    cluster.playground.stop_agent("node-a")
    cluster.playground.start_agent("node-a")
    eventually(lambda: halted(cluster, "node-a"), "node-a is still halted", 20)
    files = reports(cluster, tmp_path)
    assert {key: value for key, value in contents(cluster).items() if key in before} == {
        key: value for key, value in before.items() if key in contents(cluster)
    }
    assert contents(cluster).keys() <= before.keys(), "keys on leases may end, and nothing comes"

    shown = cluster.drover("recover", *files)
    assert "Nothing was changed" in shown.stdout
    assert cluster.drover("recover", *files[:-1], "--confirm", check=False).returncode == 3
    assert contents(cluster).keys() <= before.keys()
    done = cluster.drover("recover", *files, "--confirm")
    assert moved.name in done.stdout

    # What users want is as of the backup; the data is as it was.
    moved.active_on("node-a", within=30)
    stayed.active_on("node-c", within=30)
    late.active_on("node-b", within=30)
    assert late.owner["uid"] == uid
    for writer, turn in zip(writers, stopped, strict=False):
        assert writer.goes_on(within=30).began > turn.done
        writer.check()
    late_writer.check()
    for data in (moved, stayed, late):
        assert data.epoch > newest[data.name] + 100
    assert not any(halted(cluster, node) for node in cluster.playground.nodes)
    cluster.move(moved, "node-c")
    moved.active_on("node-c")
    writers[0].goes_on("node-c")
    writers[0].check()
