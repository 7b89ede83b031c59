"""`drover doctor` on a real etcd and a real machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drover.agent.alone import alone
from drover.agent.api import http
from drover.agent.config import load
from drover.agent.examine import examine
from drover.agent.telemetry import Telemetry
from drover.coordinator.etcd_survey import Answering, Latency, NotTold, Silent, survey
from drover.coordinator.examination import Examination
from drover.coordinator.identity import Peer, Role
from tests.certificates import Certificates
from tests.contract.test_api import FakeSource
from tests.etcd import EtcdCluster

DROVER = str(Path(sys.executable).with_name("drover"))
AGENT = str(Path(sys.executable).with_name("drover-agent"))


async def test_a_real_etcd_is_timed_measured_and_compared_and_nothing_is_changed(etcd_one: EtcdCluster) -> None:
    etcd_member = etcd_one.members[0]
    before = etcd_member.ask("/v3/kv/range", {"key": "AA=="})["header"]["revision"]
    facts = await survey([etcd_member.endpoint, "127.0.0.1:1"], None, None, "/doctor/cluster")
    told, away = facts.members
    assert isinstance(told, Answering)
    assert isinstance(away, Silent)
    assert isinstance(told.write, Latency)
    assert isinstance(told.linearizable, Latency)
    assert 0 < told.write.median < 2
    assert isinstance(told.hash, int)
    assert told.size > 0
    assert not isinstance(told.numbers, NotTold)
    assert told.numbers.quota
    assert facts.alarms == ()
    assert etcd_member.ask("/v3/kv/range", {"key": "AA=="})["header"]["revision"] == before


async def test_three_members_hold_the_same_and_one_that_is_frozen_is_told() -> None:
    with EtcdCluster(3) as cluster:
        endpoints = [member.endpoint for member in cluster.members]
        facts = await survey(endpoints, None, None, "/doctor/cluster")
        hashes = {member.hash for member in facts.answering}
        assert len(facts.answering) == 3
        assert len(hashes) == 1
        cluster.members[0].freeze()
        try:
            facts = await survey(endpoints, None, None, "/doctor/cluster", timeout=1.0)
        finally:
            cluster.members[0].thaw()
        assert [type(member) for member in facts.members].count(Silent) == 1


def test_a_machine_is_examined_without_etcd_and_an_agent(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "stray.img").write_bytes(b"")
    config = tmp_path / "agent.toml"
    config.write_text(
        f'node = "node-a"\nmachine_id = "m"\nrun_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"\n'
        f'[etcd]\nendpoints = ["http://127.0.0.1:1"]\n[backends.loopback]\ndirectory = "{images}"\n'
        f'[listen]\ngrpc = "127.0.0.1:0"\nhttp = "127.0.0.1:0"\n'
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith(("DROVER_", "ETCDCTL_"))}
    done = subprocess.run(
        [AGENT, "examine", "--config", str(config)], capture_output=True, text=True, timeout=60, check=True, env=own
    )
    found = Examination.decode(done.stdout.encode())
    assert found.backends["loopback"].wrong == ""
    assert found.backends["loopback"].free
    assert found.loose == (f"{images}/stray.img",)
    assert found.clock is not None
    assert found.cgroups is not None
    assert found.cgroups.root
    assert not found.running
    told = subprocess.run(
        [DROVER, "doctor", "--json", "--config", str(config)], capture_output=True, text=True, timeout=60, env=own
    )
    assert told.returncode == 1
    said = json.loads(told.stdout)
    assert said["node"] == "node-a"
    texts = [finding["what"] for finding in said["findings"]]
    assert any("no member answers" in text for text in texts)
    assert any("no agent of node-a runs here" in text for text in texts)
    assert any("stray.img" in text for text in texts)


@pytest.mark.parametrize("clients", ["certificate", "any", "plain"])
async def test_an_agent_with_certificates_is_asked_how_it_is_and_what_they_say_is_told(
    tmp_path: Path, clients: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates = Certificates.make(tmp_path / "pki")
    certificates.put("node-a", certificates.authority.issue(Peer("node-a", Role.NODE), ["127.0.0.1"], days=1))
    files = certificates.files("node-a")
    source, telemetry = FakeSource(), Telemetry("node-a")
    source.wrong["etcd"] = "it does not answer"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # for the world outside
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    secured = None if clients == "plain" else files
    async with http.serving(source, telemetry, "127.0.0.1:0", secured, clients == "any") as port:
        told = {
            "machine_id": "m",
            "run_dir": f"{tmp_path}/run",
            "listen.http": f"127.0.0.1:{port}",
            "listen.http_clients": clients,
            "tls.ca": files.ca,
            "tls.cert": files.cert,
            "tls.key": files.key,
        }
        flags = [word for key, value in told.items() for word in ("--set", f"{key}={value}")]
        settings = load(["--node", "node-a", *flags], {})
        with alone(settings.run_dir):
            found = await examine(settings)
        files.cert.write_text("torn")
        torn = await examine(settings)
    telemetry.close()
    assert found.ready == {"etcd": "it does not answer"}, found.unknown
    assert "drover_deadline_margin_seconds" in found.metrics
    ca, cert = found.certificates
    assert (ca.setting, ca.role, ca.due, ca.wrong) == ("tls.ca", "", False, "")
    assert (cert.setting, cert.role, cert.name, cert.wrong) == ("tls.cert", "node", "node-a", "")
    assert 0 < cert.left <= 86400
    assert torn.certificates[1].wrong == f"{files.cert} is no certificate in PEM"
