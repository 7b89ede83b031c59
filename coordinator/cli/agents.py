"""Asks agents for what only they know, over gRPC: how far copies are, and how much room there is. Nothing depends on
it: etcd tells what becomes of a dataset.

The API is read from the agent itself, by reflection: this command and its agents may be of different releases, and the
coordinator needs no code of the agent's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from drover.coordinator.cli.connection import Access

_REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_PATIENCE = 2.0
"""Seconds that an agent may take to answer."""


class NotHeard(Exception):
    """The agent does not answer, or not as it should. The text says which agent, and why."""


@dataclass(frozen=True)
class Round:
    """bytes: of the stream. seconds: until all of it was durable at the target. full: it was no difference."""

    bytes: int
    seconds: float
    full: bool


@dataclass(frozen=True)
class Copying:
    """A dataset on its way to node `to`. rounds: that are over. sent, total: bytes of the one that goes on; total 0:
    not known. predicted: seconds that the last increment is expected to take; 0: not known. last: it comes next."""

    to: str
    rounds: tuple[Round, ...] = ()
    sent: int = 0
    total: int = 0
    predicted: float = 0.0
    last: bool = False


@dataclass(frozen=True)
class Room:
    """free: bytes for volumes, by back end, where there is a limit. unhealthy: what is wrong with the node's parts."""

    free: Mapping[str, int] = field(default_factory=dict)
    unhealthy: Mapping[str, str] = field(default_factory=dict)


class Agent:
    """One agent that answers. All raise NotHeard."""

    def __init__(self, node: str, channel: grpc.aio.Channel, pool: descriptor_pool.DescriptorPool) -> None:
        self._node, self._channel, self._pool = node, channel, pool

    async def copying(self, datasets: Sequence[str]) -> AsyncGenerator[dict[str, Copying], None]:
        """How far they are, by dataset: now, and after each change."""
        request, answer = self._message("WatchRequest"), self._message("DatasetEvent")
        watch = self._channel.unary_stream("/drover.v1.Datasets/Watch", request.SerializeToString, answer.FromString)
        found: dict[str, Copying] = {}
        with _heard(self._node):
            async for event in watch(request(names=datasets)):
                if not event.HasField("changed"):
                    continue
                if event.changed.HasField("progress") and event.changed.progress.to:
                    found[event.changed.name] = _copying(event.changed.progress)
                else:
                    found.pop(event.changed.name, None)
                yield dict(found)

    async def room(self) -> Room:
        """What the node has room for."""
        state = await self._ask("/drover.v1.Node/Get", "GetNodeRequest", "NodeState", {})
        return Room(dict(state.free), dict(state.unhealthy))

    async def used(self, dataset: str) -> int | None:
        """Bytes in use by a dataset that is mounted there; None: it does not know."""
        found = await self._ask("/drover.v1.Datasets/List", "ListRequest", "ListResponse", {"names": [dataset]})
        return next((int(one.used) for one in found.datasets if one.HasField("used")), None)

    async def _ask(self, method: str, asked: str, answered: str, fields: dict[str, Any]) -> Any:
        request, answer = self._message(asked), self._message(answered)
        call = self._channel.unary_unary(method, request.SerializeToString, answer.FromString)
        with _heard(self._node):
            async with asyncio.timeout(_PATIENCE):
                return await call(request(**fields))

    def _message(self, name: str) -> Any:
        with _heard(self._node):
            return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"drover.v1.{name}"))


@contextlib.contextmanager
def _heard(node: str) -> Iterator[None]:
    """Raises NotHeard for what can go wrong at the other end, which may be of another release."""
    try:
        yield
    except TimeoutError:
        raise NotHeard(f"{node}'s agent does not answer") from None
    except grpc.aio.AioRpcError as error:
        raise NotHeard(f"{node}'s agent does not answer: {error.details()}") from None
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise NotHeard(f"{node}'s agent is of another release: {error}") from None


def _copying(progress: Any) -> Copying:
    rounds = tuple(Round(one.bytes, one.seconds, one.full) for one in progress.rounds)
    return Copying(progress.to, rounds, progress.done, progress.total, progress.predicted_seconds, progress.last)


@asynccontextmanager
async def asking(node: str, address: str, access: Access) -> AsyncIterator[Agent]:
    """address: as `nodes/<n>` has it. access: as etcd knows us; agents take certificates of the same authority. Raises
    NotHeard."""
    if not address:
        raise NotHeard(f"{node}'s agent tells nobody where it can be asked (address)")
    async with await _channel(node, address, access) as channel:
        with _heard(node):
            async with asyncio.timeout(_PATIENCE):
                pool = await _described(channel)
        yield Agent(node, channel, pool)


async def _channel(node: str, address: str, access: Access) -> grpc.aio.Channel:
    tls = access.tls
    if tls is None or tls.cert is None or tls.key is None:
        return grpc.aio.insecure_channel(address)
    try:
        credentials = await asyncio.to_thread(tls.credentials)
    except (OSError, ValueError) as error:
        raise NotHeard(f"cannot ask {node}'s agent: {error}") from None
    # An agent's certificate carries its node's name, whatever address it is reached at.
    return grpc.aio.secure_channel(address, credentials, (("grpc.ssl_target_name_override", node),))


async def _described(channel: grpc.aio.Channel) -> descriptor_pool.DescriptorPool:
    """The agent's messages, in its own words. Raises AioRpcError, ValueError."""
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="drover.v1.Datasets")
    answers = reflection_pb2.ServerReflectionResponse.FromString
    call = channel.stream_stream(_REFLECTION, reflection_pb2.ServerReflectionRequest.SerializeToString, answers)()
    await call.write(request)
    await call.done_writing()
    answer = await call.read()
    if not isinstance(answer, reflection_pb2.ServerReflectionResponse):
        raise ValueError("it does not describe its API")
    pool = descriptor_pool.DescriptorPool()
    for raw in answer.file_descriptor_response.file_descriptor_proto:
        pool.Add(FileDescriptorProto.FromString(raw))
    return pool
