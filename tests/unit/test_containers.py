"""Containers as users write them, as the Engine API takes them, and as a node's settings allow them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from drover.agent.workloads.base import fingerprint
from drover.agent.workloads.container import Allowed, config, refusal
from drover.coordinator import kinds
from drover.coordinator.containers import ContainerSpec, Mount
from drover.coordinator.record import InvalidRecord

LONG = {"type": "volume", "source": "pgdata", "target": "/d", "read_only": True}
PATHS = {"pgdata": Path("/srv/drover/pgdata")}


def spec(**changes: Any) -> ContainerSpec:
    record = {"kind": "docker", "image": "postgres:15", "volumes": ["pgdata:/var/lib/postgresql/data"]} | changes
    made = kinds.decode(json.dumps(record).encode())
    assert isinstance(made, ContainerSpec)
    return made


def made(**changes: Any) -> dict[str, Any]:
    return config("db", spec(**changes), PATHS, "/drover/containers/db")


def test_a_container_needs_an_image_and_a_dataset_and_says_nothing_else_twice() -> None:
    assert spec().datasets == ("pgdata",)
    assert "datasets" not in json.loads(spec().encode())
    assert spec() == kinds.decode(spec().encode())


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"command": "postgres -c 'a b'"}, {"command": ["postgres", "-c", "a b"]}),
        ({"environment": ["A=1", "B=x=y"]}, {"environment": {"A": 1, "B": "x=y"}}),
        (
            {"volumes": ["pgdata:/d:ro"]},
            {"volumes": [{"type": "volume", "source": "pgdata", "target": "/d", "read_only": True}]},
        ),
        ({"ports": [5432]}, {"ports": ["5432"]}),
        (
            {"ports": ["127.0.0.1:80:8080/tcp"]},
            {"ports": [{"target": 8080, "published": "80", "host_ip": "127.0.0.1"}]},
        ),
        ({"mem_limit": "512m"}, {"mem_limit": 512 * 2**20}),
        ({"stop_grace_period": "1m30s"}, {"stop_grace_period": 90}),
        ({"restart": "unless-stopped"}, {"restart": "always"}),
        ({"healthcheck": {"test": "true"}}, {"healthcheck": {"test": ["CMD-SHELL", "true"]}}),
    ],
)
def test_what_compose_writes_in_two_forms_means_the_same(short: dict[str, Any], long: dict[str, Any]) -> None:
    assert spec(**short) == spec(**long)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"imagee": "x"}, "did you mean image"),
        ({"volumes": []}, "at least one entry"),
        ({"volumes": ["/etc:/etc"]}, "at least one of them must be a dataset"),
        ({"volumes": ["pgdata:data"]}, "absolute path"),
        ({"volumes": ["pgdata:/a", "b:/a"]}, "/a stands there twice"),
        ({"volumes": ["pgdata:/a:rwx"]}, "'rwx'"),
        ({"volumes": [{"type": "tmpfs", "target": "/a"}]}, "'tmpfs'"),
        ({"datasets": ["pgdata"]}, "names them in volumes"),
        ({"ports": ["8000-8010"]}, "is no port"),
        ({"ports": ["70000:80"]}, "1 to 65535"),
        ({"stop_grace_period": "soon"}, "'soon' is no duration"),
        ({"mem_limit": "lots"}, "'lots' is no amount"),
        ({"environment": ["A"]}, "NAME=VALUE"),
        ({"environment": {"A": True}}, "environment.A"),
        ({"command": "a 'b"}, "cannot be split"),
        ({"command": ["a\0b"]}, "NUL"),
        ({"cpus": 0}, "cpus"),
        ({"kind": "podman"}, "there are process, docker"),
        ({"kind": ["docker"]}, "there are process, docker"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_that_names_it(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRecord) as error:
        spec(**wrong)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_engine_is_never_to_start_it_by_itself_and_puts_it_where_the_guard_finds_it() -> None:
    host = made(restart="always")["HostConfig"]
    assert host["RestartPolicy"] == {"Name": "no"}
    assert host["CgroupParent"] == "/drover/containers/db"


def test_datasets_are_given_where_they_are_mounted() -> None:
    binds = made(volumes=["pgdata:/d", {"source": "/etc/ssl", "target": "/ssl", "read_only": True}])["HostConfig"][
        "Binds"
    ]
    assert binds == ["/srv/drover/pgdata:/d:rw", "/etc/ssl:/ssl:ro"]


def test_what_the_spec_leaves_out_is_as_the_image_says() -> None:
    assert not {"Cmd", "Entrypoint", "User", "WorkingDir", "Healthcheck", "StopSignal"} & made().keys()
    assert made(command=[])["Cmd"] == []


def test_ports_limits_and_checks_are_passed_on() -> None:
    got = made(
        ports=["5432:5432", "127.0.0.1:53:53/udp", "[::1]:80:80", "9"],
        cpus=0.5,
        mem_limit="64m",
        healthcheck={"test": ["CMD", "pg_isready"], "interval": "2s", "retries": 3},
        networks=["back"],
    )
    assert got["HostConfig"]["PortBindings"] == {
        "5432/tcp": [{"HostIp": "", "HostPort": "5432"}],
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}],
        "80/tcp": [{"HostIp": "::1", "HostPort": "80"}],
        "9/tcp": [{"HostIp": "", "HostPort": ""}],
    }
    assert got["HostConfig"]["NanoCpus"] == 500_000_000
    assert got["HostConfig"]["Memory"] == 64 * 2**20
    assert got["Healthcheck"] == {"Test": ["CMD", "pg_isready"], "Interval": 2_000_000_000, "Retries": 3}
    assert got["HostConfig"]["NetworkMode"] == "back"


def test_only_what_a_running_container_is_made_of_starts_it_again() -> None:
    assert fingerprint(spec()) == fingerprint(spec(restart="no", stop_grace_period=1, on_start_failure="back"))
    assert fingerprint(spec()) != fingerprint(spec(image="postgres:16"))


@pytest.mark.parametrize(
    ("asked", "allowed", "said"),
    [
        ({}, Allowed(), ""),
        ({}, Allowed(images=("postgres:*",)), ""),
        ({}, Allowed(images=("redis:*",)), "image postgres:15"),
        ({"privileged": True}, Allowed(), "privileged"),
        ({"privileged": True}, Allowed(privileged=True), ""),
        ({"cap_add": ["cap_net_admin"]}, Allowed(), "NET_ADMIN"),
        ({"cap_add": ["cap_net_admin"]}, Allowed(capabilities=("NET_ADMIN",)), ""),
        ({"volumes": ["pgdata:/d", "/etc/ssl:/s"]}, Allowed(), "/etc/ssl"),
        ({"volumes": ["pgdata:/d", "/etc/ssl:/s"]}, Allowed(binds=("/etc/ssl",)), ""),
        ({"volumes": ["pgdata:/d", "/etc/ssl/../shadow:/s"]}, Allowed(binds=("/etc/ssl",)), "shadow"),
        ({"volumes": ["pgdata:/d", "/etc/sslx:/s"]}, Allowed(binds=("/etc/ssl",)), "/etc/sslx"),
    ],
)
def test_a_node_allows_what_its_settings_say_and_by_default_nothing_of_itself(
    asked: dict[str, Any], allowed: Allowed, said: str
) -> None:
    refused = refusal(spec(**asked), allowed)
    assert said in refused
    assert bool(refused) == bool(said)


def test_a_mount_is_kept_as_it_was_written() -> None:
    assert spec().volumes == (Mount(source="pgdata", target="/var/lib/postgresql/data"),)
