"""PostgreSQL to measure fail-overs with: as a workload on a dataset, and kept by Patroni, which is the peer.

Both are the same build (bench/peers.sh), run on the same machines and beside the same etcd, and see the same power cut.
Patroni has its default settings: ttl 30, loop_wait 10, retry_timeout 10, asynchronous replication.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from bench.cluster import put, record
from tests.playground import Playground, eventually

PEERS = Path(__file__).resolve().parents[1] / ".cache" / "peers"
BINARIES = PEERS / "root" / "usr" / "lib" / "postgresql" / "15" / "bin"
LIBRARIES = next(PEERS.glob("root/usr/lib/*-linux-gnu"), PEERS)
PYTHON = PEERS / "venv" / "bin" / "python"
NOT_ROOT = ("unshare", "--user", "--map-user=65534", "--map-group=65534")
"""PostgreSQL refuses to be root; so it may go where root may, whoever may read the checkout."""
RUN = ("env", f"LD_LIBRARY_PATH={LIBRARIES}", *NOT_ROOT)
DROVERS, PATRONIS, REST = 5433, 5432, 8008
"""TCP ports."""
SETTINGS = {"unix_socket_directories": "", "recovery_init_sync_method": "syncfs"}
"""Of both. The second: after a crash PostgreSQL syncs its file system once, not each of a thousand files."""
TRUST = ["local all all trust", "host all all all trust", "host replication all all trust"]


class FirstCommit:
    """A client that waits for the first commit on any of these machines, from before the power is cut."""

    def __init__(self, playground: Playground, port: int, nodes: Sequence[str]) -> None:
        addresses = map(playground.address, nodes)
        script = str(Path(__file__).with_name("first_commit.py"))
        self._process = subprocess.Popen(
            [str(PYTHON), "-I", script, str(port), *addresses], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"

    def at(self, within: float) -> float:
        """Unix time. within: seconds. Raises subprocess.TimeoutExpired."""
        return float(self._process.communicate(timeout=within)[0])

    def __enter__(self) -> FirstCommit:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def sql(playground: Playground, node: str, port: int, statement: str) -> bool:
    """On the server of a node; whether it succeeded."""
    where = ["-h", playground.address(node), "-p", str(port), "-U", "postgres"]
    done = subprocess.run(
        [*RUN, str(BINARIES / "psql"), *where, "-qc", statement], capture_output=True, timeout=10, check=False
    )
    return done.returncode == 0


def ready(playground: Playground, node: str, port: int) -> None:
    """The server of a node takes commits, and has the table that is committed to."""
    create = "create table if not exists written (at timestamptz)"
    eventually(lambda: sql(playground, node, port, create), f"PostgreSQL on {node}", 60, every=0.2)


def workload(playground: Playground, dataset: str) -> None:
    """PostgreSQL, as a workload on a new dataset that is active."""
    node, data = record(playground, f"owners/{dataset}")["node"], f"/srv/drover/{dataset}/data"
    playground.exec(node, *RUN, str(BINARIES / "initdb"), "-D", data, "-A", "trust", "-U", "postgres", timeout=120)
    hba = "\n".join(TRUST)
    playground.sh(node, f"echo '{hba}' > {data}/pg_hba.conf; sync -f {data}")
    options = SETTINGS | {"listen_addresses": "*", "port": str(DROVERS), "max_wal_size": "64MB"}
    command = [*RUN, str(BINARIES / "postgres"), "-D", data, *(f"--{name}={value}" for name, value in options.items())]
    spec = {"command": command, "datasets": [dataset], "stop_grace_period": 5}
    playground.etcdctl("put", f"/drover/workloads/{dataset}", "--", json.dumps(spec))
    ready(playground, node, DROVERS)


def bring(playground: Playground, dataset: str, node: str) -> None:
    """The dataset and its PostgreSQL are on this node."""
    put(playground, dataset, node)
    ready(playground, node, DROVERS)


class Patroni:
    """Patroni on every node of a playground, one primary, the others follow."""

    def __init__(self, playground: Playground) -> None:
        self._playground = playground
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, node: str) -> None:
        """With nothing on its disk: it copies the primary, or is the first."""
        home = self._home(node)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        (home / "patroni.json").write_text(json.dumps(self._settings(node)))
        command = [*RUN, str(PEERS / "venv" / "bin" / "patroni"), str(home / "patroni.json")]
        self._processes[node] = self._playground.popen(
            node, "sh", "-c", f'exec "$@" > {home / "log"} 2>&1', "patroni", *command
        )

    def ended(self, node: str) -> None:
        """Its machine's power was cut."""
        self._processes.pop(node).communicate(timeout=10)

    def settle(self) -> str:
        """Until one leads and all others stream from it; the node that leads."""
        eventually(lambda: bool(self._leader()), "Patroni has a primary, and all others follow", 120, every=0.2)
        ready(self._playground, leader := self._leader(), PATRONIS)
        return leader

    def _leader(self) -> str:
        """ "": not all are there."""
        told: list[dict[str, Any]] = []
        for node in self._playground.nodes:
            with (
                suppress(OSError),
                urlopen(f"http://{self._playground.address(node)}:{REST}/cluster", timeout=2) as answer,
            ):
                told = json.load(answer)["members"]
                break
        states = {member["name"]: (member["role"], member["state"]) for member in told}
        leaders = [name for name, state in states.items() if state == ("leader", "running")]
        followers = [name for name, state in states.items() if state == ("replica", "streaming")]
        return leaders[0] if leaders and len(followers) == len(self._playground.nodes) - 1 else ""

    def _home(self, node: str) -> Path:
        return self._playground.home(node) / "patroni"

    def _settings(self, node: str) -> dict[str, Any]:
        address, home = self._playground.address(node), self._home(node)
        return {
            "scope": "peer",
            "name": node,
            "restapi": {"listen": f"{address}:{REST}", "connect_address": f"{address}:{REST}"},
            "etcd3": {"hosts": [endpoint.partition("//")[2] for endpoint in self._playground.endpoints]},
            "bootstrap": {"dcs": {}, "initdb": [{"auth": "trust"}]},
            "postgresql": {
                "listen": f"{address}:{PATRONIS}",
                "connect_address": f"{address}:{PATRONIS}",
                "data_dir": str(home / "data"),
                "bin_dir": str(BINARIES),
                "pgpass": str(home / "pgpass"),
                "pg_hba": TRUST,
                "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "replicator"}},
                "parameters": SETTINGS,
            },
        }


@contextmanager
def patroni(playground: Playground) -> Iterator[Patroni]:
    """Ends with the playground's machines, or before."""
    made = Patroni(playground)
    for node in playground.nodes:
        made.start(node)
    made.settle()
    yield made
