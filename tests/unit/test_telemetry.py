"""Metrics as Prometheus reads them, and logs as systemd does. A real scrape is in tests/contract/test_api.py."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from drover.agent import logs
from drover.agent.metrics import METRICS
from drover.agent.sight import age, age_limit
from drover.agent.storage.base import Capacity, Usage
from drover.agent.telemetry import Gauges, Telemetry
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.records import Copies, Copy, Evidence, State, Tenure
from drover.coordinator.specs import DatasetSpec

NOW = Gauges()
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry("node-a")
    yield telemetry
    telemetry.close()


def scraped(telemetry: Telemetry, gauges: Gauges = NOW) -> Samples:
    families = text_string_to_metric_families(telemetry.text(gauges).decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def sample(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def use_everything(telemetry: Telemetry) -> Gauges:
    telemetry.moved(0.2)
    telemetry.move_failed()
    telemetry.failed_over(Evidence.SILENCE)
    telemetry.heartbeat("ok", 0.004)
    telemetry.heartbeat("failed", 1.0)
    telemetry.session_lost("fenced")
    telemetry.step("mount", "ok", 0.03)
    telemetry.ignored("desired")
    telemetry.workload_restarted()
    telemetry.certificate("etcd", lambda: time.time() + 1000)
    telemetry.client_gap(0.7)
    telemetry.failover_gap(6.5)
    telemetry.watch_lag(0.002)
    telemetry.sent("btrfs", "move", 4096)
    telemetry.round_sent("btrfs", "move", "ok")
    telemetry.resumed("btrfs", "move")
    with telemetry.etcd_call("txn"):
        pass
    counts = {("active", "loopback"): 3, ("waiting", "loopback"): 1}
    return Gauges(
        datasets=counts,
        held={("active", "loopback"): 2},
        unowned=1,
        move_wait=12.0,
        margin=3.5,
        soft=4.5,
        healthy={"etcd": True, "backend.loopback": False},
        connected=True,
        guard=True,
        mounts={"pgdata": lambda: Usage(size=100, used=60, inodes=10, inodes_used=4, free=35)},
        pools={"loopback": Capacity(1000, 200, 50, 20), "boundless": Capacity(None, None)},
        looks={"loopback": 7},
        speeds={"pgdata": 2e6},
        ages={"pgdata": (12.0, 60.0)},
        piling_up=True,
        known_bugs=6,
        went_back=True,
        paused=True,
    )


def test_the_metrics_have_exactly_the_documented_names_kinds_and_labels(telemetry: Telemetry) -> None:
    text = telemetry.text(use_everything(telemetry)).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families.pop("target_info").samples[0].labels["service_instance_id"] == "node-a"
    shown = {
        (
            f"{name}_total" if family.type == "counter" else name,
            family.type,
            frozenset(label for sample in family.samples for label in sample.labels) - {"le"},
        )
        for name, family in families.items()
    }
    assert shown == {(metric.name, metric.kind, frozenset(metric.labels)) for metric in METRICS}
    assert {family.documentation for family in families.values()} == {metric.help for metric in METRICS}


def test_each_sample_says_what_happened(telemetry: Telemetry) -> None:
    samples = scraped(telemetry, use_everything(telemetry))
    assert sample(samples, "drover_moves_total", outcome="ok") == 1
    assert sample(samples, "drover_moves_total", outcome="failed") == 1
    assert sample(samples, "drover_move_cutover_seconds_sum") == pytest.approx(0.2)
    assert sample(samples, "drover_move_cutover_seconds_bucket", le="0.1") == 0
    assert sample(samples, "drover_move_cutover_seconds_bucket", le="0.25") == 1
    assert sample(samples, "drover_failovers_total", evidence="silence") == 1
    assert sample(samples, "drover_heartbeats_total", outcome="failed") == 1
    assert sample(samples, "drover_heartbeat_seconds_count") == 1, "a heartbeat without an answer has no round trip"
    assert sample(samples, "drover_session_losses_total", reason="fenced") == 1
    assert sample(samples, "drover_steps_total", step="mount", outcome="ok") == 1
    assert sample(samples, "drover_step_seconds_sum", step="mount") == pytest.approx(0.03)
    assert sample(samples, "drover_ignored_input_total", kind="desired") == 1
    assert sample(samples, "drover_backend_looks_total", backend="loopback") == 7
    assert sample(samples, "drover_etcd_history_piling_up") == 1
    assert sample(samples, "drover_etcd_known_bugs") == 6
    assert sample(samples, "drover_etcd_went_back") == 1
    assert sample(samples, "drover_paused") == 1
    assert 900 < sample(samples, "drover_certificate_expiry_seconds", certificate="etcd") <= 1000
    assert sample(samples, "drover_workload_restarts_total") == 1
    assert sample(samples, "drover_datasets", phase="active", backend="loopback") == 3
    assert sample(samples, "drover_deadline_margin_seconds") == 3.5
    assert sample(samples, "drover_etcd_connected") == 1
    assert sample(samples, "drover_datasets_held", phase="active", backend="loopback") == 2
    assert sample(samples, "drover_datasets_unowned") == 1
    assert sample(samples, "drover_move_wait_seconds") == 12
    assert sample(samples, "drover_move_client_gap_seconds_sum") == pytest.approx(0.7)
    assert sample(samples, "drover_failover_gap_seconds_bucket", le="7.0") == 1
    assert sample(samples, "drover_etcd_watch_lag_seconds_count") == 1
    assert sample(samples, "drover_etcd_request_seconds_count", call="txn", outcome="ok") == 1
    assert sample(samples, "drover_healthy", part="backend.loopback") == 0
    assert sample(samples, "drover_guard_answers") == 1
    assert sample(samples, "drover_gate_open") == 0
    assert sample(samples, "drover_dataset_used_bytes", dataset="pgdata") == 60
    assert sample(samples, "drover_dataset_free_bytes", dataset="pgdata") == 35
    assert sample(samples, "drover_dataset_inodes_used", dataset="pgdata") == 4
    assert sample(samples, "drover_dataset_inodes_free", dataset="pgdata") == 6
    assert sample(samples, "drover_pool_size_bytes", backend="loopback") == 1000
    assert sample(samples, "drover_pool_inodes_free", backend="loopback") == 20
    assert sample(samples, "drover_transfer_sent_bytes_total", backend="btrfs", purpose="move") == 4096
    assert sample(samples, "drover_transfer_bytes_per_second", dataset="pgdata") == 2e6
    assert sample(samples, "drover_replica_age_seconds", dataset="pgdata") == 12
    assert sample(samples, "drover_replica_age_limit_seconds", dataset="pgdata") == 60
    assert ("drover_pool_size_bytes", frozenset({("backend", "boundless")})) not in samples


def test_a_copy_is_as_old_as_what_it_holds_and_where_there_is_none_the_epoch_counts() -> None:
    began = datetime.fromtimestamp(time.time() - 100, UTC).isoformat()
    mine = Tenure(
        node="a",
        incarnation="a.1.1",
        epoch=2,
        state=State.ACTIVE,
        uid="u",
        created=1,
        backend="btrfs",
        txn="1",
        since=began,
    )
    assert 100 <= age(Dataset("pgdata", tenure=mine), mine) < 110
    taken = {node: time.clock_gettime(time.CLOCK_BOOTTIME) - seconds for node, seconds in (("b", 7.0), ("c", 30.0))}
    copies = Copies(epoch=2, uid="u", nodes={node: Copy(guid=node, name=node, taken=at) for node, at in taken.items()})
    assert 7 <= age(Dataset("pgdata", tenure=mine, copies=copies), mine) < 17
    earlier = copies.model_copy(update={"epoch": 1})
    assert age(Dataset("pgdata", tenure=mine, copies=earlier), mine) >= 100, "of an earlier epoch it means nothing"


def test_a_copy_may_be_as_old_as_the_spec_says_else_some_intervals() -> None:
    spec = DatasetSpec(backend="btrfs", size=1 << 30, replicas=1, replicate_every=60)
    assert age_limit(spec) == 600
    assert age_limit(spec.model_copy(update={"replicate_every": 5})) == 300
    assert age_limit(spec.model_copy(update={"max_data_loss": 90.0})) == 90


def test_a_call_to_etcd_that_fails_is_told_apart(telemetry: Telemetry) -> None:
    with pytest.raises(TimeoutError), telemetry.etcd_call("range"):
        raise TimeoutError
    count = sample(scraped(telemetry), "drover_etcd_request_seconds_count", call="range", outcome="failed")
    assert count == 1


def test_a_gauge_forgets_what_is_no_longer_so(telemetry: Telemetry) -> None:
    scraped(telemetry, Gauges(datasets={("active", "loopback"): 3}, margin=3.5, connected=True))
    samples = scraped(telemetry, Gauges(datasets={("waiting", "loopback"): 3}, margin=-1.0, connected=False))
    assert [labels for name, labels in samples if name == "drover_datasets"] == [
        frozenset({("phase", "waiting"), ("backend", "loopback")})
    ]
    assert sample(samples, "drover_deadline_margin_seconds") == -1.0
    assert sample(samples, "drover_etcd_connected") == 0


def test_two_agents_in_one_process_count_apart(telemetry: Telemetry) -> None:
    other = Telemetry("node-b")
    try:
        telemetry.workload_restarted()
        assert sample(scraped(telemetry), "drover_workload_restarts_total") == 1
        assert sample(scraped(other), "drover_workload_restarts_total") == 0
    finally:
        other.close()


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """As it is now, also afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("root_logger")
def test_a_record_is_one_line_with_time_level_and_logger(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("info")
    logging.getLogger("drover.agent.worker").info("pgdata: mounted\nat /srv")
    line = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    drover\.agent\.worker: pgdata: mounted \| at /srv\n"
    assert re.fullmatch(line, capsys.readouterr().err)


@pytest.mark.usefixtures("root_logger")
def test_a_traceback_stays_on_its_records_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("info")
    try:
        raise OSError("gone")
    except OSError:
        logging.getLogger("drover").exception("failed")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "failed | Traceback" in said
    assert said.endswith("OSError: gone\n")


@pytest.mark.usefixtures("root_logger")
def test_libraries_are_quiet_below_warning_even_when_drover_debugs(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("debug")
    logging.getLogger("grpc.aio").info("chatter")
    logging.getLogger("asyncio").warning("slow callback")
    logging.getLogger("drover.coordinator").debug("detail")
    said = capsys.readouterr().err
    assert "chatter" not in said
    assert "slow callback" in said
    assert "detail" in said
