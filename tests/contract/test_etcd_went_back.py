"""etcd restored from a backup, or copied: seen by whoever talked to it before, and nothing more is sent to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from drover.coordinator.etcd import Etcd
from drover.coordinator.join import Refused, ensure_cluster
from drover.coordinator.keys import Keys
from drover.coordinator.mark import MarkFile
from drover.coordinator.protocol.history import Mark
from drover.coordinator.records import Cluster
from drover.coordinator.store import OtherEtcd, StoreError, Unanswered, WentBack
from drover.coordinator.txn import Put, Txn, TxnResult
from tests.contract.seats import Quiet, Seated, join
from tests.etcd import EtcdCluster, Wire
from tests.fake_etcd import FakeMember, serving

KEYS = Keys("/t")
A = "/t/a"


@pytest.fixture
def three(tmp_path: Path) -> Iterator[EtcdCluster]:
    with EtcdCluster(3) as cluster:
        yield cluster


@pytest.fixture
def one() -> Iterator[EtcdCluster]:
    with EtcdCluster() as cluster:
        yield cluster


def client(cluster: EtcdCluster) -> Etcd:
    return Etcd(cluster.endpoints, own_key=KEYS.cluster)


async def put(store: Etcd, key: str = A, value: bytes = b"") -> TxnResult:
    return await store.txn(Txn((), (Put(key, value),)))


async def stored(cluster: EtcdCluster, key: str = A) -> bytes | None:
    async with Etcd(cluster.endpoints) as reader:
        entry = await reader.get(key)
        return entry.value if entry else None


async def refused(store: Etcd) -> str:
    """Until a write is refused for good, with what it says: those before it got no answer, as etcd was away."""
    async with asyncio.timeout(20):
        while True:
            try:
                await put(store, value=b"after")
                raise AssertionError("the restored etcd took a write")
            except Unanswered:
                continue
            except WentBack as error:
                return str(error)


async def test_a_client_that_saw_more_than_was_restored_writes_nothing_to_it(
    three: EtcdCluster, tmp_path: Path
) -> None:
    async with client(three) as store:
        await put(store, value=b"before")
        backup = three.snapshot(tmp_path / "backup")
        await put(store, value=b"lost")
        three.restore(backup)
        await refused(store)
        for verb in (store.get(A), store.grant(10), store.status(), store.compact(1)):
            with pytest.raises(WentBack, match=r"has gone back.*drover recover"):
                await verb
        with pytest.raises(WentBack):
            await anext(store.watch("/t/", "/t0", 1))
    assert await stored(three) == b"before"


async def test_a_restore_that_lost_nothing_is_gone_on_with(three: EtcdCluster, tmp_path: Path) -> None:
    async with client(three) as store:
        await put(store, value=b"before")
        three.restore(three.snapshot(tmp_path / "backup"))
        async with asyncio.timeout(20):
            while True:
                try:
                    assert (await put(store, value=b"after")).succeeded
                    break
                except Unanswered:
                    continue


async def test_members_of_two_etcds_are_never_taken_for_one(one: EtcdCluster, three: EtcdCluster) -> None:
    async with Etcd([*one.endpoints, *three.endpoints]) as store:
        await put(store)
        one.members[0].kill()
        assert "answered before" in await refused(store)
    assert await stored(three) is None


async def test_a_read_from_the_past_is_asked_of_another_member_and_is_no_proof() -> None:
    """Simulated: etcd 20418 needs a pause at the right instant."""
    async with serving(FakeMember(revision=20)) as current, serving(FakeMember(revision=30)) as past:
        async with Etcd([past.endpoint, current.endpoint], timeout=1.0) as store:
            await store.get(A)
            past.revision, current.revision = 10, 40
            await store.get(A)
            assert current.asked.count("Range") == 1
            assert store.revision == 40


class Watching(Quiet):
    closed = ""

    def gate_closed(self, reason: str) -> None:
        self.closed = reason


async def seated(store: Etcd, directory: Path) -> tuple[Seated, Watching]:
    member = await join(store, KEYS, "node-a", directory)
    watching = Watching()
    member._listener = watching
    return member, watching


async def beats(store: Etcd, count: int) -> None:
    """Until so many heartbeats more were written."""
    mine = KEYS.heartbeat("node-a")
    await store.get(mine)
    async with asyncio.timeout(20), aclosing(store.watch(mine, f"{mine}\0", store.revision + 1)) as watch:
        async for changes in watch:
            if (count := count - len(changes.changes)) <= 0:
                return


@pytest.mark.parametrize("ahead", [0, 200])
async def test_a_member_closes_its_gate_and_ends_however_far_the_restored_etcd_has_come_by_then(
    one: EtcdCluster, tmp_path: Path, ahead: int
) -> None:
    async with (
        Wire(one.members[0].address) as wire,
        Etcd([wire.endpoint], own_key=KEYS.cluster) as store,
        Etcd(one.endpoints) as others,
    ):
        member, listener = await seated(store, tmp_path)
        running = asyncio.create_task(member.run())
        await beats(others, 2)
        backup = one.snapshot(tmp_path / "backup")
        await beats(others, 3)
        wire.cut()
        one.restore(backup)
        async with Etcd(one.endpoints) as strangers:
            for _ in range(ahead):
                await put(strangers, "/elsewhere")
        before = await stored(one, KEYS.heartbeat("node-a"))
        wire.mend()
        await asyncio.wait({running}, timeout=20)
        assert running.done()
        ended = running.exception()
        assert isinstance(ended, ExceptionGroup)
        assert ended.subgroup(WentBack) is not None
        assert "gone back" in listener.closed
        assert await stored(one, KEYS.heartbeat("node-a")) == before


async def test_an_agent_that_starts_sees_it_by_the_mark_on_its_disk_and_remembers_it(
    one: EtcdCluster, tmp_path: Path
) -> None:
    marks = MarkFile(tmp_path / "node-a.mark")
    async with client(one) as store:
        await join(store, KEYS, "node-a", tmp_path)
        backup = one.snapshot(tmp_path / "backup")
        seen = (await put(store)).revision
    mark = marks.load()
    assert mark is not None
    marks.save(Mark(mark.cluster, mark.history, mark.etcd, seen))
    one.restore(backup)
    async with client(one) as store:
        with pytest.raises(WentBack, match=rf"at revision \d+, and had reached {seen}.*drover recover"):
            await join(store, KEYS, "node-a", tmp_path)
        for _ in range(5):
            await put(store)
    async with client(one) as store:
        with pytest.raises(WentBack, match=f"had reached {seen}"):
            await join(store, KEYS, "node-a", tmp_path)


async def test_a_node_that_cannot_keep_the_mark_does_not_join_and_says_why(one: EtcdCluster, tmp_path: Path) -> None:
    (tmp_path / "node-a.tmp").mkdir()
    async with client(one) as store:
        with pytest.raises(Refused, match="see state_dir"):
            await join(store, KEYS, "node-a", tmp_path)


async def test_the_mark_follows_what_was_seen(
    one: EtcdCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drover.coordinator.mark._EVERY", 0.05)
    marks = MarkFile(tmp_path / "node-a.mark")
    async with client(one) as store:
        await join(store, KEYS, "node-a", tmp_path)
        keeping = asyncio.create_task(marks.keep(lambda: store.revision))
        seen = (await put(store)).revision
        async with asyncio.timeout(10):
            while (mark := marks.load()) is None or mark.revision != seen:
                await asyncio.sleep(0.02)
        keeping.cancel()


async def test_a_copy_that_was_started_elsewhere_is_not_joined(one: EtcdCluster, tmp_path: Path) -> None:
    async with client(one) as store:
        await join(store, KEYS, "node-a", tmp_path)
    with EtcdCluster(1) as copy:
        backup = one.snapshot(tmp_path / "backup")
        copy.restore(backup)
        async with client(copy) as store:
            with pytest.raises(OtherEtcd, match="restored from a backup or copied"):
                await join(store, KEYS, "node-a", tmp_path)
        async with client(one) as store:
            await join(store, KEYS, "node-a", tmp_path)


async def test_an_empty_etcd_is_not_made_a_new_cluster_by_a_node_of_another(one: EtcdCluster, tmp_path: Path) -> None:
    async with client(one) as store:
        await join(store, KEYS, "node-a", tmp_path)
    with EtcdCluster(1) as empty:
        async with client(empty) as store:
            with pytest.raises(OtherEtcd, match="lost the record"):
                await join(store, KEYS, "node-a", tmp_path)
        assert await stored(empty, KEYS.cluster) is None


async def recover(store: Etcd, *histories: str) -> None:
    """What `drover recover` writes last."""
    entry = await store.get(KEYS.cluster)
    assert entry is not None
    cluster = Cluster.decode(entry.value).model_copy(update={"histories": histories, "etcd": store.cluster_id})
    await put(store, KEYS.cluster, cluster.encode())


async def test_after_a_recovery_revisions_count_anew_and_what_was_before_it_is_the_past(
    one: EtcdCluster, tmp_path: Path
) -> None:
    marks = MarkFile(tmp_path / "mark")
    async with client(one) as store:
        await ensure_cluster(store, KEYS, marks)
        backup = one.snapshot(tmp_path / "backup")
        mark = marks.load()
        assert mark is not None
        marks.save(Mark(mark.cluster, mark.history, mark.etcd, mark.revision + 1000, "it went back"))
        with pytest.raises(StoreError, match="it went back"):
            await ensure_cluster(store, KEYS, marks)
        await recover(store, "h1")
        await ensure_cluster(store, KEYS, marks)
        after = marks.load()
        assert after is not None
        assert (after.history, after.broken) == ("h1", "")
        assert after.revision < mark.revision + 1000
    one.restore(backup)
    async with client(one) as store:
        with pytest.raises(OtherEtcd, match="before a recovery"):
            await ensure_cluster(store, KEYS, marks)
        await recover(store, "h2")
        with pytest.raises(OtherEtcd, match="before a recovery"):
            await ensure_cluster(store, KEYS, marks)
