"""Containers and their data on real Docker Engines, one inside each node."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from drover.coordinator.cli.playground import tools
from drover.coordinator.cli.playground.down import down
from drover.coordinator.cli.playground.layout import Layout
from tests.cluster.docker import IMAGE, Engines
from tests.playground import eventually

ENVIRONMENT = os.environ | {"PATH": tools.search_path()}
WRITE = ("sh", "-c", "echo hello > /data/greeting")
READ = ("cat", "/data/greeting")


def once(volume: str, *command: str) -> tuple[str, ...]:
    """A container that ends with its command."""
    return ("run", "--rm", "-v", f"{volume}:/data", "--volume-driver", "drover", IMAGE, *command)


def kept(volume: str, name: str) -> tuple[str, ...]:
    """A container that has a volume until it is removed."""
    return ("run", "-d", "--name", name, "-v", f"{volume}:/data", IMAGE, "sleep", "600")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    with Engines(tmp_path_factory.mktemp("docker") / "pg") as playground:
        yield playground


@pytest.mark.long
def test_each_node_of_a_playground_has_an_engine_of_its_own(engines: Engines) -> None:
    for node in engines.nodes:
        engines.docker(node, "run", "-d", "--name", f"on-{node}", IMAGE, "sleep", "60")
    for node in engines.nodes:
        assert engines.said(node, "ps", "--format", "{{.Names}}") == f"on-{node}"
        engines.docker(node, "rm", "-f", f"on-{node}")


@pytest.fixture
def volume(engines: Engines) -> Iterator[str]:
    """New. Its containers are removed after the test."""
    name = engines.volume_made("node-a")
    yield name
    for node in engines.nodes:
        for container in engines.said(node, "ps", "-aq", "--filter", f"volume={name}").split():
            engines.docker(node, "rm", "-f", container)


def test_a_volume_goes_where_its_next_container_starts(engines: Engines, volume: str) -> None:
    engines.docker("node-a", *once(volume, *WRITE))
    assert engines.owner(volume) == "node-a", "Unmount keeps it"
    assert engines.said("node-b", *once(volume, *READ)) == "hello"
    assert engines.owner(volume) == "node-b"


def test_a_volume_in_use_is_refused_elsewhere_with_who_uses_it_and_is_not_moved_by_a_wish(
    engines: Engines, volume: str
) -> None:
    engines.docker("node-a", *kept(volume, "web"))
    engines.waits_for(volume, lambda status: status.get("users") == ["container web (docker run)"])
    assert "in use on node-a by container web (docker run)" in engines.refused("node-b", *once(volume, "true"))
    engines.etcdctl("put", f"/drover/desired/{volume}", "node-b")
    engines.waits_for(volume, lambda status: "in use by container web" in status.get("warning", ""))
    assert engines.owner(volume) == "node-a"
    engines.docker("node-a", "rm", "-f", "web")
    eventually(lambda: engines.owner(volume) == "node-b", "it moves once nobody uses it")


def test_while_etcd_is_away_a_volume_is_shown_as_known_last_and_no_local_volume_is_made_for_a_container(
    engines: Engines, volume: str
) -> None:
    run = ("run", "--rm", "-v", f"{volume}:/data", IMAGE, "true")
    engines.freeze("etcd-1")
    try:
        assert "etcd" in engines.refused("node-b", *run)
        assert engines.said("node-b", "volume", "inspect", "--format", "{{.Driver}}", volume) == "drover"
        inspect = ("volume", "inspect", volume)
        eventually(lambda: "what was known last" in engines.said("node-b", *inspect), "it is marked", every=0.2)
    finally:
        engines.thaw("etcd-1")


@pytest.mark.long
def test_two_containers_share_a_volume_which_goes_elsewhere_once_both_are_gone(engines: Engines, volume: str) -> None:
    for name in ("one", "two"):
        engines.docker("node-a", *kept(volume, name))
    engines.docker("node-a", "exec", "one", *WRITE)
    assert engines.said("node-a", "exec", "two", *READ) == "hello"
    engines.docker("node-a", "rm", "-f", "one")
    engines.waits_for(volume, lambda status: status.get("users") == ["container two (docker run)"])
    assert "by container two" in engines.refused("node-b", *once(volume, "true"))
    engines.docker("node-a", "rm", "-f", "two")
    assert engines.said("node-b", *once(volume, *READ)) == "hello"


@pytest.mark.long
def test_a_container_does_not_notice_that_the_agent_is_killed_and_its_volume_stays_in_use(
    engines: Engines, volume: str
) -> None:
    engines.docker("node-a", *kept(volume, "web"))
    engines.docker("node-a", "exec", "web", *WRITE)
    engines.kill_agent("node-a")
    eventually(lambda: engines.answers("node-a"), "the plugin of its successor answers", 20, 0.2)
    assert engines.said("node-a", "exec", "web", *READ) == "hello"
    assert "in use on node-a by container web" in engines.refused("node-b", *once(volume, "true"))
    engines.docker("node-a", "rm", "-f", "web")
    assert engines.said("node-b", *once(volume, *READ)) == "hello"


@pytest.mark.long
def test_a_dead_nodes_volume_is_taken_for_a_container_that_starts_elsewhere(engines: Engines, volume: str) -> None:
    engines.docker("node-a", *kept(volume, "web"))
    engines.docker("node-a", "exec", "web", "sh", "-c", f"{WRITE[2]} && sync")
    engines.kill("node-a")
    try:
        eventually(lambda: not engines.record("nodes/node-a"), "it counts as gone", 30, 0.2)
        assert engines.said("node-b", *once(volume, *READ)) == "hello"
        assert engines.owner(volume) == "node-b"
    finally:
        engines.start("node-a")


def test_a_volume_whose_spec_cannot_be_used_is_there_all_the_same_and_no_local_volume_is_made(
    engines: Engines, volume: str
) -> None:
    engines.etcdctl("put", f"/drover/datasets/{volume}", '{"backend": "loopback", "size": "lots"}')
    engines.waits_for(volume, lambda status: status.get("phase") == "invalid" or "size" in json.dumps(status))
    run = ("run", "--rm", "-v", f"{volume}:/data", IMAGE, "true")
    assert "its spec cannot be used" in engines.refused("node-b", *run)
    assert engines.said("node-b", "volume", "inspect", "--format", "{{.Driver}}", volume) == "drover"


@pytest.mark.parametrize("name", ["../../etc", "a b/c", ""])
def test_the_plugin_itself_refuses_names_that_the_engine_does_not_check(engines: Engines, name: str) -> None:
    for method in ("Create", "Mount", "Remove"):
        assert engines.call("node-a", f"VolumeDriver.{method}", {"Name": name, "ID": "x"})["Err"]


def test_a_call_that_comes_again_without_its_body_is_not_acted_on(engines: Engines) -> None:
    assert "empty" in engines.call("node-a", "VolumeDriver.Remove", None)["Err"]


@pytest.mark.long
def test_a_copy_from_a_running_container_leaves_it_its_volume(engines: Engines, volume: str) -> None:
    engines.docker("node-a", *kept(volume, "web"))
    engines.docker("node-a", "exec", "web", *WRITE)
    engines.docker("node-a", "cp", "web:/data/greeting", "/run/greeting")
    assert "in use on node-a" in engines.refused("node-b", *once(volume, "true"))
    engines.docker("node-a", "rm", "-f", "web")


@pytest.mark.long
def test_a_move_that_waits_for_a_container_too_long_says_so_and_the_wish_is_taken_back(engines: Engines) -> None:
    volume = engines.volume_made("node-a", "-o", "on_busy=move")
    engines.docker("node-a", *kept(volume, "web"))
    engines.waits_for(volume, lambda status: status.get("users") == ["container web (docker run)"])
    refused = engines.refused("node-b", *once(volume, "true"))
    assert "not within 90 s: node-a gives it up" in refused
    assert "in use by container web" in refused
    wish = ("get", "--print-value-only", f"/drover/desired/{volume}")
    assert engines.etcdctl(*wish) == "node-a", "as it was before"
    engines.docker("node-a", "rm", "-f", "web")


def test_wrong_options_are_refused_by_name_and_others_than_before_too(engines: Engines, volume: str) -> None:
    create = ("volume", "create", "-d", "drover")
    assert "'flavour'" in engines.refused("node-a", *create, "-o", "flavour=mint", "wrong")
    assert "option size cannot be 'much'" in engines.refused("node-a", *create, "-o", "size=much", "wrong")
    # The engine sends no Create for a name that it knows.
    again = {"Name": volume, "Opts": {"size": "1GiB"}}
    assert "with size=" in engines.call("node-b", "VolumeDriver.Create", again)["Err"]
    assert engines.call("node-b", "VolumeDriver.Create", {"Name": volume, "Opts": {"fs": "ext4"}}) == {"Err": ""}


@pytest.mark.long
def test_anonymous_volumes_go_with_their_container_and_a_volume_is_removed_when_nobody_uses_it(
    engines: Engines, volume: str
) -> None:
    engines.docker("node-a", "run", "--rm", "-v", "/data", "--volume-driver", "drover", IMAGE, "touch", "/data/x")
    engines.docker("node-a", *kept(volume, "web"))
    assert "in use by" in engines.call("node-a", "VolumeDriver.Remove", {"Name": volume})["Err"]
    engines.docker("node-a", "rm", "-f", "web")
    engines.docker("node-a", "volume", "rm", volume)
    assert volume not in engines.said("node-a", "volume", "ls", "-q")
    assert not engines.etcdctl("get", "--prefix", "/drover/datasets/anonymous", "--keys-only")


def typed(page: str, directory: Path) -> list[str]:
    """What each command of a page's section Try it printed; all of them end with 0. Its file is there."""
    text = (Path(__file__).parents[2] / "docs" / page).read_text()
    blocks = text.partition("## Try it")[2].partition("\n## ")[0].split("```")[1::2]
    for block in blocks[:-1]:
        (directory / "compose.yaml").write_text(block.removeprefix("yaml\n"))
    script = "set -e\n" + "\necho '--8<--'\n".join(blocks[-1].strip().splitlines())
    try:
        done = subprocess.run(
            ["sh", "-c", script], cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        down(Layout.of(directory / "farm"))
    return [answer.strip() for answer in done.stdout.split("--8<--")]


@pytest.mark.long
def test_the_page_for_docker_users_does_what_it_says(tmp_path: Path) -> None:
    assert typed("docker.md", tmp_path)[-2] == "hello"


@pytest.mark.long
def test_the_page_for_compose_users_does_what_it_says(tmp_path: Path) -> None:
    answers = typed("compose.md", tmp_path)
    assert "+ workload diary: image busybox" in answers[2]
    assert "active on node-b" in answers[4]
    assert "diary" in answers[6]
    assert "- workload diary" in answers[8]
