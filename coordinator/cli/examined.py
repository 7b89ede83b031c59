"""Asks an agent, over gRPC, what is in a snapshot on its node.

The messages are read from the agent itself, by reflection: this command and its agents may be of different releases,
and the coordinator needs no code of the agent's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from drover.coordinator.cli.comparing import Entry
from drover.coordinator.cli.connection import Access

_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_PATIENCE = 5.0
"""Seconds that an agent may take to say what it can be asked."""
_SILENCE = 120.0
"""Seconds that one that reads may say nothing: it tells how far it is all the time, but for those before it."""


class NotTold(Exception):
    """The agent does not tell. gone: it has no such snapshot (any more). The text says which agent, and why."""

    def __init__(self, text: str, gone: bool = False) -> None:
        super().__init__(text)
        self.gone = gone


@asynccontextmanager
async def examined(
    node: str, address: str, access: Access, asked: dict[str, str], read: Callable[[int], None]
) -> AsyncIterator[AsyncGenerator[Entry, None]]:
    """asked: dataset, uid and guid. read: called with the bytes that it has read so far. Both raise NotTold."""
    if not address:
        raise NotTold(f"{node}'s agent tells nobody where it can be asked (address)")
    async with await _channel(node, address, access) as channel:
        entries = _entries(node, channel, asked, read)
        try:
            yield entries
        finally:
            await entries.aclose()


async def _entries(
    node: str, channel: grpc.aio.Channel, asked: dict[str, str], read: Callable[[int], None]
) -> AsyncGenerator[Entry, None]:
    names = [field.name for field in fields(Entry)]
    try:
        async with asyncio.timeout(_PATIENCE):
            pool = await _described(channel)
        request, answer = (_message(pool, name) for name in ("ExamineRequest", "Examined"))
        call = channel.unary_stream("/drover.v1.Copies/Examine", request.SerializeToString, answer.FromString)
        answers = call(request(**asked))
        while True:
            async with asyncio.timeout(_SILENCE):
                batch: Any = await answers.read()
            if batch is grpc.aio.EOF:
                return
            read(batch.read)
            for entry in batch.entries:
                yield Entry(**{name: getattr(entry, name) for name in names})
    except TimeoutError:
        raise NotTold(f"{node}'s agent does not answer") from None
    except grpc.aio.AioRpcError as error:
        gone = error.code() is grpc.StatusCode.NOT_FOUND
        raise NotTold(f"{node}: {error.details()}", gone) from None
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise NotTold(f"{node}'s agent is of another release: {error}") from None


def _message(pool: descriptor_pool.DescriptorPool, name: str) -> Any:
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"drover.v1.{name}"))


async def _channel(node: str, address: str, access: Access) -> grpc.aio.Channel:
    tls = access.tls
    if tls is None or tls.cert is None or tls.key is None:
        return grpc.aio.insecure_channel(address)
    try:
        credentials = await asyncio.to_thread(tls.credentials)
    except (OSError, ValueError) as error:
        raise NotTold(f"cannot ask {node}'s agent: {error}") from None
    # An agent's certificate carries its node's name, whatever address it is reached at.
    return grpc.aio.secure_channel(address, credentials, (("grpc.ssl_target_name_override", node),))


async def _described(channel: grpc.aio.Channel) -> descriptor_pool.DescriptorPool:
    """The agent's messages, in its own words. Raises AioRpcError, ValueError."""
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="drover.v1.Copies")
    parse = reflection_pb2.ServerReflectionResponse.FromString
    call = channel.stream_stream(_REFLECTION, reflection_pb2.ServerReflectionRequest.SerializeToString, parse)()
    await call.write(request)
    await call.done_writing()
    answer: Any = await call.read()
    pool = descriptor_pool.DescriptorPool()
    if answer is grpc.aio.EOF or not answer.file_descriptor_response.file_descriptor_proto:
        raise ValueError("it cannot be asked about copies")
    for raw in answer.file_descriptor_response.file_descriptor_proto:
        pool.Add(FileDescriptorProto.FromString(raw))
    return pool
