"""What is done about the release that etcd runs: a real 3.5.1 is refused, a real 3.4.23 is warned of."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from drover.coordinator.cli.connection import Connection, run
from drover.coordinator.cli.errors import Failed
from drover.coordinator.etcd import Etcd
from drover.coordinator.keys import Keys
from drover.coordinator.store import Store, Unanswered, Unfit
from drover.coordinator.txn import Entry, Put, Txn
from tests.contract.seats import join
from tests.etcd import EtcdCluster, free_ports
from tests.fake_etcd import FakeMember, serving

CORRUPTING = Path(__file__).parents[2] / ".cache" / "etcd-3.5.1" / "etcd"
A = "/a"


@pytest.fixture(scope="module")
def corrupting() -> Iterator[EtcdCluster]:
    with EtcdCluster(1, program=CORRUPTING) as cluster:
        yield cluster


async def test_a_node_does_not_join_a_release_that_loses_data_and_says_what_to_do(
    corrupting: EtcdCluster, tmp_path: Path
) -> None:
    async with Etcd(corrupting.endpoints) as store:
        with pytest.raises(Unfit, match=r"etcd 3\.5\.1 can lose committed data.*update each member"):
            await join(store, Keys("/t"), "node-a", tmp_path)


async def test_nothing_is_sent_to_it(corrupting: EtcdCluster) -> None:
    async with Etcd(corrupting.endpoints) as store:
        with pytest.raises(Unanswered, match="can lose committed data"):
            await store.txn(Txn((), (Put(A, b""),)))
    assert corrupting.members[0].ask("/v3/kv/range", {"key": "AA==", "range_end": "AA=="}).get("count", "0") == "0"


async def test_members_of_other_releases_are_used_instead() -> None:
    """Simulated: one cluster of members of two releases."""
    async with serving(FakeMember(version="3.5.1")) as corrupting, serving(FakeMember(version="3.5.28")) as sound:
        async with Etcd([corrupting.endpoint, sound.endpoint]) as store:
            for _ in range(3):
                await store.txn(Txn((), (Put(A, b""),)))
                assert (await store.status()).version == "3.5.28"
    assert "Txn" not in corrupting.asked
    assert sound.asked.count("Txn") == 3


async def test_it_is_refused_as_well_when_the_others_cannot_be_reached(corrupting: EtcdCluster) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    async with Etcd([nobody, *corrupting.endpoints], timeout=0.5) as store:
        with pytest.raises(Unfit):
            await store.get(A)


async def test_a_member_that_comes_back_in_such_a_release_is_refused_from_then_on(tmp_path: Path) -> None:
    with EtcdCluster(1, directory=tmp_path) as cluster:
        member = cluster.members[0]
        async with Etcd(cluster.endpoints, timeout=1.0) as store:
            await store.get(A)
            member.kill()
            member.use(CORRUPTING)
            cluster.repair()
            with pytest.raises(Unfit):
                await store.get(A)


def test_the_command_says_the_same(corrupting: EtcdCluster) -> None:
    async def look(store: Store, keys: Keys) -> Entry | None:
        return await store.get(keys.cluster)

    with pytest.raises(Failed, match="can lose committed data"):
        run(Connection(tuple(corrupting.endpoints), Keys("/t")), look)


async def test_a_release_with_known_bugs_is_warned_of_once_at_the_join(
    etcd_one: EtcdCluster, etcd_prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Etcd(etcd_one.endpoints) as store:
        with caplog.at_level(logging.WARNING):
            await join(store, Keys(etcd_prefix), "node-a", tmp_path)
    said = [r.message for r in caplog.records if "known bugs" in r.message]
    assert len(said) == 1
    assert "etcd 3.4.23" in said[0]
    assert "revokes leases that are being kept alive" in said[0]
