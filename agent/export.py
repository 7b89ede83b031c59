"""OTLP: metrics, traces and logs are sent where the settings or the OTEL_* variables say; nowhere by default.

The exporters are imported only where something is exported: they take memory and threads. What they cannot send they
drop; nothing waits for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import Tracer

from drover.agent import logs
from drover.agent.config import Otlp
from drover.agent.spans import KnownIds

_ENDPOINTS = tuple(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "METRICS_", "TRACES_", "LOGS_"))

_LAST_WORDS = 2.0
"""Seconds that the end of an agent waits for what is still to be exported."""

Collect = Callable[[Callable[[], None]], None]
"""Called in an exporter's thread with what collects; has the gauges be those of now, and calls it."""


@dataclass
class Exports:
    """What exports; nothing of it where nothing is exported. close: blocks for some seconds at most."""

    readers: tuple[MetricReader, ...] = ()
    tracer: Tracer | None = None
    handler: logging.Handler | None = None
    closing: list[Callable[[], object]] = field(default_factory=list)

    def close(self) -> None:
        for close in self.closing:
            close()

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Inside, what is logged is exported, too."""
        if self.handler is None:
            yield
            return
        logging.getLogger().addHandler(self.handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(self.handler)


def wanted(settings: Otlp, environ: Mapping[str, str]) -> bool:
    """Whether anything says where to send to."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    return bool(settings.collector) or any(environ.get(name) for name in _ENDPOINTS)


def exports(settings: Otlp, environ: Mapping[str, str], resource: Resource, collect: Collect) -> Exports:
    """Signals that OTEL_METRICS_EXPORTER and so on call "none" are left out."""
    if not wanted(settings, environ):
        return Exports()
    made = Exports()
    for signal, add in (("METRICS", _metrics), ("TRACES", _traces), ("LOGS", _logs)):
        if environ.get(f"OTEL_{signal}_EXPORTER", "otlp") != "none":
            add(made, settings, resource, collect)
    return made


def _metrics(made: Exports, settings: Otlp, resource: Resource, collect: Collect) -> None:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    class Reader(PeriodicExportingMetricReader):
        # Final in the SDK, which has no other place where gauges could be made ready for a collection.
        def collect(self, timeout_millis: float = 10_000) -> None:  # type: ignore[misc]
            collect(lambda: super(Reader, self).collect(timeout_millis))

    # The period is OTEL_METRIC_EXPORT_INTERVAL; a minute by default.
    made.readers = (Reader(OTLPMetricExporter(settings.collector or None)),)


def _traces(made: Exports, settings: Otlp, resource: Resource, collect: Collect) -> None:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False, id_generator=KnownIds())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.collector or None)))
    made.tracer = provider.get_tracer("drover")
    made.closing.append(provider.shutdown)


def _logs(made: Exports, settings: Otlp, resource: Resource, collect: Collect) -> None:
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.instrumentation.logging.handler import LoggingHandler
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

    provider = LoggerProvider(resource, shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter(settings.collector or None)))
    made.handler = LoggingHandler(logger_provider=provider)
    made.handler.addFilter(logs.context)
    made.closing.append(provider.shutdown)


async def close(*closing: Callable[[], None]) -> None:
    """What is still to be exported gets a moment; a collector that does not answer holds nobody up."""
    closed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def run() -> None:
        for one in closing:
            one()
        with contextlib.suppress(RuntimeError):  # nobody waits any more
            loop.call_soon_threadsafe(closed.set)

    threading.Thread(target=run, name="telemetry", daemon=True).start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_WORDS):
            await closed.wait()
