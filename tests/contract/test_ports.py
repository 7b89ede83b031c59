"""The agent's ports with certificates: who is let in, over which addresses, and that new files are taken up."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from drover.agent.api import http, rpc
from drover.agent.api.caller import caller
from drover.agent.api.errors import CannotListen
from drover.agent.api.v1 import drover_pb2, drover_pb2_grpc
from drover.agent.config import load
from drover.agent.copying import Expected
from drover.agent.leave import Leave
from drover.agent.ports import serving
from drover.agent.receiving import Receiver
from drover.agent.sight import Sight
from drover.agent.storage.base import StorageError, Token, Volume
from drover.agent.telemetry import Telemetry
from drover.agent.tls import Files, client_context, known, server_context
from drover.coordinator.addresses import joined
from drover.coordinator.identity import Peer, Role, Stranger
from drover.coordinator.keys import Keys
from tests.certificates import Certificates, credentials
from tests.contract.test_api import FakeSource

OWN = (("grpc.use_local_subchannel_pool", 1),)


@pytest.fixture
def ours(tmp_path: Path) -> Certificates:
    certificates = Certificates.make(tmp_path / "ours")
    for name, role in (("node-a", Role.NODE), ("node-b", Role.NODE), ("ann", Role.OPERATOR)):
        certificates.issue(name, role)
    return certificates


@pytest.fixture
def strangers(tmp_path: Path) -> Certificates:
    certificates = Certificates.make(tmp_path / "strangers")
    certificates.issue("node-b")
    return certificates


@asynccontextmanager
async def served_http(files: Files, host: str, anyone: bool = False) -> AsyncIterator[str]:
    telemetry = Telemetry("node-a")
    async with http.serving(FakeSource(), telemetry, joined(host, 0), files, anyone) as port:
        yield f"https://{joined(host, port)}"
    telemetry.close()


async def fetch(url: str, context: ssl.SSLContext) -> str:
    def ask() -> str:
        with urllib.request.urlopen(url, timeout=5, context=context) as reply:
            return str(reply.read().decode())

    return await asyncio.to_thread(ask)


async def node(target: str, files: Files) -> str:
    """The name of the node that answers. Raises grpc.aio.AioRpcError."""
    async with grpc.aio.secure_channel(target, credentials(files), options=OWN) as channel:
        answer = await drover_pb2_grpc.NodeStub(channel).Get(drover_pb2.GetNodeRequest(), timeout=5)
        return str(answer.name)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_grpc_lets_in_whoever_our_ca_has_signed_and_nobody_else(
    host: str, ours: Certificates, strangers: Certificates
) -> None:
    async with rpc.serving(FakeSource(), joined(host, 0), ours.files("node-a"), grace=0) as port:
        target = joined(host, port)
        assert await node(target, ours.files("node-b")) == "node-a"
        assert await node(target, ours.files("ann")) == "node-a"
        other = strangers.files("node-b")
        believing = Files(ours.files("node-a").ca, other.cert, other.key)
        for files in (believing, other):
            with pytest.raises(grpc.aio.AioRpcError):
                await node(target, files)
        without = grpc.ssl_channel_credentials(believing.ca.read_bytes())
        for channel in (grpc.aio.secure_channel(target, without), grpc.aio.insecure_channel(target)):
            async with channel:
                with pytest.raises(grpc.aio.AioRpcError):
                    await drover_pb2_grpc.NodeStub(channel).Get(drover_pb2.GetNodeRequest(), timeout=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_scrapes_need_a_certificate_of_our_ca(host: str, ours: Certificates, strangers: Certificates) -> None:
    other = strangers.files("node-b")
    believing = ssl.create_default_context(cafile=str(ours.directory / "ca.crt"))
    foreign = client_context(Files(ours.directory / "ca.crt", other.cert, other.key))
    async with served_http(ours.files("node-a"), host) as url:
        assert json.loads(await fetch(f"{url}/healthz", client_context(ours.files("ann"))))["ok"]
        for context in (believing, foreign):
            with pytest.raises(OSError):
                await fetch(f"{url}/metrics", context)
        with pytest.raises(OSError):
            await fetch(url.replace("https", "http"), believing)


async def test_scrapes_of_anyone_are_let_in_where_the_settings_say_so(ours: Certificates) -> None:
    believing = ssl.create_default_context(cafile=str(ours.directory / "ca.crt"))
    async with served_http(ours.files("node-a"), "127.0.0.1", anyone=True) as url:
        assert "drover_deadline_margin_seconds" in await fetch(f"{url}/metrics", believing)


async def test_a_client_that_says_nothing_holds_up_no_other(ours: Certificates) -> None:
    async with served_http(ours.files("node-a"), "127.0.0.1") as url:
        port = int(url.rpartition(":")[2])
        _, silent = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(5):
            assert json.loads(await fetch(f"{url}/healthz", client_context(ours.files("ann"))))["ok"]
        silent.close()


def shown_by(context: ssl.SSLContext, port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as secured:
        return secured.getpeercert(binary_form=True) or b""


async def test_new_files_are_taken_up_by_both_ports_and_unfit_ones_change_nothing(ours: Certificates) -> None:
    files, client = ours.files("node-a"), client_context(ours.files("node-b"))
    async with (
        rpc.serving(FakeSource(), "127.0.0.1:0", files, grace=0) as rpc_port,
        served_http(files, "127.0.0.1") as url,
    ):
        ports = (rpc_port, int(url.rpartition(":")[2]))
        first = [await asyncio.to_thread(shown_by, client, port) for port in ports]
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{rpc_port}", credentials(ours.files("node-b")), options=OWN
        ) as before:
            stub = drover_pb2_grpc.NodeStub(before)
            await stub.Get(drover_pb2.GetNodeRequest(), timeout=5)
            old = {path: path.read_bytes() for path in (files.cert, files.key)}
            ours.issue("node-a")
            new_cert = files.cert.read_bytes()
            files.key.write_bytes(old[files.key])
            assert [await asyncio.to_thread(shown_by, client, port) for port in ports] == first
            ours.issue("node-a")
            assert files.cert.read_bytes() != new_cert
            second = [await asyncio.to_thread(shown_by, client, port) for port in ports]
            assert all(now and now != then for now, then in zip(second, first, strict=True))
            assert second[0] == second[1]
            assert (await stub.Get(drover_pb2.GetNodeRequest(), timeout=5)).name == "node-a"


async def test_another_ca_is_taken_up_too(ours: Certificates, strangers: Certificates) -> None:
    files = ours.files("node-a")
    async with rpc.serving(FakeSource(), "127.0.0.1:0", files, grace=0) as port:
        target = f"127.0.0.1:{port}"
        both = strangers.files("node-b").ca.read_bytes() + files.ca.read_bytes()
        files.ca.write_bytes(both)
        stranger = strangers.files("node-b")
        assert await node(target, Files(files.ca, stranger.cert, stranger.key)) == "node-a"


async def test_files_that_are_of_no_use_are_said_to_be_when_the_agent_starts(ours: Certificates) -> None:
    mixed = Files(ours.files("node-a").ca, ours.files("node-a").cert, ours.files("node-b").key)
    telemetry = Telemetry("node-a")
    with pytest.raises(CannotListen, match=r"listen\.grpc"):
        async with rpc.serving(FakeSource(), "127.0.0.1:0", mixed):
            pass
    with pytest.raises(CannotListen, match=r"listen\.http"):
        async with http.serving(FakeSource(), telemetry, "127.0.0.1:0", mixed):
            pass
    telemetry.close()


class Taker(Receiver):
    """Notes who may send, and takes nothing."""

    def __init__(self) -> None:
        super().__init__(lambda: None, {}, lambda: None)
        self.senders: list[str] = []

    async def expect(
        self, sender: str, backend: str, volume: Volume, token: Token, theirs: Collection[str]
    ) -> AsyncGenerator[Expected, None]:
        self.senders.append(sender)
        raise StorageError("no room")
        yield


async def test_a_stream_is_taken_from_the_node_that_its_certificate_says_and_from_no_other(ours: Certificates) -> None:
    taker = Taker()
    async with rpc.serving(FakeSource(), "127.0.0.1:0", ours.files("node-a"), receiver=taker) as port:
        for name, sender in (("node-b", "node-b"), ("node-b", "node-a"), ("ann", "node-b"), ("ann", "ann")):
            async with grpc.aio.secure_channel(
                f"127.0.0.1:{port}", credentials(ours.files(name)), options=OWN
            ) as channel:
                stub: Any = drover_pb2_grpc.CopiesStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await stub.Expect(drover_pb2.ExpectRequest(dataset="pgdata", sender=sender), timeout=5).read()
                allowed = (name, sender) == ("node-b", "node-b")
                code = grpc.StatusCode.FAILED_PRECONDITION if allowed else grpc.StatusCode.PERMISSION_DENIED
                assert refused.value.code() == code
                assert allowed or f"not of node {sender}" in (refused.value.details() or "")
    assert taker.senders == ["node-b"]


async def test_a_grpc_call_says_who_has_called(ours: Certificates) -> None:
    seen: list[Peer] = []

    class Ask(grpc.GenericRpcHandler):
        def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            async def answer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
                seen.append(caller(context.auth_context()))
                return request

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Ask(),))
    port = server.add_secure_port("127.0.0.1:0", rpc._credentials(ours.files("node-a")))
    await server.start()
    for name in ("node-b", "ann"):
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials(ours.files(name)), options=OWN) as channel:
            call: Any = channel.unary_unary("/a/b")
            await call(b"", timeout=5)
    await server.stop(0)
    assert seen == [Peer("node-b", Role.NODE), Peer("ann", Role.OPERATOR)]
    with pytest.raises(Stranger, match="without a certificate"):
        caller({})


def test_both_ends_of_a_connection_know_the_other_by_its_certificate(ours: Certificates) -> None:
    ends = [ssl.MemoryBIO() for _ in range(4)]
    server = server_context(ours.files("node-a")).wrap_bio(ends[0], ends[1], server_side=True)
    client = client_context(ours.files("node-b")).wrap_bio(ends[2], ends[3])
    for _ in range(4):
        for end in (client, server):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
            ends[0].write(ends[3].read())
            ends[2].write(ends[1].read())
    assert known(server) == Peer("node-b", Role.NODE)
    assert known(client) == Peer("node-a", Role.NODE)


async def test_ports_that_others_reach_without_tls_are_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = "192.0.2.1:7470"  # of documentation, RFC 5737: no machine has it, so nothing listens
    given = {"run_dir": tmp_path, "listen.grpc": elsewhere, "listen.http": "127.0.0.1:0", "insecure": "true"}
    settings = load(
        ["--node", "node-a", *(word for it in given.items() for word in ("--set", "=".join(map(str, it))))], {}
    )
    telemetry = Telemetry("node-a")
    receiver, leave = Receiver(lambda: None, {}, lambda: None), Leave(Keys("/x"), settings.on_shutdown, 1, 1)
    with pytest.raises(CannotListen):
        async with serving(settings, Sight("node-a"), telemetry, receiver, leave, lambda: None, lambda asked: ""):
            pass
    telemetry.close()
    assert f"anybody on the network can listen in at {elsewhere}" in caplog.text
    assert "127.0.0.1" not in caplog.text
