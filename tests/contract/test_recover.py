"""`drover recover` on real etcd: what it refuses, what it leaves when it is broken off, and that it can be repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from drover.coordinator.cli import main
from drover.coordinator.cli.errors import ExitCode, NotPossible
from drover.coordinator.cli.recover import Recovery, look
from drover.coordinator.etcd import Etcd
from drover.coordinator.keys import Keys
from drover.coordinator.protocol.recovery import Plan, plan
from drover.coordinator.records import Cluster, Evidence, Fence, State, Tenure
from drover.coordinator.reports import NodeReport
from drover.coordinator.store import OtherEtcd
from drover.coordinator.txn import Put, Txn
from tests.contract.seats import Seated, join
from tests.etcd import EtcdCluster

LIFE = "0badcafe"


@pytest.fixture
def keys(etcd_prefix: str) -> Keys:
    return Keys(etcd_prefix)


@pytest.fixture
async def store(etcd_one: EtcdCluster) -> AsyncIterator[Etcd]:
    async with Etcd(etcd_one.endpoints) as store:
        yield store


async def holding(store: Etcd, keys: Keys, directory: Path) -> Seated:
    """node-a joined, and holds the dataset d; its agent does not run."""
    member = await join(store, keys, "node-a", directory)
    tenure = Tenure(
        node="node-a",
        incarnation=member.incarnation,
        epoch=4,
        state=State.ACTIVE,
        uid="u",
        created=1,
        backend="loopback",
        txn="t",
    )
    await store.txn(Txn((), (Put(keys.owner("d"), tenure.encode()),)))
    return member


async def planned(store: Etcd, keys: Keys) -> tuple[Recovery, Plan]:
    seen = await look(store, keys)
    reports = [NodeReport(node="node-a", volumes=())]
    return Recovery(store, keys, seen, reports), plan(seen.datasets, reports, seen.cluster.id, (), {}, LIFE, "now")


async def tenure_of_d(store: Etcd, keys: Keys) -> Tenure:
    entry = await store.get(keys.owner("d"))
    assert entry is not None
    return Tenure.decode(entry.value)


async def cluster_of(store: Etcd, keys: Keys) -> Cluster:
    entry = await store.get(keys.cluster)
    assert entry is not None
    return Cluster.decode(entry.value)


async def test_it_fences_all_that_lived_raises_the_epoch_and_begins_a_new_history(
    store: Etcd, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drover.coordinator.cli.recover._JOIN", 0.1)
    member = await holding(store, keys, tmp_path)
    recovery, found = await planned(store, keys)
    await recovery.run(found, LIFE)
    tenure = await tenure_of_d(store, keys)
    assert (tenure.epoch, tenure.incarnation) == (1004, f"node-a.recovered.{LIFE}")
    for incarnation in (member.incarnation, tenure.incarnation):
        entry = await store.get(keys.fence(incarnation))
        assert entry is not None
        assert Fence.decode(entry.value).evidence is Evidence.OPERATOR
    assert (await cluster_of(store, keys)).histories == (LIFE,)
    assert await store.get(keys.node("node-a")) is None
    assert (await join(store, keys, "node-a", tmp_path)).incarnation != member.incarnation


async def test_an_agent_that_is_alive_stops_it_before_anything_of_a_dataset_is_changed_and_then_nobody_joins(
    store: Etcd, keys: Keys, tmp_path: Path
) -> None:
    member = await holding(store, keys, tmp_path)
    recovery, found = await planned(store, keys)
    running = asyncio.create_task(member.run())
    with pytest.raises(NotPossible, match="node-a is alive"):
        await recovery.run(found, LIFE)
    running.cancel()
    await asyncio.wait({running})
    assert (await tenure_of_d(store, keys)).epoch == 4
    assert await store.get(keys.fence(member.incarnation)) is None
    with pytest.raises(OtherEtcd, match="under way, or was broken off"):
        await join(store, keys, "node-b", tmp_path)


async def test_a_heartbeat_that_no_watch_has_told_of_stops_it_as_well(
    store: Etcd, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = await holding(store, keys, tmp_path)
    recovery, found = await planned(store, keys)

    async def told_of_nothing(self: Recovery) -> None:
        beat = await store.get(keys.heartbeat("node-a"))
        assert beat is not None
        await store.txn(Txn((), (Put(beat.key, beat.value),)))

    monkeypatch.setattr(Recovery, "_nobody_lives", told_of_nothing)
    with pytest.raises(NotPossible, match="Something wrote to etcd meanwhile"):
        await recovery.run(found, LIFE)
    assert (await tenure_of_d(store, keys)).epoch == 4
    assert await store.get(keys.fence(member.incarnation)) is None


async def test_what_was_broken_off_is_done_by_running_it_again(
    store: Etcd, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drover.coordinator.cli.recover._JOIN", 0.1)
    await holding(store, keys, tmp_path)
    recovery, found = await planned(store, keys)
    # Whatever happens to a tenure between the look and the change stops it half-way.
    await store.txn(Txn((), (Put(keys.owner("d"), (await tenure_of_d(store, keys)).encode()),)))
    with pytest.raises(NotPossible):
        await recovery.run(found, LIFE)
    assert (await cluster_of(store, keys)).etcd == ""
    recovery, found = await planned(store, keys)
    await recovery.run(found, LIFE)
    after = await cluster_of(store, keys)
    assert (after.etcd, after.histories) == (store.cluster_id, (LIFE,))
    await join(store, keys, "node-a", tmp_path)


async def test_the_command_shows_and_changes_nothing_without_a_persons_word(
    store: Etcd, etcd_one: EtcdCluster, keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await holding(store, keys, tmp_path)
    before = await store.range(keys.root, keys.root + "~")
    (tmp_path / "a.json").write_text(NodeReport(node="node-a", volumes=()).model_dump_json())
    (tmp_path / "bad.json").write_text("{}")
    where = ["--endpoints", etcd_one.endpoints[0], "--prefix", keys.root.rstrip("/")]

    async def drover(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(main.run, ["recover", *words, *where])
        said = capsys.readouterr()
        return code, said.out + said.err

    code, said = await drover(str(tmp_path / "a.json"))
    assert code == ExitCode.DONE
    assert "1004" in said
    assert "Nothing was changed" in said
    code, said = await drover(str(tmp_path / "bad.json"), "--confirm")
    assert code == ExitCode.USAGE
    assert "not what drover-agent tokens prints" in said
    assert (await drover(str(tmp_path / "a.json"), str(tmp_path / "a.json"), "--confirm"))[0] == ExitCode.USAGE
    assert (await drover(str(tmp_path / "a.json"), "--use", "d", "--confirm"))[0] == ExitCode.USAGE
    (tmp_path / "b.json").write_text(NodeReport(node="node-b", volumes=()).model_dump_json())
    code, said = await drover(str(tmp_path / "b.json"), "--confirm")
    assert code == ExitCode.NOT_POSSIBLE
    assert "node node-a has not reported" in said
    after = await store.range(keys.root, keys.root + "~")
    assert after.entries == before.entries


async def test_ls_and_nodes_say_that_etcd_is_another_one(
    store: Etcd, etcd_one: EtcdCluster, keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await holding(store, keys, tmp_path)
    moved = (await cluster_of(store, keys)).model_copy(update={"etcd": "e1"})
    where = ["--endpoints", etcd_one.endpoints[0], "--prefix", keys.root.rstrip("/")]
    for verb in ("ls", "nodes"):
        assert await asyncio.to_thread(main.run, [verb, *where]) == ExitCode.DONE
        assert "drover recover" not in capsys.readouterr().err
    await store.txn(Txn((), (Put(keys.cluster, moved.encode()),)))
    for verb in ("ls", "nodes"):
        assert await asyncio.to_thread(main.run, [verb, *where]) == ExitCode.DONE
        assert "drover recover" in capsys.readouterr().err
