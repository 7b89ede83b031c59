"""A container as its engine describes it, as a workload: all of it, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from drover.coordinator.adoption import Adoption, Directory, adoption
from drover.coordinator.compose import ComposeError, as_written

VOLUME = {
    "Type": "volume",
    "Name": "pgdata",
    "Driver": "local",
    "Source": "/var/lib/docker/volumes/pgdata/_data",
    "Destination": "/data",
    "RW": True,
}
IMAGE = {"Config": {"Env": ["PATH=/bin"], "Cmd": ["postgres"], "StopSignal": "SIGINT", "Labels": {"by": "them"}}}
PORTS = {"5432/tcp": [{"HostIp": "", "HostPort": "5432"}], "1/udp": [{"HostIp": "::1", "HostPort": "2"}]}


def adopted(config: dict[str, Any] | None = None, host: dict[str, Any] | None = None, *mounts: Any) -> Adoption:
    """One that is as its image is, but for these."""
    own = {**IMAGE["Config"], "Image": "postgres:15", "Hostname": "0123456789ab"} | (config or {})
    made = {"NetworkMode": "default", "ShmSize": 64 << 20, "Runtime": "runc"} | (host or {})
    container = {
        "Id": "0123456789abcdef",
        "Name": "/db",
        "Config": own,
        "HostConfig": made,
        "Mounts": list(mounts) or [VOLUME],
        "NetworkSettings": {"Networks": {"back": {}}},
    }
    return adoption(container, IMAGE, {"/srv/shop": True, "/etc/shop.conf": False})


def test_what_is_as_in_the_image_is_not_said_again() -> None:
    found = adopted()
    assert found.workload == "db"
    assert as_written(found.spec) == {
        "kind": "docker",
        "image": "postgres:15",
        "volumes": [{"source": "pgdata", "target": "/data"}],
    }
    assert found.directories == (Directory("pgdata", "/var/lib/docker/volumes/pgdata/_data"),)


def test_what_differs_is_carried() -> None:
    config = {"Env": ["PATH=/bin", "A=b=c"], "Cmd": ["postgres", "-c", "x"], "User": "999", "Labels": {"by": "me"}}
    host = {
        "PortBindings": PORTS,
        "Memory": 64 << 20,
        "NanoCpus": 500_000_000,
        "RestartPolicy": {"Name": "on-failure"},
        "NetworkMode": "back",
        "Init": True,
    }
    assert as_written(adopted(config, host).spec) == {
        "kind": "docker",
        "image": "postgres:15",
        "volumes": [{"source": "pgdata", "target": "/data"}],
        "command": ["postgres", "-c", "x"],
        "user": "999",
        "environment": {"A": "b=c"},
        "labels": {"by": "me"},
        "ports": ["5432:5432/tcp", "[::1]:2:1/udp"],
        "networks": ["back"],
        "restart": "on-failure",
        "cpus": 0.5,
        "mem_limit": 64 << 20,
        "init": True,
    }


def test_directories_that_it_writes_to_become_datasets_and_what_it_reads_stays() -> None:
    anonymous = VOLUME | {"Name": "0" * 64, "Destination": "/var/cache"}
    written = {"Type": "bind", "Source": "/srv/shop", "Destination": "/shop", "RW": True}
    read = {"Type": "bind", "Source": "/etc/shop.conf", "Destination": "/etc/shop.conf", "RW": False}
    found = adopted(None, None, anonymous, written, read)
    assert [it.dataset for it in found.directories] == ["db-cache", "db-shop"]
    assert as_written(found.spec)["volumes"][2] == {
        "source": "/etc/shop.conf",
        "target": "/etc/shop.conf",
        "read_only": True,
    }


def test_a_volume_that_is_a_dataset_already_is_taken_as_it_is() -> None:
    assert adopted(None, None, VOLUME | {"Driver": "drover"}).directories == (Directory("pgdata", ""),)


@pytest.mark.parametrize(
    ("host", "mounts", "said"),
    [
        ({"NetworkMode": "host"}, [], "NetworkMode host"),
        ({"IpcMode": "host"}, [], "IpcMode host"),
        ({"Devices": [{}]}, [], "Devices: a workload cannot carry it"),
        ({"Runtime": "kata"}, [], "Runtime"),
        ({}, [VOLUME | {"Driver": "nfs"}], "kept by driver nfs"),
        ({}, [{"Type": "tmpfs", "Destination": "/tmp"}], "nothing to move"),
        ({}, [VOLUME, VOLUME | {"Source": "/other", "Destination": "/x"}], "two directories would be dataset pgdata"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(host: dict[str, Any], mounts: list[Any], said: str) -> None:
    with pytest.raises(ComposeError) as error:
        adopted(None, host, *mounts)
    assert any(said in line for line in error.value.lines)
