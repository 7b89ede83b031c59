"""What an agent counts and measures: OpenTelemetry instruments, shown under exactly these names to Prometheus.

`agent/metrics.py` is the list of them. Every `Telemetry` has a provider and a registry of its own: nothing is global.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanKind, Tracer
from prometheus_client import CollectorRegistry, generate_latest

import drover
from drover.agent import metrics
from drover.agent.metrics import METRICS, OF_DATASETS, OF_REPLICAS, Metric
from drover.agent.room import Measure, Room
from drover.agent.spans import Spans
from drover.agent.storage.base import Capacity, Usage
from drover.coordinator import trace
from drover.coordinator.keys import Kind
from drover.coordinator.protocol.session import Loss
from drover.coordinator.records import Evidence, Fence
from drover.coordinator.trace import Cause

Outcome = Literal["ok", "failed"]

_BESIDE = (metrics.LOOKS, metrics.CERTIFICATE, *OF_DATASETS, *OF_REPLICAS)
"""Made otherwise than their kind says: a counter that somebody else counts, what is asked of certificates, and what
Prometheus gets by another way."""


_FROM_THE_START: Mapping[Metric, Iterable[str]] = {
    metrics.MOVES: ("ok", "failed"),
    metrics.FAILOVERS: tuple(Evidence),
    metrics.HEARTBEATS: ("ok", "failed"),
    metrics.LOSSES: ("deadline", *Loss),
    metrics.IGNORED: (Kind.DATASETS, Kind.DESIRED, Kind.WORKLOADS),
}
"""Series that are there before anything is counted: Prometheus' increase() does not see the first of a new one."""


@dataclass(frozen=True)
class Gauges:
    """How the agent is, when somebody asks. datasets, held: how many, by (phase, backend), in the cluster and here.
    margin, soft: seconds, of D_soft. healthy: by part. move_wait: seconds. mounts: what is mounted here.
    looks: so far, by backend. speeds: bytes a second, of the datasets that are sent just now. ages:
    of the newest copy elsewhere of each dataset held here that should have one, and what that may be; seconds."""

    datasets: Mapping[tuple[str, str], int] = field(default_factory=dict)
    held: Mapping[tuple[str, str], int] = field(default_factory=dict)
    unowned: int = 0
    move_wait: float = 0.0
    margin: float = 0.0
    soft: float = 0.0
    healthy: Mapping[str, bool] = field(default_factory=dict)
    connected: bool = False
    guard: bool = False
    gate: bool = False
    armed: bool = False
    mounts: Mapping[str, Measure] = field(default_factory=dict)
    pools: Mapping[str, Capacity] = field(default_factory=dict)
    looks: Mapping[str, int] = field(default_factory=dict)
    speeds: Mapping[str, float] = field(default_factory=dict)
    ages: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    piling_up: bool = False
    known_bugs: int = 0
    went_back: bool = False
    paused: bool = False
    by_promises: bool = False


def resource(node: str) -> Resource:
    """Who tells all this; OTEL_RESOURCE_ATTRIBUTES adds to it."""
    return Resource.create(
        {
            "service.name": os.environ.get("OTEL_SERVICE_NAME") or "drover-agent",
            "service.instance.id": node,
            "service.version": drover.__version__,
        }
    )


