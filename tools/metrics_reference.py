"""Writes docs/metrics.md: `python -m tools.metrics_reference`. A test says when it is not fresh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from drover.agent.metrics import GROUPS, Metric

DOC = Path(__file__).parent.parent / "docs" / "metrics.md"

_UNITS = {"": "", "s": "seconds", "By": "bytes"}

_INTRODUCTION = """# Metrics

Made by `python -m tools.metrics_reference` from `agent/metrics.py`; change the code, not this page.

Each agent shows these at `/metrics` (`listen.http`). Labels have few values: only what is told of each dataset mounted
on a node, or sent by it just now, carries the dataset's name. A scrape asks nothing of etcd, and waits for no mount.
The same goes to an OpenTelemetry collector where `[otlp]` in `deploy/agent.toml` or the OTEL_* variables
say so, with traces and logs. `deploy/prometheus/` has a configuration and alert rules, `deploy/grafana/` a dashboard
(made by `tools/dashboard.py`); [alerts.md](alerts.md) says what to do about each alert.

## Traces

Whatever changes an epoch is one trace. A move is one below a span `Move`, which lasts from the wish (`drover move
--wait` prints the id) until the dataset is active at the target, with the steps of both agents in it. A fail-over is
one below the `Fence`, which begins with the last heartbeat that was seen; each unit that is taken over has a span
`Failover` in it, with the claim, the attach, the mount and the start of the workload. Where no agent wrote the fence,
that is the root. Steps are spans, with the calls to etcd and from agent to agent inside.
`drover show DATASET --json` has the id of each epoch's trace, and so has each line of log that belongs to it.
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *(line for title, group in GROUPS.items() for line in _table(title, group))])


def _table(title: str, group: tuple[Metric, ...]) -> Iterator[str]:
    yield from (f"## {title}", "", "| metric | kind | unit | labels | meaning |", "|---|---|---|---|---|")
    for metric in group:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {_UNITS[metric.unit]} | {labels} | {metric.help} |"
    yield ""


def main() -> None:
    DOC.write_text(reference())


if __name__ == "__main__":
    main()
