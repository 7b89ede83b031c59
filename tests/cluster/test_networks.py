"""What goes over which network: everything over IPv6 where there is nothing else, and data over its own."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from drover.coordinator.addresses import joined
from drover.coordinator.cli.playground import tools
from drover.coordinator.cli.playground.layout import DATA_PORT, GRPC_PORT, HTTP_PORT
from tests.cluster.cluster import Cluster
from tests.playground import Playground

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("networks")]

MIB = 1 << 20
_STORAGE = {"node-a": "fd00:5709:a9e::a", "node-b": "fd00:5709:a9e::b"}
_COUNTS = """
table inet count {
    counter data { }
    chain in { type filter hook input priority 0; iifname "eth0" tcp dport DATA counter name data; }
    chain out { type filter hook output priority 0; oifname "eth0" tcp dport DATA counter name data; }
}
"""


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes and a member with addresses of IPv6 only, and a second network for data between the nodes."""
    directory = tmp_path_factory.mktemp("networks") / "pg"
    with Playground(directory, nodes=2, etcd=1, etcd_fast=True, agents=False, btrfs=True, ipv6=True) as playground:
        a, b = (playground.layout.netns(playground.settings.machine(node)).name for node in playground.nodes)
        tools.run(["ip", "link", "add", "storage", "netns", a, "type", "veth", "peer", "name", "storage", "netns", b])
        for node, address in _STORAGE.items():
            there = ["ip", "-n", playground.layout.netns(playground.settings.machine(node)).name]
            tools.run([*there, "addr", "add", f"{address}/64", "dev", "storage", "nodad"])
            tools.run([*there, "link", "set", "dev", "storage", "up"])
            playground.exec(node, "nft", "-f", "-", stdin=_COUNTS.replace("DATA", str(DATA_PORT)))
            file = playground.home(node) / "agent.toml"
            text = file.read_text().replace("run_dir =", f'storage_address = "{address}"\nrun_dir =', 1)
            own = joined(playground.address(node), DATA_PORT)
            assert own in text
            file.write_text(text.replace(own, joined("::", DATA_PORT)))
            playground.start_agent(node)
        cluster = Cluster(playground)
        cluster.until_all_joined()
        yield cluster


def interfaces(playground: Playground, node: str) -> dict[str, Any]:
    return {one["ifname"]: one for one in json.loads(playground.exec(node, "ip", "-json", "-s", "addr").stdout)}


def carried(playground: Playground) -> dict[str, int]:
    """Bytes of node-a in both directions, by network."""
    now = interfaces(playground, "node-a")
    return {
        name: now[name]["stats64"]["rx"]["bytes"] + now[name]["stats64"]["tx"]["bytes"] for name in ("eth0", "storage")
    }


def test_etcd_agents_metrics_health_data_and_commands_need_no_ipv4(cluster: Cluster) -> None:
    playground = cluster.playground
    for machine in (*playground.nodes, *playground.members):
        found = interfaces(playground, machine).values()
        addresses = {ipaddress.ip_address(one["local"]) for interface in found for one in interface["addr_info"]}
        assert all(one.version == 6 or one.is_loopback for one in addresses)
    data = cluster.dataset(on="node-a", backend="btrfs", size="1GiB", fs=None)
    writer = cluster.writer(data)
    cluster.drover("move", data.name, "node-b", "--wait")
    writer.goes_on("node-b")
    writer.check()
    for node in playground.nodes:
        address = playground.address(node)
        for page in ("metrics", "healthz", "readyz"):
            with urlopen(f"http://{joined(address, HTTP_PORT)}/{page}", timeout=5) as answer:
                assert answer.status == 200
        with grpc.insecure_channel(joined(address, GRPC_PORT)) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            said = health.Check(health_pb2.HealthCheckRequest(), timeout=5)
            assert said.status == health_pb2.HealthCheckResponse.SERVING
    shown = json.loads(cluster.drover("nodes", "--json").stdout)["nodes"]
    assert {one["address"] for one in shown} == {playground.address(node) for node in playground.nodes}


def test_no_byte_of_a_stream_crosses_the_control_network(cluster: Cluster) -> None:
    playground = cluster.playground
    data = cluster.dataset(on="node-a", backend="btrfs", size="1GiB", fs=None)
    playground.sh("node-a", f"head -c 32M /dev/urandom > {data.path}/large && sync")
    before = carried(playground)
    cluster.drover("move", data.name, "node-b", "--wait")
    after = carried(playground)
    assert after["storage"] - before["storage"] > 32 * MIB
    assert after["eth0"] - before["eth0"] < 4 * MIB, "etcd and gRPC, no more"
    for node in playground.nodes:
        counted = json.loads(playground.exec(node, "nft", "-j", "list", "counters").stdout)["nftables"]
        assert [one["counter"]["packets"] for one in counted if "counter" in one] == [0]
