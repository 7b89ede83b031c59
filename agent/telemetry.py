"""What an agent counts and measures: OpenTelemetry instruments, shown under exactly these names to Prometheus.

`METRICS` is the list that the documentation and the dashboards are made from. Every `Telemetry` has a provider and a
registry of its own: nothing is global.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry

import drover
from drover.coordinator.records import Evidence

Outcome = Literal["ok", "failed"]


@dataclass(frozen=True)
class Metric:
    """name: as Prometheus shows it. unit: "s" or nothing. buckets: upper bounds, of a histogram, in `unit`."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    unit: Literal["", "s"] = ""
    buckets: tuple[float, ...] = ()


_REQUEST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_WORK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

DATASETS = Metric("drover_datasets", "gauge", "Datasets that this node knows", ("phase", "backend"))
MARGIN = Metric(
    "drover_deadline_margin_seconds",
    "gauge",
    "Time left until this node stops its writers, were no further heartbeat answered; not positive: it has",
    unit="s",
)
CONNECTED = Metric("drover_etcd_connected", "gauge", "1 while etcd answers this agent, else 0")
MOVES = Metric("drover_moves_total", "counter", "Planned moves to this node that ended: ok, failed", ("outcome",))
CUTOVER = Metric(
    "drover_move_cutover_seconds",
    "histogram",
    "Time that a planned move had the dataset mounted nowhere: unmounted at the source to mounted here",
    unit="s",
    buckets=_WORK,
)
FAILOVERS = Metric(
    "drover_failovers_total",
    "counter",
    "Datasets that this node took over from a dead one, by what proved it dead",
    ("evidence",),
)
HEARTBEATS = Metric("drover_heartbeats_total", "counter", "Heartbeats sent: ok, failed", ("outcome",))
HEARTBEAT = Metric(
    "drover_heartbeat_seconds",
    "histogram",
    "Round trip of answered heartbeats: a transaction through etcd's log",
    unit="s",
    buckets=_REQUEST,
)
LOSSES = Metric("drover_session_losses_total", "counter", "Times that this node lost its session", ("reason",))
STEPS = Metric("drover_steps_total", "counter", "Steps that workers ran: ok, failed", ("step", "outcome"))
STEP = Metric("drover_step_seconds", "histogram", "Time that a step took", ("step",), "s", _WORK)
IGNORED = Metric("drover_ignored_input_total", "counter", "What users wrote that could not be used", ("kind",))
RESTARTS = Metric("drover_workload_restarts_total", "counter", "Workloads that ended and were started again here")
PILING_UP = Metric("drover_etcd_history_piling_up", "gauge", "Whether nobody compacts etcd's history")
KNOWN_BUGS = Metric("drover_etcd_known_bugs", "gauge", "Bugs known of the release of etcd that answers; update it")
WENT_BACK = Metric(
    "drover_etcd_went_back", "gauge", "1 while the agent is halted, since etcd went back or is another one"
)
LOOKS = Metric("drover_backend_looks_total", "counter", "Times that a back end was asked what is here", ("backend",))

PAUSED = Metric("drover_paused", "gauge", "Whether the cluster is paused: nothing changes hands")
CERTIFICATE = Metric(
    "drover_certificate_expiry_seconds",
    "gauge",
    "Time until a certificate of this node expires, by what it is for: etcd, node (its own ports)",
    ("certificate",),
    "s",
)

METRICS = (
    DATASETS,
    MARGIN,
    CONNECTED,
    MOVES,
    CUTOVER,
    FAILOVERS,
    HEARTBEATS,
    HEARTBEAT,
    LOSSES,
    STEPS,
    STEP,
    IGNORED,
    RESTARTS,
    LOOKS,
    PILING_UP,
    KNOWN_BUGS,
    WENT_BACK,
    PAUSED,
    CERTIFICATE,
)


@dataclass(frozen=True)
class Gauges:
    """datasets: how many, by (phase, backend). margin: seconds until D_soft. connected: etcd answers. looks: so far, by
    backend. piling_up: etcd's history, for want of compaction. known_bugs: of the etcd that answers. went_back:
    etcd did, and the agent is halted. paused: the cluster is."""

    datasets: Mapping[tuple[str, str], int]
    margin: float
    connected: bool
    looks: Mapping[str, int] = field(default_factory=dict)
    piling_up: bool = False
    known_bugs: int = 0
    went_back: bool = False
    paused: bool = False


