"""Machines that boot the real systemd, with the units that are shipped, on the network of the computer they are on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from drover.agent.install import write_units
from drover.coordinator.cli.playground import blockdev, tools
from drover.coordinator.cli.playground.cgroup import Group, mount_point
from drover.coordinator.cli.playground.devices import Devices
from tests.cluster import writer
from tests.cluster.writer import Acknowledged
from tests.etcd import free_ports
from tests.playground import eventually

ROOT = Path(__file__).parents[1]
_IDENTITY = (
    ("boot-id", Path("/proc/sys/kernel/random/boot_id")),
    ("machine-id", Path("/etc/machine-id")),
    ("hostname", Path("/etc/hostname")),
)
HUP, INT = 1, 2
"""How a machine ended: it wants to boot again, or stay off."""
ETCDCTL = str(Path(sys.executable).with_name("etcdctl"))
SPEC = {"backend": "loopback", "size": "64MiB", "fs": "ext4", "failover": "any", "fencing": "cooperative"}
TIMINGS = "timings = { heartbeat = 1.0, d_soft = 10.0, d_io = 12.0, d_hard = 14.0, wait = 15.0 }"
"""The machine that tests run on is busy: an agent may take some seconds to start."""


class Booted:
    """One machine. A context manager: entered, it has booted; left, nothing of it is there any more. Methods block."""

    def __init__(
        self, directory: Path, name: str, etcd: str, shared: Path, settings: str = "", root: Path | None = None
    ) -> None:
        """etcd: endpoint. shared: the images of all machines. settings: further TOML, before the first table.
        root: its file system, on which Drover is not installed; None: that of this computer, with this checkout's."""
        self._root, self.netns = root, ""
        self.binds: list[tuple[Path, str]] = []
        """What else it sees of this computer."""
        self.name, self.directory = name, directory / name
        self._group = Group(mount_point() / f"drover-test-{uuid.uuid4().hex[:8]}")
        self._process: subprocess.Popen[str] | None = None
        self.grpc, self.http = free_ports(2)
        self.images, self.state = self.directory / "shared", self.directory / "state"
        for path in (self.images, self.state, self.directory / "etc", self.directory / "units"):
            path.mkdir(parents=True)
        self._shared = shared
        (self.directory / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        (self.directory / "hostname").write_text(f"{name}\n")
        program = str(Path(sys.executable).with_name("drover-agent"))
        write_units(self.directory / "units", program, self.directory / "etc/agent.toml")
        wants = self.directory / "units/booted.target.wants"
        wants.mkdir()
        (wants / "drover-agent.service").symlink_to("../drover-agent.service")
        self.configure(etcd, settings)

    def configure(self, etcd: str, settings: str) -> None:
        (self.directory / "etc/agent.toml").write_text(f"""\
node = "{self.name}"
state_dir = "{self.state}"
{settings}
[listen]
grpc = "127.0.0.1:{self.grpc}"
http = "127.0.0.1:{self.http}"

[etcd]
endpoints = ["{etcd}"]

[workloads]
allow = ["process"]

[backends.loopback]
directory = "{self.images}"
""")

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.cut()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.cut()

    def boot(self) -> None:
        """With another boot id."""
        (self.directory / "boot-id").write_text(f"{uuid.uuid4()}\n")
        self._group.make()
        binds = [(str(self.directory / name), str(target)) for name, target in _IDENTITY if target.exists()]
        binds.append((str(self._shared), str(self.images)))
        if self._root is not None:
            there = (self.directory.parent, Path(writer.__file__).parent)
            binds = [*((str(path), str(path)) for path in there), *binds]
        binds += [(str(source), target) for source, target in self.binds]
        boot = {
            "name": self.name,
            "cgroup": str(self._group.path),
            "binds": binds,
            "units": str(self.directory / "units"),
            "root": str(self._root or ""),
            "netns": self.netns,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.booted_init", json.dumps(boot)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PATH": tools.service_path()},
            text=True,
        )
        eventually(lambda: self.first() is not None, f"{self.name} has a first process")
        eventually(
            lambda: self.systemctl("is-system-running") in ("running", "degraded"), f"{self.name} is up", 30, 0.05
        )

    def ended(self, within: float = 60.0) -> int:
        """How it went down by itself: HUP or INT. Nothing of it is left then."""
        assert self._process is not None
        code = self._process.wait(within)
        self.cut()
        return code

    def cut(self) -> None:
        """Ends it at once."""
        devices = Devices([loop for loop in blockdev.loops() if loop.below(self.images)])
        self._group.kill()
        devices.detach()
        if self._process is not None:
            self._process.wait(10)
            self._process = None
        if self._group.path.exists():
            self._group.remove()

    def first(self) -> int | None:
        """PID of its systemd, as this computer counts."""
        for pid in self._group.pids():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            numbers = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
            if len(numbers) == 2 and numbers[1] == "1" and status.startswith("Name:\tsystemd"):
                return pid
        return None

    def popen(self, *command: str) -> subprocess.Popen[str]:
        """As root on the machine; its standard streams are pipes."""
        first: int | None = None

        def found() -> bool:
            """It may be missed while it goes from one cgroup to another."""
            nonlocal first
            first = self.first()
            return first is not None

        eventually(found, f"{self.name} is on", 2, 0.05)
        return subprocess.Popen(
            [*tools.python("enter"), str(first), str(self._group.path), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": tools.service_path(), "HOME": "/root", "LANG": "C.UTF-8"},
        )

    def run(self, *command: str, check: bool = True, timeout: float = 60.0) -> str:
        """What it printed."""
        process = self.popen(*command)
        try:
            out, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        assert not check or process.returncode == 0, f"{self.name}: {' '.join(command)}: {process.returncode}\n{out}"
        return out.strip()

    def systemctl(self, *words: str) -> str:
        return self.run("systemctl", *words, check=False)

    def shows(self, unit: str = "drover-agent") -> Mapping[str, str]:
        """The properties of a unit."""
        return dict(line.partition("=")[::2] for line in self.systemctl("show", unit).splitlines())

    def log(self) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", "drover-agent", check=False)

    def asked(self, path: str) -> tuple[int, str]:
        """What the agent answers over HTTP: status and body; 0 where it does not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)


class Cluster:
    """Booted machines, one etcd, and datasets with writers that commit to them."""

    def __init__(self, directory: Path, etcd: str) -> None:
        self.directory, self.etcd = directory, etcd
        (directory / "images").mkdir()

    def machine(self, name: str, settings: str = TIMINGS, root: Path | None = None) -> Booted:
        return Booted(self.directory, name, self.etcd, self.directory / "images", settings, root)

    def etcdctl(self, *arguments: str) -> str:
        command = [ETCDCTL, "--endpoints", self.etcd, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()

    def put(self, key: str, value: object) -> None:
        self.etcdctl("put", f"/drover/{key}", "--", value if isinstance(value, str) else json.dumps(value))

    def keys(self, kind: str) -> list[str]:
        return self.etcdctl("get", "--prefix", "--keys-only", f"/drover/{kind}/").split()

    def get(self, key: str) -> dict[str, Any]:
        value = self.etcdctl("get", "--print-value-only", f"/drover/{key}")
        found: dict[str, Any] = json.loads(value) if value else {}
        return found

    def write(self, dataset: str, node: str, python: str = sys.executable, **spec: object) -> None:
        """A dataset, and a writer that commits to it on a node. python: that node's."""
        self.put(f"datasets/{dataset}", SPEC | spec)
        self.put(f"desired/{dataset}", node)
        command = [python, "-I", "-S", writer.__file__, str(self.directory / f"{dataset}.acknowledged")]
        self.put(f"workloads/{dataset}", {"command": command, "datasets": [dataset], "stop_grace_period": 5})
        self.goes_on(dataset, node)

    def acknowledged(self, dataset: str) -> list[Acknowledged]:
        return writer.acknowledged(self.directory / f"{dataset}.acknowledged")

    def goes_on(self, dataset: str, node: str, within: float = 30.0) -> None:
        """Until a record that is newer than now was committed there."""
        before = len(self.acknowledged(dataset))

        def more() -> bool:
            now = self.acknowledged(dataset)
            return len(now) > before and now[-1].node == node

        eventually(more, f"{dataset} is written on {node}: {self.get(f'status/{dataset}')}", within, 0.02)

    def check(self, dataset: str, machine: Booted) -> None:
        """No record that was committed is lost, none is doubled, no two writers overlap."""
        promised = self.acknowledged(dataset)
        writer.check(promised, machine.run("cat", f"/srv/drover/{dataset}/{writer.RECORDS}"))
