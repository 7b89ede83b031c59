"""Agent to agent, over gRPC: a node that etcd does not answer asks another one for its promise (service Promises)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from drover.agent.api.caller import caller
from drover.agent.api.channels import channel_to
from drover.agent.api.v1 import drover_pb2, drover_pb2_grpc
from drover.agent.tls import Files
from drover.coordinator.identity import Peer, Role, Stranger
from drover.coordinator.promising import Ask, NotPromised
from drover.coordinator.protocol.promises import Asked

Give = Callable[[Asked], str]
"""Gives this node's promise; who it is, as `promises.candidate` has it. Raises NotPromised."""


class Promises(drover_pb2_grpc.PromisesServicer):
    """secured: who asks has shown a certificate."""

    def __init__(self, give: Give, secured: bool) -> None:
        self._give, self._secured = give, secured

    async def Give(self, request: drover_pb2.PromiseRequest, context: Any) -> drover_pb2.Promise:
        """Status PERMISSION_DENIED where somebody else's certificate came with it, FAILED_PRECONDITION with the reason
        where this node does not promise."""
        if self._secured:
            try:
                peer = caller(context.auth_context())
                if peer != Peer(request.node, Role.NODE):
                    raise Stranger(f"{peer.role} {peer.name} asks in the name of node {request.node}")
            except Stranger as stranger:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(stranger))
        asked = Asked(request.cluster, request.node, request.incarnation, request.d_hard_seconds)
        try:
            return drover_pb2.Promise(candidate=self._give(asked))
        except NotPromised as why:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(why))
            raise


def asking(tls: Files | None) -> Ask:
    """tls: our certificate; None: plain."""

    async def ask(node: str, address: str, asked: Asked) -> str:
        request = drover_pb2.PromiseRequest(
            cluster=asked.cluster, node=asked.node, incarnation=asked.incarnation, d_hard_seconds=asked.d_hard
        )
        async with await channel_to(node, address, tls) as channel:
            try:
                return str((await drover_pb2_grpc.PromisesStub(channel).Give(request)).candidate)
            except grpc.aio.AioRpcError as error:
                raise NotPromised(f"{node}: {error.details()}") from None

    return ask
