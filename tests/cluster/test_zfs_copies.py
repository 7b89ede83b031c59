"""Datasets on ZFS: each node has a pool of its own. What else holds for local copies is in test_local_copies.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import Cluster
from tests.playground import Playground

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("zfs")]


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("zfs") / "pg"
    with Playground(directory, nodes=2, etcd=1, etcd_fast=True, zfs=True) as playground:
        yield Cluster(playground)


def test_a_dataset_on_zfs_moves_there_and_back_under_its_writer_and_the_way_back_is_an_increment(
    cluster: Cluster,
) -> None:
    data = cluster.dataset(on="node-a", backend="zfs", size="1GiB", fs=None)
    writer = cluster.writer(data)
    writer.goes_on("node-a")
    for node in ("node-b", "node-a"):
        cluster.move(data, node)
        data.active_on(node, within=20)
        writer.goes_on(node)
        writer.check()
    rounds = [line for line in cluster.log("node-b").splitlines() if f"{data.name} to node-a: round" in line]
    assert rounds
    assert all("the difference" in line for line in rounds)
