"""What operators do to a whole cluster, and what it remembers: drain, history, moves that are called off."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from drover.coordinator.cli import main
from tests.cluster.cluster import Cluster, Dataset
from tests.playground import DROVER, eventually

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("operations")]


def history(cluster: Cluster, dataset: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cluster.drover("show", dataset, "--json").stdout)["history"]
    return found


def test_a_drained_node_is_empty_and_no_writer_has_lost_anything(cluster: Cluster) -> None:
    several = [cluster.dataset(on="node-a") for _ in range(3)]
    writers = [cluster.writer(data) for data in several]
    done = json.loads(cluster.drover("drain", "node-a", "--parallel", "2", "--json").stdout)
    assert done["stuck"] == {}
    assert {one["dataset"] for one in done["moved"]} == {data.name for data in several}
    assert {one["node"] for one in done["moved"]} == {"node-b", "node-c"}, "they spread"
    for data, writer in zip(several, writers, strict=True):
        writer.goes_on(data.active_on("node-b", "node-c"))
        writer.check()
        assert data.epoch == 2
        assert history(cluster, data.name)[-1]["asked"].endswith("drover drain")
    assert cluster.drover("move", several[0].name, "node-a", check=False).returncode == 3, "it is cordoned"
    cluster.drover("uncordon", "node-a")
    cluster.drover("move", several[0].name, "node-a", "--wait")


def test_history_says_of_moves_and_fail_overs_who_asked_on_what_evidence_and_how_long_nobody_could_write(
    cluster: Cluster,
) -> None:
    data = cluster.dataset(on="node-a")
    cluster.drover("move", data.name, "node-b", "--wait")
    cluster.playground.kill("node-b")
    data.active_on("node-a", "node-c", within=30)
    eventually(lambda: "gap_ms" in history(cluster, data.name)[-1], "the gap is told", 10)
    first, moved, failed_over = history(cluster, data.name)
    assert (first["asked"], first.get("gap_ms")) == ("put desired", None)
    assert moved["asked"].endswith(", drover move")
    assert (moved["before"], moved["node"]) == ("node-a", "node-b")
    assert 0 < moved["gap_ms"] < 5000
    assert (failed_over["asked"], failed_over["evidence"], failed_over["before"]) == ("drover", "silence", "node-b")
    silence = float(failed_over["because"].rpartition("still for ")[2].partition(" s")[0])
    assert failed_over["gap_ms"] >= 1000 * silence, "it counts from the last heartbeat"
    told = [json.loads(line) for line in cluster.drover("events", data.name, "--json").stdout.splitlines()]
    assert [(one["epoch"], one["kind"]) for one in told] == [(1, "epoch"), (2, "active"), (3, "active")]
    cluster.playground.start("node-b")


def test_a_move_that_waits_for_a_user_of_the_data_can_be_called_off(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    shell = cluster.playground.popen("node-a", "sh", "-c", f"cd {data.path}; echo $$; read forever")
    assert shell.stdout
    shell.stdout.readline()
    cluster.drover("move", data.name, "node-b")
    data.says("the move waits")
    said = cluster.drover("move", data.name, "--cancel").stdout
    assert "stays on node-a: the move to node-b is called off" in said
    shell.communicate("now\n")
    eventually(lambda: "the move waits" not in str(data.status), "it waits no more", 15)
    assert data.active_on("node-a") == "node-a"
    assert data.epoch == 1


def test_what_was_removed_by_mistake_comes_back_from_the_trash_with_its_data_beside_a_new_one_of_its_name(
    cluster: Cluster,
) -> None:
    data = cluster.dataset(on="node-a")
    cluster.playground.exec("node-a", "sh", "-c", f"echo precious > {data.path}/file && sync")
    assert "is in the trash" in cluster.drover("rm", data.name, "--trash", "3").stdout
    cluster.drover("create", data.name, "--size", "64MiB", "--fs", "ext4", "--on", "node-b")
    data.active_on("node-b")
    assert cluster.playground.exec("node-b", "ls", data.path).stdout.split() in ([], ["lost+found"])
    other = Dataset(cluster, cluster.name("back"))
    cluster.drover("undelete", data.name, "--as", other.name, "--on", "node-c")
    other.active_on("node-c")
    assert other.read("file") == "precious\n"
    cluster.drover("rm", other.name)


def test_doctor_finds_a_node_well_and_then_what_a_power_cut_has_left(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", failover="none")
    playground = cluster.playground
    config = str(playground.directory / "nodes" / "node-a" / "agent.toml")
    said = json.loads(playground.exec("node-a", DROVER, "doctor", "--config", config, "--json").stdout)
    assert said["node"] == "node-a"
    assert not said["failing"], said
    assert {"agent", "back ends"} <= {one["about"] for one in said["findings"]}
    assert "agent" in {one["about"] for one in said["findings"] if one["severity"] == "ok"}
    playground.kill("node-a")
    data.says("failover: none", within=30)
    done = cluster.drover("doctor", "--json", check=False)
    told = {one["what"] for one in json.loads(done.stdout)["findings"] if one["severity"] == "failing"}
    assert done.returncode == 1
    assert any(what.startswith(f"{data.name} is waiting") for what in told), told
    playground.start("node-a")
    data.active_on("node-a", within=30)


def test_every_command_of_the_operations_guide_does_what_it_is_shown_for(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DROVER_ENDPOINTS", ",".join(cluster.playground.endpoints))
    monkeypatch.setenv("PATH", f"{Path(DROVER).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("MEMBER", cluster.playground.endpoints[0])
    commands = re.findall(r"^\$ (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    assert len(commands) > 20
    for command in commands:
        program, *arguments = shlex.split(command)
        if program == "drover":  # in this process: to start it takes longer than all that it does
            code = main.run(arguments)
        else:
            code = subprocess.run(["sh", "-c", command], capture_output=True, timeout=30).returncode
        assert code == 0, f"{command}: {capsys.readouterr()}"
