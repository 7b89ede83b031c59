"""A simulated member of etcd, for answers that no real one gives at will: it says what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from etcd3.etcdrpc import rpc_pb2, rpc_pb2_grpc


@dataclass
class FakeMember:
    """header fields of every answer; each may be changed at any time. term of watches may differ from that of the rest.
    refuse_txn: as a member without a leader does. asked: names of the calls so far."""

    cluster_id: int = 0xC1
    revision: int = 10
    term: int = 5
    watch_term: int = 5
    version: str = "3.5.28"
    refuse_txn: bool = False
    endpoint: str = ""
    asked: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def header(self, term: int | None = None) -> Any:
        return rpc_pb2.ResponseHeader(
            cluster_id=self.cluster_id,
            member_id=1,
            revision=self.revision,
            raft_term=self.term if term is None else term,
        )

    async def Status(self, request: Any, context: Any) -> Any:
        self.asked.append("Status")
        return rpc_pb2.StatusResponse(header=self.header(), version=self.version)

    async def MemberList(self, request: Any, context: Any) -> Any:
        return rpc_pb2.MemberListResponse(header=self.header())

    async def Range(self, request: Any, context: Any) -> Any:
        self.asked.append("Range")
        return rpc_pb2.RangeResponse(header=self.header())

    async def Txn(self, request: Any, context: Any) -> Any:
        self.asked.append("Txn")
        if self.refuse_txn:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
        reads = request.success[len(request.success) - len(request.failure) :]
        puts = [rpc_pb2.ResponseOp(response_put=rpc_pb2.PutResponse()) for _ in request.success[: -len(reads) or None]]
        found = [rpc_pb2.ResponseOp(response_range=rpc_pb2.RangeResponse()) for _ in reads]
        return rpc_pb2.TxnResponse(header=self.header(), succeeded=True, responses=[*puts, *found])

    async def Watch(self, requests: Any, context: Any) -> Any:
        """Says that the watch stands, and then a sign of life whenever `changed` is set."""
        created = True
        while True:
            yield rpc_pb2.WatchResponse(header=self.header(self.watch_term), created=created)
            created = False
            await self.changed.wait()
            self.changed.clear()


_SERVICES = ("KV", "Watch", "Maintenance", "Cluster")


@asynccontextmanager
async def serving(fake: FakeMember) -> AsyncIterator[FakeMember]:
    """On a free port, as `endpoint`."""
    server = grpc.aio.server()
    for name in _SERVICES:
        # What it does not answer itself is unimplemented.
        servicer = getattr(rpc_pb2_grpc, f"{name}Servicer")()
        for verb in (verb for verb in dir(servicer) if hasattr(fake, verb) and not verb.startswith("_")):
            setattr(servicer, verb, getattr(fake, verb))
        getattr(rpc_pb2_grpc, f"add_{name}Servicer_to_server")(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    fake.endpoint = f"http://127.0.0.1:{port}"
    await server.start()
    try:
        yield fake
    finally:
        await server.stop(None)
