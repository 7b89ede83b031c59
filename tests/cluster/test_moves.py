"""Planned moves: nothing that was acknowledged is lost, and never two write."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Cluster
from tests.playground import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.xdist_group("moves")]


def test_etcdctl_put_moves_a_live_dataset_with_its_workload_and_nothing_acknowledged_is_lost(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    cluster.move(data, "node-b")
    assert data.active_on("node-b") == "node-b"
    writer.goes_on("node-b")
    writer.check()
    assert data.epoch == 2
    assert [turn.node for turn in writer.turns] == ["node-a", "node-b"]


def test_ten_moves_in_a_row_lose_nothing_and_count_ten_epochs(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    route = ["node-b", "node-c", "node-a", "node-c", "node-a"] * 2
    for node in route:
        cluster.move(data, node)
        data.active_on(node)
        writer.goes_on(node, records=5)
    writer.check()
    assert data.epoch == 11
    assert [turn.node for turn in writer.turns] == ["node-a", *route]


def test_a_group_moves_in_one_transaction_with_the_workloads_of_all_its_datasets(cluster: Cluster) -> None:
    one, two = (cluster.dataset(on="node-a", group="pair") for _ in range(2))
    writers = [cluster.writer(one), cluster.writer(two)]
    cluster.move(two, "node-c")
    seen: dict[str, dict[int, int]] = {one.name: {}, two.name: {}}

    def there() -> bool:
        for name in seen:
            history = cluster.entries(f"history/{name}/")
            seen[name] = {int(epoch): entry.create_revision for epoch, entry in history.items()}
        return all(d.status.get("node") == "node-c" and d.status["phase"] == "active" for d in (one, two))

    eventually(there, "both are on node-c", 15)
    for writer in writers:
        writer.goes_on("node-c")
        writer.check()
    # A line of the history is made with the tenure of its epoch.
    assert (one.epoch, two.epoch) == (2, 2)
    assert seen[one.name][2] == seen[two.name][2]


def test_a_put_to_where_it_is_does_nothing(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    before = cluster.entry(f"owners/{data.name}")
    for _ in range(5):
        cluster.move(data, "node-a")
        writer.goes_on("node-a")
    assert cluster.entry(f"owners/{data.name}") == before
    assert len(writer.turns) == 1


def test_changing_ones_mind_thirty_times_while_it_moves_ends_where_it_was_put_last(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    for turn in range(30):
        cluster.move(data, ("node-b", "node-c", "node-a")[turn % 3] if turn < 29 else "node-b")
    data.active_on("node-b")
    writer.goes_on("node-b")
    writer.check()


def test_a_spec_deleted_in_the_middle_of_a_move_releases_the_dataset_and_keeps_its_data(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    cluster.playground.sh("node-a", f"echo precious > {data.path}/file; sync {data.path}/file")
    cluster.move(data, "node-b")
    cluster.delete(f"datasets/{data.name}")
    eventually(lambda: data.owner["state"] == "released", "it is released", 10)
    status = data.says("its spec was deleted", "kept")
    assert status["phase"] == "stopped"
    assert data.image.exists()
    for node in cluster.playground.nodes:
        assert data.path not in cluster.playground.sh(node, "cat /proc/mounts")


def test_a_spec_that_a_workload_still_needs_is_not_let_go_and_status_says_which_workload(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    cluster.move(data, "node-b")
    cluster.delete(f"datasets/{data.name}")
    data.says("spec is gone", writer.name, "delete that first")
    writer.goes_on()
    writer.check()
    cluster.delete(f"workloads/{writer.name}")
    eventually(lambda: data.owner["state"] == "released", "it is released once the workload is gone", 10)
    assert data.image.exists()


def test_a_workload_whose_spec_is_deleted_while_it_starts_does_not_stay_behind(cluster: Cluster) -> None:
    several = [cluster.dataset(on="node-a") for _ in range(6)]
    for data in several:
        name = cluster.name("short")
        cluster.put(f"workloads/{name}", f'{{"command": ["sleep", "1000"], "datasets": ["{data.name}"]}}')
        cluster.delete(f"workloads/{name}")
        cluster.delete(f"datasets/{data.name}")

    def released() -> bool:
        return all(data.owner["state"] == "released" for data in several)

    eventually(released, "all are released")


@pytest.mark.parametrize("reclaim", ["retain", "delete"])
def test_a_name_used_again_is_a_new_dataset_and_the_old_data_goes_where_its_spec_said(
    cluster: Cluster, reclaim: str
) -> None:
    data = cluster.dataset(on="node-a", reclaim=reclaim)
    cluster.playground.sh("node-a", f"echo old > {data.path}/file; sync {data.path}/file")
    eventually(lambda: data.owner["reclaim"] == reclaim, "the tenure has copied it")
    old, epoch = data.image, data.epoch
    cluster.delete(f"datasets/{data.name}")
    data.declare()
    eventually(lambda: data.owner["born"] and data.image != old, "a new dataset has the name", 15)
    data.active_on("node-a")
    assert data.epoch > epoch
    assert cluster.playground.sh("node-a", f"ls {data.path}") == "lost+found"
    assert old.exists() == (reclaim == "retain")


def test_a_larger_size_in_the_spec_grows_a_mounted_dataset_and_its_writer_goes_on(cluster: Cluster) -> None:
    data = cluster.dataset(on="node-a", fs="xfs", size="300MiB")
    writer = cluster.writer(data)

    def size() -> int:
        return int(cluster.playground.sh("node-a", f"df --output=size -B1M {data.path} | tail -1"))

    before = size()
    data.declare(fs="xfs", size="400MiB")
    eventually(lambda: size() > before + 80, "the file system has grown", 10)
    writer.goes_on("node-a")
    writer.check()
    assert len(writer.turns) == 1
    assert data.epoch == 1


def test_a_move_of_a_dataset_that_a_shell_holds_waits_and_names_the_shell_and_goes_through_when_it_ends(
    cluster: Cluster,
) -> None:
    data = cluster.dataset(on="node-a")
    writer = cluster.writer(data)
    shell = cluster.playground.popen("node-a", "sh", "-c", f"cd {data.path}; echo $$; read forever")
    assert shell.stdout
    pid = shell.stdout.readline().strip()
    cluster.move(data, "node-b")
    data.says("the move waits", pid, "no workload is stopped")
    assert data.status["phase"] == "active"
    writer.goes_on("node-a")
    assert len(writer.turns) == 1, "it was not stopped for nothing"
    shell.communicate("now\n")
    data.active_on("node-b", within=25)
    writer.goes_on("node-b")
    writer.check()


def test_ten_datasets_move_at_once_and_all_arrive(cluster: Cluster) -> None:
    several = [cluster.dataset(on="node-a", active=False) for _ in range(10)]
    for data in several:
        data.active_on("node-a", within=30)
    puts = "\n".join(f"put /drover/desired/{data.name} node-b" for data in several)
    # etcdctl wants compares, a blank line, what to do, a blank line, what to do otherwise.
    assert cluster.playground.etcdctl("txn", stdin=f"\n{puts}\n\n\n").startswith("SUCCESS")
    for data in several:
        data.active_on("node-b", within=30)
        assert data.epoch == 2
