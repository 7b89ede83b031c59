"""The data port towards strangers: certificates say who may send and receive; what is not expected starts nothing."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from drover.agent.tls import Files
from drover.agent.transfer import port
from drover.agent.transfer.base import Check, Ticket, Waits
from drover.agent.transfer.errors import ConnectionCut, NotTrusted, PeerRefused
from drover.agent.transfer.greeting import MAGIC, UNKNOWN
from drover.coordinator.addresses import host_port
from drover.coordinator.identity import Peer, Role
from tests.certificates import Certificates
from tests.contract.transfer_stage import STREAM, Arrivals, Node, Proxy, connected, made, node, relay, sha256, until

WAITS = Waits(silence=2.0, keep=3.0, connect=3.0)
ROOT = Path(__file__).parents[2]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def helpers_find_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path / "ca")


@pytest.fixture
def arrivals(tmp_path: Path) -> Arrivals:
    return Arrivals(tmp_path)


async def two(stack: AsyncExitStack, directory: Path, ours: Files | None, theirs: Files | None) -> tuple[Node, Node]:
    """node-a and node-b with these certificates."""
    a = await stack.enter_async_context(node("node-a", directory, ours, WAITS))
    return a, await stack.enter_async_context(node("node-b", directory, theirs, WAITS, listen="[::1]:0"))


async def test_a_stream_is_encrypted_and_taken_up_again_where_it_was_cut(
    certificates: Certificates, arrivals: Arrivals, tmp_path: Path
) -> None:
    text = tmp_path / "made"
    text.write_bytes(b"nobody else reads this" * MIB)
    async with AsyncExitStack() as stack:
        a, b = await two(stack, tmp_path, certificates.issue("node-a"), certificates.issue("node-b"))
        proxy = Proxy(b.port.address)
        async with connected(a, b, arrivals, proxy) as outgoing:
            proxy.passed, proxy.cut_after, proxy.looks_for = 0, 3 * MIB, b"nobody else"
            assert (await outgoing.send(["cat", str(text)])).answer == sha256(text)
        assert proxy.connections == 2
        assert not proxy.found


async def test_memory_is_bounded_however_much_is_sent_and_however_slowly_it_is_taken(
    certificates: Certificates, arrivals: Arrivals, tmp_path: Path
) -> None:
    arrivals.argv = lambda file: ["sh", "-c", f"sleep 0.5; exec cat > {file}"]
    arrivals.check = lambda file: Check("tests.contract.transfer_jobs:nothing", {})
    async with AsyncExitStack() as stack:
        a, b = await two(stack, tmp_path, certificates.issue("node-a"), certificates.issue("node-b"))
        async with connected(a, b, arrivals) as outgoing:
            await outgoing.send(["head", "-c", str(256 * MIB), "/dev/zero"])
            for one in (a, b):
                status = Path(f"/proc/{relay(one)}/status").read_text()
                assert int(status.partition("VmHWM:")[2].split()[0]) * 1024 < 60 * 1000 * 1000


async def test_without_certificates_everything_can_be_read_on_the_way(arrivals: Arrivals, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        a, b = await two(stack, tmp_path, None, None)
        proxy = Proxy(b.port.address)
        proxy.looks_for = b"nobody else"
        async with connected(a, b, arrivals, proxy) as outgoing:
            await outgoing.send(["echo", "nobody else reads this"])
        assert proxy.found


def shown(how: str, name: str, certificates: Certificates, directory: Path) -> Files | None:
    same = Certificates(directory, certificates.authority)
    match how:
        case "another name":
            bad = same.issue("node-c")
        case "another role":
            bad = same.issue(name, Role.OPERATOR)
        case "another authority":
            bad = Certificates.make(directory / "other").issue(name)
        case "expired":
            same.put(name, same.authority.issue(Peer(name, Role.NODE), [], days=0))
            bad = same.files(name)
        case _:
            return None
    return replace(bad, ca=certificates.directory / "ca.crt")


LONG = pytest.mark.long


@pytest.mark.parametrize("wrong", ["node-a", pytest.param("node-b", marks=LONG)])
@pytest.mark.parametrize(
    "how",
    [
        "another name",
        pytest.param("another role", marks=LONG),
        "another authority",
        "expired",
        pytest.param("nothing", marks=LONG),
    ],
)
async def test_who_cannot_show_that_it_is_the_other_node_neither_sends_nor_receives(
    certificates: Certificates, arrivals: Arrivals, tmp_path: Path, wrong: str, how: str
) -> None:
    files = {name: certificates.issue(name) for name in ("node-a", "node-b")}
    used = {**files, wrong: shown(how, wrong, certificates, tmp_path)}
    async with AsyncExitStack() as stack:
        a, b = await two(stack, tmp_path, used["node-a"], used["node-b"])
        incoming = await stack.enter_async_context(b.path.expect(STREAM, "node-a"))
        taking = asyncio.create_task(arrivals.take(incoming))
        with pytest.raises((NotTrusted, PeerRefused, ConnectionCut)):
            await begin(a, incoming.ticket)
        if wrong == "node-a":  # and it has not kept the right one out
            right = await stack.enter_async_context(node("node-a", tmp_path, files["node-a"], WAITS))
            assert arrivals.rounds == []
            async with right.path.connect(STREAM, incoming.ticket) as outgoing:
                await outgoing.send(["echo"])
            await taking
        taking.cancel()
        await asyncio.wait([taking])
    assert len(arrivals.rounds) == (1 if wrong == "node-a" else 0)


async def begin(a: Node, ticket: Ticket) -> None:
    async with a.path.connect(STREAM, ticket) as outgoing:
        await outgoing.send(["echo"])


async def test_garbage_on_the_port_starts_nothing_and_is_closed(arrivals: Arrivals, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        a, b = await two(stack, tmp_path, None, None)
        before = helpers(b)
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"", b"\x16\x03\x01", MAGIC, MAGIC + bytes(16)):
            reader, writer = await asyncio.open_connection(*host_port(b.port.address))
            writer.write(garbage)
            writer.write_eof()
            async with asyncio.timeout(5):
                assert await reader.read() in (b"", UNKNOWN)
            writer.close()
        assert helpers(b) == before
        async with connected(a, b, arrivals) as outgoing:
            await outgoing.send(["echo"])


async def test_those_who_connect_and_say_nothing_do_not_keep_others_out_for_long(
    arrivals: Arrivals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "PATIENCE", 0.5)
    async with AsyncExitStack() as stack:
        a, b = await two(stack, tmp_path, None, None)
        address = host_port(b.port.address)
        idle = [await asyncio.to_thread(socket.create_connection, address, 5) for _ in range(port.STRANGERS + 5)]
        async with connected(a, b, arrivals) as outgoing:
            await outgoing.send(["echo"])
        for connection in idle:
            connection.close()


async def test_garbage_after_the_name_of_an_expected_stream_does_not_disturb_it(
    certificates: Certificates, arrivals: Arrivals, tmp_path: Path
) -> None:
    file = made(tmp_path, 4 * MIB)
    async with AsyncExitStack() as stack:
        a, b = await two(stack, tmp_path, certificates.issue("node-a"), certificates.issue("node-b"))
        async with connected(a, b, arrivals) as outgoing:
            outgoing.limit(8 * MIB)
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(outgoing.send(["cat", str(file)]))
                await until(arrivals.begun.is_set)
                assert arrivals.ticket is not None
                _, writer = await asyncio.open_connection(*host_port(b.port.address))
                writer.write(MAGIC + bytes.fromhex(arrivals.ticket.name) + os.urandom(1000))
            writer.close()
            assert sending.result().answer == sha256(file)
    assert len(arrivals.outcomes) == 1


def helpers(node: Node) -> list[int]:
    return node.cgroups.pids("helpers") + node.relays()
