"""Real etcd members on free loopback ports, and fixtures that share one of them (`tests/conftest.py` loads these)."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

_TMPFS = Path("/dev/shm")
_START_LIMIT = 20.0
"""Seconds until a cluster must answer."""

FAST = ("--heartbeat-interval", "50", "--election-timeout", "500", "--unsafe-no-fsync")
"""Elections within about a second, least lease TTL 1 s; nothing survives a power cut."""


class EtcdMember:
    """One etcd process. Its data outlives `kill`, so that `start` goes on from there."""

    def __init__(self, name: str, directory: Path, client: int, peer: int) -> None:
        self.name = name
        self.address = f"127.0.0.1:{client}"
        self.peer = f"http://127.0.0.1:{peer}"
        self.log = directory / f"{name}.log"
        self.program = Path(sys.executable).with_name("etcd")
        self._data = directory / name
        self._arguments: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}"

    def configure(self, members: Sequence[EtcdMember], token: str, flags: Sequence[str], also: str) -> None:
        clients = f"{self.endpoint},{also}" if also else self.endpoint
        self._arguments = [
            *(str(self.program), "--name", self.name, "--data-dir", str(self._data)),
            *("--listen-client-urls", clients, "--advertise-client-urls", self.endpoint),
            *("--listen-peer-urls", self.peer, "--initial-advertise-peer-urls", self.peer),
            *("--initial-cluster", ",".join(f"{member.name}={member.peer}" for member in members)),
            *("--initial-cluster-token", token, *flags),
        ]

    def use(self, program: Path) -> None:
        """Another release, from the next start on."""
        self.program = program
        self._arguments[0] = str(program)

    def start(self) -> None:
        """Returns at once; `EtcdCluster.wait` waits until it serves."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and gone when this returns."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restore(self, snapshot: Path) -> None:
        """Its data becomes what the snapshot has, as `etcdctl snapshot restore` makes it. It does not run."""
        shutil.rmtree(self._data)
        program = Path(sys.executable).with_name("etcdctl")
        flags = (
            "--name",
            "--data-dir",
            "--initial-advertise-peer-urls",
            "--initial-cluster",
            "--initial-cluster-token",
        )
        chosen = [word for flag in flags for word in (flag, self._arguments[self._arguments.index(flag) + 1])]
        command = [str(program), "snapshot", "restore", str(snapshot), *chosen]
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    def freeze(self) -> None:
        """SIGSTOP, and stopped when this returns: the kernel still accepts its connections, nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, path: str, body: dict[str, Any] | None = None, timeout: float = 1.0) -> dict[str, Any]:
        """JSON from its HTTP gateway. Raises OSError."""
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.endpoint}{path}", data, timeout) as reply:
            answer: dict[str, Any] = json.load(reply)
            return answer


class EtcdCluster:
    """One or three members, on tmpfs where there is one. A context manager: entered, it has a leader and answers."""

    def __init__(
        self,
        members: int = 1,
        directory: Path | None = None,
        flags: Sequence[str] = FAST,
        also: str = "",
        program: Path | None = None,
    ) -> None:
        """directory: None: one of its own, removed at the end. flags: further ones of etcd, instead of FAST. also: a
        second URL that the only member serves clients at. program: None: the etcd that all tests use."""
        self._count = members
        self._directory = directory
        self._flags = tuple(flags)
        self._also = also
        self._program = program
        self._stack = ExitStack()
        self.members: tuple[EtcdMember, ...] = ()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            directory = self._directory
            if directory is None:
                base = _TMPFS if _TMPFS.is_dir() else None
                directory = Path(tempfile.mkdtemp(prefix="drover-etcd-", dir=base))
                stack.callback(shutil.rmtree, directory)
            ports = free_ports(2 * self._count)
            self.members = tuple(
                EtcdMember(f"m{number}", directory, ports.pop(), ports.pop()) for number in range(self._count)
            )
            token = secrets.token_hex(8)
            for member in self.members:
                member.program = self._program or member.program
                member.configure(self.members, token, self._flags, self._also)
                stack.callback(member.kill)
                member.start()
            self.wait()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def endpoints(self) -> list[str]:
        return [member.endpoint for member in self.members]

    def at(self, address: str) -> EtcdMember:
        """The member with this `host:port`."""
        return next(member for member in self.members if member.address == address)

    def wait(self) -> None:
        """Until every member answers a linearizable read. Raises AssertionError with the end of a log."""
        limit = time.monotonic() + _START_LIMIT
        for member in self.members:
            while not _healthy(member):
                if time.monotonic() > limit or not member.running:
                    tail = member.log.read_text(errors="replace")[-2000:]
                    raise AssertionError(f"etcd {member.name} does not serve:\n{tail}")
                time.sleep(0.05)

    def leader(self) -> EtcdMember:
        """Asked of a running member."""
        answers = {member: member.ask("/v3/maintenance/status", {}) for member in self.members if member.running}
        leader = next(iter(answers.values()))["leader"]
        return next(member for member, answer in answers.items() if answer["header"]["member_id"] == leader)

    def followers_first(self) -> list[str]:
        """Endpoints, the leader's last."""
        leader = self.leader()
        return [member.endpoint for member in self.members if member is not leader] + [leader.endpoint]

    def snapshot(self, path: Path) -> Path:
        program = Path(sys.executable).with_name("etcdctl")
        command = [str(program), "--endpoints", self.endpoints[0], "snapshot", "save", str(path)]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        return path

    def restore(self, snapshot: Path) -> None:
        """As an operator does after a loss: every member is stopped, made anew from the snapshot, and started."""
        for member in self.members:
            member.kill()
        for member in self.members:
            member.restore(snapshot)
        self.repair()

    def repair(self) -> None:
        """Thaw what is frozen, start what was killed, and wait until all serve."""
        for member in self.members:
            if member.running:
                member.thaw()
            else:
                member.start()
        self.wait()


