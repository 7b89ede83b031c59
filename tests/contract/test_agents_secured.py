"""Whole agents with certificates, on an etcd that lets each do no more than its role says."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from drover.agent.cgroups import Cgroups
from drover.coordinator.identity import Role
from tests.contract.test_etcd_secured import BIN, Secured, secured
from tests.etcd import free_ports
from tests.playground import eventually

__all__ = ["secured"]

NODES = ("node-a", "node-b")


class Agent:
    """One in a mount namespace of its own, so that nothing stays mounted when it ends."""

    def __init__(self, secured: Secured, name: str, directory: Path, shared: Path) -> None:
        self.name, self.directory = name, directory
        self.cgroup = f"drover-secured-{os.getpid()}-{name}"
        self.ports = free_ports(2)
        own = secured.pki.files(name)
        files = f'ca = "{own.ca}"\ncert = "{own.cert}"\nkey = "{own.key}"\n'
        endpoints = ", ".join(f'"{endpoint}"' for endpoint in secured.endpoints)
        self.settings = directory / "agent.toml"
        self.settings.write_text(
            f"""node = "{name}"
machine_id = "{name}"
run_dir = "{directory}/run"
state_dir = "{directory}/state"
mount_root = "{directory}/srv"
cgroup = "{self.cgroup}"
timings = "fast"
[tls]
{files}
[listen]
grpc = "127.0.0.1:{self.ports[0]}"
http = "[::1]:{self.ports[1]}"
[etcd]
endpoints = [{endpoints}]
[etcd.tls]
{files}
[backends.loopback]
directory = "{shared}"
"""
        )

    @property
    def log(self) -> str:
        return (self.directory / "agent.log").read_text(errors="replace")

    def start(self) -> subprocess.Popen[bytes]:
        program = str(BIN / "drover-agent")
        command = ["unshare", "--mount", "--propagation", "private", program, "--config", str(self.settings)]
        with (self.directory / "agent.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        process.wait(20)
        cgroups = Cgroups.find(self.cgroup)
        (cgroups.root / "cgroup.kill").write_text("1")
        eventually(lambda: "populated 0" in (cgroups.root / "cgroup.events").read_text(), "its guard is gone")
        for path in sorted(cgroups.root.rglob("*/"), reverse=True):
            if path.is_dir():
                path.rmdir()
        cgroups.root.rmdir()


@pytest.fixture
def agents(secured: Secured, tmp_path: Path) -> Iterator[dict[str, Agent]]:
    shared = tmp_path / "shared"
    shared.mkdir()
    found: dict[str, Agent] = {}
    with ExitStack() as stack:
        secured.pki.issue("node-b", Role.NODE)
        assert secured.drover("etcd-roles", "--agent=node-b").returncode == 0
        for name in NODES:
            (tmp_path / name).mkdir()
            agent = found[name] = Agent(secured, name, tmp_path / name, shared)
            stack.callback(agent.end, agent.start())
        stack.callback(detach, shared)
        yield found


def detach(images: Path) -> None:
    """Called while the agents run: what they have attached goes when it is unmounted."""
    for line in subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout.splitlines():
        if str(images) in line:
            subprocess.run(["losetup", "-d", line.partition(":")[0]], check=True, timeout=10)


@pytest.mark.long
def test_agents_run_and_move_a_dataset_and_take_up_new_certificates_meanwhile(
    secured: Secured, agents: dict[str, Agent]
) -> None:
    def drover(*words: str) -> str:
        ran = secured.drover(*words, user="ann")
        logs = "".join(agent.log[-2000:] for agent in agents.values())
        assert ran.returncode == 0, f"{words}: {ran.stdout}{ran.stderr}\n{logs}"
        return ran.stdout

    def live() -> set[str]:
        return {it["name"] for it in json.loads(drover("nodes", "--json"))["nodes"] if it["state"] == "live"}

    eventually(lambda: live() == set(NODES), "both have joined", 30, 0.2)
    before = {it["name"]: it["incarnation"] for it in json.loads(drover("nodes", "--json"))["nodes"]}
    drover("create", "pgdata", "--backend=loopback", "--size=64MiB", "--fs=ext4", "--fencing=cooperative")
    drover("move", "pgdata", "node-a", "--wait")
    for name in NODES:
        secured.pki.issue(name, Role.NODE)
    taken = "taken up anew"
    eventually(lambda: all(taken in agent.log for agent in agents.values()), "the new files are taken up", 30, 0.2)
    drover("move", "pgdata", "node-b", "--wait")
    shown = json.loads(drover("show", "pgdata", "--json"))
    assert "ann (certificate), drover move" in json.dumps(shown)
    after = {it["name"]: it["incarnation"] for it in json.loads(drover("nodes", "--json"))["nodes"]}
    assert after == before, "no session was lost"
    for agent in agents.values():
        assert "Traceback" not in agent.log
        assert "denies" not in agent.log
