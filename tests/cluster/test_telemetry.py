"""What a whole cluster tells of itself: to a real receiver of OTLP, to a real Prometheus, and to its logs; and what it
keeps to itself. All its ports and etcd have certificates."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from drover.agent.tls import Files
from drover.coordinator.cli.playground.layout import HTTP_PORT, Layout, Settings
from tests.cluster.cluster import Cluster, Dataset
from tests.otlp import Received, receiver
from tests.playground import DROVER, Playground, eventually
from tests.prometheus import prometheus
from tools import dashboard

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("telemetry")]

Observed = tuple[Cluster, Received]
QUERIES = [query for panels in dashboard.ROWS.values() for panel in panels for query in panel.queries.values()]
OF_FAIL_OVERS = "drover_failover_gap_seconds"
"""In queries that are empty before the first one."""


_SECRETS = {"etcd": "correct-horse-battery", "the collector": "staple-4711-staple"}
_SPY = """
import secrets, sys
made = secrets.token_hex
def token_hex(length=None):
    told = made(length)
    if sys._getframe(1).f_globals["__name__"] == "drover.agent.transfer.path":
        with open({file!r}, "a") as file:
            print(told, file=file)
    return told
secrets.token_hex = token_hex
"""
"""Notes what the data path makes up: names and secrets of connections."""


@dataclass(frozen=True)
class Moved:
    """What was moved three times, to node-b in the end, and the trace of the first move. sent: a trace, too, of a
    dataset whose data was sent for it."""

    cluster: Cluster
    received: Received
    dataset: str
    trace: str
    sent: str


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """Two nodes and a member, whose agents export to a receiver in the playground's directory."""
    directory = tmp_path_factory.mktemp("cluster") / "pg"
    layout = Layout.of(directory)
    layout.shared.mkdir(parents=True)
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"unix:{directory.parent}/otlp",
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={_SECRETS['the collector']}",
        "DROVER_LOG_FORMAT": "json",
        "DROVER_LOG_LEVEL": "debug",
        "DROVER_ETCD__USER": "node",
        "DROVER_ETCD__PASSWORD_FILE": f"{directory.parent}/password",
        "PYTHONPATH": str(directory.parent),
    }
    (directory.parent / "password").write_text(_SECRETS["etcd"])
    (directory.parent / "sitecustomize.py").write_text(_SPY.format(file=str(directory.parent / "tickets")))
    layout.save(Settings(2, 1, "", environment=environment, btrfs=True, tls=True))
    with receiver(f"unix:{directory.parent}/otlp") as (received, _):
        with Playground(directory, nodes=2, etcd=1, etcd_fast=True, btrfs=True, tls=True) as playground:
            cluster = Cluster(playground)
            cluster.until_all_joined()
            yield cluster, received


@pytest.fixture(scope="module")
def moved(observed: Observed) -> Moved:
    cluster, received = observed
    data = cluster.dataset(on="node-a")
    copied = cluster.dataset(on="node-a", word="copied", backend="btrfs", size="1GiB", fs=None, replicas=1)
    cluster.writer(data)
    first, *_ = [trace_of(cluster, data, f"node-{to}") for to in "bab"]
    return Moved(cluster, received, data.name, first, trace_of(cluster, copied, "node-b"))


def trace_of(cluster: Cluster, data: Dataset, to: str) -> str:
    """Moves it there; the trace's id, as people are told it."""
    return cluster.drover("move", data.name, to, "--wait").stdout.partition("trace")[2].split()[0]


