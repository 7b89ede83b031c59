"""What users may type wrong: reported where they look, with the reason, and never an end to an agent."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator

import pytest

from drover.coordinator.cli.playground.layout import HTTP_PORT
from drover.coordinator.keys import Kind
from tests.cluster.cluster import COOPERATIVE, ROOT, Cluster, Dataset
from tests.playground import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("bad-input")]


@pytest.fixture(autouse=True)
def agents_live(cluster: Cluster) -> Iterator[None]:
    """Whatever is typed, no agent ends."""
    pids = [cluster.playground.service_pid(node) for node in cluster.playground.nodes]
    yield
    assert [cluster.playground.service_pid(node) for node in cluster.playground.nodes] == pids
    assert all("gate closed" not in cluster.log(node) for node in cluster.playground.nodes)


def said(cluster: Cluster, words: str) -> int:
    """How many lines of all agents' logs have these words."""
    return sum(cluster.log(node).count(words) for node in cluster.playground.nodes)


def counted(cluster: Cluster, kind: Kind) -> float:
    """What all agents have ignored of a kind."""
    total = 0.0
    for node in cluster.playground.nodes:
        with urllib.request.urlopen(
            f"http://{cluster.playground.address(node)}:{HTTP_PORT}/metrics", timeout=5
        ) as page:
            for line in page.read().decode().splitlines():
                if line.startswith(f'drover_ignored_input_total{{kind="{kind}"}}'):
                    total += float(line.split()[1])
    return total


@pytest.mark.parametrize(
    ("desired", "reason"),
    [
        ("node-x", "'node-x', which is not here; here are: node-a node-b node-c"),
        ("", "the name is empty"),
        ('{"node":"node-a"}', "is not a node's name"),
        ("node a", "the name has ' '"),
        ("node/a", "the name has '/'"),
        ("n" * 300, "the name is 300 characters long, at most 63"),
        ("nöde", "the name has 'ö'"),
    ],
)
def test_a_new_dataset_with_a_wrong_desired_waits_and_a_healthy_one_stays_where_it_is_and_both_say_why(
    cluster: Cluster, desired: str, reason: str
) -> None:
    new = Dataset(cluster, cluster.name("new"))
    new.declare()
    healthy = cluster.dataset(on="node-a")
    writer = cluster.writer(healthy)
    for data in (new, healthy):
        cluster.move(data, desired)
    assert new.says(reason)["phase"] == "waiting"
    assert not new.owner
    # The healthy one says it as a warning, in slightly other words where the node is not here.
    warning = healthy.says("here are" if desired == "node-x" else reason)
    assert warning["phase"] == "active"
    assert warning["warning"]
    writer.goes_on("node-a")
    assert healthy.epoch == 1
    for data in (new, healthy):
        assert said(cluster, f"/drover/desired/{data.name}: ") == 1, "in one agent's log, once"
        cluster.move(data, "node-b")
        data.active_on("node-b")
    eventually(lambda: not healthy.status["warning"], "the warning is gone")


@pytest.mark.parametrize("name", ["a/b", "a b", "n" * 300, "nöte", "-n", "a..."])
def test_a_name_that_no_dataset_can_have_is_reported_under_what_was_typed(cluster: Cluster, name: str) -> None:
    cluster.put(f"datasets/{name}", json.dumps(COOPERATIVE))
    cluster.put(f"desired/{name}", "node-a")
    status = cluster.says(name, "name")
    assert status["phase"] == "waiting"
    assert not cluster.record(f"owners/{name}")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"size": 0}, "size must be more than 0"),
        ({"size": -5}, "size must be more than 0"),
        ({"size": "10GB?"}, "'10GB?' is not a size; write it like '10GiB'"),
        ({"size": None}, "size must be text like '10GiB'"),
        ({"size": "200MiB", "fs": "xfs"}, "xfs needs at least 300 MiB; ask for more, or for ext4"),
        ({"size": "200MiB", "fs": None}, "xfs needs at least 300 MiB; ask for more, or for ext4"),
        ({"fs": "ntfs"}, "fs: "),
        ({"backend": "ebs2"}, "ebs2; offered in this cluster: loopback"),
        ({"faillover": "any"}, "faillover: there is no such field; did you mean failover?"),
        ({"failover": "some"}, 'failover must be "none", "any" or a list of nodes'),
    ],
)
def test_a_spec_that_cannot_be_used_makes_nothing_and_says_which_field_is_wrong(
    cluster: Cluster, spec: dict[str, object], reason: str
) -> None:
    data = Dataset(cluster, cluster.name("wrong"))
    data.declare(**spec)
    cluster.move(data, "node-a")
    data.says(reason)
    assert not data.owner
    # Put right, it comes up without anybody's further doing.
    data.declare()
    data.active_on("node-a")


