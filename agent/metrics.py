"""Every metric of an agent: name, kind, unit and labels. docs/metrics.md is made from this list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True)
class Metric:
    """name: as Prometheus shows it. unit: as UCUM has it, "" for plain numbers. buckets: upper bounds, of a histogram,
    in `unit`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: Literal["", "s", "By"] = ""
    buckets: tuple[float, ...] = ()


_REQUEST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_WORK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

# The node in the cluster.

MARGIN = Metric(
    "drover_deadline_margin_seconds",
    "gauge",
    "Time left until this node stops its writers, were no further heartbeat answered; not positive: it has",
    unit="s",
)
SOFT = Metric("drover_deadline_seconds", "gauge", "D_soft: the margin right after a heartbeat", unit="s")
HEALTHY = Metric("drover_healthy", "gauge", "1 where a part is healthy, else 0; the names are those of gRPC", ("part",))
GUARD = Metric("drover_guard_answers", "gauge", "1 while the guard answers the agent; 0: then no heartbeat is sent")
GATE = Metric("drover_gate_open", "gauge", "1 while this node may write, else 0")
ARMED = Metric("drover_guard_armed", "gauge", "1 where something resets this machine if its guard cannot stop it")
HEARTBEATS = Metric("drover_heartbeats_total", "counter", "Heartbeats sent: ok, failed", ("outcome",))
HEARTBEAT = Metric(
    "drover_heartbeat_seconds",
    "histogram",
    "Round trip of answered heartbeats: a transaction through etcd's log",
    unit="s",
    buckets=_REQUEST,
)
LOSSES = Metric("drover_session_losses_total", "counter", "Times that this node lost its session", ("reason",))
PROMISED = Metric(
    "drover_held_by_promises", "gauge", "1 while this node goes on without etcd, as all others promise to wait, else 0"
)
PAUSED = Metric("drover_paused", "gauge", "Whether the cluster is paused: nothing changes hands")
CERTIFICATE = Metric(
    "drover_certificate_expiry_seconds",
    "gauge",
    "Time until a certificate of this node expires, by what it is for: etcd, node (its own ports)",
    ("certificate",),
    "s",
)

# Datasets.

DATASETS = Metric(
    "drover_datasets",
    "gauge",
    "Datasets of the cluster, as this node sees them: the same number on every node",
    ("phase", "backend"),
)
HELD = Metric("drover_datasets_held", "gauge", "Datasets that this node holds", ("phase", "backend"))
UNOWNED = Metric(
    "drover_datasets_unowned",
    "gauge",
    "Datasets with a spec that no living node holds: the same number on every node",
)
MOVE_WAIT = Metric(
    "drover_move_wait_seconds",
    "gauge",
    "The longest time that a dataset here has been wanted on another node; 0: none is",
    unit="s",
)
MOVES = Metric("drover_moves_total", "counter", "Planned moves to this node that ended: ok, failed", ("outcome",))
CUTOVER = Metric(
    "drover_move_cutover_seconds",
    "histogram",
    "Time that a planned move had the dataset mounted nowhere: unmounted at the source to mounted here",
    unit="s",
    buckets=_WORK,
)
CLIENT_GAP = Metric(
    "drover_move_client_gap_seconds",
    "histogram",
    "Time that a planned move had its workloads stopped: told to end at the source to started here",
    unit="s",
    buckets=_WORK,
)
FAILOVERS = Metric(
    "drover_failovers_total",
    "counter",
    "Datasets that this node took over from a dead one, by what proved it dead",
    ("evidence",),
)
FAILOVER_GAP = Metric(
    "drover_failover_gap_seconds",
    "histogram",
    "Time that a fail-over had the dataset mounted nowhere: the last heartbeat that was seen to mounted here",
    unit="s",
    buckets=(1.0, 2.5, 5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 30.0, 60.0, 300.0),
)
STEPS = Metric("drover_steps_total", "counter", "Steps that workers ran: ok, failed", ("step", "outcome"))
STEP = Metric("drover_step_seconds", "histogram", "Time that a step took", ("step",), "s", _WORK)
RESTARTS = Metric("drover_workload_restarts_total", "counter", "Workloads that ended and were started again here")
IGNORED = Metric("drover_ignored_input_total", "counter", "What users wrote that could not be used", ("kind",))

# Copies, told by whoever sends them.

