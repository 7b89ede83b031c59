"""Containers and their data on real Docker Engines, one inside each node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.docker import IMAGE, Engines


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    with Engines(tmp_path_factory.mktemp("docker") / "pg") as playground:
        yield playground


def test_each_node_of_a_playground_has_an_engine_of_its_own(engines: Engines) -> None:
    for node in engines.nodes:
        engines.docker(node, "run", "-d", "--name", f"on-{node}", IMAGE, "sleep", "60")
    for node in engines.nodes:
        assert engines.said(node, "ps", "--format", "{{.Names}}") == f"on-{node}"
        engines.docker(node, "rm", "-f", f"on-{node}")
