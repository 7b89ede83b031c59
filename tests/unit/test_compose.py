"""Compose files: what of them is carried, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from drover.coordinator import compose
from drover.coordinator.compose import ComposeError, Wanted, as_written, read

FILE = """
services:
  db:
    image: postgres:${VERSION:-15}
    command: postgres -c fsync=on
    environment: {POSTGRES_PASSWORD: "${PASSWORD}", COST: "$$5"}
    ports: ["5432:5432"]
    volumes: ["pgdata:/var/lib/postgresql/data"]
    healthcheck: {test: [CMD, pg_isready], interval: 2s}
    restart: unless-stopped
    x-drover: {node: node-a, failover: any}
volumes:
  pgdata:
    x-drover: {size: 2GiB}
"""


def wanted(text: str = FILE, *only: str, environment: dict[str, str] | None = None, **defaults: str) -> Wanted:
    return read(yaml.safe_load(text), environment or {"PASSWORD": "x"}, only, {"backend": "btrfs"} | defaults)


def refused(text: str, *only: str) -> list[str]:
    with pytest.raises(ComposeError) as error:
        wanted(text, *only)
    assert all("\n" not in line for line in error.value.lines)
    return error.value.lines


def service(**changes: Any) -> str:
    """A file with one service, like this."""
    made = {"image": "x", "volumes": ["data:/data"]} | changes
    return yaml.safe_dump({"services": {"web": made}, "volumes": {"data": {"x-drover": {"size": "1GiB"}}}})


def test_services_become_workloads_and_volumes_datasets() -> None:
    found = wanted()
    assert found.datasets == {"pgdata": {"backend": "btrfs", "size": "2GiB", "failover": "any"}}
    assert found.nodes == {"pgdata": "node-a"}
    assert as_written(found.workloads["db"]) == {
        "kind": "docker",
        "image": "postgres:15",
        "command": ["postgres", "-c", "fsync=on"],
        "environment": {"POSTGRES_PASSWORD": "x", "COST": "$5"},
        "ports": ["5432:5432"],
        "volumes": [{"source": "pgdata", "target": "/var/lib/postgresql/data"}],
        "healthcheck": {"test": ["CMD", "pg_isready"], "interval": 2.0},
    }


def test_options_of_a_volume_are_those_of_docker_volume_create() -> None:
    text = service() + "# \n"
    text = text.replace("x-drover:", "driver: drover\n    driver_opts:").replace(
        "size:", "failover: 'a,b'\n      size:"
    )
    assert wanted(text).datasets["data"] == {"backend": "btrfs", "size": "1GiB", "failover": ["a", "b"]}


def test_a_volume_has_the_name_that_it_says_and_an_external_one_is_not_made() -> None:
    text = service().replace("  data:\n", "  data:\n    name: shop\n")
    assert list(wanted(text).datasets) == ["shop"]
    assert wanted(text).workloads["web"].datasets == ("shop",)
    external = "services: {web: {image: x, volumes: ['data:/d']}}\nvolumes: {data: {external: true}}"
    assert wanted(external).datasets == {"data": None}


def test_only_the_services_that_are_named_are_looked_at() -> None:
    text = FILE.replace("volumes:\n  pgdata:", "  web: {build: .}\nvolumes:\n  pgdata:")
    assert list(wanted(text, "db").workloads) == ["db"]
    assert any(line.startswith("services.web.build:") for line in refused(text))
    assert refused(text, "wbe") == ["services: there is no 'wbe'; there are db, web"]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"build": "."}, "services.web.build: Drover makes no images"),
        ({"depends_on": ["db"]}, "services.web.depends_on: each service"),
        ({"cap_ad": ["X"]}, "services.web.cap_ad: Drover cannot carry it"),
        ({"volumes": ["./here:/data"]}, "services.web.volumes: './here:/data': a path of a node must be absolute"),
        ({"volumes": ["/data"]}, "services.web"),
        ({"volumes": ["other:/data"]}, "services.web.volumes: 'other' does not stand below volumes"),
        ({"volumes": []}, "services.web: it has no volume that could move"),
        ({"networks": {"back": {"aliases": ["b"]}}}, "services.web.networks.back: options"),
        ({"environment": ["HOME"]}, "services.web.environment: 'HOME' is not NAME=VALUE"),
        ({"environment": {"HOME": None}}, "services.web.environment.HOME: it has no value"),
        ({"environment": {"A": "${MISSING}"}}, "services.web.environment.A: MISSING is not set"),
        ({"environment": {"A": "${B:?no}"}}, "services.web.environment.A: '${B:?no}' is not carried"),
        ({"container_name": "a b"}, "services.web: 'a b' cannot be a workload's name"),
        ({"ports": ["1-5"]}, "services.web.ports.0: '1-5' is no port"),
        ({"restart": "on-failure:3"}, "services.web.restart"),
        ({"x-drover": {"nod": "a"}}, "services.web.x-drover.nod: Drover cannot carry it"),
    ],
)
def test_what_cannot_be_carried_is_refused_by_name(changes: dict[str, Any], line: str) -> None:
    assert any(said.startswith(line) for said in refused(service(**changes))), refused(service(**changes))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("services: {web: {image: x, volumes: ['d:/d']}}\nvolumes: {d: }", "volumes.d: it needs a size"),
        (service() + "secrets: {a: }", "secrets: no secret is put into etcd"),
        (service() + "networks: {n: {ipam: {}}}", "networks.n.ipam: options"),
        (service().replace("1GiB", "much"), "volumes.data: size"),
        (service().replace("x-drover:", "driver: nfs\n    x-drover:"), "volumes.data.driver: 'nfs'"),
        ("[]", "the file: it must be a mapping"),
        ("services: {}", "services: there is none"),
        ("services: [web]", "services: it must be a mapping"),
    ],
)
def test_so_is_what_is_wrong_elsewhere_in_the_file(text: str, line: str) -> None:
    assert any(said.startswith(line) for said in refused(text)), refused(text)


def test_all_that_is_wrong_is_told_at_once() -> None:
    assert len(refused(service(build=".", depends_on=["db"]))) == 2


def test_differences_are_told_by_field() -> None:
    assert list(compose.differences({"a": 1, "b": 2}, {"b": 3, "c": 4})) == [
        ("a", 1, None),
        ("b", 2, 3),
        ("c", None, 4),
    ]
