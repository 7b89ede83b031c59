"""Whether etcd is still the one that a node has known."""

from __future__ import annotations

import pytest

from drover.coordinator.protocol.history import UNDER_RECOVERY, Mark, newest, recovered, trouble
from drover.coordinator.records import Cluster

MARK = Mark("c", "", "e1", 100)
AFTER = Mark("c", "h2", "e2", 100)


def cluster(*histories: str, etcd: str = "e1", id: str = "c") -> Cluster:
    return Cluster(id=id, etcd=etcd, histories=histories)


@pytest.mark.parametrize("mark", [None, MARK])
def test_the_etcd_that_the_cluster_began_on_is_no_trouble(mark: Mark | None) -> None:
    assert trouble(mark, cluster(), "e1") == ""


def test_a_new_prefix_is_trouble_only_for_a_node_that_belongs_to_a_cluster() -> None:
    assert trouble(None, None, "e1") == ""
    assert "lost the record" in trouble(MARK, None, "e1")


@pytest.mark.parametrize("mark", [None, MARK])
def test_another_etcd_is_trouble_for_everybody_and_the_text_says_what_to_do(mark: Mark | None) -> None:
    said = trouble(mark, cluster(), "e9")
    assert "e9" in said
    assert "e1" in said
    assert "drover recover" in said
    assert "etcd.endpoints" in said


@pytest.mark.parametrize("mark", [None, MARK])
def test_nobody_joins_while_a_recovery_is_under_way(mark: Mark | None) -> None:
    assert "under way" in trouble(mark, cluster(etcd=UNDER_RECOVERY), "e1")


def test_a_recovery_ends_what_was_broken_before_it() -> None:
    broken = Mark("c", "", "e1", 100, "it went back")
    assert trouble(broken, cluster(), "e1") == "it went back"
    assert trouble(broken, cluster("h1"), "e1") == ""
    assert recovered(broken, cluster("h1"))
    assert newest(cluster("h1", "h2")) == "h2"


def test_a_backup_from_before_a_recovery_is_the_past_even_once_it_was_recovered_itself() -> None:
    assert trouble(AFTER, cluster("h1", "h2", etcd="e2"), "e2") == ""
    assert "before a recovery" in trouble(AFTER, cluster("h1", etcd="e2"), "e2")
    assert "before a recovery" in trouble(AFTER, cluster("h1", "h3", etcd="e2"), "e2")
    assert not recovered(AFTER, cluster("h1", "h3", etcd="e2"))


def test_another_cluster_under_the_same_prefix_is_not_joined() -> None:
    assert "belongs to c" in trouble(MARK, cluster(id="d"), "e1")
    assert not recovered(MARK, cluster("h1", id="d"))
