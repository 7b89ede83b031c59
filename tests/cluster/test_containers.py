"""Workloads that are containers, on real Docker Engines: they go where their data goes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.docker import IMAGE, Engines
from tests.playground import eventually

COUNT = """\
n=$(tail -n 1 /data/counts 2>/dev/null || echo 0)
while :; do n=$((n+1)); echo $n >> /data/counts; sleep 0.05; done
"""


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    with Engines(tmp_path_factory.mktemp("containers") / "pg") as playground:
        yield playground


@pytest.fixture
def name(engines: Engines) -> Iterator[str]:
    """Of a new workload and its dataset on node-a; what runs of it is stopped after the test."""
    made = engines.dataset("node-a")
    yield made
    engines.etcdctl("del", f"/drover/workloads/{made}")
    eventually(lambda: not any(runs(engines, node, made) for node in engines.nodes), "it is stopped", 20, 0.1)


def put(engines: Engines, name: str, **spec: Any) -> None:
    """It writes numbers, each one more than the last, that were never lost."""
    told = {
        "kind": "docker",
        "image": IMAGE,
        "command": ["sh", "-c", COUNT],
        "init": True,
        "volumes": [f"{name}:/data"],
    }
    engines.etcdctl("put", f"/drover/workloads/{name}", json.dumps(told | spec))


def runs(engines: Engines, node: str, name: str) -> bool:
    return name in engines.said(node, "ps", "--format", "{{.Names}}").split()


def counted(engines: Engines, node: str, name: str) -> list[int]:
    return [int(line) for line in engines.sh(node, f"cat /srv/drover/{name}/counts", check=False).split()]


def goes_on(engines: Engines, node: str, name: str) -> None:
    before = len(counted(engines, node, name))
    eventually(lambda: len(counted(engines, node, name)) > before, f"{name} counts on {node}", 15, 0.05)


def test_a_container_goes_where_its_data_is_wanted_and_is_made_there_while_it_still_runs_here(
    engines: Engines, name: str
) -> None:
    put(engines, name)
    eventually(lambda: runs(engines, "node-a", name), "it runs", every=0.1)
    goes_on(engines, "node-a", name)
    engines.etcdctl("put", f"/drover/desired/{name}", "node-b")
    eventually(lambda: runs(engines, "node-b", name), "it runs there", every=0.1)
    goes_on(engines, "node-b", name)
    numbers = counted(engines, "node-b", name)
    assert numbers == list(range(1, len(numbers) + 1)), "one went on where the other had ended"
    eventually(lambda: name not in engines.said("node-a", "ps", "-a"), "nothing of it is left here", every=0.1)


@pytest.mark.long
def test_a_container_that_was_killed_or_stopped_by_hand_runs_again(engines: Engines, name: str) -> None:
    put(engines, name)
    eventually(lambda: runs(engines, "node-a", name), "it runs", every=0.1)
    for ended in ("kill", "stop"):
        engines.docker("node-a", ended, name)
        goes_on(engines, "node-a", name)


def test_a_container_of_somebody_else_with_the_name_is_left_alone(engines: Engines, name: str) -> None:
    engines.docker("node-a", "run", "-d", "--init", "--name", name, IMAGE, "sleep", "600")
    put(engines, name)
    engines.waits_for(name, lambda status: "is not Drover's" in status.get("reason", ""))
    assert engines.said("node-a", "inspect", "--format", "{{.Config.Cmd}}", name) == "[sleep 600]"
    engines.docker("node-a", "rm", "-f", name)
    goes_on(engines, "node-a", name)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"privileged": True}, "wants to be privileged"),
        ({"cap_add": ["SYS_ADMIN"]}, "wants capability SYS_ADMIN"),
        ({"volumes": ["{name}:/data", "/etc:/host"]}, "wants directory /etc of the node"),
    ],
)
def test_a_node_starts_nothing_that_its_settings_do_not_allow(
    engines: Engines, name: str, spec: dict[str, Any], reason: str
) -> None:
    if "volumes" in spec:
        spec = {"volumes": [one.format(name=name) for one in spec["volumes"]]}
    put(engines, name, **spec)
    engines.waits_for(name, lambda status: reason in status.get("reason", ""))
    assert name not in engines.said("node-a", "ps", "-a")


@pytest.mark.long
def test_a_container_that_says_it_is_ill_is_shown_to_be(engines: Engines, name: str) -> None:
    put(engines, name, healthcheck={"test": "test -e /data/well || { echo no well; false; }", "interval": "0.2s"})
    engines.waits_for(name, lambda status: "no well" in status.get("reason", ""))
    engines.docker("node-a", "exec", name, "touch", "/data/well")
    engines.waits_for(name, lambda status: "healthy" not in status.get("reason", ""))


@contextmanager
def frozen(engines: Engines, node: str) -> Iterator[None]:
    """Its engine answers nobody."""
    engines.sh(node, "kill -STOP $(cat /run/docker.pid)")
    try:
        yield
    finally:
        engines.sh(node, "kill -CONT $(cat /run/docker.pid)")


@pytest.mark.long
def test_at_the_deadline_a_container_is_stopped_without_its_engine(engines: Engines, name: str) -> None:
    put(engines, name)
    goes_on(engines, "node-a", name)
    with frozen(engines, "node-a"):
        engines.freeze("etcd-1")
        try:
            eventually(
                lambda: (
                    not engines.sh("node-a", f"cat /sys/fs/cgroup/drover/containers/{name}/*/cgroup.procs", check=False)
                ),
                "all of it is gone",
                every=0.1,
            )
        finally:
            engines.thaw("etcd-1")
    goes_on(engines, "node-a", name)


@pytest.mark.long
def test_a_container_moves_away_from_a_node_whose_engine_does_not_answer(engines: Engines, name: str) -> None:
    put(engines, name)
    goes_on(engines, "node-a", name)
    with frozen(engines, "node-a"):
        engines.etcdctl("put", f"/drover/desired/{name}", "node-b")
        goes_on(engines, "node-b", name)


@pytest.mark.long
def test_a_container_does_not_notice_a_killed_agent_and_runs_again_after_its_engine_was_killed(tmp_path: Path) -> None:
    """With deadlines that an agent on a busy machine is back in time for."""
    with Engines(tmp_path / "pg", nodes=1, timings="relaxed") as engines:
        name = engines.dataset("node-a")
        put(engines, name)
        goes_on(engines, "node-a", name)
        began = engines.said("node-a", "inspect", "--format", "{{.State.StartedAt}}", name)
        engines.kill_agent("node-a")
        eventually(lambda: engines.answers("node-a"), "its successor is there", 20, 0.2)
        goes_on(engines, "node-a", name)
        assert engines.said("node-a", "inspect", "--format", "{{.State.StartedAt}}", name) == began
        engines.sh("node-a", "kill -KILL $(cat /run/docker.pid)")
        eventually(lambda: engines.docker("node-a", "ps", check=False).returncode == 0, "the engine is back", 60, 0.5)
        goes_on(engines, "node-a", name)
        numbers = counted(engines, "node-a", name)
        assert numbers == sorted(set(numbers)), "no number twice: never two of it"


@pytest.mark.long
def test_a_container_fails_over_with_its_data(engines: Engines, name: str) -> None:
    put(engines, name, command=["sh", "-c", COUNT.replace("sleep", "sync; sleep")])
    goes_on(engines, "node-a", name)
    engines.kill("node-a")
    try:
        eventually(lambda: engines.owner(name) == "node-b", "it is taken over", 30, 0.2)
        goes_on(engines, "node-b", name)
    finally:
        engines.start("node-a")
        eventually(lambda: engines.docker("node-a", "ps", check=False).returncode == 0, "the engine is back", 60, 0.5)


@pytest.mark.long
def test_a_container_stays_where_it_runs_while_its_next_node_has_not_got_its_image(engines: Engines, name: str) -> None:
    image = f"only-on-node-a:{name}"
    engines.docker("node-a", "tag", IMAGE, image)
    put(engines, name, image=image)
    goes_on(engines, "node-a", name)
    engines.etcdctl("put", f"/drover/desired/{name}", "node-b")
    engines.waits_for(name, lambda status: f"node-b cannot run {name} now: image {image}" in status.get("reason", ""))
    goes_on(engines, "node-a", name)
    engines.docker("node-b", "tag", IMAGE, image)
    goes_on(engines, "node-b", name)


@pytest.mark.long
def test_a_container_that_does_not_start_after_its_move_goes_back_where_its_spec_says_so(
    engines: Engines, name: str
) -> None:
    engines.docker("node-b", "run", "-d", "--init", "--name", f"holds-{name}", "-p", "8099:80", IMAGE, "sleep", "600")
    put(engines, name, ports=["8099:80"], on_start_failure="back")
    goes_on(engines, "node-a", name)
    engines.etcdctl("put", f"/drover/desired/{name}", "node-b")
    eventually(lambda: engines.record(f"owners/{name}").get("epoch") == 3, "it was there, and is back", 30, 0.2)
    goes_on(engines, "node-a", name)
    assert "port is already allocated" in engines.record(f"owners/{name}")["because"]
    engines.docker("node-b", "rm", "-f", f"holds-{name}")
