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

Whatever changes an epoch is one trace: a move from `drover move` (whose `--wait` prints the id) over the steps of the
source to those of the target, a fail-over from the claim on. Steps are spans, with their calls to etcd inside.
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