class Telemetry:
    """Counts for one agent. All methods are cheap, never wait and may be called from any thread."""

    def __init__(
        self,
        node: str,
        readers: Sequence[MetricReader] = (),
        room: Room | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        """readers: that export, beside Prometheus. tracer: makes spans that are exported; None: none are."""
        self.spans = Spans(tracer)
        self.registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=self.registry, scope_info_enabled=False)
        self._provider = MeterProvider([reader, *readers], resource(node), shutdown_on_exit=False)
        self._meter = self._provider.get_meter("drover")
        self._gauges: Gauges | None = None
        self._certificates: dict[str, Callable[[], float]] = {}
        self._room = room or Room()
        self._showing = threading.Lock()
        """Held while somebody collects: the exporter would give one scrape what it collected for another."""
        self._scraped = False
        of_kind = [metric for metric in METRICS if metric not in _BESIDE]
        self._counters = {m: self._counter(m) for m in of_kind if m.kind == "counter"}
        self._histograms = {m: self._histogram(m) for m in of_kind if m.kind == "histogram"}
        for metric, values in _FROM_THE_START.items():
            for value in values:
                self._counters[metric].add(0, {metric.labels[0]: str(value)})
        for gauge in (metric for metric in of_kind if metric.kind == "gauge"):
            self._observe(gauge, _LOOKS[gauge])
        self._meter.create_observable_counter(
            metrics.LOOKS.name, [self._callback(_looks)], metrics.LOOKS.unit, metrics.LOOKS.help
        )
        self._observe(metrics.CERTIFICATE, self._expiries)
        for metric in OF_DATASETS:
            self._observe(metric, self._of_datasets(_AMOUNTS[metric]))

        for position, metric in enumerate(OF_REPLICAS):
            self._observe(metric, self._of_replicas(position))

    def certificate(self, name: str, expires: Callable[[], float]) -> None:
        """name: what it is for. expires: asked at each scrape, on its thread: seconds since 1970."""
        self._certificates[name] = expires

    def moved(self, cutover: float) -> None:
        """A planned move ended with the dataset mounted here. cutover: seconds that it was mounted nowhere."""
        self._counters[metrics.MOVES].add(1, {"outcome": "ok"})
        self._histograms[metrics.CUTOVER].record(max(0.0, cutover))

    def client_gap(self, seconds: float) -> None:
        """A planned move had its workloads stopped for so long."""
        self._histograms[metrics.CLIENT_GAP].record(max(0.0, seconds))

    def move_failed(self) -> None:
        self._counters[metrics.MOVES].add(1, {"outcome": "failed"})

    def failed_over(self, evidence: Evidence) -> None:
        self._counters[metrics.FAILOVERS].add(1, {"evidence": evidence.value})

    def failover_gap(self, seconds: float) -> None:
        """A fail-over had the dataset mounted nowhere for so long."""
        self._histograms[metrics.FAILOVER_GAP].record(max(0.0, seconds))

    def heartbeat(self, outcome: Outcome, seconds: float) -> None:
        """seconds: from before it was sent to its answer; of one that failed, not recorded."""
        self._counters[metrics.HEARTBEATS].add(1, {"outcome": outcome})
        if outcome == "ok":
            self._histograms[metrics.HEARTBEAT].record(seconds)

    def session_lost(self, reason: str) -> None:
        """reason: one of a few words ("deadline", "fenced", ...), never free text: each is a time series."""
        self._counters[metrics.LOSSES].add(1, {"reason": str(reason)})

    def step(self, name: str, outcome: Outcome, seconds: float) -> None:
        self._counters[metrics.STEPS].add(1, {"step": name, "outcome": outcome})
        self._histograms[metrics.STEP].record(seconds, {"step": name})

    def ignored(self, kind: str) -> None:
        """kind: what the key was about (keys.Kind)."""
        self._counters[metrics.IGNORED].add(1, {"kind": str(kind)})

    def workload_restarted(self) -> None:
        self._counters[metrics.RESTARTS].add(1)

    @contextlib.contextmanager
    def etcd_call(self, call: str) -> Iterator[None]:
        """Around a call. call: the verb of the store ("txn", "range", ...). A span only within a trace: heartbeats, of
        which there is one a second, would bury the others."""
        began, outcome = time.monotonic(), "failed"
        try:
            with self.spans.calling(f"etcd {call}") if trace.current() else contextlib.nullcontext():
                yield
            outcome = "ok"
        finally:
            self._histograms[metrics.REQUEST].record(time.monotonic() - began, {"call": call, "outcome": outcome})

    def span(self, name: str, **attributes: Sequence[str]) -> AbstractContextManager[None]:
        """Around a step: a child of the current trace, and current inside. Costs nothing where no traces are
        exported."""
        return self.spans.around(name, SpanKind.INTERNAL, attributes)

    def covered(self, name: str, cause: Cause, under: str = "", **attributes: Sequence[str]) -> None:
        """All that belongs to this has come to its end, now: the span that the others are in. under: the traceparent of
        what it is part of itself; "": of nothing."""
        self.spans.tell(name, cause.parent, cause.begun, under=under, **attributes)

    def fenced(self, fence: Fence, asked: float) -> None:
        """This node has written it, just now: its span, from the last heartbeat that was seen. asked: when the
        transaction was sent (Unix time)."""
        silent = asked - (fence.still or 0.0)
        self.spans.tell("Fence", fence.trace, silent, node=[fence.node], evidence=[fence.evidence.value])
        self.spans.tell("etcd txn", trace.child(fence.trace), asked, under=fence.trace)

    def sent(self, backend: str, purpose: str, amount: int) -> None:
        """amount: bytes that another node has taken. purpose: of the stream, one of a few words."""
        self._counters[metrics.SENT].add(amount, {"backend": backend, "purpose": purpose})

    def round_sent(self, backend: str, purpose: str, outcome: Outcome) -> None:
        self._counters[metrics.ROUNDS].add(1, {"backend": backend, "purpose": purpose, "outcome": outcome})

    def resumed(self, backend: str, purpose: str) -> None:
        self._counters[metrics.RESUMED].add(1, {"backend": backend, "purpose": purpose})

    def watch_lag(self, seconds: float) -> None:
        self._histograms[metrics.LAG].record(seconds)

    def text(self, gauges: Gauges) -> bytes:
        """All of it in Prometheus' text format, 0.0.4. Lines of each dataset are made here: a thousand datasets would
        take the SDK 0.1 s, and its exporter half of that once more."""
        with self._showing:
            self._gauges, self._scraped = gauges, True
            return generate_latest(self.registry) + self._lines(gauges).encode()

    def _lines(self, gauges: Gauges) -> str:
        """A dataset's name needs no quoting (`keys.name_error`)."""
        lines: list[str] = []
        usages = self._room.look(gauges.mounts)
        for metric in OF_DATASETS if usages else ():
            amount = _AMOUNTS[metric]
            lines += (f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}")
            lines += [f'{metric.name}{{dataset="{name}"}} {amount(usage)}' for name, usage in usages.items()]
        for position, metric in enumerate(OF_REPLICAS if gauges.ages else ()):
            lines += (f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}")
            lines += [f'{metric.name}{{dataset="{name}"}} {of[position]}' for name, of in gauges.ages.items()]
        return "\n".join((*lines, "")) if lines else ""

    def export(self, gauges: Gauges, collect: Callable[[], None]) -> None:
        """Has a reader collect, with these gauges."""
        with self._showing:
            self._gauges, self._scraped = gauges, False
            collect()

    def close(self) -> None:
        self._provider.shutdown()

    def _counter(self, metric: Metric) -> Counter:
        counter = self._meter.create_counter(metric.name, metric.unit, metric.help)
        if not metric.labels:
            counter.add(0)  # so that the series is there from the start
        return counter

    def _histogram(self, metric: Metric) -> Histogram:
        return self._meter.create_histogram(
            metric.name, metric.unit, metric.help, explicit_bucket_boundaries_advisory=metric.buckets
        )

    def _observe(self, metric: Metric, look: _Look) -> None:
        self._meter.create_observable_gauge(metric.name, [self._callback(look)], metric.unit, metric.help)

    def _callback(self, look: _Look) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            return () if self._gauges is None else look(self._gauges, self._room)

        return observe

    def _expiries(self, _: Gauges, __: Room) -> Iterable[Observation]:
        return [Observation(at() - time.time(), {"certificate": name}) for name, at in self._certificates.items()]

    def _of_replicas(self, position: int) -> _Look:
        def look(gauges: Gauges, _: Room) -> Iterable[Observation]:
            found = {} if self._scraped else gauges.ages
            return [Observation(of[position], {"dataset": name}) for name, of in found.items()]

        return look

    def _of_datasets(self, amount: Callable[[Usage], int]) -> _Look:
        def look(gauges: Gauges, room: Room) -> Iterable[Observation]:
            found = {} if self._scraped else room.look(gauges.mounts)
            return [Observation(amount(usage), {"dataset": name}) for name, usage in found.items()]

        return look


