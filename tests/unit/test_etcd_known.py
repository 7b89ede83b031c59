"""What one client takes from etcd's headers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from drover.coordinator.etcd_known import Known
from drover.coordinator.store import OtherEtcd, WentBack


@dataclass(frozen=True)
class Header:
    cluster_id: int
    revision: int
    raft_term: int = 2


def known() -> Known:
    """Revision 77 of cluster c1 has been seen."""
    made = Known()
    made.same("e1", Header(0xC1, 77))
    made.learn(Header(0xC1, 77), linearizable=True)
    return made


def test_an_older_revision_of_another_cluster_is_another_etcd_and_no_break_of_the_right_one() -> None:
    client = known()
    with pytest.raises(OtherEtcd):
        client.not_before(77, "e2", Header(0xC2, 57))
    with pytest.raises(OtherEtcd):
        client.check()


def test_an_older_revision_of_the_same_cluster_is_a_break_and_nothing_more_is_sent() -> None:
    client = known()
    with pytest.raises(WentBack) as told:
        client.not_before(77, "e2", Header(0xC1, 57))
    assert not isinstance(told.value, OtherEtcd)
    with pytest.raises(WentBack):
        client.check()