class Telemetry:
    """Counts for one agent. All methods are cheap, never wait and may be called from any thread."""

    def __init__(self, node: str) -> None:
        self.registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=self.registry, scope_info_enabled=False)
        resource = Resource(
            {"service.name": "drover-agent", "service.instance.id": node, "service.version": drover.__version__}
        )
        self._provider = MeterProvider([reader], resource, shutdown_on_exit=False)
        self._meter = self._provider.get_meter("drover")
        self._gauges: Gauges | None = None
        self._certificates: dict[str, Callable[[], float]] = {}
        self._counters = {m: self._counter(m) for m in METRICS if m.kind == "counter" and m is not LOOKS}
        self._histograms = {m: self._histogram(m) for m in METRICS if m.kind == "histogram"}
        looks = {
            DATASETS: self._datasets,
            MARGIN: self._margin,
            CONNECTED: self._connected,
            PILING_UP: self._history,
            KNOWN_BUGS: self._bugs,
            WENT_BACK: self._halted,
            PAUSED: self._paused,
            CERTIFICATE: self._expiries,
        }
        for gauge, look in looks.items():
            self._meter.create_observable_gauge(gauge.name, [look], gauge.unit, gauge.help)
        self._meter.create_observable_counter(LOOKS.name, [self._looks], LOOKS.unit, LOOKS.help)

    def certificate(self, name: str, expires: Callable[[], float]) -> None:
        """name: what it is for. expires: asked at each scrape, on its thread: seconds since 1970."""
        self._certificates[name] = expires

    def moved(self, cutover: float) -> None:
        """A planned move ended with the dataset mounted here. cutover: seconds that it was mounted nowhere."""
        self._counters[MOVES].add(1, {"outcome": "ok"})
        self._histograms[CUTOVER].record(max(0.0, cutover))

    def move_failed(self) -> None:
        self._counters[MOVES].add(1, {"outcome": "failed"})

    def failed_over(self, evidence: Evidence) -> None:
        self._counters[FAILOVERS].add(1, {"evidence": evidence.value})

    def heartbeat(self, outcome: Outcome, seconds: float) -> None:
        """seconds: from before it was sent to its answer; of one that failed, not recorded."""
        self._counters[HEARTBEATS].add(1, {"outcome": outcome})
        if outcome == "ok":
            self._histograms[HEARTBEAT].record(seconds)

    def session_lost(self, reason: str) -> None:
        """reason: one of a few words ("deadline", "fenced", ...), never free text: each is a time series."""
        self._counters[LOSSES].add(1, {"reason": reason})

    def step(self, name: str, outcome: Outcome, seconds: float) -> None:
        self._counters[STEPS].add(1, {"step": name, "outcome": outcome})
        self._histograms[STEP].record(seconds, {"step": name})

    def ignored(self, kind: str) -> None:
        """kind: what the key was about (keys.Kind)."""
        self._counters[IGNORED].add(1, {"kind": str(kind)})

    def workload_restarted(self) -> None:
        self._counters[RESTARTS].add(1)

    def show(self, gauges: Gauges) -> None:
        """What the gauges say from now on; api/http.py asks the agent's event loop for it before each scrape."""
        self._gauges = gauges

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

    def _datasets(self, _: CallbackOptions) -> Iterable[Observation]:
        if gauges := self._gauges:
            for (phase, backend), count in gauges.datasets.items():
                yield Observation(count, {"phase": phase, "backend": backend})

    def _margin(self, _: CallbackOptions) -> Iterable[Observation]:
        if gauges := self._gauges:
            yield Observation(gauges.margin)

    def _connected(self, _: CallbackOptions) -> Iterable[Observation]:
        if gauges := self._gauges:
            yield Observation(int(gauges.connected))

    def _history(self, _: CallbackOptions) -> Iterable[Observation]:
        if gauges := self._gauges:
            yield Observation(int(gauges.piling_up))

    def _bugs(self, _: CallbackOptions) -> Iterable[Observation]:
        if gauges := self._gauges:
            yield Observation(gauges.known_bugs)

    def _halted(self, _: CallbackOptions) -> Iterable[Observation]:
        if gauges := self._gauges:
            yield Observation(int(gauges.went_back))

    def _paused(self, _: CallbackOptions) -> Iterable[Observation]:
        if gauges := self._gauges:
            yield Observation(int(gauges.paused))

    def _expiries(self, _: CallbackOptions) -> Iterable[Observation]:
        for name, expires in self._certificates.items():
            yield Observation(expires() - time.time(), {"certificate": name})

    def _looks(self, _: CallbackOptions) -> Iterable[Observation]:
        if gauges := self._gauges:
            for backend, count in gauges.looks.items():
                yield Observation(count, {"backend": backend})