def history(cluster: Cluster, dataset: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(cluster.drover("show", dataset, "--json").stdout)["history"]
    return found


def steps(received: Received, trace: str) -> set[tuple[str, str]]:
    """By node."""
    return {(node, span.name) for node, span in received.spans(trace)}


def files(cluster: Cluster) -> Files:
    """Of a user."""
    place = cluster.playground.layout.certificates
    return Files(place / "ca.crt", place / "operator.crt", place / "operator.key")


def none_is_empty(cluster: Cluster, queries: Sequence[str], directory: Path) -> None:
    playground = cluster.playground
    agents = [f"{playground.address(node)}:{HTTP_PORT}" for node in playground.nodes]
    members = [f"{playground.address(member)}:2379" for member in playground.members]
    with prometheus(directory, {"drover": agents, "etcd": members}, files(cluster)) as server:
        for query in queries:
            asked = query.replace("$__rate_interval", "1m").replace("$__interval", "1m")
            eventually(lambda asked=asked: bool(server.query(asked)), f"{query} has series", 15, every=0.2)  # type: ignore[misc]


def the_tree(received: Received, trace: str, root: str, first: str) -> dict[str, Any]:
    """Spans by id, once all of a trace has arrived: below one root, which began before all else and ended last."""

    def spans() -> dict[str, Any]:
        return {span.span_id: span for _, span in received.spans(trace)}

    def whole() -> bool:
        tree = spans()
        roots = [one for one in tree.values() if not one.parent_span_id]
        return [one.name for one in roots] == [root] and all(
            one.parent_span_id in tree for one in tree.values() if one.parent_span_id
        )

    eventually(whole, f"{trace} is one tree below {root}: {received.spans(trace)}", 15)
    tree = spans()
    (top,) = [one for one in tree.values() if not one.parent_span_id]
    assert top.start_time_unix_nano <= min(one.start_time_unix_nano for one in tree.values() if one.name == first)
    return tree


def test_a_move_is_one_trace_across_both_agents(moved: Moved) -> None:
    cluster, received, trace = moved.cluster, moved.received, moved.trace
    here = {("node-a", step) for step in ("StopWorkload", "Unpublish", "Handover", "etcd txn")}
    there = {("node-b", step) for step in ("Activate", "Publish", "StartWorkload", "etcd txn", "Move")}
    eventually(lambda: steps(received, trace) >= here | there, "both agents' spans arrive", 10)
    tree = the_tree(received, trace, "Move", "StopWorkload")
    (root,) = [one for one in tree.values() if one.name == "Move"]
    assert root.end_time_unix_nano >= max(
        one.end_time_unix_nano for one in tree.values() if one.name == "StartWorkload"
    )
    assert all(tree[one.parent_span_id].name != "Move" for one in tree.values() if one.name == "etcd txn")
    traces = [one["trace"] for one in history(cluster, moved.dataset)]
    assert traces.index(trace) == 1
    assert len({*traces} - {""}) == 4, "each change of epoch is one of its own"

    lines = [json.loads(line) for line in cluster.playground.log("node-b").splitlines() if line.startswith("{")]
    said = f"{moved.dataset} moved here"
    (line,) = [x for x in lines if x.get("trace_id") == trace and x["message"].startswith(said)]
    assert (line["dataset"], line["epoch"]) == (moved.dataset, 2)
    assert line["reason"]


def test_a_move_of_copies_has_the_calls_from_agent_to_agent_in_its_trace(moved: Moved) -> None:
    call = "gRPC drover.v1.Copies/Expect"
    ends = {("node-a", call), ("node-b", call), ("node-a", "LastIncrement"), ("node-b", "Move")}
    eventually(lambda: steps(moved.received, moved.sent) >= ends, "both ends of the call arrive", 15)
    tree = the_tree(moved.received, moved.sent, "Move", "Replicate")
    (theirs,) = [one for one in tree.values() if (one.name, one.kind) == (call, Span.SPAN_KIND_SERVER)]
    ours = tree[theirs.parent_span_id]
    assert (ours.name, ours.kind) == (call, Span.SPAN_KIND_CLIENT)
    assert tree[ours.parent_span_id].name == "Replicate"


def test_no_query_of_the_dashboard_is_empty_after_a_move_and_a_quiet_cluster_logs_nothing(
    moved: Moved, tmp_path: Path
) -> None:
    playground = moved.cluster.playground
    logged = {node: playground.log(node) for node in playground.nodes}
    none_is_empty(moved.cluster, [query for query in QUERIES if OF_FAIL_OVERS not in query], tmp_path / "prometheus")
    assert {node: playground.log(node) for node in playground.nodes} == logged


def test_no_secret_stands_in_a_log_a_metric_a_trace_in_json_or_in_a_bundle(moved: Moved, tmp_path: Path) -> None:
    cluster, playground = moved.cluster, moved.cluster.playground
    tickets = (playground.directory.parent / "tickets").read_text().split()
    assert len(tickets) >= 4, "a name and a secret for each connection"
    keys = [file.read_text().split("\n")[1] for file in playground.layout.certificates.glob("*.key")]
    secrets = [*_SECRETS.values(), *tickets, *keys]

    told = {f"log of {one}": playground.log(one) for one in (*playground.nodes, *playground.members)}
    for node in playground.nodes:
        url = f"https://{playground.address(node)}:{HTTP_PORT}"
        for page in ("metrics", "healthz", "readyz"):
            with urlopen(f"{url}/{page}", timeout=10, context=playground.context) as answer:
                told[f"{page} of {node}"] = answer.read().decode()
        for file in playground.home(node).glob("state/**/*"):
            if file.is_file():
                told[str(file)] = file.read_text(errors="replace")
    for words in ("ls", "nodes", f"show {moved.dataset}", "events"):
        told[f"drover {words} --json"] = cluster.drover(*words.split(), "--json").stdout
    config = str(playground.home("node-a") / "agent.toml")
    bundle, log = tmp_path / "bundle.tar.gz", playground.layout.log(playground.settings.machine("node-a"))
    doctor = (DROVER, "doctor", "--config", config, "--log", str(log), "--bundle", str(bundle), "--json")
    told["drover doctor --json"] = playground.exec("node-a", *doctor, check=False, timeout=60).stdout
    with tarfile.open(bundle) as packed:
        for one in packed:
            if (file_ := packed.extractfile(one)) is not None:
                told[f"{one.name} in the bundle"] = file_.read().decode(errors="replace")
    told["etcd"] = str(cluster.entries(""))
    told["spans and logs by OTLP"] = moved.received.text()

    assert [(where, secret) for where, text in told.items() for secret in secrets if secret in text] == []
    assert [where for where, text in told.items() if "PRIVATE KEY" in text] == []
    assert [where for where, text in told.items() if not text and "state/log" not in where] == []


@pytest.mark.long
def test_a_fail_over_is_one_trace_and_fills_the_rest_of_the_dashboard(moved: Moved, tmp_path: Path) -> None:
    cluster, received = moved.cluster, moved.received
    cluster.playground.kill("node-b")
    data = Dataset(cluster, moved.dataset)
    data.active_on("node-a", within=30)
    taken = history(cluster, data.name)[-1]["trace"]
    whole = {("node-a", step) for step in ("Fence", "Failover", "TakeClaim", "Activate", "Publish", "StartWorkload")}
    eventually(lambda: steps(received, taken) >= whole, "the fail-over's arrive", 10)
    tree = the_tree(received, taken, "Fence", "TakeClaim")
    (over,) = [one for one in tree.values() if one.name == "Failover"]
    assert tree[over.parent_span_id].name == "Fence"
    assert {tree[one.parent_span_id].name for one in tree.values() if one.name in ("TakeClaim", "Publish")} == {
        "Failover"
    }
    cluster.playground.start("node-b")
    cluster.until_all_joined()
    none_is_empty(cluster, [query for query in QUERIES if OF_FAIL_OVERS in query], tmp_path / "prometheus")