_Look = Callable[[Gauges, Room], Iterable[Observation]]


def _number(value: Callable[[Gauges], float]) -> _Look:
    return lambda gauges, _: (Observation(value(gauges)),)


def _flag(value: Callable[[Gauges], bool]) -> _Look:
    return _number(lambda gauges: int(value(gauges)))


def _counts(value: Callable[[Gauges], Mapping[tuple[str, str], int]]) -> _Look:
    return lambda gauges, _: [
        Observation(count, {"phase": phase, "backend": backend}) for (phase, backend), count in value(gauges).items()
    ]


def _pool(value: Callable[[Capacity], int | None]) -> _Look:
    return lambda gauges, _: [
        Observation(amount, {"backend": name})
        for name, capacity in gauges.pools.items()
        if (amount := value(capacity)) is not None
    ]


def _looks(gauges: Gauges, _: Room) -> Iterable[Observation]:
    return [Observation(count, {"backend": backend}) for backend, count in gauges.looks.items()]


_LOOKS: Mapping[Metric, _Look] = {
    metrics.MARGIN: _number(lambda g: g.margin),
    metrics.SOFT: _number(lambda g: g.soft),
    metrics.HEALTHY: lambda g, _: [Observation(int(good), {"part": part}) for part, good in g.healthy.items()],
    metrics.GUARD: _flag(lambda g: g.guard),
    metrics.GATE: _flag(lambda g: g.gate),
    metrics.ARMED: _flag(lambda g: g.armed),
    metrics.PROMISED: _flag(lambda g: g.by_promises),
    metrics.PAUSED: _flag(lambda g: g.paused),
    metrics.DATASETS: _counts(lambda g: g.datasets),
    metrics.HELD: _counts(lambda g: g.held),
    metrics.UNOWNED: _number(lambda g: g.unowned),
    metrics.MOVE_WAIT: _number(lambda g: g.move_wait),
    metrics.SILENT: lambda _, room: (Observation(room.silent),),
    metrics.SPEED: lambda g, _: [Observation(speed, {"dataset": name}) for name, speed in g.speeds.items()],
    metrics.POOL_SIZE: _pool(lambda c: c.size),
    metrics.POOL_FREE: _pool(lambda c: c.free),
    metrics.POOL_INODES: _pool(lambda c: c.inodes),
    metrics.POOL_INODES_FREE: _pool(lambda c: c.inodes_free),
    metrics.CONNECTED: _flag(lambda g: g.connected),
    metrics.PILING_UP: _flag(lambda g: g.piling_up),
    metrics.KNOWN_BUGS: _number(lambda g: g.known_bugs),
    metrics.WENT_BACK: _flag(lambda g: g.went_back),
}
_AMOUNTS: Mapping[Metric, Callable[[Usage], int]] = {
    metrics.USED: lambda usage: usage.used,
    metrics.FREE: lambda usage: usage.free,
    metrics.INODES_USED: lambda usage: usage.inodes_used,
    metrics.INODES_FREE: lambda usage: usage.inodes - usage.inodes_used,
}
