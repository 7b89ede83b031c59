"""Hostile names at every door change nothing and come back harmless; a password is seen nowhere."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from drover.agent.api import rpc
from drover.agent.api.v1 import drover_pb2, drover_pb2_grpc
from drover.coordinator.cli.errors import ExitCode
from drover.coordinator.cli.main import run
from drover.coordinator.etcd import Etcd
from drover.coordinator.keys import range_end
from drover.coordinator.txn import Put, Txn
from tests.contract.test_api import PGDATA, FakeSource
from tests.etcd import EtcdCluster

HOSTILE = ["", "../x", "a b", "x" * 10_000, "a\nb", "a\x1b[31mb", "\udcff\udcfe", "é"]
VERBS = (
    *(("show",), ("rm",), ("move", "node-a"), ("set", "--size=2GiB"), ("create", "--backend=loopback", "--size=1GiB")),
    *(("cordon",), ("uncordon",), ("drain",), ("fence", "--confirm"), ("undelete",), ("etcd-unit", "--address=::1")),
)


def keys(cluster: EtcdCluster, prefix: str) -> list[str]:
    async def look() -> list[str]:
        async with Etcd(cluster.endpoints) as store:
            return [entry.key for entry in (await store.range(f"{prefix}/", range_end(f"{prefix}/"))).entries]

    return asyncio.run(look())


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_no_verb_takes_a_hostile_name_or_lets_it_reach_the_terminal(
    name: str, etcd_one: EtcdCluster, etcd_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [f"--endpoints={etcd_one.endpoints[0]}", f"--prefix={etcd_prefix}"]
    for verb, *more in VERBS:
        given = [] if verb == "etcd-unit" else where
        assert run([verb, name, *more, *given]) in (
            ExitCode.USAGE,
            ExitCode.FAILED,
            ExitCode.NOT_POSSIBLE,
        ), verb
        said = capsys.readouterr()
        assert all(c.isprintable() or c == "\n" for c in said.out + said.err), verb
        assert "Traceback" not in said.err
    assert keys(etcd_one, etcd_prefix) == []


async def test_hostile_keys_and_values_of_others_are_shown_harmlessly(
    etcd_one: EtcdCluster, etcd_prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Etcd(etcd_one.endpoints) as store:
        for name in HOSTILE:
            for kind in ("datasets", "desired", "owners", "status", "nodes", "fences", "history"):
                await store.txn(Txn((), (Put(f"{etcd_prefix}/{kind}/{name}", b'\xff\xfe{"a": "\x1b[31m'),)))
    where = [f"--endpoints={etcd_one.endpoints[0]}", f"--prefix={etcd_prefix}"]
    for verb in (["ls"], ["nodes"], ["ls", "--json"], ["nodes", "--json"], ["events"]):
        assert await asyncio.to_thread(run, [*verb, *where]) == ExitCode.DONE, verb
        said = capsys.readouterr()
        assert all(c.isprintable() or c == "\n" for c in said.out + said.err), verb


async def test_hostile_requests_over_grpc_are_answered_and_the_next_one_too() -> None:
    source = FakeSource()
    source.put(PGDATA)
    async with rpc.serving(source, "127.0.0.1:0", grace=0) as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            datasets = drover_pb2_grpc.DatasetsStub(channel)
            sayable = [name for name in HOSTILE if name and name.isascii()]
            answer = await datasets.List(drover_pb2.ListRequest(names=sayable), timeout=5)
            assert list(answer.datasets) == []
            health: Any = health_pb2_grpc.HealthStub(channel)
            for name in sayable:
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
                assert error.value.code() is grpc.StatusCode.NOT_FOUND or len(name) > 8000
            raw: Any = channel.unary_unary("/drover.v1.Datasets/List")
            for request in (b"\x0a\x02\xff\xfe", b"\xff" * 10_000):
                with pytest.raises(grpc.aio.AioRpcError):
                    await raw(request, timeout=5)
            assert len((await datasets.List(drover_pb2.ListRequest(), timeout=5)).datasets) == 1


def test_a_password_is_in_no_error_whatever_is_asked(
    etcd_one: EtcdCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ETCDCTL_USER", "ann:hunter-two")
    there, nowhere = (f"--endpoints={endpoint}" for endpoint in (etcd_one.endpoints[0], "127.0.0.1:1"))
    for words in (["ls", there], ["show", "x", "--json", there], ["etcd-roles", "--dry-run", there], ["ls", nowhere]):
        run(words)
        said = capsys.readouterr()
        assert "hunter-two" not in said.out + said.err
