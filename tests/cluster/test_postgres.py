"""PostgreSQL in a container, moved by etcdctl under a client's commits, and cut off from its power."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import postgres
from tests.cluster.docker import Engines
from tests.cluster.postgres import Client
from tests.playground import eventually

MOVES = 10


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    with Engines(tmp_path_factory.mktemp("postgres") / "pg") as playground:
        postgres.load(playground, playground.nodes)
        yield playground


@pytest.fixture
def client(engines: Engines) -> Iterator[Client]:
    """Of a new PostgreSQL on node-a, and committing to it."""
    name = engines.dataset("node-a", size="256MiB")
    postgres.run(engines, name)
    with Client([engines.address(node) for node in engines.nodes]) as made:
        made.goes_on()
        yield made
    engines.etcdctl("del", f"/drover/workloads/{name}")
    eventually(lambda: not any(name in engines.said(node, "ps") for node in engines.nodes), "it is stopped", 20, 0.1)


def move(engines: Engines, client: Client, node: str) -> None:
    engines.etcdctl("put", f"/drover/desired/{engines.newest}", node)
    eventually(lambda: engines.record(f"status/{engines.newest}").get("node") == node, f"it is on {node}", 30, 0.1)
    client.goes_on()


def intact(engines: Engines, client: Client) -> None:
    """Every acknowledged commit is there, and PostgreSQL finds nothing wrong with its tables and indexes."""
    client.all_there()
    check = (
        f"/{postgres.SERVER}/bin/pg_amcheck",
        "-h",
        "127.0.0.1",
        "-U",
        "postgres",
        "--install-missing",
        "--heapallindexed",
    )
    engines.docker(engines.owner(engines.newest), "exec", engines.newest, *check, "postgres")


def test_commits_of_a_client_outside_are_all_there_after_a_move(engines: Engines, client: Client) -> None:
    move(engines, client, "node-b")
    intact(engines, client)


@pytest.mark.long
def test_after_ten_moves_and_a_power_cut_every_acknowledged_commit_is_there(engines: Engines, client: Client) -> None:
    for number in range(MOVES):
        move(engines, client, "node-a" if number % 2 else "node-b")
    intact(engines, client)
    node = engines.owner(engines.newest)
    other = next(name for name in engines.nodes if name != node)
    engines.kill(node)
    try:
        eventually(lambda: engines.owner(engines.newest) == other, "it is taken over", 30, 0.2)
        client.goes_on()
        intact(engines, client)
        name = engines.newest
        engines.etcdctl("del", f"/drover/workloads/{name}")
        eventually(lambda: name not in engines.said(other, "ps"), "it is stopped", 20, 0.1)
        offline = ("run", "--rm", "--network", "none", "-v", f"/srv/drover/{name}:/data", "--entrypoint", "/bin/su")
        as_postgres = ("postgres", "-s", "/bin/sh", "-c", f"/{postgres.SERVER}/bin/pg_checksums --check -D /data/pg")
        assert "Bad checksums:  0" in engines.said(other, *offline, postgres.IMAGE, *as_postgres)
    finally:
        engines.start(node)
        eventually(lambda: engines.docker(node, "ps", check=False).returncode == 0, "the engine is back", 60, 0.5)
