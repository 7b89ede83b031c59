"""A playground for tests: real nodes and real etcd members, gone again when the test is done."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from drover.coordinator.cli.errors import NotPossible
from drover.coordinator.cli.playground import agent, machine, network, secrets, tools
from drover.coordinator.cli.playground.down import down
from drover.coordinator.cli.playground.layout import Layout, Profile, Settings
from drover.coordinator.cli.playground.lock import locked
from drover.coordinator.cli.playground.machine import Place, State
from drover.coordinator.cli.playground.partition import From, pairs
from drover.coordinator.cli.playground.status import look
from drover.coordinator.cli.playground.up import up

DROVER = str(Path(sys.executable).with_name("drover"))


def eventually(condition: Callable[[], bool], what: str, within: float = 10.0, every: float = 0.01) -> None:
    """Waits until it holds. within: seconds; every: seconds between two looks."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(every)


@contextmanager
def running(playground: Playground, node: str, *command: str, until: str) -> Iterator[IO[str]]:
    """A command on a node, from its first line (`until`) to the context's end; what it prints in between."""
    process = playground.popen(node, *command)
    try:
        assert process.stdout
        assert process.stdout.readline().strip() == until
        yield process.stdout
    finally:
        process.kill()
        process.communicate()


class Playground:
    """A cluster in a directory, up as long as the context lasts. Machines are called node-a, ..., etcd-1, ...; all
    methods block."""

    settings: Settings

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        etcd: int = 1,
        agents: bool = True,
        timings: Profile | None = "fast",
        etcd_fast: bool = False,
        reset: bool = False,
        btrfs: bool = False,
        docker: bool = False,
        tls: bool = False,
        ipv6: bool = False,
        zfs: bool = False,
        folders: bool = False,
    ) -> None:
        self._folders = folders
        self.btrfs = btrfs
        self._zfs = zfs
        self.layout = Layout.of(directory)
        self._options = (nodes, etcd, agents, timings, etcd_fast, reset)
        self._docker, self._tls, self._ipv6 = docker, tls, ipv6

    def __enter__(self) -> Self:
        self.settings = up(
            self.layout,
            *self._options,
            btrfs=self.btrfs,
            docker=self._docker,
            tls=self._tls,
            ipv6=self._ipv6,
            zfs=self._zfs,
            folders=self._folders,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        down(self.layout)

    # Looking.

    @property
    def directory(self) -> Path:
        return self.layout.directory

    @property
    def endpoints(self) -> list[str]:
        """For etcd's clients, from this computer or from any machine."""
        return self.settings.endpoints

    @property
    def environment(self) -> dict[str, str]:
        """For etcdctl and drover, where they are told the endpoints."""
        certificates = secrets.environment(self.layout, self.settings)
        return {"PATH": tools.service_path(), "ETCDCTL_API": "3", **certificates}

    @property
    def context(self) -> ssl.SSLContext | None:
        """For calls of etcd and agents from this computer; None: in plain text."""
        return secrets.context(self.layout, self.settings)

    @property
    def nodes(self) -> list[str]:
        return [node.name for node in self.settings.node_machines()]

    @property
    def members(self) -> list[str]:
        return [member.name for member in self.settings.etcd_machines()]

    def address(self, name: str) -> str:
        return self.settings.address(self.settings.machine(name))

    def place(self, name: str) -> Place:
        return Place(self.layout, self.settings, self.settings.machine(name))

    def home(self, name: str) -> Path:
        return self.place(name).home

    def state(self, name: str) -> State:
        return self.place(name).state()

    def service(self, name: str) -> str:
        """What the agent (or etcd) does: running, hung, stopped, starting, off."""
        return look(self.place(name), set()).service

    def service_pid(self, name: str) -> int | None:
        return self.place(name).service()

    def log(self, name: str) -> str:
        log = self.layout.log(self.settings.machine(name))
        return log.read_text(errors="replace") if log.exists() else ""

    # On a machine.

    def popen(self, name: str, *command: str) -> subprocess.Popen[str]:
        """A command on a machine; its standard streams are pipes. End it with terminate(), kill() or a power cut."""
        place = self.place(name)
        return subprocess.Popen(
            [*tools.python("enter"), str(place.running()), str(place.group.path), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PATH": tools.service_path()},
        )

    def exec(
        self, name: str, *command: str, check: bool = True, stdin: str = "", timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on a machine. check: fail the test, with what it said, where it does not end with 0."""
        process = self.popen(name, *command)
        try:
            out, said = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        if check and process.returncode:
            raise AssertionError(f"{name}: {' '.join(command)}: {process.returncode}\n{out}\n{said}")
        return subprocess.CompletedProcess(command, process.returncode, out, said)

    def sh(self, name: str, script: str, check: bool = True) -> str:
        """Runs a shell script on a machine; what it printed, without white space around it."""
        return self.exec(name, "sh", "-ec", script, check=check).stdout.strip()

    def volume(self, name: str, volume: str = "v", fs: str = "ext4") -> str:
        """A new image in the directory that all nodes share, mounted at /srv/VOLUME; its loop device."""
        image = self.home(name) / "shared" / volume
        size = {"ext4": "64M", "xfs": "300M"}[fs]
        self.sh(name, f"rm -f '{image}'; truncate -s {size} '{image}'; mkfs.{fs} -q '{image}'")
        return self.mount(name, volume)

    def mount(self, name: str, volume: str = "v") -> str:
        """Attaches an image that exists and mounts it at /srv/VOLUME; its loop device."""
        image, where = self.home(name) / "shared" / volume, f"/srv/{volume}"
        return self.sh(
            name, f"device=$(losetup -f --show '{image}'); mkdir -p {where}; mount $device {where}; echo $device"
        )

    def etcdctl(self, *arguments: str, check: bool = True, stdin: str = "") -> str:
        """From this computer, to all members."""
        done = subprocess.run(
            [tools.find("etcdctl"), "--endpoints", ",".join(self.endpoints), *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    # What happens to machines.

    def kill(self, name: str, soft: bool = False) -> None:
        """A power cut; soft: only the processes are killed."""
        with locked(self.directory):
            machine.power_cut(self.place(name), soft)

    def start(self, name: str) -> None:
        with locked(self.directory):
            machine.start([self.place(name)])

    def freeze(self, name: str, whole: bool = False) -> None:
        """Processes stand still; whole: link and disks, too."""
        with locked(self.directory):
            machine.freeze(self.place(name), whole)

    def thaw(self, name: str) -> None:
        with locked(self.directory):
            machine.thaw(self.place(name))

    def partition(self, name: str, separate: str = "all", one_way: bool = False) -> None:
        """separate: from `etcd`, `nodes` or `all`. one_way: only what it sends is lost."""
        place = self.place(name)
        with locked(self.directory):
            network.cut(self.layout, pairs(self.layout, self.settings, place.machine, From(separate), one_way))

    def heal(self, name: str) -> None:
        with locked(self.directory):
            network.heal(self.layout, self.place(name).machine)

    def restore(self) -> None:
        """All machines run, nothing is cut off, no node has a device: as after `up`, where a test left it otherwise."""
        with locked(self.directory):
            for one in self.settings.machines():
                place = self.place(one.name)
                network.heal(self.layout, one)
                if place.state() in (State.FROZEN, State.MACHINE_FROZEN):
                    machine.thaw(place)
                if place.devices():
                    machine.power_cut(place)
                if place.state() is State.OFF:
                    machine.start([place])

    # What happens to the agent of a node, or to etcd.

    def kill_agent(self, name: str) -> None:
        """SIGKILL, once it runs: it may just be starting after the last one. Its machine starts it again."""
        eventually(lambda: self._killed(name), f"the agent of {name} runs")

    def _killed(self, name: str) -> bool:
        try:
            agent.send(self.place(name), signal.SIGKILL)
        except NotPossible:
            return False
        return True

    def freeze_agent(self, name: str) -> None:
        agent.send(self.place(name), signal.SIGSTOP)

    def thaw_agent(self, name: str) -> None:
        agent.send(self.place(name), signal.SIGCONT)

    def send_guard(self, name: str, number: signal.Signals) -> None:
        """A signal to the guard of a node's agent."""
        self.sh(name, f"kill -{number.name.removeprefix('SIG')} $(pgrep -f '[a]gent.guard.main')")

    def stop_agent(self, name: str) -> None:
        """It is not started again before `start_agent`."""
        agent.stop(self.place(name))

    def start_agent(self, name: str) -> None:
        agent.start(self.place(name), time.monotonic() + 10)
