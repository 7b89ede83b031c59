"""What runs already comes in: a container with its volumes, and directories."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster import postgres
from tests.cluster.docker import Engines
from tests.cluster.postgres import Client
from tests.playground import eventually

FINGERPRINT = "select count(*), md5(string_agg(n || text, ',' order by n)) from old"
PORT = 5444


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    with Engines(tmp_path_factory.mktemp("adopt") / "pg") as playground:
        postgres.load(playground, playground.nodes)
        yield playground


def said(engines: Engines, node: str, *command: str, code: int = 0) -> str:
    """What `drover` says to an administrator of that node."""
    cluster = ("--endpoints", ",".join(engines.endpoints))
    done = engines.exec(node, "drover", *command, *cluster, check=False, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.long
def test_a_running_postgresql_is_adopted_with_every_row_and_moves_from_then_on(engines: Engines) -> None:
    made = ("-d", "--name", "legacy", "-v", "old:/data", "-p", f"{PORT}:{postgres.PORT}", "--stop-signal", "SIGINT")
    engines.docker("node-a", "run", *made, postgres.IMAGE)
    with Client([engines.address(node) for node in engines.nodes], PORT) as client:
        assert client.sql("create table old as select n, md5(n::text) as text from generate_series(1, 20000) n") == ""
        before = client.sql(FINGERPRINT)
        client.goes_on()
        assert "+ dataset old: all of /" in said(engines, "node-a", "adopt", "legacy", "--dry-run")
        options = ("--failover", "any", "--fencing", "cooperative")
        assert "legacy is a workload on node-a; it was stopped for" in said(
            engines, "node-a", "adopt", "legacy", *options
        )
        for node in ("node-a", "node-b"):
            engines.etcdctl("put", "/drover/desired/old", node)
            eventually(lambda node=node: engines.owner("old") == node, f"it is on {node}", 30, 0.1)  # type: ignore[misc]
            client.goes_on()
            assert client.sql(FINGERPRINT) == before
        client.all_there()
    kept = ("ps", "-a", "--filter", "name=legacy-before-drover", "--format", "{{.Status}}")
    assert "Exited" in engines.said("node-a", *kept)


@pytest.mark.long
def test_a_container_that_cannot_be_carried_goes_on_as_it_was(engines: Engines) -> None:
    engines.docker(
        "node-a", "run", "-d", "--name", "odd", "-v", "odd:/data", "--pid", "host", "busybox", "sleep", "600"
    )
    assert "PidMode: a workload cannot carry it" in said(engines, "node-a", "adopt", "odd", code=3)
    assert "Up" in engines.said("node-a", "ps", "--filter", "name=odd", "--format", "{{.Status}}")
    assert "no dataset" in said(engines, "node-a", "show", "odd", code=3)
    engines.docker("node-a", "rm", "-f", "odd")


@pytest.mark.long
def test_a_directory_is_imported_as_it_is_and_one_that_is_written_to_says_so(engines: Engines) -> None:
    engines.sh("node-a", "mkdir -p /run/shop/in; cd /run/shop/in; echo 1 > a; ln -s a b; chown 7:8 a; chmod 600 a")
    options = ("--from", "/run/shop", "--fencing", "cooperative")
    assert "shop is on node-a, mounted at /srv/drover/shop" in said(engines, "node-a", "import", "shop", *options)
    look = "cd {}; stat -c '%n %u:%g %a %F' in in/a in/b; cat in/b"
    assert engines.sh("node-a", look.format("/run/shop")) == engines.sh("node-a", look.format("/srv/drover/shop"))
    assert "there is a dataset shop already" in said(engines, "node-a", "import", "shop", *options, code=3)
    assert "not a node that is here" in said(engines, "node-a", "import", "x", *options, "--on", "node-z", code=3)
    engines.sh("node-a", "mkdir /run/live")
    writer = engines.popen("node-a", "sh", "-c", "while :; do echo x >> /run/live/x; sleep 0.01; done")
    try:
        eventually(lambda: engines.sh("node-a", "cat /run/live/x", check=False) != "", "it writes")
        live = said(engines, "node-a", "import", "live", "--from", "/run/live", "--fencing", "cooperative", code=4)
        assert "/run/live is being written to" in live
    finally:
        writer.kill()
        writer.communicate()
