"""An etcd of three that runs with the flags of `drover etcd-unit`, with TLS and the users of `drover etcd-roles`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from drover.agent.tls import client_context
from drover.coordinator.certificates import Certificate
from drover.coordinator.cli.errors import ExitCode
from drover.coordinator.etcd import Credentials, Etcd, Tls
from drover.coordinator.identity import Role
from drover.coordinator.store import Denied, StoreError, Unavailable
from drover.coordinator.txn import Delete, Put, Txn
from tests.certificates import Certificates
from tests.etcd import free_ports

BIN = Path(sys.executable).parent
MEMBERS = ("etcd-1", "etcd-2", "etcd-3")


class Secured:
    """A cluster of three, and who uses it."""

    def __init__(self, directory: Path) -> None:
        self.pki = Certificates.make(directory / "pki")
        self.directory = directory
        for name in MEMBERS:
            self.pki.issue(name, Role.ETCD)
        for name, role in (
            ("root", Role.OPERATOR),
            ("ann", Role.OPERATOR),
            ("node-a", Role.NODE),
            ("mallory", Role.NODE),
        ):
            self.pki.issue(name, role)
        ports = free_ports(6)
        self.clients, self.peers = dict(zip(MEMBERS, ports, strict=False)), dict(zip(MEMBERS, ports[3:], strict=True))
        self.endpoints = [f"https://127.0.0.1:{port}" for port in self.clients.values()]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def unit(self, name: str, *more: str) -> str:
        peers = [f"--peer={other}=127.0.0.1:{port}" for other, port in self.peers.items() if other != name]
        ports = (f"--client-port={self.clients[name]}", f"--peer-port={self.peers[name]}")
        where = ("--address=127.0.0.1", f"--data-dir={self.directory / name}", f"--pki={self.pki.directory}")
        program = f"--program={BIN / 'etcd'}"
        return self.drover("etcd-unit", name, *where, *peers, *ports, program, *more).stdout

    def start(self, name: str) -> None:
        """With exactly what systemd would run."""
        unit = self.unit(name).replace("\\\n", " ")
        command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
        with (self.directory / f"{name}.log").open("ab") as log:
            words = shlex.split(command.removeprefix("ExecStart="))
            self.processes[name] = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def environment(self, user: str) -> dict[str, str]:
        files = self.pki.files(user)
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("DROVER_", "ETCDCTL_"))}
        return mine | {
            "ETCDCTL_API": "3",
            "ETCDCTL_ENDPOINTS": ",".join(self.endpoints),
            "ETCDCTL_CACERT": str(files.ca),
            "ETCDCTL_CERT": str(files.cert),
            "ETCDCTL_KEY": str(files.key),
        }

    def drover(self, *words: str, user: str = "root", within: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Again, for so many seconds, where etcd did not answer."""
        until = time.monotonic() + within
        while True:
            command, environment = [str(BIN / "drover"), *words], self.environment(user)
            ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
            if ran.returncode != ExitCode.NO_ETCD or time.monotonic() > until:
                return ran

    def etcd(self, user: str) -> Etcd:
        return Etcd(self.endpoints, tls=self.pki.to_etcd(user), timeout=5.0)

    def by_password(self, user: str, password: str) -> Etcd:
        """The certificate is one of no user; the name comes with the password."""
        return Etcd(
            self.endpoints, tls=self.pki.to_etcd("mallory"), credentials=Credentials(user, password), timeout=5.0
        )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with ExitStack() as stack:
        secured = Secured(tmp_path_factory.mktemp("secured"))
        for name in MEMBERS:
            secured.start(name)
            stack.callback(secured.processes[name].wait)
            stack.callback(secured.processes[name].kill)
        (secured.directory / "password").write_text("olive-secret\n")
        words = (
            "--agent=node-a",
            "--operator=ann",
            "--observer=olive",
            f"--password=olive={secured.directory}/password",
        )
        first = secured.drover("etcd-roles", *words, "--enable")
        logs = "".join((secured.directory / f"{name}.log").read_text()[-1500:] for name in MEMBERS)
        assert first.returncode == 0, first.stderr + logs
        assert "etcd asks everybody who they are" in first.stdout
        assert "olive-secret" not in first.stdout + first.stderr
        yield secured


def put(key: str, value: str = "") -> Txn:
    return Txn((), (Put(key, value.encode()),))


async def test_an_agents_credentials_do_not_reach_outside_the_prefix(secured: Secured) -> None:
    async with secured.etcd("node-a") as store:
        assert (await store.txn(put("/drover/status/x"))).succeeded
        assert await store.get("/drover/status/x")
        assert (await store.txn(Txn((), (Delete("/drover/status/x"),)))).succeeded
        for key in ("/elsewhere", "/drover", "/drover0", "/droverx/a"):
            with pytest.raises(Denied):
                await store.txn(put(key))
            with pytest.raises(Denied):
                await store.get(key)
        with pytest.raises(Denied):
            await store.range("/", "0")
        with pytest.raises(StoreError):
            await anext(store.watch("/", "0", 1))
        with pytest.raises(Denied):
            await store.auth.found()


