"""Whatever comes to the doors of an agent, well-formed or not, is answered or refused, and ends nothing: gRPC, frames
of the data path, its own socket, and the plugin of Docker Engines. Real servers, in a thread of their own."""

from __future__ import annotations

import asyncio
import grp
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from google.protobuf import descriptor as pb
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from drover.agent import control
from drover.agent.api import docker_volume, rpc
from drover.agent.api.docker_options import Defaults
from drover.agent.api.v1 import drover_pb2
from drover.agent.leave import Leave
from drover.agent.receiving import Receiver
from drover.agent.storage.base import StorageError
from drover.agent.transfer import greeting
from drover.agent.transfer.wire import CHUNK, HEADER, Kind, Lost, Wire
from drover.agent.users import Users
from drover.coordinator.keys import Keys
from drover.coordinator.member import Member
from drover.coordinator.promising import NotPromised
from drover.coordinator.protocol.promises import Asked
from tests.contract.test_api import PGDATA, FakeSource
from tests.model.store import ModelStore
from tests.unit.making import node, spec, tenure
from tests.unit.test_fuzz import shown

KEYS = Keys()
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def member() -> Member:
    """Of a node that is live, in a cluster that has dataset d, active on this node."""
    store = ModelStore()
    view = shown(
        {
            KEYS.dataset("d"): spec().encode(),
            KEYS.owner("d"): tenure("a").model_copy(update={"created": 10}).encode(),
            KEYS.node("a"): node("a").record.encode(),
        }
    )
    return cast(
        Member,
        SimpleNamespace(
            node="a", view=view, keys=KEYS, store=store, live=True, incarnation="a.1.1", cluster_id="c", life=1
        ),
    )


def refuse(asked: Asked) -> str:
    raise NotPromised("etcd answers here")


@asynccontextmanager
async def doors(directory: Path) -> AsyncIterator[dict[str, Any]]:
    source, me = FakeSource(), member()
    source.put(PGDATA)
    async with AsyncExitStack() as stack:
        receiver = Receiver(lambda: me, {}, lambda: None)
        port = await stack.enter_async_context(
            rpc.serving(source, "127.0.0.1:0", grace=0, receiver=receiver, preparer=lambda: None, give=refuse)
        )
        leave = Leave(KEYS, "move", 1.0, 1.0)
        await stack.enter_async_context(control.serving(directory, leave, GROUP))
        users = Users(directory / "docker.json", directory / "engine")
        volumes = docker_volume.Volumes(me, users, lambda dataset: Path("/mnt"), Defaults("loopback", "1GiB"))
        await stack.enter_async_context(docker_volume.serving(volumes, directory / "docker.sock", GROUP))
        yield {"port": port, "control": directory / control.SOCKET, "docker": directory / "docker.sock"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The doors. unhandled: what a task of theirs has raised and nobody has caught."""
    ready: dict[str, Any] = {"unhandled": []}
    begun, loop = threading.Event(), asyncio.new_event_loop()
    over = asyncio.Event()

    async def serve() -> None:
        loop.set_exception_handler(lambda _, context: ready["unhandled"].append(context))
        async with doors(tmp_path_factory.mktemp("doors")) as told:
            ready.update(told)
            begun.set()
            await over.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(docker_volume, "MOUNT_LIMIT", 0.05)
        thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
        thread.start()
        assert begun.wait(30)
        yield ready
        loop.call_soon_threadsafe(over.set)
        thread.join(30)
        loop.close()


# gRPC.

texts = st.text(max_size=12) | st.sampled_from(["d", "a", "a.1.1", "c", "loopback", "x" * 70_000, "../d", "d\n", "\0"])
GROUP = grp.getgrgid(0).gr_name
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    pb.FieldDescriptor.CPPTYPE_STRING: texts,
    pb.FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 3, 2**64 - 1]),
    pb.FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    pb.FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
    pb.FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    pb.FieldDescriptor.CPPTYPE_ENUM: st.integers(-(2**31), 2**31 - 1),
}


def messages(kind: pb.Descriptor) -> st.SearchStrategy[Message]:
    """Any that this type allows."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in kind.fields:
        one = messages(field.message_type) if field.message_type is not None else SCALARS[field.cpp_type]
        fields[field.name] = st.lists(one, max_size=5) if field.is_repeated else one
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: GetMessageClass(kind)(**values))


METHODS = [m for s in drover_pb2.DESCRIPTOR.services_by_name.values() for m in s.methods]
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
}


def answered(channel: grpc.Channel, method: pb.MethodDescriptor, request: Message) -> grpc.StatusCode:
    path = f"/{method.containing_service.full_name}/{method.name}"
    answer = GetMessageClass(method.output_type)
    kind: Any = channel.unary_stream if method.server_streaming else channel.unary_unary
    call = kind(path, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString)
    try:
        if not method.server_streaming:
            call(request, timeout=10)
            return grpc.StatusCode.OK
        stream = call(request, timeout=10)
        next(stream, None)
        stream.cancel()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_well_formed_request_over_grpc_is_answered_or_refused_with_a_reason(
    served: dict[str, Any], method: pb.MethodDescriptor
) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{served['port']}") as channel:

        @few
        @given(messages(method.input_type))
        def whatever(request: Message) -> None:
            assert answered(channel, method, request) in EXPECTED

        whatever()
        sound = next(m for m in METHODS if m.name == "List")
        assert answered(channel, sound, drover_pb2.ListRequest()) is grpc.StatusCode.OK
    assert served["unhandled"] == []


