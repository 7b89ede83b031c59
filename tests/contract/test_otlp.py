"""Metrics, traces and logs by OTLP, to a real receiver of the protocol; and nothing where nobody asked for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

import pytest

from drover.agent.config import Otlp
from drover.agent.export import Exports, exports
from drover.agent.storage.base import Usage
from drover.agent.telemetry import Gauges, Telemetry, resource
from drover.coordinator import trace
from drover.coordinator.records import Evidence, Fence
from drover.coordinator.trace import Cause
from tests.otlp import receiver

FULL = Usage(size=100, used=60, inodes=10, inodes_used=4, free=35)
GAUGES = Gauges(margin=3.5, mounts={"pgdata": lambda: FULL})


def told(settings: Otlp, environ: Mapping[str, str]) -> str:
    """Has one agent tell of a step in a trace; the trace's id."""
    telemetry: Telemetry | None = None

    def collect(collect: Callable[[], None]) -> None:
        if telemetry is not None:
            telemetry.export(GAUGES, collect)

    made: Exports = exports(settings, environ, resource("node-a"), collect)
    telemetry = Telemetry("node-a", made.readers, tracer=made.tracer)
    parent = trace.new()
    with made.logging(), trace.within(parent), telemetry.span("Handover", datasets=["pgdata"]):
        with telemetry.etcd_call("txn"):
            logging.getLogger("drover.test").warning("handed over")
    telemetry.close()
    made.close()
    return trace.trace_id(parent)


def test_a_fence_and_what_it_frees_are_one_trace_from_the_last_heartbeat_on() -> None:
    with receiver() as (received, port):
        made = exports(Otlp(collector=f"http://127.0.0.1:{port}"), {}, resource("node-a"), lambda _: None)
        telemetry = Telemetry("node-a", tracer=made.tracer)
        now, parent = time.time(), trace.new()
        telemetry.fenced(Fence(node="node-b", by="node-a", evidence=Evidence.SILENCE, still=7.0, trace=parent), now)
        telemetry.covered("Failover", Cause(trace.child(parent), now), under=parent, datasets=["pgdata"])
        telemetry.close()
        made.close()
    spans = {span.name: span for _, span in received.spans(trace.trace_id(parent))}
    assert set(spans) == {"Fence", "etcd txn", "Failover"}
    assert not spans["Fence"].parent_span_id
    assert spans["etcd txn"].parent_span_id == spans["Failover"].parent_span_id == spans["Fence"].span_id
    assert spans["Fence"].start_time_unix_nano == int((now - 7.0) * 1e9)
    assert spans["Failover"].start_time_unix_nano == int(now * 1e9)


@pytest.mark.parametrize("by", ["settings", "environment"])
def test_metrics_spans_and_logs_arrive(by: str) -> None:
    with receiver() as (received, port):
        endpoint = f"http://127.0.0.1:{port}"
        if by == "settings":
            trace_id = told(Otlp(collector=endpoint), {})
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
                trace_id = told(Otlp(), {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
    metrics = received.metrics()
    assert metrics["drover_deadline_margin_seconds"].gauge.data_points[0].as_double == 3.5
    (used,) = metrics["drover_dataset_used_bytes"].gauge.data_points
    assert (used.as_int, used.attributes[0].value.string_value) == (60, "pgdata")
    spans = {span.name: span for _, span in received.spans(trace_id)}
    assert set(spans) == {"Handover", "etcd txn"}
    assert spans["etcd txn"].parent_span_id == spans["Handover"].span_id
    (node, record), *_ = [one for one in received.logs() if one[1].body.string_value == "handed over"]
    assert node == "node-a"
    assert {a.key: a.value.string_value for a in record.attributes}["trace_id"] == trace_id


def test_a_signal_that_is_turned_off_is_not_sent() -> None:
    with receiver() as (received, port):
        trace_id = told(Otlp(collector=f"http://127.0.0.1:{port}"), {"OTEL_TRACES_EXPORTER": "none"})
    assert received.metrics()
    assert received.spans(trace_id) == []


@pytest.mark.parametrize(
    ("settings", "environ"),
    [(Otlp(), {}), (Otlp(collector="http://127.0.0.1:1"), {"OTEL_SDK_DISABLED": "true"})],
)
def test_by_default_nothing_is_exported_and_no_thread_is_there_for_it(
    settings: Otlp, environ: Mapping[str, str]
) -> None:
    before = set(threading.enumerate())
    made = exports(settings, environ, resource("node-a"), lambda _: None)
    assert (made.readers, made.tracer, made.handler) == ((), None, None)
    assert set(threading.enumerate()) <= before