class Wire:
    """A network path to a member, `endpoint`, that can be cut, or hold back what is sent over it."""

    def __init__(self, address: str) -> None:
        self.endpoint = ""
        self._host, _, self._port = address.partition(":")
        self._holding = False
        self._cut = False
        self._kept: list[tuple[asyncio.StreamWriter, bytes]] = []
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def cut(self) -> None:
        """Break all connections; new ones break at once, until `mend`."""
        self._cut = True
        for writer in self._writers:
            writer.close()

    def mend(self) -> None:
        self._cut = False

    def hold(self) -> None:
        """Keep what clients send from now on."""
        self._holding = True

    def held(self) -> int:
        """How many pieces are held back so far."""
        return len(self._kept)

    def let_go(self, count: int) -> None:
        """Let the first pieces through: a request, say, without what the client said when it gave up on it."""
        for writer, data in self._kept[:count]:
            writer.write(data)
        del self._kept[:count]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.close()
            return
        there, back = await asyncio.open_connection(self._host, int(self._port))
        self._writers |= {writer, back}
        self._pipes |= {
            asyncio.create_task(self._pipe(reader, back, may_hold=True)),
            asyncio.create_task(self._pipe(there, writer, may_hold=False)),
        }

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, may_hold: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                if self._holding and may_hold:
                    self._kept.append((writer, data))
                else:
                    writer.write(data)
        except OSError:
            pass  # cut
        finally:
            writer.close()
            self._writers.discard(writer)


def free_ports(count: int) -> list[int]:
    """Loopback ports that are free now."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in held]


def _healthy(member: EtcdMember) -> bool:
    try:
        return bool(member.ask("/health")["health"] == "true")
    except OSError:
        return False


@pytest.fixture(scope="session")
def etcd_one() -> Iterator[EtcdCluster]:
    """One member, shared by all tests of a run: keep below `etcd_prefix`."""
    with EtcdCluster() as cluster:
        yield cluster


@pytest.fixture
def etcd_prefix() -> str:
    """A prefix of its own for each test, as `Keys` wants it."""
    return f"/t-{secrets.token_hex(6)}"