# The data path.

TERMS = greeting.Terms({"dataset": "d", "uid": "u", "epoch": 1, "purpose": "move"}, "a", "b", "s3", None, 0.05, 0.05)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
hello = st.fixed_dictionaries(
    {},
    optional={
        "version": st.just(1) | anything,
        "stream": st.just(TERMS.stream) | anything,
        "who": st.just("a") | anything,
        "secret": st.sampled_from(["s", "\ud800", "s3\0", ""]) | anything,
    },
)
payloads = (
    st.binary(max_size=40)
    | (hello | anything).map(lambda value: json.dumps(value).encode())
    | st.sampled_from([b"[" * 60_000, b'{"secret": "\\ud800"}', b"9" * 5000])
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame, whose length is mostly right."""
    payload = draw(payloads)
    length = draw(st.just(len(payload)) | st.integers(0, 2**32 - 1) | st.sampled_from([CHUNK, CHUNK + 1]))
    return HEADER.pack(draw(st.sampled_from([*Kind]) | st.integers(0, 255)), length) + payload


traffic = st.binary(max_size=60) | st.lists(frames(), max_size=4).map(b"".join)


@few
@given(traffic, st.booleans())
def test_whoever_does_not_know_the_secret_of_a_stream_is_refused_whatever_it_sends(sent: bytes, closes: bool) -> None:
    here, there = socket.socketpair()
    with here, there:
        there.setblocking(False)
        there.send(sent)
        if closes:
            there.shutdown(socket.SHUT_WR)
        with pytest.raises(StorageError):
            greeting.answer(_Tcp(here), TERMS)


@few
@given(traffic)
def test_a_receiver_that_answers_nonsense_is_an_error_to_its_sender(sent: bytes) -> None:
    here, there = socket.socketpair()
    welcomed = sent.startswith(bytes([Kind.WELCOME]))
    with here, there:
        there.setblocking(False)
        there.send(sent)
        try:
            wire, has = greeting.call(_Tcp(here), TERMS)
        except StorageError:
            return
        wire.close()
        assert isinstance(has, dict)
        assert welcomed or bytes([Kind.PING]) in sent


@few
@given(traffic)
def test_any_bytes_are_frames_or_the_end_of_a_connection(sent: bytes) -> None:
    here, there = socket.socketpair()
    with here, there:
        there.setblocking(False)
        there.send(sent)
        there.shutdown(socket.SHUT_WR)
        wire, taken = Wire(_Tcp(here), 1.0), 0
        try:
            while (frame := wire.next()) is not None:
                taken += len(frame[1])
        except Lost:
            wire.close()
        assert taken <= len(sent)


class _Tcp(socket.socket):
    """A pair of sockets has no options of TCP."""

    def __init__(self, pair: socket.socket) -> None:
        super().__init__(pair.family, pair.type, pair.proto, pair.detach())

    def setsockopt(self, *args: Any) -> None:
        return None


# Sockets of this machine.


def exchange(path: Path, sent: bytes, ends: bool = True) -> bytes:
    """What comes back before the other side closes. ends: nothing more will be sent, and it may know."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        try:
            connection.sendall(sent)
            if ends:
                connection.shutdown(socket.SHUT_WR)
            answer = b""
            while more := connection.recv(1 << 16):
                answer += more
        except (BrokenPipeError, ConnectionResetError):
            return b""
        return answer


@few
@given(sent=st.binary(max_size=80) | st.sampled_from([b"x" * 200_000, b"shutdown", b"shutdown \n", b"\n"]))
def test_the_agents_own_socket_takes_one_word_and_no_other(served: dict[str, Any], sent: bytes) -> None:
    assume(not sent.startswith(b"shutdown\n"))
    assert exchange(served["control"], sent) == b""
    assert served["unhandled"] == []


CALLS = ["Plugin.Activate", "VolumeDriver.Nothing", ""] + [
    f"VolumeDriver.{call}" for call in ("Create", "Remove", "Mount", "Unmount", "Get", "Path", "List", "Capabilities")
]
asked = st.fixed_dictionaries(
    {},
    optional={
        "Name": st.sampled_from(["d", "", "../d", "x" * 3000, "\ud800", "nothing"]) | anything,
        "ID": anything,
        "Opts": st.dictionaries(st.sampled_from(["size", "backend", "fs", "x"]), anything, max_size=3) | anything,
    },
)
bodies = (
    st.binary(max_size=60)
    | (asked | anything).map(lambda value: json.dumps(value).encode())
    | st.sampled_from([b"[" * 100_000, b'{"Name": ' + b"9" * 5000 + b"}"])
)


@few
@given(call=st.sampled_from(CALLS), body=bodies)
def test_whatever_an_engine_asks_it_is_told_yes_or_why_not(served: dict[str, Any], call: str, body: bytes) -> None:
    head = f"POST /{call} HTTP/1.0\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    answer = exchange(served["docker"], head + body, ends=False)
    status, _, said = answer.partition(b"\r\n\r\n")
    assert b" 200 " in status.splitlines()[0], answer[:300]
    assert isinstance(json.loads(said), dict)
    assert served["unhandled"] == []


@few
@given(sent=st.binary(max_size=80))
def test_any_bytes_at_the_engines_socket_end_nothing(served: dict[str, Any], sent: bytes) -> None:
    exchange(served["docker"], sent)
    body = b"{}"
    head = b"POST /VolumeDriver.List HTTP/1.0\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
    assert b" 200 " in exchange(served["docker"], head + body, ends=False).splitlines()[0]
