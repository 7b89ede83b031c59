"""A receiver of OTLP: a gRPC server of the protocol's own services, which keeps what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Received:
    """By node, which is the resource's service.instance.id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._metrics: list[Any] = []
        self._spans: list[tuple[str, Any]] = []
        self._logs: list[tuple[str, Any]] = []

    def take_metrics(self, request: Any) -> None:
        with self._lock:
            self._metrics += [m for r in request.resource_metrics for s in r.scope_metrics for m in s.metrics]

    def take_spans(self, request: Any) -> None:
        with self._lock:
            self._spans += [(_node(r), p) for r in request.resource_spans for s in r.scope_spans for p in s.spans]

    def take_logs(self, request: Any) -> None:
        with self._lock:
            self._logs += [(_node(r), x) for r in request.resource_logs for s in r.scope_logs for x in s.log_records]

    def metrics(self) -> dict[str, Any]:
        with self._lock:
            return {metric.name: metric for metric in self._metrics}

    def spans(self, trace_id: str) -> list[tuple[str, Any]]:
        with self._lock:
            return [(node, span) for node, span in self._spans if span.trace_id.hex() == trace_id]

    def text(self) -> str:
        """All of it, as text."""
        with self._lock:
            return "\n".join(str(one) for one in (*self._metrics, *self._spans, *self._logs))

    def logs(self) -> list[tuple[str, Any]]:
        with self._lock:
            return list(self._logs)


def _node(one: Any) -> str:
    return str({a.key: a.value.string_value for a in one.resource.attributes}["service.instance.id"])


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, received: Received) -> None:
        self._received = received

    def Export(self, request: Any, context: Any) -> Any:
        self._received.take_spans(request)
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, received: Received) -> None:
        self._received = received

    def Export(self, request: Any, context: Any) -> Any:
        self._received.take_metrics(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()


class _Logs(logs_service_pb2_grpc.LogsServiceServicer):
    def __init__(self, received: Received) -> None:
        self._received = received

    def Export(self, request: Any, context: Any) -> Any:
        self._received.take_logs(request)
        return logs_service_pb2.ExportLogsServiceResponse()


@contextmanager
def receiver(listen: str = "127.0.0.1:0") -> Iterator[tuple[Received, int]]:
    """What it is sent, and its port (of interest where `listen` asks for port 0)."""
    received = Received()
    server = grpc.server(ThreadPoolExecutor(4))

    def add(to_server: Any, service: object) -> None:
        to_server(service, server)

    add(trace_service_pb2_grpc.add_TraceServiceServicer_to_server, _Traces(received))
    add(metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server, _Metrics(received))
    add(logs_service_pb2_grpc.add_LogsServiceServicer_to_server, _Logs(received))
    port = server.add_insecure_port(listen)
    server.start()
    try:
        yield received, port
    finally:
        server.stop(0).wait(5)
