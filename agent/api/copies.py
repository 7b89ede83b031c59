"""Agent to agent, over gRPC: one asks the other to get ready to receive (proto/drover/v1, service Copies)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from typing import Any

import grpc

from drover.agent.api.caller import caller, check_node
from drover.agent.api.channels import channel_to
from drover.agent.api.v1 import drover_pb2, drover_pb2_grpc
from drover.agent.copying import Expected, Sent
from drover.agent.examining import Examiner
from drover.agent.receiving import Receiver
from drover.agent.spans import Spans
from drover.agent.storage.base import NotFound, Snapshot, StorageError, Token, Volume
from drover.agent.tls import Files
from drover.agent.transfer.base import Ticket
from drover.coordinator.identity import Role, Stranger

_SAID = 1000
"""Characters of a reason, which may have what was sent in it: gRPC drops one that is too long."""
_READY = 30.0
"""Seconds that the other node may take to get ready."""


_MAY_EXAMINE = frozenset({Role.NODE, Role.OPERATOR})
"""Names of files are not for everybody's eyes."""


def _refuses(shown: Mapping[str, Iterable[bytes]]) -> str:
    """Why who calls may not examine; "" where it may."""
    try:
        peer = caller(shown)
    except Stranger as error:
        return str(error)
    return "" if peer.role in _MAY_EXAMINE else f"{peer.name} is {peer.role}: only nodes and operators may see it"


class Copies(drover_pb2_grpc.CopiesServicer):
    """secured: who calls has shown a certificate."""

    def __init__(self, receiver: Receiver, examiner: Examiner, secured: bool) -> None:
        self._receiver, self._examiner, self._secured = receiver, examiner, secured

    async def Examine(
        self, request: drover_pb2.ExamineRequest, context: Any
    ) -> AsyncGenerator[drover_pb2.Examined, None]:
        """Status NOT_FOUND where there is no such snapshot here, FAILED_PRECONDITION where it cannot be read,
        PERMISSION_DENIED for observers."""
        if self._secured and (refused := _refuses(context.auth_context())):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, refused)
        reading = self._examiner.examine(request.dataset, request.uid, request.guid)
        try:
            async for batch in reading:
                entries = [drover_pb2.Entry(**asdict(entry)) for entry in batch.entries]
                yield drover_pb2.Examined(entries=entries, read=batch.read)
        except NotFound as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error)[:_SAID])
        except StorageError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error)[:_SAID])
        finally:
            await reading.aclose()

    async def Expect(
        self, request: drover_pb2.ExpectRequest, context: Any
    ) -> AsyncGenerator[drover_pb2.Expected, None]:
        """Status FAILED_PRECONDITION with the reason where this node cannot receive it now, PERMISSION_DENIED where
        the sender is somebody else than it says: that it holds the dataset is looked up by its name."""
        if self._secured:
            try:
                check_node(context.auth_context(), request.sender)
            except Stranger as stranger:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(stranger))
        volume = Volume(request.dataset, request.uid, request.size, None, request.object)
        token = Token(request.cluster, request.uid, request.epoch, request.incarnation)
        expecting = self._receiver.expect(request.sender, request.backend, volume, token, list(request.guids))
        try:
            async for ready in expecting:
                yield drover_pb2.Expected(
                    node=ready.ticket.node,
                    address=ready.ticket.address,
                    name=ready.ticket.name,
                    secret=ready.ticket.secret,
                    snapshots=[drover_pb2.Copy(guid=one.guid, name=one.name) for one in ready.snapshots],
                )
        except StorageError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error)[:_SAID])
        finally:
            await expecting.aclose()


class Asking:
    """The sender's side. address: of a node's gRPC, "" where it is not known. tls: our certificate; None: plain. spans:
    told of each call."""

    def __init__(self, node: str, address: Callable[[str], str], tls: Files | None, spans: Spans) -> None:
        self._node, self._address, self._tls = node, address, tls
        self._spans = spans

    @asynccontextmanager
    async def ask(self, sent: Sent, to: str, guids: Collection[str]) -> AsyncIterator[Expected]:
        """See `copying.Ask`."""
        if not (address := self._address(to)):
            raise StorageError(f"{to} is not here")
        request = drover_pb2.ExpectRequest(
            cluster=sent.token.cluster,
            dataset=sent.volume.dataset,
            uid=sent.volume.uid,
            object=sent.volume.object,
            size=sent.volume.size,
            backend=sent.backend.name,
            epoch=sent.token.epoch,
            incarnation=sent.token.incarnation,
            sender=self._node,
            guids=sorted(guids),
        )
        async with await channel_to(to, address, self._tls, self._spans) as opened:
            call = drover_pb2_grpc.CopiesStub(opened).Expect(request)
            try:
                async with asyncio.timeout(_READY):
                    ready = await call.read()
            except TimeoutError:
                raise StorageError(f"{to} did not get ready to receive within {_READY:.0f} s") from None
            except grpc.aio.AioRpcError as error:
                raise StorageError(f"{to} does not receive it: {error.details()}") from None
            if not isinstance(ready, drover_pb2.Expected):
                raise StorageError(f"{to} does not receive it, and does not say why")
            try:
                ticket = Ticket(ready.node, ready.address, ready.name, ready.secret)
                yield Expected(ticket, tuple(Snapshot(one.guid, one.name) for one in ready.snapshots))
            finally:
                call.cancel()
                with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                    await call.read()
