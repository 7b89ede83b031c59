"""One playground a module, shared by its tests, and tidied after each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.playground import Playground


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes and three members with short deadlines."""
    with Playground(tmp_path_factory.mktemp("cluster") / "pg", nodes=3, etcd=3, etcd_fast=True) as playground:
        yield Cluster(playground)


@pytest.fixture
def cluster(module_cluster: Cluster) -> Iterator[Cluster]:
    module_cluster.begin()
    yield module_cluster
    module_cluster.tidy()
