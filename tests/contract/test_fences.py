"""A fence is deleted exactly when it says nothing any more, whatever happens meanwhile. On real etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from drover.coordinator.housekeeping import Housekeeping
from drover.coordinator.keys import Keys, Kind
from drover.coordinator.member import Member
from drover.coordinator.protocol import ownership
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.protocol.observer import stand_in
from drover.coordinator.protocol.ownership import Seat
from drover.coordinator.record import Record
from drover.coordinator.records import Evidence, Heartbeat, State, Tenure
from drover.coordinator.store import LeaseGone
from drover.coordinator.txn import Put, Txn
from tests.contract.seats import Recorded, join
from tests.etcd import EtcdCluster
from tests.unit.making import cluster, dataset, dead, fence, holder, incarnation, spec, tenure


@dataclass
class Fenced:
    """Node a was fenced in its first incarnation and lives in its second one; member z collects."""

    store: Recorded
    keys: Keys
    member: Member

    async def put(self, key: str, record: Record | str) -> None:
        await self.store.txn(Txn((), (Put(key, record.encode()),)))

    async def there(self) -> bool:
        return await self.store.get(self.keys.fence("a.1")) is not None

    def seat(self, node: str, life: int, lease: int) -> Seat:
        return Seat(self.keys, node, incarnation(node, life), lease, at="now", txn="txn")

    async def dataset(self) -> Dataset:
        """`d`, with a spec, as etcd has it."""
        made, owner = await self.store.get(self.keys.dataset("d")), await self.store.get(self.keys.owner("d"))
        assert made is not None
        return dataset(
            spec_revision=made.mod_revision,
            spec_created=made.create_revision,
            desired=None,
            desired_revision=0,
            tenure=Tenure.decode(owner.value) if owner else None,
            tenure_revision=owner.mod_revision if owner else 0,
        )

    async def claim(self, seat: Seat) -> Txn:
        fenced = await self.store.get(self.keys.fence("a.1"))
        assert fenced is not None
        known, relied = cluster(fences=dead("a")), {"a.1": fenced.mod_revision}
        return ownership.claim(seat, [await self.dataset()], known, {"d": "uid"}, "why", None, relied)


@pytest.fixture
async def fenced(etcd_one: EtcdCluster, etcd_prefix: str, tmp_path: Path) -> AsyncIterator[Fenced]:
    keys = Keys(etcd_prefix)
    async with Recorded(etcd_one.endpoints) as store:
        made = Fenced(store, keys, await join(store, keys, "z", tmp_path))
        await made.put(keys.fence("a.1"), fence("a"))
        await made.put(keys.heartbeat("a"), living("a.2"))
        yield made


def living(of: str) -> Heartbeat:
    return Heartbeat(incarnation=of, counter=1, clock=0.0, d_hard=6.5)


async def collect(fenced: Fenced, times: int = 3) -> None:
    housekeeping = Housekeeping(fenced.member, False)
    for _ in range(times):
        await housekeeping.collect()


async def test_a_fence_is_deleted_at_the_second_look_that_finds_it_saying_nothing(fenced: Fenced) -> None:
    await fenced.put(fenced.keys.owner("d"), tenure("a", life=2, unfenced=(holder("b"),)))
    await collect(fenced, times=1)
    assert await fenced.there()
    await collect(fenced, times=2)
    assert not await fenced.there()


@pytest.mark.parametrize(
    "names_it",
    [tenure("a"), tenure("a", state=State.RELEASED), tenure("b", unfenced=(holder("a"),))],
    ids=["holder", "last holder", "to be cut off"],
)
async def test_a_fence_stays_while_a_tenure_names_it(fenced: Fenced, names_it: Tenure) -> None:
    await fenced.put(fenced.keys.owner("d"), names_it)
    await collect(fenced)
    assert await fenced.there()


async def test_a_fence_stays_while_there_is_a_tenure_that_cannot_be_read(
    fenced: Fenced, caplog: pytest.LogCaptureFixture
) -> None:
    await fenced.put(fenced.keys.owner("d"), "typed by somebody")
    await collect(fenced)
    assert await fenced.there()
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    "heartbeat",
    [living("a.1"), stand_in("a.2"), "typed by somebody"],
    ids=["its own", "a placeholder", "unreadable"],
)
async def test_a_fence_stays_while_its_node_is_not_seen_to_live_in_another_incarnation(
    fenced: Fenced, heartbeat: Heartbeat | str
) -> None:
    await fenced.put(fenced.keys.heartbeat("a"), heartbeat)
    await collect(fenced)
    assert await fenced.there()


async def test_a_fence_stays_if_the_heartbeat_moves_before_it_is_deleted(fenced: Fenced) -> None:
    fenced.store.before["delete"] = lambda: fenced.put(fenced.keys.heartbeat("a"), living("a.1"))
    await collect(fenced)
    assert "delete" not in fenced.store.before
    assert await fenced.there()


async def test_a_fence_stays_if_it_is_written_again_before_it_is_deleted(fenced: Fenced) -> None:
    fenced.store.before["delete"] = lambda: fenced.put(fenced.keys.fence("a.1"), fence("a", Evidence.REBOOT))
    await collect(fenced, times=2)
    assert "delete" not in fenced.store.before
    assert await fenced.there()


async def test_a_fence_is_not_deleted_by_one_who_is_fenced(fenced: Fenced) -> None:
    await fenced.put(fenced.keys.fence(fenced.member.incarnation), fence("z"))
    await collect(fenced)
    assert await fenced.there()


@pytest.mark.parametrize("when", [Kind.FENCES, Kind.HEARTBEATS, Kind.OWNERS, None])
async def test_a_fence_is_named_before_and_after_a_claim_from_it_whenever_that_comes(
    fenced: Fenced, when: Kind | None
) -> None:
    """Before, as the holder; after, as one to be cut off, until it has been."""
    keys, store = fenced.keys, fenced.store
    await fenced.put(keys.dataset("d"), spec())
    await fenced.put(keys.owner("d"), tenure("a"))
    housekeeping = Housekeeping(fenced.member, False)
    await housekeeping.collect()
    seat = fenced.seat("b", 1, await store.grant(60))
    claim = await fenced.claim(seat)
    if when:
        store.before[keys.under(when)] = lambda: store.txn(claim)
    await housekeeping.collect()
    if not when:
        await store.txn(claim)
    await housekeeping.collect()
    claimed = await fenced.dataset()
    assert claimed.tenure is not None
    assert (claimed.tenure.node, claimed.tenure.unfenced) == ("b", (holder("a"),))
    assert await fenced.there()
    await store.txn(ownership.cleared(seat, claimed, [holder("a")]))
    await housekeeping.collect()
    await housekeeping.collect()
    assert not await fenced.there()


async def test_a_fence_outlives_what_its_incarnation_has_still_under_way(fenced: Fenced) -> None:
    """A claim that was sent before the fence and arrives late: as long as it could commit, the fence is there."""
    await fenced.put(fenced.keys.dataset("d"), spec())
    lease = await fenced.store.grant(60)
    late = await fenced.claim(fenced.seat("a", 1, lease))
    await collect(fenced, times=1)
    assert not (await fenced.store.txn(late)).succeeded
    await fenced.store.revoke(lease)
    await collect(fenced, times=2)
    assert not await fenced.there()
    with pytest.raises(LeaseGone):
        await fenced.store.txn(late)
