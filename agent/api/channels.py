"""How one agent reaches another one's gRPC."""

from __future__ import annotations

import asyncio

import grpc

from drover.agent.api.tracing import calling
from drover.agent.spans import Spans
from drover.agent.tls import Files


async def channel_to(node: str, address: str, tls: Files | None, spans: Spans | None = None) -> grpc.aio.Channel:
    """tls: our certificate, and theirs has to be the node's; None: plain. Connections are its own: one that another
    channel has just failed to make is tried all the same. spans: told of each call. Raises OSError."""
    tracing = list(calling(spans)) if spans else []
    options = (("grpc.use_local_subchannel_pool", 1),)
    if tls is None:
        return grpc.aio.insecure_channel(address, options, interceptors=tracing)
    files = (tls.ca, tls.key, tls.cert)
    credentials = grpc.ssl_channel_credentials(*[await asyncio.to_thread(file.read_bytes) for file in files])
    named = (*options, ("grpc.ssl_target_name_override", node))
    return grpc.aio.secure_channel(address, credentials, named, interceptors=tracing)
