"""Real agents on a real etcd, with whatever anybody may put there or send them: none ends, and a healthy dataset stays
where it is and is written to."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drover.coordinator.cli.playground.layout import GRPC_PORT
from drover.coordinator.keys import Kind
from tests.cluster.cluster import ROOT, Cluster
from tests.unit.test_fuzz import HUGE, anything, nearly
from tests.unit.test_fuzz_peers import EXPECTED, METHODS, answered, messages

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("fuzzed"),
]

THEIRS = [Kind.DATASETS, Kind.DESIRED, Kind.WORKLOADS, Kind.CORDONS, Kind.TRASH, Kind.ASKED, Kind.STATUS, Kind.HISTORY]
"""Kinds of keys that people put, and those that nothing rests on."""
many = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
names = st.sampled_from([b"x", b"y", b"", b"node-a", b"a/b", b"\xff\xfe", b"n" * 300]) | st.binary(max_size=12)
values = st.binary(max_size=60) | anything.map(lambda v: json.dumps(v).encode(errors="surrogatepass")) | nearly()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(autouse=True)
def agents_live(cluster: Cluster) -> Iterator[None]:
    pids = [cluster.playground.service_pid(node) for node in cluster.playground.nodes]
    yield
    assert [cluster.playground.service_pid(node) for node in cluster.playground.nodes] == pids
    assert all("gate closed" not in cluster.log(node) for node in cluster.playground.nodes)


def test_whatever_is_put_under_users_keys_no_agent_ends_and_a_healthy_dataset_stays(cluster: Cluster) -> None:
    healthy = cluster.dataset(on="node-a")
    writer = cluster.writer(healthy)
    put: set[bytes] = set()

    @many
    @given(st.lists(st.tuples(st.sampled_from(THEIRS), names, values | st.sampled_from(HUGE)), min_size=1, max_size=6))
    def whatever(junk: list[tuple[Kind, bytes, bytes]]) -> None:
        for kind, name, value in junk:
            key = f"{ROOT}{kind}/".encode() + name
            put.add(key)
            cluster.ask("kv/put", {"key": text(key), "value": text(value)})

    try:
        whatever()
        cluster.ask("kv/put", {"key": text(f"{ROOT}desired/{healthy.name}".encode()), "value": text(b"\xff no node")})
        writer.goes_on("node-a", records=50)
        assert healthy.epoch == 1
    finally:
        for key in put:
            cluster.ask("kv/deleterange", {"key": text(key)})
    cluster.move(healthy, "node-b")
    healthy.active_on("node-b")
    writer.goes_on("node-b")


def whatever_is_answered(channel: grpc.Channel, method: Any) -> None:
    @many
    @given(messages(method.input_type))
    def one(request: Any) -> None:
        assert answered(channel, method, request) in EXPECTED

    one()


def test_whatever_well_formed_request_comes_to_a_real_agent_it_is_answered_and_writing_goes_on(
    cluster: Cluster,
) -> None:
    healthy = cluster.dataset(on="node-a")
    writer = cluster.writer(healthy)
    with grpc.insecure_channel(f"{cluster.playground.address('node-a')}:{GRPC_PORT}") as channel:
        for method in METHODS:
            whatever_is_answered(channel, method)
    writer.goes_on("node-a", records=50)
    assert healthy.epoch == 1