SENT = Metric(
    "drover_transfer_sent_bytes_total",
    "counter",
    "Bytes of datasets that other nodes have taken from this one: move and so on say what for",
    ("backend", "purpose"),
    "By",
)
ROUNDS = Metric(
    "drover_transfer_rounds_total",
    "counter",
    "Snapshots sent to another node, all of one or the difference to an earlier one: ok, failed",
    ("backend", "purpose", "outcome"),
)
RESUMED = Metric(
    "drover_transfer_resumed_total",
    "counter",
    "Connections that were cut and taken up again, going on from what had arrived",
    ("backend", "purpose"),
)
SPEED = Metric(
    "drover_transfer_bytes_per_second",
    "gauge",
    "Of each dataset that is sent just now: the mean of this round",
    ("dataset",),
)

AGE = Metric(
    "drover_replica_age_seconds",
    "gauge",
    "What a loss of this node would cost a dataset held here: since its newest copy elsewhere, or since it has none",
    ("dataset",),
    "s",
)
AGE_LIMIT = Metric(
    "drover_replica_age_limit_seconds",
    "gauge",
    "What that may be: max_data_loss of its spec, else ten times replicate_every and not below 5 minutes",
    ("dataset",),
    "s",
)

# Room. What is mounted here is asked when somebody scrapes, at most every 15 s, and never waited for.

USED = Metric(
    "drover_dataset_used_bytes",
    "gauge",
    "Used in a dataset that is mounted here; btrfs, directory without quotas: in its pool",
    ("dataset",),
    "By",
)
FREE = Metric("drover_dataset_free_bytes", "gauge", "Free for its users, in a dataset mounted here", ("dataset",), "By")
INODES_USED = Metric("drover_dataset_inodes_used", "gauge", "Inodes in use, in a dataset mounted here", ("dataset",))
INODES_FREE = Metric("drover_dataset_inodes_free", "gauge", "Free inodes, in a dataset mounted here", ("dataset",))
SILENT = Metric("drover_mounts_not_answering", "gauge", "Datasets mounted here whose file system does not say its room")
POOL_SIZE = Metric("drover_pool_size_bytes", "gauge", "What a back end's volumes come from", ("backend",), "By")
POOL_FREE = Metric("drover_pool_free_bytes", "gauge", "What is free of it", ("backend",), "By")
POOL_INODES = Metric("drover_pool_inodes", "gauge", "Inodes of the file system that the pool is in", ("backend",))
POOL_INODES_FREE = Metric("drover_pool_inodes_free", "gauge", "Free ones of them", ("backend",))
LOOKS = Metric("drover_backend_looks_total", "counter", "Times that a back end was asked what is here", ("backend",))

# etcd.

CONNECTED = Metric("drover_etcd_connected", "gauge", "1 while etcd answers this agent, else 0")
REQUEST = Metric(
    "drover_etcd_request_seconds",
    "histogram",
    "Time of a call to etcd, its repetitions included: ok, failed",
    ("call", "outcome"),
    "s",
    _REQUEST,
)
LAG = Metric(
    "drover_etcd_watch_lag_seconds",
    "histogram",
    "Time from the answer to a transaction of this node until its watch shows what it wrote",
    unit="s",
    buckets=_REQUEST,
)
PILING_UP = Metric("drover_etcd_history_piling_up", "gauge", "Whether nobody compacts etcd's history")
KNOWN_BUGS = Metric("drover_etcd_known_bugs", "gauge", "Bugs known of the release of etcd that answers; update it")
WENT_BACK = Metric(
    "drover_etcd_went_back", "gauge", "1 while the agent is halted, since etcd went back or is another one"
)

GROUPS: dict[str, tuple[Metric, ...]] = {
    "The node in the cluster": (
        MARGIN,
        SOFT,
        HEALTHY,
        GUARD,
        GATE,
        ARMED,
        HEARTBEATS,
        HEARTBEAT,
        LOSSES,
        PROMISED,
        PAUSED,
        CERTIFICATE,
    ),
    "Datasets and moves": (
        DATASETS,
        HELD,
        UNOWNED,
        MOVE_WAIT,
        MOVES,
        CUTOVER,
        CLIENT_GAP,
        FAILOVERS,
        FAILOVER_GAP,
        STEPS,
        STEP,
        RESTARTS,
        IGNORED,
    ),
    "Copies": (SENT, ROUNDS, RESUMED, SPEED, AGE, AGE_LIMIT),
    "Room": (
        USED,
        FREE,
        INODES_USED,
        INODES_FREE,
        SILENT,
        POOL_SIZE,
        POOL_FREE,
        POOL_INODES,
        POOL_INODES_FREE,
        LOOKS,
    ),
    "etcd": (CONNECTED, REQUEST, LAG, PILING_UP, KNOWN_BUGS, WENT_BACK),
}
METRICS: tuple[Metric, ...] = tuple(metric for group in GROUPS.values() for metric in group)
OF_DATASETS = (USED, FREE, INODES_USED, INODES_FREE)
OF_REPLICAS = (AGE, AGE_LIMIT)
