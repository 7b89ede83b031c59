"""Calls between agents belong to the trace of what they are made for: both ends tell a span, and log with its id.

opentelemetry-instrumentation-grpc ends the span of a call with a stream only when that is iterated over to its end, and
makes one of each health probe.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
from opentelemetry.trace import SpanKind

from drover.agent.spans import Spans
from drover.coordinator import trace

_HEADER = "traceparent"


def calling(spans: Spans) -> Iterator[grpc.aio.ClientInterceptor]:
    """The caller's end, for a channel: a span for as long as each call lasts."""

    async def call(continuation: Any, details: Any, request: Any) -> Any:
        if not trace.current():
            return await continuation(details, request)
        parent, end = spans.begin(_name(details.method), SpanKind.CLIENT)
        metadata = grpc.aio.Metadata(*(details.metadata or ()), (_HEADER, parent))
        try:
            made = await continuation(details._replace(metadata=metadata), request)
        except BaseException:
            end()
            raise
        made.add_done_callback(lambda _: end())
        return made

    class One(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return await call(continuation, client_call_details, request)

    class Stream(grpc.aio.UnaryStreamClientInterceptor):
        async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
            return await call(continuation, client_call_details, request)

    yield from (One(), Stream())


class Called(grpc.aio.ServerInterceptor):
    """The other end; of calls that belong to no trace, such as a probe's, nothing is told."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(handler_call_details)
        parent = next((str(v) for k, v in handler_call_details.invocation_metadata or () if k == _HEADER), "")
        if handler is None or handler.request_streaming or not trace.trace_id(parent):
            return handler
        name = _name(handler_call_details.method)
        if handler.response_streaming:
            return handler._replace(unary_stream=self._stream(handler.unary_stream, name, parent))
        return handler._replace(unary_unary=self._one(handler.unary_unary, name, parent))

    def _stream(self, inner: Any, name: str, parent: str) -> Any:
        async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
            with trace.within(parent), self._spans.around(name, SpanKind.SERVER):
                async for response in inner(request, context):
                    yield response

        return answer

    def _one(self, inner: Any, name: str, parent: str) -> Any:
        async def answer(request: Any, context: Any) -> Any:
            with trace.within(parent), self._spans.around(name, SpanKind.SERVER):
                return await inner(request, context)

        return answer


def _name(method: str | bytes) -> str:
    """`drover.v1.Copies/Expect`"""
    return "gRPC " + (method.decode() if isinstance(method, bytes) else method).removeprefix("/")
