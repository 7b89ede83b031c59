"""`drover doctor`: what each check says of which facts, and the verb as a whole."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drover.coordinator.cli.doctor import cluster_checks, etcd_checks, gather, node_checks
from drover.coordinator.cli.doctor.findings import Finding, Severity
from drover.coordinator.cli.doctor.gather import NoNode
from drover.coordinator.cli.picture import Picture, take
from drover.coordinator.etcd_survey import Answering, EtcdFacts, Latency, Listed, NotTold, Numbers, Silent, numbers
from drover.coordinator.examination import (
    BackendState,
    CertificateState,
    CgroupState,
    ClockState,
    DeviceState,
    EtcdAccess,
    Examination,
    WatchdogState,
)
from drover.coordinator.records import Evidence, NodeRecord, Pause, State
from drover.coordinator.secrets import REMOVED, redacted, scrubbed
from tests.unit.cli_world import World, incarnation, world

NOW = datetime.now(UTC)
FAST = Latency(0.002, 0.004)


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    made = world(monkeypatch, capsys)
    made.dataset("notes")
    made.active("notes", "node-a")
    return made


def member(number: int = 1, **changes: object) -> Answering:
    made = Answering(
        f"127.0.0.1:{number}", f"{number}", "c1", "3.5.28", "1", 2, 100, 1 << 20, FAST, FAST, FAST, Numbers(), 10, 77
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def etcd(*members: Answering | Silent, alarms: tuple[str, ...] = ()) -> EtcdFacts:
    listed = tuple(Listed(str(n), f"etcd-{n}", (), ()) for n in range(1, len(members) + 1))
    return EtcdFacts(members, listed, alarms, secure=False)


THREE = etcd(member(1), member(2), member(3))


def worst(findings: list[Finding]) -> tuple[str, str]:
    one = max(findings, key=lambda it: it.severity)
    return one.severity.name.lower(), one.what


def said_of_etcd(facts: EtcdFacts) -> tuple[str, str]:
    return worst([it for check in etcd_checks.CHECKS for it in check(facts)])


def test_of_three_members_that_are_well_nothing_is_said_but_that_they_are() -> None:
    assert {it.severity for check in etcd_checks.CHECKS for it in check(THREE)} == {Severity.OK}


@pytest.mark.parametrize(
    ("facts", "severity", "words"),
    [
        (etcd(Silent("a:1", "refused")), "failing", "no member answers"),
        (etcd(member(1), member(2), Silent("a:3", "refused")), "warning", "a:3 does not answer"),
        (etcd(member(1), Silent("a:2", "x"), Silent("a:3", "x")), "failing", "does not answer"),
        (etcd(member(1, leader=""), member(2, leader="")), "failing", "no leader"),
        (etcd(member(1), member(2, leader="2"), member(3)), "failing", "agree on a leader"),
        (etcd(member(1), member(2, cluster="other"), member(3)), "failing", "different etcd clusters"),
        (etcd(member(1)), "note", "one member"),
        (etcd(member(1, version="3.5.1"), member(2), member(3)), "failing", "can lose committed data"),
        (etcd(member(1, version="3.4.23"), member(2), member(3)), "warning", "known bugs"),
        (etcd(member(1, hash=1), member(2), member(3)), "failing", "hold different data"),
        (etcd(member(1, hash=NotTold("denied")), member(2), member(3)), "note", "not compared"),
        (etcd(member(1, write=Latency(0.2, 0.3)), member(2), member(3)), "warning", "a write 200.0 ms"),
        (etcd(member(1, write=Latency(0.6, 0.9)), member(2), member(3)), "failing", "a write 600.0 ms"),
        (etcd(member(1, numbers=Numbers(fsync=0.064)), member(2), member(3)), "note", "up to 64 ms"),
        (etcd(member(1, size=1800 << 20), member(2), member(3)), "warning", "1800 MiB of 2 GiB"),
        (etcd(member(1, size=99, numbers=Numbers(quota=100)), member(2), member(3)), "failing", "0 MiB of"),
        (etcd(member(1, revision=2_000_000), member(2), member(3)), "warning", "nobody compacts"),
        (etcd(member(1), member(2), member(3), alarms=("NOSPACE etcd-1",)), "failing", "NOSPACE etcd-1"),
        (etcd(member(1, address="10.0.0.1:2379"), member(2), member(3)), "warning", "without TLS"),
    ],
)
def test_what_is_wrong_with_etcd_is_said_as_badly_as_it_is(facts: EtcdFacts, severity: str, words: str) -> None:
    found = said_of_etcd(facts)
    assert found[0] == severity
    assert words in found[1]


def test_members_that_have_compacted_differently_are_not_called_corrupt() -> None:
    assert etcd_checks.agreement(etcd(member(1, hash=1, compacted=5), member(2)))[0].severity is Severity.OK


def test_etcds_own_numbers_are_read() -> None:
    page = (
        "# TYPE etcd_disk_wal_fsync_duration_seconds histogram\n"
        'etcd_disk_wal_fsync_duration_seconds_bucket{le="0.008"} 98\n'
        'etcd_disk_wal_fsync_duration_seconds_bucket{le="0.016"} 100\n'
        'etcd_disk_wal_fsync_duration_seconds_bucket{le="+Inf"} 100\n'
        "etcd_disk_wal_fsync_duration_seconds_count 100\n"
        "# TYPE etcd_server_quota_backend_bytes gauge\netcd_server_quota_backend_bytes 8.589934592e+09\n"
    )
    assert numbers(page) == Numbers(quota=8 << 30, fsync=0.016)


# The cluster.


def seen(w: World) -> Picture:
    return asyncio.run(take(w.store, w.keys))


def said_of_cluster(w: World) -> list[str]:
    findings = [it for check in cluster_checks.CHECKS for it in check(seen(w), datetime.now(UTC))]
    return [f"{it.severity.name.lower()} {it.what}" for it in findings if it.severity > Severity.OK]


def test_of_a_cluster_that_is_well_nothing_is_said(w: World) -> None:
    assert said_of_cluster(w) == []


def test_a_silent_node_a_fenced_one_and_their_datasets_are_told(w: World) -> None:
    w.silent("node-b")
    w.fence("node-a")
    told = "\n".join(said_of_cluster(w))
    assert "failing node-b is silent" in told
    assert "warning node-a is fenced (silence); it has notes" in told
    assert "failing notes is waiting" in told


def test_a_fence_that_proves_nothing_is_told_with_the_dataset_that_waits(w: World) -> None:
    w.tenure("notes", "node-b", 2, State.ASSIGNED, unfenced=(w.holder("node-a"),))
    w.fence("node-a", Evidence.SILENCE, armed=False)
    found = cluster_checks.fences(seen(w), NOW)
    assert found[0].todo.endswith(f"drover fence {incarnation('node-a')} --confirm")


def test_a_fail_over_that_would_need_a_person_or_has_nowhere_to_go_is_told_before_it_is_needed(w: World) -> None:
    w.dataset("notes", '{"backend": "loopback", "size": "1GiB", "failover": ["node-z"]}')
    told = "\n".join(said_of_cluster(w))
    assert "warning notes would wait for a person" in told
    assert "warning notes has no other node to fail over to" in told


def test_deadlines_and_versions_that_differ_are_told(w: World) -> None:
    w.beat("node-b", d_hard=28)
    record = NodeRecord(incarnation=incarnation("node-c"), machine="m", boot="b", lease=1, version="0.2.0")
    w.put(w.keys.node("node-c"), record)
    told = "\n".join(said_of_cluster(w))
    assert "note deadlines (D_hard) differ: node-a 0.4 s, node-b 28 s" in told
    assert "note agents differ: node-a 0.1.0, node-b 0.1.0 and node-c 0.2.0" in told


@pytest.mark.parametrize(("left", "words"), [(60, "paused by ann"), (-60, "it is over")])
def test_a_pause_is_told_and_one_that_nobody_ended_too(w: World, left: int, words: str) -> None:
    w.put(w.keys.pause, Pause(until=NOW + timedelta(seconds=left), by="ann"))
    assert words in "\n".join(said_of_cluster(w))


def test_a_time_from_the_future_tells_of_a_clock_that_is_wrong(w: World) -> None:
    record = NodeRecord(
        incarnation=incarnation("node-c"), machine="m", boot="b", lease=1, joined=(NOW + timedelta(hours=1)).isoformat()
    )
    w.put(w.keys.node("node-c"), record)
    assert any("written about node-c lie in the future" in it for it in said_of_cluster(w))


def test_data_that_nobody_uses_is_told(w: World) -> None:
    w.tenure("old", "node-a", 3, State.RELEASED, uid="beef")
    w.trash("gone")
    told = "\n".join(said_of_cluster(w))
    assert "note removed, data kept: old" in told
    assert "destroyed within a day" in told or "gone" not in told


def test_the_values_of_keys_that_cannot_be_used_are_not_told(w: World) -> None:
    w.put(w.keys.workload("web"), "hunter2-is-no-json")
    told = "\n".join(said_of_cluster(w))
    assert "workloads/web" in told
    assert "hunter2" not in told


# The node.


def shown(**changes: object) -> CertificateState:
    made = CertificateState(setting="tls.cert", file="/etc/node.crt", role="node", name="node-a", left=1e7)
    return made.model_copy(update=changes)


WELL = Examination(
    node="node-a",
    version="0.1.0",
    root=True,
    prefix="/drover",
    etcd=EtcdAccess(endpoints=("http://127.0.0.1:2379",)),
    running=True,
    ready={},
    memory=("run_dir",),
    clock=ClockState(synchronised=True, ppm=12.0),
    reset="/dev/watchdog",
    watchdog=WatchdogState(path="/dev/watchdog", there=True, held_by=("drover-guard (3)",)),
    cgroups=CgroupState(root="/sys/fs/cgroup/drover", datasets={"notes": True}),
    certificates=(shown(), shown(setting="etcd.tls.cert", role="operator", name="other")),
    backends={"loopback": BackendState(size=100, free=50)},
    mounts=("/srv/drover/notes",),
)


def said_of_node(w: World, **changes: object) -> list[str]:
    it = WELL.model_copy(update=changes)
    findings = [found for check in node_checks.CHECKS for found in check(it, seen(w))]
    return [f"{one.severity.name.lower()} {one.what}" for one in findings if one.severity > Severity.OK]


@pytest.fixture
def armed(w: World) -> World:
    heartbeat = seen(w).nodes["node-a"].heartbeat
    assert heartbeat
    w.put(w.keys.heartbeat("node-a"), heartbeat.model_copy(update={"armed": True}))
    return w


def test_of_a_node_that_is_well_nothing_is_said(armed: World) -> None:
    assert said_of_node(armed) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"running": False}, "failing no agent of node-a runs here"),
        ({"ready": {"etcd": "etcd does not answer"}}, "failing etcd: etcd does not answer"),
        ({"backends": {"loopback": BackendState(wrong="directory missing")}}, "failing loopback: directory missing"),
        ({"backends": {"loopback": BackendState(size=100, free=3)}}, "failing loopback: its pool is 97 % full"),
        ({"backends": {}}, "warning this node has none"),
        ({"clock": ClockState(synchronised=False, ppm=0, kept_by=("chronyd",))}, "warning its time of day is not"),
        ({"clock": ClockState(synchronised=True, ppm=-12000)}, "failing it runs wrong by 12,000"),
        ({"cgroups": CgroupState(wrong="no cgroup v2")}, "failing no cgroup v2"),
        ({"cgroups": CgroupState(root="/c", datasets={"mail": True})}, "warning processes run for mail"),
        ({"cgroups": CgroupState(root="/c", datasets={"mail": False})}, "note an empty cgroup of mail"),
        ({"reset": "none"}, "note nothing resets this machine"),
        ({"watchdog": WatchdogState(path="/dev/watchdog", there=False)}, "failing there is no watchdog"),
        ({"watchdog": WatchdogState(path="/dev/watchdog", there=True)}, "failing nobody has /dev/watchdog open"),
        ({"plain": ("10.0.0.1:7470",)}, "warning the agent answers without TLS at 10.0.0.1"),
        ({"certificates": (shown(left=-1.0),)}, "failing /etc/node.crt (tls.cert) has expired"),
        ({"certificates": (shown(due=True),)}, "warning /etc/node.crt (tls.cert) expires soon"),
        ({"certificates": (shown(name="node-b"),)}, "failing /etc/node.crt (tls.cert) is that of node node-b"),
        ({"certificates": (shown(role="observer"),)}, "failing /etc/node.crt (tls.cert) is that of observer node-a"),
        ({"certificates": (shown(role="", name=""),)}, "failing /etc/node.crt (tls.cert) is nobody's"),
        ({"certificates": (shown(wrong="/etc/node.crt cannot be read"),)}, "failing /etc/node.crt cannot be read"),
        ({"taken": ("127.0.0.1:7470",)}, "failing something else listens on 127.0.0.1:7470"),
        ({"memory": ()}, "warning run_dir survives a reboot"),
        ({"memory": ("run_dir", "state_dir")}, "warning state_dir does not survive"),
        ({"devices": (DeviceState(device="/dev/loop7", backing="/b/beef.img"),)}, "warning /dev/loop7 on /b/beef.img"),
        ({"mounts": ("/srv/drover/mail",)}, "warning /srv/drover/mail is mounted"),
        ({"loose": ("/b/x.img",)}, "note no record says whose these are: /b/x.img"),
        ({"unknown": {"devices": "Permission denied"}}, "note could not be looked at: Permission denied"),
    ],
)
def test_what_is_wrong_with_a_node_is_said_as_badly_as_it_is(
    armed: World, changes: dict[str, object], words: str
) -> None:
    assert any(it.startswith(words) for it in said_of_node(armed, **changes)), said_of_node(armed, **changes)


def test_a_guard_that_should_be_armed_and_does_not_say_so_is_failing(w: World) -> None:
    assert "failing its heartbeats do not say that a reset is armed" in said_of_node(w)


# The verb.


@pytest.fixture
def asked(w: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """etcd is well, and this machine is no node."""

    async def survey(*_: object) -> EtcdFacts:
        return THREE

    monkeypatch.setattr(gather, "survey", survey)
    monkeypatch.setattr("drover.coordinator.cli.doctor.doctor.examined", lambda _: NoNode("this machine is no node"))
    return w


def test_doctor_ends_with_0_where_nothing_fails_and_says_what_it_could_not_look_at(asked: World) -> None:
    ran = asked.drover("doctor")
    assert ran.code == 0
    assert "this machine is no node" in ran.out


def test_doctor_ends_with_1_where_something_fails_the_worst_first(asked: World) -> None:
    asked.silent("node-b")
    ran = asked.drover("doctor", "--json")
    assert ran.code == 1
    assert ran.json["failing"] is True
    assert ran.json["findings"][0]["severity"] == "failing"
    assert ran.json["findings"][0]["what"].startswith("node-b is silent")


def test_doctor_goes_on_without_etcd(asked: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def survey(*_: object) -> EtcdFacts:
        return etcd(Silent("127.0.0.1:1", "refused"))

    monkeypatch.setattr(gather, "survey", survey)
    asked.store.disconnect()
    ran = asked.drover("doctor")
    assert ran.code == 1
    assert "no member answers" in ran.out
    assert "its keys could not be read" in ran.out


# The report for support.

SECRET = "hunter2-correct-horse"


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET}",
        f'{{"api_key": "{SECRET}"}}',
        f"Authorization: Bearer {SECRET}",
        f"postgres://me:{SECRET}@host/db",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"--db-password '{SECRET}' --token={SECRET}".replace("-password '", "-password='"),
    ],
)
def test_what_looks_like_a_secret_is_removed_from_text(text: str) -> None:
    assert SECRET not in scrubbed(text)


def test_fields_are_removed_by_their_names_and_names_of_files_are_kept() -> None:
    told = redacted({"password": "x", "password_file": "/etc/p", "a": [{"secret_key": "y", "size": 3}]})
    assert told == {"password": REMOVED, "password_file": "/etc/p", "a": [{"secret_key": REMOVED, "size": 3}]}


@pytest.mark.parametrize("name", ["report.tar.gz", "report.tar.zst"])
def test_no_secret_gets_into_the_report_wherever_it_stood(
    asked: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("ETCDCTL_PASSWORD", "etcds-own-" + SECRET)
    asked.put(
        asked.keys.workload("web"),
        f'{{"command": ["run", "--with", "{SECRET}"], "datasets": ["notes"], "environment": {{"X": "{SECRET}2"}}}}',
    )
    asked.put(asked.keys.workload("bad"), f'{{"command": ["{SECRET}3"')
    asked.put(asked.keys.dataset("bad"), f'{{"password": "{SECRET}4"}}')
    asked.dataset("mail", f'{{"backend": "loopback", "size": "1GiB", "labels": {{"token": "{SECRET}5"}}}}')
    log = tmp_path / "agent.log"
    log.write_text(f"started with {SECRET}\npassword: {SECRET}6\nenvironment X={SECRET}2\n")
    key = tmp_path / "node.key"
    key.write_text(f"-----BEGIN PRIVATE KEY-----\n{SECRET}7\n-----END PRIVATE KEY-----\n")
    node = WELL.model_copy(
        update={
            "settings": {"backends": {"far": {"secret": SECRET + "8", "url": f"https://me:{SECRET}9@host"}}},
            "etcd": EtcdAccess(endpoints=("http://127.0.0.1:1",), key=str(key)),
        }
    )
    monkeypatch.setattr("drover.coordinator.cli.doctor.doctor.examined", lambda _: node)
    file = tmp_path / name
    assert asked.drover("doctor", "--bundle", str(file), "--log", str(log)).code in (0, 1)
    assert file.stat().st_mode & 0o777 == 0o600
    texts = unpacked(file)
    assert set(texts) == {
        "findings.json",
        "versions.json",
        "etcd.json",
        "node.json",
        "keys.json",
        "agent.log",
        "metrics.txt",
    }
    assert "notes" in texts["keys.json"]
    assert "started with" in texts["agent.log"]
    for which, text in texts.items():
        assert "hunter2" not in text, which


def unpacked(file: Path) -> dict[str, str]:
    raw = file.read_bytes()
    if file.suffix == ".zst":
        import subprocess

        raw = subprocess.run(["zstd", "-dcq"], input=raw, capture_output=True, check=True, timeout=20).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        read = {Path(it.name).name: tar.extractfile(it) for it in tar.getmembers()}
        return {name: text.read().decode() for name, text in read.items() if text}


def test_a_report_never_overwrites_a_file(asked: World, tmp_path: Path) -> None:
    file = tmp_path / "report.tar.gz"
    file.write_text("mine")
    assert asked.drover("doctor", "--bundle", str(file)).code == 3
    assert file.read_text() == "mine"
    assert asked.drover("doctor", "--bundle", str(tmp_path / "report.zip")).code == 2
