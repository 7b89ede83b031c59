"""Two agents' data paths on loopback, with real helpers in real cgroups, and a proxy between them that can cut."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from drover.agent import tls
from drover.agent.cgroups import Cgroups
from drover.agent.helper.pool import HelperPool
from drover.agent.storage.base import StorageError
from drover.agent.storage.two_nodes import Gate
from drover.agent.telemetry import Gauges, Telemetry
from drover.agent.transfer.base import Check, Incoming, IncomingRound, Outgoing, Received, Sent, Stream, Ticket, Waits
from drover.agent.transfer.meter import Meter
from drover.agent.transfer.path import TcpDataPath
from drover.agent.transfer.port import Port, bound
from drover.coordinator.addresses import host_port, joined

STREAM = Stream("pgdata", "0123456789abcdef", 7, "move")
JOBS = "tests.contract.transfer_jobs"


@dataclass
class Node:
    name: str
    path: TcpDataPath
    cgroups: Cgroups
    gate: Gate
    port: Port
    meter: Meter
    telemetry: Telemetry

    def sample(self, name: str, **labels: str) -> float:
        """Of its metrics, now."""
        families = text_string_to_metric_families(self.telemetry.text(Gauges(speeds=self.meter.speeds)).decode())
        found = {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}
        return found.get((name, tuple(sorted(labels.items()))), 0.0)

    def relays(self) -> list[int]:
        """Helpers that relay, and what they run."""
        return self.cgroups.pids(f"datasets/{STREAM.dataset}")


@asynccontextmanager
async def node(
    name: str,
    directory: Path,
    files: tls.Files | None,
    waits: Waits,
    listen: str = "127.0.0.1:0",
    where: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> AsyncIterator[Node]:
    cgroups = Cgroups.find(f"drover-test-{os.getpid()}-{secrets.token_hex(4)}")
    cgroups.make("helpers")
    gate = Gate(directory / f"gate-{name}")
    try:
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(HelperPool(cgroups, gate, size=1))
            with where():
                port = stack.enter_context(bound(listen))
            running = asyncio.create_task(port.run())
            stack.callback((telemetry := Telemetry(name)).close)
            meter = Meter(telemetry, lambda _: "btrfs")
            try:
                yield Node(
                    name,
                    TcpDataPath(pool, name, port, files, waits=waits, meter=meter),
                    cgroups,
                    gate,
                    port,
                    meter,
                    telemetry,
                )
            finally:
                running.cancel()
                await asyncio.wait([running])
    finally:
        assert cgroups.kill_all(["helpers", "datasets"], 5) == []
        for path in ("helpers", "datasets"):
            cgroups.remove(path)
        cgroups.root.rmdir()


class Proxy:
    """Stands before a data port. cut: everything that passes is reset, and what comes new is refused until `mend`.
    freeze: nothing passes any more, and nobody is told. cut_after: bytes towards the port. looks_for: whether that
    passes, in `found`."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.refuses = False
        self.passed = 0
        self.cut_after: int | None = None
        self.looks_for: bytes | None = None
        self.found = False
        self.connections = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            yield joined(*server.sockets[0].getsockname()[:2])
            self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuses:
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(*host_port(self._target))
        pair = (writer, back)
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, back, counts=True))
                group.create_task(self._pass(there, writer, counts=False))
        finally:
            self._pairs.discard(pair)
            self._abort(*pair)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counts: bool) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                await self._open.wait()
                self.found |= self.looks_for is not None and self.looks_for in data
                writer.write(data)
                await writer.drain()
                if counts:
                    self.passed += len(data)
                    if self.cut_after is not None and self.passed >= self.cut_after:
                        self.cut_after = None
                        self.cut()
            writer.write_eof()

    def cut(self) -> None:
        for pair in self._pairs:
            self._abort(*pair)

    def freeze(self) -> None:
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    @staticmethod
    def _abort(*writers: asyncio.StreamWriter) -> None:
        for writer in writers:
            writer.transport.abort()


@dataclass
class Arrivals:
    """What the receiver of a test does: takes each round with `tee` into a file, and notes how it went."""

    directory: Path
    argv: Callable[[Path], list[str]] = lambda file: ["tee", str(file)]
    check: Callable[[Path], Check] = lambda file: Check(f"{JOBS}:digest", {"path": str(file)})
    ticket: Ticket | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    rounds: list[IncomingRound] = field(default_factory=list)
    outcomes: list[Received | StorageError] = field(default_factory=list)
    progress: list[int] = field(default_factory=list)
    ended: StorageError | None = None
    finished: bool = False
    both: bool = False

    def file(self, number: int) -> Path:
        return self.directory / f"arrived-{number}"

    async def take(self, incoming: Incoming) -> None:
        self.ticket = incoming.ticket
        try:
            async for round_ in incoming:
                self.rounds.append(round_)
                self.begun.set()
                file = self.file(round_.number)
                try:
                    received = await round_.receive(
                        self.argv(file), self.check(file), both=self.both, progress=self.progress.append
                    )
                    self.outcomes.append(received)
                except StorageError as error:
                    self.outcomes.append(error)
            self.finished = True
        except StorageError as error:
            self.ended = error


@asynccontextmanager
async def connected(a: Node, b: Node, arrivals: Arrivals, proxy: Proxy | None = None) -> AsyncIterator[Outgoing]:
    """From a to b, where `arrivals` takes what comes."""
    async with AsyncExitStack() as stack:
        incoming = await stack.enter_async_context(b.path.expect(STREAM, a.name))
        ticket = incoming.ticket
        if proxy is not None:
            ticket = replace(ticket, address=await stack.enter_async_context(proxy.running()))
        taking = asyncio.create_task(arrivals.take(incoming))
        try:
            async with a.path.connect(STREAM, ticket) as outgoing:
                yield outgoing
            async with asyncio.timeout(10):
                await taking
        finally:
            taking.cancel()
            await asyncio.wait([taking])


def made(directory: Path, size: int, name: str = "made") -> Path:
    """A file of random bytes."""
    file = directory / name
    with file.open("wb") as out:
        for _ in range(0, size, 1 << 20):
            out.write(os.urandom(min(1 << 20, size - out.tell())))
    return file


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


async def until(condition: Callable[[], Any], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


def free_address() -> str:
    """Where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return joined(*probe.getsockname())


def relay(node: Node) -> int:
    """The helper, not what it runs: it leads the group."""
    [found] = [pid for pid in node.relays() if os.getpgid(pid) == pid]
    return found


async def outcome(sending: Awaitable[Sent]) -> Sent | StorageError:
    try:
        return await sending
    except StorageError as error:
        return error


def two_nodes(waits: Waits) -> tuple[Any, Any, Any]:
    """A module's fixtures, to be called directory, a and b there: two nodes without certificates, for all its tests."""

    @pytest.fixture(scope="module")
    def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # the helpers find the checks
            yield tmp_path_factory.mktemp("nodes")

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def a(directory: Path) -> AsyncIterator[Node]:
        async with node("node-a", directory, None, waits) as made:
            yield made

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def b(directory: Path) -> AsyncIterator[Node]:
        async with node("node-b", directory, None, waits) as made:
            yield made

    return directory, a, b
