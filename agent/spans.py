"""Spans of what an agent does, as part of the trace that it belongs to (`coordinator/trace.py`).

A span that covers a whole move is told by who ends it, long after others have been made its children elsewhere; so
its id is the one that the trace began with.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanKind, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from drover.coordinator import trace

_PROPAGATOR = TraceContextTextMapPropagator()
_KNOWN: ContextVar[str] = ContextVar("known", default="")


class KnownIds(RandomIdGenerator):
    """Random ids, but for a span whose traceparent is known already."""

    def generate_trace_id(self) -> int:
        return trace.ids(known)[0] if (known := _KNOWN.get()) else super().generate_trace_id()

    def generate_span_id(self) -> int:
        return trace.ids(known)[1] if (known := _KNOWN.get()) else super().generate_span_id()


class Spans:
    """tracer: its provider has KnownIds; None: no traces are exported, and all this costs next to nothing."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer

    @contextlib.contextmanager
    def around(
        self, name: str, kind: SpanKind, attributes: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> Iterator[None]:
        """A child of the current trace, and current inside."""
        if self._tracer is None:
            yield
            return
        parent, told = _context(trace.current()), _attributes(attributes)
        with self._tracer.start_as_current_span(name, parent, kind=kind, attributes=told) as span:
            carrier: dict[str, str] = {}
            _PROPAGATOR.inject(carrier, set_span_in_context(span))
            with trace.within(carrier["traceparent"]):
                yield

    def calling(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Around a call to another program."""
        return self.around(name, SpanKind.CLIENT)

    def begin(self, name: str, kind: SpanKind) -> tuple[str, Callable[[], None]]:
        """A child of the current trace that ends when the second is called. The first is its traceparent."""
        if self._tracer is None:
            return trace.current(), lambda: None
        span = self._tracer.start_span(name, _context(trace.current()), kind=kind)
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(span))
        return carrier["traceparent"], span.end

    def tell(self, name: str, itself: str, began: float | None, under: str = "", **attributes: Sequence[str]) -> None:
        """One that has just ended. itself: its traceparent. began: Unix time; None: not known. under: its parent's."""
        if self._tracer is None or not trace.trace_id(itself):
            return
        now = time.time()
        start = int(min(now if began is None else began, now) * 1e9)
        token = _KNOWN.set(itself)
        try:
            told = _attributes(attributes)
            self._tracer.start_span(name, _context(under), start_time=start, attributes=told).end()
        finally:
            _KNOWN.reset(token)


def _context(parent: str) -> Context:
    return _PROPAGATOR.extract({"traceparent": parent}) if parent else Context()


def _attributes(told: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    return {f"drover.{key}": list(value) for key, value in told.items()}
