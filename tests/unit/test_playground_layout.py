"""Names, addresses and paths of a playground follow from its directory."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Address
from pathlib import Path

import pytest

from drover.coordinator.cli.errors import NotPossible, Usage
from drover.coordinator.cli.playground.layout import (
    MAX_NODES,
    Kind,
    Layout,
    Machine,
    Settings,
    free_subnet,
    taken_networks,
)
from drover.coordinator.cli.playground.partition import From, pairs

SETTINGS = Settings(nodes=3, etcd=3, subnet="10.89.7")


def test_one_directory_has_one_id_whatever_path_leads_there(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert Layout.of(tmp_path / "link").id == Layout.of(tmp_path / "real").id
    assert Layout.of(tmp_path / "real" / ".." / "real").id == Layout.of(tmp_path / "real").id
    assert Layout.of(tmp_path / "other").id != Layout.of(tmp_path / "real").id


def test_interface_names_fit_the_kernel_for_the_most_machines_that_there_can_be(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path)
    settings = Settings(nodes=MAX_NODES, etcd=3, subnet="10.89.7")
    names = [layout.uplink, *(layout.port(machine) for machine in settings.machines())]
    assert max(map(len, names)) <= 15
    assert len(set(names)) == len(names)


def test_every_machine_has_an_address_and_a_mac_of_its_own(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path)
    settings = Settings(nodes=MAX_NODES, etcd=3, subnet="10.89.7")
    addresses = [settings.uplink_address, *(settings.address(machine) for machine in settings.machines())]
    assert len(set(addresses)) == len(addresses)
    assert len({layout.mac(machine.host) for machine in settings.machines()}) == MAX_NODES + 3
    assert Layout.of(tmp_path / "another").mac(11) != layout.mac(11)
    assert int(layout.mac(11)[:2], 16) & 3 == 2, "locally administered, not multicast"


def test_names_are_those_of_the_manual() -> None:
    assert [machine.name for machine in SETTINGS.machines()] == [
        *("node-a", "node-b", "node-c"),
        *("etcd-1", "etcd-2", "etcd-3"),
    ]
    assert SETTINGS.address(SETTINGS.machine("node-a")) == "10.89.7.11"
    assert SETTINGS.endpoints[0] == "http://10.89.7.101:2379"


def test_with_ipv6_addresses_follow_from_the_subnet_too_and_stand_in_brackets_before_a_port() -> None:
    settings = replace(SETTINGS, ipv6=True)
    assert settings.address(settings.machine("node-a")) == "fd10:89:7::11"
    assert settings.endpoints[0] == "http://[fd10:89:7::101]:2379"
    assert IPv6Address(settings.uplink_address) == IPv6Address("fd10:89:7::1")


def test_an_unknown_machine_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(Usage, match="node-z") as refused:
        SETTINGS.machine("node-z")
    assert "node-a, node-b, node-c, etcd-1" in refused.value.todo


def test_settings_come_back_as_they_were_saved(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path)
    with pytest.raises(NotPossible, match="not a playground"):
        layout.settings()
    layout.save(SETTINGS)
    assert layout.settings() == SETTINGS


def test_settings_that_are_no_settings_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path)
    layout.settings_file.write_text('{"nodes": 3, "colour": "blue"}')
    with pytest.raises(NotPossible, match=r"playground\.json"):
        layout.settings()


@pytest.mark.parametrize("place", ["/run/pg", "/srv/x/pg", "/dev/shm/pg"])
def test_a_directory_that_nodes_could_not_see_is_refused(place: str) -> None:
    assert "every node has its own" in (Layout(Path(place)).refuse() or "")
    assert Layout(Path("/var/lib/pg")).refuse() is None
    assert Layout(Path("/runner/pg")).refuse() is None


def test_a_subnet_is_chosen_that_overlaps_nothing(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path)
    first = free_subnet(layout, [])
    assert free_subnet(layout, []) == first, "the same again where it is free"
    second = free_subnet(layout, [IPv4Network(f"{first}.0/24")])
    assert second != first
    assert second.startswith("10.89.")
    third = free_subnet(layout, [IPv4Network(f"{first}.128/25"), IPv4Network(f"{second}.7/32")])
    assert third not in (first, second)
    with pytest.raises(NotPossible, match=r"10\.89\.0\.0/16"):
        free_subnet(layout, [IPv4Network("10.0.0.0/8")])


def test_routes_take_their_subnets_and_a_default_route_takes_none() -> None:
    routes: list[dict[str, object]] = [
        {"dst": "default", "gateway": "192.0.2.1"},
        {"dst": "0.0.0.0/0"},
        {"dst": "10.89.3.0/24", "dev": "x"},
        {"type": "local", "dst": "10.89.4.1"},
    ]
    assert taken_networks(routes) == [IPv4Network("10.89.3.0/24"), IPv4Network("10.89.4.1/32")]


def _separated(what: From, one_way: bool, name: str = "node-a") -> set[tuple[str, str]]:
    return pairs(Layout(Path("/pg")), SETTINGS, SETTINGS.machine(name), what, one_way)


def test_a_partition_from_etcd_separates_from_all_members_and_no_node() -> None:
    both = {("v-node-a", f"v-etcd-{n}") for n in (1, 2, 3)}
    assert _separated(From.ETCD, one_way=True) == both
    assert _separated(From.ETCD, one_way=False) == both | {(target, source) for source, target in both}


def test_a_partition_never_cuts_a_machine_from_itself() -> None:
    assert _separated(From.NODES, one_way=True) == {("v-node-a", "v-node-b"), ("v-node-a", "v-node-c")}
    assert _separated(From.ETCD, True, "etcd-2") == {("v-etcd-2", "v-etcd-1"), ("v-etcd-2", "v-etcd-3")}


def test_a_partition_from_all_cuts_the_uplink_too() -> None:
    lost = {target for _, target in _separated(From.ALL, one_way=True)}
    assert lost == {"v-node-b", "v-node-c", "v-etcd-1", "v-etcd-2", "v-etcd-3", "uplink"}


def test_where_a_machine_keeps_its_things(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path)
    assert layout.home(SETTINGS.machine("node-a")) == layout.directory / "nodes/node-a"
    assert layout.home(SETTINGS.machine("etcd-1")) == layout.directory / "etcd/etcd-1"
    assert layout.log(Machine("node-a", Kind.NODE, 11)).name == "agent.log"


def test_agents_may_reach_etcd_by_another_port_and_have_an_environment_that_is_kept(tmp_path: Path) -> None:
    layout = Layout.of(tmp_path)
    layout.save(Settings(2, 1, "10.89.7", environment={"NAME": "value"}, etcd_port=2378))
    settings = layout.settings()
    assert settings.endpoints == ["http://10.89.7.101:2379"]
    assert settings.agent_endpoints == ["http://10.89.7.101:2378"]
    assert settings.environment == {"NAME": "value"}
