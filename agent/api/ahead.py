"""Agent to agent, over gRPC: one asks if the other is ready for a workload (proto/drover/v1, service Workloads)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import grpc

from drover.agent.api.caller import check_node
from drover.agent.api.channels import channel_to
from drover.agent.api.v1 import drover_pb2, drover_pb2_grpc
from drover.agent.preparer import Preparer
from drover.agent.situation import Ready
from drover.agent.spans import Spans
from drover.agent.tls import Files
from drover.agent.workloads.base import WorkloadError, fingerprint
from drover.agent.workloads.notes import now
from drover.coordinator.identity import Stranger
from drover.coordinator.specs import WorkloadSpec

log = logging.getLogger(__name__)

_WITHIN = 2.0
"""Seconds after which the other node answers that it is not ready yet."""
_ANSWERS = 5.0


class Workloads(drover_pb2_grpc.WorkloadsServicer):
    """preparer: of the incarnation that lives; None: there is none. secured: whoever calls has a node's certificate."""

    def __init__(self, preparer: Callable[[], Preparer | None], secured: bool) -> None:
        self._preparer, self._secured = preparer, secured

    async def Prepare(self, request: drover_pb2.PrepareRequest, context: Any) -> drover_pb2.PrepareResponse:
        """What is got ready is what etcd has: a caller can name a workload, and no more."""
        if self._secured:
            try:
                check_node(context.auth_context())
            except Stranger as stranger:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(stranger))
        if (preparer := self._preparer()) is None:
            return drover_pb2.PrepareResponse(trouble="it takes no part in the cluster just now")
        try:
            ready = await preparer.ready(request.workload, request.fingerprint, _WITHIN)
        except WorkloadError as error:
            return drover_pb2.PrepareResponse(trouble=str(error))
        return drover_pb2.PrepareResponse(ready=ready)


class AskingReady:
    """The side of the node that has it. address: of a node's gRPC, "" where it is not known. tls: our certificate.
    spans: told of each call."""

    def __init__(self, address: Callable[[str], str], tls: Files | None, spans: Spans) -> None:
        self._address, self._tls, self._spans = address, tls, spans

    async def ask(self, name: str, spec: WorkloadSpec, to: str) -> Ready:
        """A node that cannot be asked is no reason to stay: it may well be ready."""
        wanted = fingerprint(spec)
        request = drover_pb2.PrepareRequest(workload=name, fingerprint=wanted)
        try:
            async with await channel_to(to, self._address(to), self._tls, self._spans) as opened:
                said = await drover_pb2_grpc.WorkloadsStub(opened).Prepare(request, timeout=_ANSWERS)
        except (grpc.aio.AioRpcError, OSError) as error:
            log.warning("%s does not say whether it is ready for %s: %s", to, name, error)
            return Ready(to, wanted, now(), done=True)
        return Ready(to, wanted, now(), said.ready, said.trouble)