async def test_an_observer_sees_everything_and_changes_nothing(secured: Secured) -> None:
    async with secured.by_password("olive", "olive-secret") as store:
        await store.range("/drover/", "/drover0")
        for key in ("/drover/desired/d", "/drover/owners/d", "/drover/pause", "/drover/heartbeats/n", "/x"):
            with pytest.raises(Denied):
                await store.txn(put(key, "node-a"))
            with pytest.raises(Denied):
                await store.txn(Txn((), (Delete(key),)))


def test_an_observer_moves_nothing_by_the_command_and_is_told_why(secured: Secured) -> None:
    assert secured.drover("create", "notes", "--backend", "loopback", "--size", "64MiB", user="ann").returncode == 0
    environment = secured.environment("mallory") | {"ETCDCTL_USER": "olive", "ETCDCTL_PASSWORD": "olive-secret"}

    def olive(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([BIN / "drover", *words], env=environment, capture_output=True, text=True, timeout=60)

    assert "notes" in olive("ls").stdout
    denied = olive("rm", "notes")
    assert denied.returncode == 1
    assert "etcd denies access" in denied.stderr
    assert "olive-secret" not in denied.stderr


async def test_who_asked_is_the_name_in_the_certificate(secured: Secured) -> None:
    assert secured.drover("create", "asked", "--backend=loopback", "--size=64MiB", user="ann").returncode == 0
    assert secured.drover("pause", "--timeout=5", user="ann").returncode == 0
    async with secured.etcd("ann") as store:
        pause = await store.get("/drover/pause")
    assert pause is not None
    assert json.loads(pause.value)["by"] == "ann (certificate)"
    assert secured.drover("resume", "--timeout=5", user="ann").returncode == 0


async def test_a_certificate_without_a_user_and_a_wrong_password_get_nothing(secured: Secured) -> None:
    async with secured.etcd("mallory") as store:
        with pytest.raises(Denied):
            await store.get("/drover/cluster")
    async with secured.by_password("olive", "wrong") as store:
        with pytest.raises(Denied):
            await store.get("/drover/cluster")
    async with Etcd(secured.endpoints, tls=Tls(secured.pki.files("root").ca), timeout=0.5) as store:
        with pytest.raises(Unavailable):
            await store.get("/drover/cluster")


async def test_an_operator_wants_things_and_cannot_pass_for_a_node(secured: Secured) -> None:
    async with secured.etcd("ann") as store:
        assert (await store.txn(put("/drover/desired/d", "node-a"))).succeeded
        for key in ("/drover/heartbeats/node-a", "/drover/nodes/node-a", "/drover/leases/d", "/drover/cluster"):
            with pytest.raises(Denied):
                await store.txn(put(key))


def test_given_again_it_changes_nothing_and_a_dry_run_changes_nothing_ever(secured: Secured) -> None:
    words = ("--agent=node-a", "--operator=ann", "--observer=olive", "--json")
    assert json.loads(secured.drover("etcd-roles", *words).stdout)["steps"] == []
    for _ in range(2):
        found = json.loads(secured.drover("etcd-roles", "--agent=node-z", "--dry-run", "--json").stdout)
        assert found == {
            "dry_run": True,
            "steps": ["user node-z: made, comes with a certificate", "user node-z: has the role drover-agent"],
        }
    denied = secured.drover("etcd-roles", *words, user="ann")
    assert denied.returncode == 1
    assert "user root" in denied.stderr


def test_a_nodes_certificate_is_none_of_a_peer(secured: Secured) -> None:
    """Whoever has stolen a node's certificate cannot pass for a member of etcd."""
    port = secured.peers["etcd-1"]

    def ask(name: str) -> str:
        with urllib.request.urlopen(
            f"https://127.0.0.1:{port}/members", timeout=5, context=client_context(secured.pki.files(name))
        ) as reply:
            return str(reply.read().decode())

    assert "etcd-1" in ask("etcd-2")
    with pytest.raises(OSError, match=r"(?i)certificate|reset|eof"):
        ask("node-a")


def test_etcd_runs_with_the_flags_of_its_unit(secured: Secured) -> None:
    unit = secured.unit("etcd-1")
    for words in (
        "--quota-backend-bytes=2147483648",
        "--auto-compaction-mode=periodic",
        "--heartbeat-interval=100",
        "--election-timeout=1000",
        "--client-cert-auth",
        "--peer-client-cert-auth",
    ):
        assert words in unit
    assert "Type=notify" in unit
    running = Path(f"/proc/{secured.processes['etcd-1'].pid}/cmdline").read_bytes().decode().split("\0")
    assert running[1:-1] == [word for word in unit.replace("\\\n", " ").split() if word.startswith("--")]
    assert Certificate.read(secured.pki.files("etcd-1").cert).names == ("etcd",)
