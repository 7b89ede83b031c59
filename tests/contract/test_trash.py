"""The trash as a member looks after it, on real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drover.coordinator.etcd import Etcd
from drover.coordinator.housekeeping import Housekeeping
from drover.coordinator.keys import Keys, Kind
from drover.coordinator.member import Member
from drover.coordinator.record import Record
from drover.coordinator.records import State, Tenure, Trashed
from drover.coordinator.trash import name_in_trash
from drover.coordinator.txn import Put, Txn
from tests.contract.seats import join
from tests.etcd import EtcdCluster
from tests.unit.making import spec, tenure

pytest_plugins = ("tests.etcd",)
ASIDE = name_in_trash("uid")


@dataclass
class Bin:
    store: Etcd
    keys: Keys
    member: Member

    async def keep_house(self) -> None:
        """Once the view shows all that was written."""
        shown = ((Kind.TRASH, ASIDE), (Kind.OWNERS, "d"), (Kind.OWNERS, ASIDE))
        written = [await self.store.get(self.keys.of(*key)) for key in shown]
        async with asyncio.timeout(5):
            while written != [self.member.view.entry(*key) for key in shown]:
                await asyncio.sleep(0.005)
        await Housekeeping(self.member, compacts=False).look_after_trash()

    async def put(self, key: str, record: Record) -> None:
        await self.store.txn(Txn((), (Put(key, record.encode()),)))

    async def remove(self, days: float, state: State = State.RELEASED) -> None:
        """`d` was removed so that it is destroyed in so many days."""
        until = datetime.now(UTC) + timedelta(days=days)
        await self.put(self.keys.trash(ASIDE), Trashed(dataset="d", uid="uid", spec=spec(), until=until))
        await self.put(self.keys.owner("d"), tenure(state=state))

    async def owner(self, name: str) -> Tenure | None:
        entry = await self.store.get(self.keys.owner(name))
        return Tenure.decode(entry.value) if entry else None


@pytest.fixture
async def bin_(etcd_one: EtcdCluster, etcd_prefix: str, tmp_path: Path) -> AsyncIterator[Bin]:
    async with Etcd(etcd_one.endpoints) as store:
        keys = Keys(etcd_prefix)
        member = await join(store, keys, "z", tmp_path)
        watching = asyncio.create_task(member.view.run())
        yield Bin(store, keys, member)
        watching.cancel()
        await asyncio.wait({watching}, timeout=5)


async def test_what_was_given_up_is_laid_aside_by_whoever_keeps_house(bin_: Bin) -> None:
    await bin_.remove(days=1)
    await bin_.keep_house()
    kept, left = await bin_.owner(ASIDE), await bin_.owner("d")
    assert kept is not None
    assert left is not None
    assert (kept.uid, kept.state, kept.reclaim, kept.born) == ("uid", State.RELEASED, "retain", True)
    assert (left.state, left.trash, left.epoch) == (State.DESTROYED, ASIDE, kept.epoch)


async def test_what_somebody_still_holds_stays_where_it_is(bin_: Bin) -> None:
    await bin_.remove(days=-1, state=State.ACTIVE)
    await bin_.keep_house()
    assert await bin_.owner(ASIDE) is None
    assert await bin_.owner("d") == tenure(state=State.ACTIVE)


async def test_a_spec_put_again_meanwhile_keeps_its_data_from_the_trash(bin_: Bin) -> None:
    await bin_.remove(days=1)
    await bin_.put(bin_.keys.dataset("d"), spec())
    await bin_.keep_house()
    assert await bin_.owner(ASIDE) is None


async def test_nothing_is_destroyed_before_its_time_and_after_it_only_the_trash_is(bin_: Bin) -> None:
    await bin_.remove(days=1)
    for _ in range(2):
        await bin_.keep_house()
    kept = await bin_.owner(ASIDE)
    assert kept is not None
    assert kept.reclaim == "retain"
    await bin_.put(
        bin_.keys.trash(ASIDE), Trashed(dataset="d", uid="uid", spec=spec(), until=datetime(2026, 1, 1, tzinfo=UTC))
    )
    await bin_.keep_house()
    doomed = await bin_.owner(ASIDE)
    assert doomed is not None
    assert doomed.reclaim == "delete"
    assert await bin_.store.get(bin_.keys.trash(ASIDE)) is None
    left = await bin_.owner("d")
    assert left is not None
    assert left.trash == ASIDE
