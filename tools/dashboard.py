"""Writes deploy/grafana/drover.json: `python -m tools.dashboard`. A test says when it is not fresh, another runs its
queries against a real Prometheus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent.parent / "deploy" / "grafana" / "drover.json"

_WIDTH, _HEIGHT = 24, 7
_SOURCE = {"type": "prometheus", "uid": "${source}"}


@dataclass(frozen=True)
class Panel:
    """queries: by legend. unit: as Grafana calls it. kind: of panel."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"


def _p99(metric: str, by: str = "instance") -> str:
    return f"histogram_quantile(0.99, sum by ({by}, le) (rate({metric}_bucket[$__rate_interval])))"


def _by(label: str, counter: str) -> str:
    return f"sum by ({label}) (increase({counter}[$__rate_interval]))"


ROWS: dict[str, tuple[Panel, ...]] = {
    "Is all well?": (
        Panel("Agents that answer", {"": 'count(up{job="drover"} == 1)'}, kind="stat"),
        Panel("Datasets", {"{{phase}}": "sum by (phase) (max by (phase, backend) (drover_datasets))"}, kind="stat"),
        Panel("Without an owner", {"": "max(drover_datasets_unowned)"}, kind="stat"),
        Panel("Paused", {"": "max(drover_paused)"}, kind="stat"),
        Panel("Parts that fail", {"": "count(drover_healthy == 0) or vector(0)"}, kind="stat"),
        Panel("Failed over, last day", {"": "sum(increase(drover_failovers_total[1d]))"}, kind="stat"),
    ),
    "Deadlines": (
        Panel(
            "Deadline margin",
            {"{{instance}}": "min_over_time(drover_deadline_margin_seconds[$__interval])"},
            "s",
        ),
        Panel("Heartbeat, 99 %", {"{{instance}}": _p99("drover_heartbeat_seconds")}, "s"),
        Panel("Gate open", {"{{instance}}": "drover_gate_open"}),
        Panel("Guard answers", {"{{instance}}": "drover_guard_answers"}),
    ),
    "Moves and fail-overs": (
        Panel("Moves that ended", {"{{outcome}}": _by("outcome", "drover_moves_total")}),
        Panel(
            "Gap of moves, 99 %",
            {
                "mounted nowhere": _p99("drover_move_cutover_seconds", "job"),
                "workloads stopped": _p99("drover_move_client_gap_seconds", "job"),
            },
            "s",
        ),
        Panel("Waiting to leave", {"{{instance}}": "drover_move_wait_seconds"}, "s"),
        Panel(
            "Fail-overs, by evidence",
            {"{{evidence}}": _by("evidence", "drover_failovers_total")},
        ),
        Panel("Gap of fail-overs, 99 %", {"": _p99("drover_failover_gap_seconds", "job")}, "s"),
        Panel("Workloads started again", {"{{instance}}": _by("instance", "drover_workload_restarts_total")}),
        Panel(
            "Steps that failed",
            {"{{step}}": _by("step", 'drover_steps_total{outcome="failed"}') + " or vector(0)"},
        ),
        Panel("Ignored input", {"{{kind}}": _by("kind", "drover_ignored_input_total")}),
    ),
    "Copies": (
        Panel(
            "Sent",
            {
                "{{purpose}} {{backend}}": "sum by (backend, purpose)"
                " (rate(drover_transfer_sent_bytes_total[$__rate_interval]))"
            },
            "Bps",
        ),
        Panel("Snapshots sent", {"{{purpose}} {{outcome}}": _by("purpose, outcome", "drover_transfer_rounds_total")}),
        Panel(
            "Taken up again after a cut",
            {"{{instance}}": _by("instance", "drover_transfer_resumed_total") + " or vector(0)"},
        ),
        Panel(
            "Oldest, against what they may be",
            {"{{dataset}}": "topk(10, drover_replica_age_seconds / drover_replica_age_limit_seconds)"},
            "percentunit",
        ),
        Panel("Sent just now", {"{{dataset}}": "topk(10, drover_transfer_bytes_per_second) or vector(0)"}, "Bps"),
    ),
    "Room": (
        Panel(
            "Pools: free",
            {"{{instance}} {{backend}}": "drover_pool_free_bytes / drover_pool_size_bytes"},
            "percentunit",
        ),
        Panel(
            "Datasets: fullest",
            {
                "{{dataset}}": "topk(10, drover_dataset_used_bytes"
                " / (drover_dataset_used_bytes + drover_dataset_free_bytes))"
            },
            "percentunit",
        ),
        Panel(
            "Inodes: fullest",
            {
                "{{dataset}}": "topk(10, drover_dataset_inodes_used"
                " / (drover_dataset_inodes_used + drover_dataset_inodes_free))"
            },
            "percentunit",
        ),
        Panel("Mounts that hang", {"{{instance}}": "drover_mounts_not_answering"}),
    ),
    "etcd": (
        Panel(
            "Calls, 99 %",
            {"{{call}}": _p99("drover_etcd_request_seconds", "call")},
            "s",
        ),
        Panel("Watch lag, 99 %", {"{{instance}}": _p99("drover_etcd_watch_lag_seconds")}, "s"),
        Panel(
            "Quota used",
            {"{{instance}}": "etcd_mvcc_db_total_size_in_bytes / etcd_server_quota_backend_bytes"},
            "percentunit",
        ),
        Panel(
            "Disk, 99 %",
            {"{{instance}}": _p99("etcd_disk_wal_fsync_duration_seconds")},
            "s",
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """As Grafana imports it."""
    return {
        "title": "Drover",
        "uid": "drover",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": list(_panels()),
    }


def _panels() -> Iterator[dict[str, Any]]:
    y = 0
    for title, panels in ROWS.items():
        yield {"type": "row", "title": title, "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1}, "panels": []}
        y += 1
        wide = _WIDTH // min(4, len(panels)) if len(panels) != 6 else _WIDTH // 6
        x = 0
        for panel in panels:
            if x + wide > _WIDTH:
                x, y = 0, y + _HEIGHT
            yield _panel(panel, {"x": x, "y": y, "w": wide, "h": _HEIGHT})
            x += wide
        y += _HEIGHT


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + n), "expr": query, "legendFormat": legend, "datasource": _SOURCE}
        for n, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "gridPos": place,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def text() -> str:
    """The whole file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text())