@pytest.mark.parametrize("spec", ["size: 10GiB", "", "[]", '{"backend":"loopback"', "null"])
def test_a_spec_that_is_no_record_is_reported_and_an_existing_dataset_goes_on(cluster: Cluster, spec: str) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    new = Dataset(cluster, cluster.name("wrong"))
    for name in (new.name, data.name):
        cluster.put(f"datasets/{name}", spec)
    cluster.move(new, "node-a")
    assert new.says("spec cannot be used")["phase"] == "waiting"
    assert data.says("spec ignored")["phase"] == "active"
    writer.goes_on("node-a")
    assert len(writer.turns) == 1
    assert data.epoch == 1


def test_a_size_below_what_it_has_is_refused_and_the_dataset_goes_on(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    data.declare(size="32MiB")
    status = data.says("cannot shrink", "set the size back to 64 MiB")
    assert status["phase"] == "active"
    writer.goes_on("node-a")
    assert len(writer.turns) == 1
    cluster.move(data, "node-b")
    writer.goes_on("node-b")
    writer.check()


def test_a_dataset_for_which_there_is_no_room_says_so_and_comes_up_when_it_asks_for_less(cluster: Cluster) -> None:
    data = Dataset(cluster, cluster.name("huge"))
    data.declare(size="100TiB")
    cluster.move(data, "node-a")
    data.says("free", within=15)
    assert not data.owner.get("born")
    data.declare()
    data.active_on("node-a")


def test_a_full_directory_of_images_is_reported_and_used_again_when_there_is_room(cluster: Cluster) -> None:
    playground = cluster.playground
    shared = playground.home("node-a") / "shared"
    # For node-a alone, its namespace being its own.
    playground.sh("node-a", f"mount -t tmpfs -o size=200m full {shared}")
    try:
        before = cluster.dataset(on="node-a")
        writer = cluster.writer(before)
        playground.sh("node-a", f"cat /dev/zero > {shared}/rubbish 2> /dev/null || true")
        data = cluster.dataset(on="node-a", active=False)
        data.says("no room for 64 MiB", "0 B free", within=15)
        # What is there already has its whole size.
        playground.sh("node-a", f"head -c 32M /dev/urandom > {before.path}/file; sync {before.path}/file")
        writer.goes_on("node-a")
        playground.sh("node-a", f"rm {shared}/rubbish")
        data.active_on("node-a", within=40)
        writer.check()
        assert len(writer.turns) == 1
        cluster.delete(f"workloads/{writer.name}")
        cluster.delete(f"datasets/{before.name}")
        cluster.delete(f"datasets/{data.name}")
        eventually(lambda: before.owner["state"] == data.owner["state"] == "released", "both are released")
    finally:
        playground.sh("node-a", f"umount {shared}")


def test_garbage_in_every_key_that_a_user_may_write_ends_no_agent_and_stops_no_dataset(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    garbage = bytes(range(256)) * 4
    for key in (
        *(f"{kind}/garbage" for kind in ("datasets", "desired", "workloads", "cordons")),
        *("pause", "cordons/node-b", "unknown/key", "datasets/", "desired/", "workloads/", "nonsense"),
    ):
        encoded = [base64.b64encode(part).decode() for part in ((ROOT + key).encode(), garbage)]
        cluster.ask("kv/put", {"key": encoded[0], "value": encoded[1]})
    cluster.says("garbage", "spec cannot be used")
    writer.goes_on("node-a")
    cluster.move(data, "node-c")
    data.active_on("node-c")
    writer.goes_on("node-c")
    writer.check()
    for key in ("pause", "unknown/key", "nonsense"):
        cluster.delete(key)


def test_a_workload_that_cannot_be_used_is_reported_by_its_dataset(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    name = cluster.name("wrong")
    spec = {"command": ["/bin/sh"], "datasets": [data.name], "comand": 1}
    cluster.put(f"workloads/{name}", json.dumps(spec))
    data.says(f"workload {name}", "comand: there is no such field; did you mean command?")


def test_a_workload_that_is_no_record_is_logged_counted_and_shown_once(cluster: Cluster) -> None:
    before = counted(cluster, Kind.WORKLOADS)
    name = cluster.name("wrong")
    cluster.put(f"workloads/{name}", "nonsense")
    eventually(
        lambda: said(cluster, f"/drover/workloads/{name}: the value is not JSON: 'nonsense'") > 0, "it is logged"
    )
    # Each agent has seen it when it has seen what came later.
    cluster.writer(cluster.dataset(on="node-a"))
    assert said(cluster, f"/drover/workloads/{name}: ") == 1
    assert counted(cluster, Kind.WORKLOADS) == before + 1
    assert f"ignored: workloads/{name}: the value is not JSON: 'nonsense'" in cluster.drover("ls").stderr


def test_a_workload_that_becomes_nonsense_goes_on_running(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    cluster.put(f"workloads/{writer.name}", "nonsense")
    eventually(lambda: said(cluster, f"/drover/workloads/{writer.name}: ") == 1, "it is logged")
    writer.goes_on("node-a")
    assert len(writer.turns) == 1
