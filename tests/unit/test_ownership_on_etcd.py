"""What becomes of the transactions on tenures, on etcd's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from drover.coordinator.protocol import ownership
from drover.coordinator.protocol.dataset import Dataset, Node
from drover.coordinator.protocol.observer import stand_in
from drover.coordinator.protocol.ownership import Seat
from drover.coordinator.record import Record
from drover.coordinator.records import Evidence, Heartbeat, NodeRecord, Phase, State, Status, Tenure
from drover.coordinator.store import LeaseGone
from drover.coordinator.txn import Delete, Put, Txn
from tests.model.store import MAX_OPERATIONS, ModelCluster
from tests.unit.making import (
    KEYS,
    cluster,
    dataset,
    fence,
    incarnation,
    seat,
    spec,
    tenure,
)

STATUS = Status(phase=Phase.ACTIVE)


class World:
    """etcd's model with nodes a, b and c, of which each has a lease; datasets are read back from it."""

    def __init__(self) -> None:
        self.etcd = ModelCluster()
        self.seats: dict[str, Seat] = {}
        for name in "abc":
            self.join(name)

    def join(self, name: str, life: int = 1) -> Seat:
        lease = self.etcd.grant(10)
        record = NodeRecord(
            incarnation=incarnation(name, life), machine=name, boot=name, lease=lease, backends=("loopback",)
        )
        self.put(KEYS.node(name), record, lease)
        self.seats[name] = seat(name, life, lease)
        return self.seats[name]

    def put(self, key: str, record: Record | str, lease: int = 0) -> None:
        value = record.encode()
        assert self.etcd.apply(Txn((), (Put(key, value, lease),))).succeeded

    def fence(self, inc: str, evidence: Evidence = Evidence.SILENCE) -> None:
        self.put(KEYS.fence(inc), fence(inc.partition(".")[0], evidence))

    def declare(self, *names: str) -> None:
        for name in names:
            self.put(KEYS.dataset(name), spec())
            self.put(KEYS.desired(name), "a")

    def dataset(self, name: str = "d") -> Dataset:
        wish, made, owner = (self.etcd.entry(k) for k in (KEYS.desired(name), KEYS.dataset(name), KEYS.owner(name)))
        return Dataset(
            name,
            spec=spec() if made else None,
            spec_revision=made.mod_revision if made else 0,
            spec_created=made.create_revision if made else 0,
            desired=wish.value.decode() if wish else None,
            desired_revision=wish.mod_revision if wish else 0,
            desired_created=wish.create_revision if wish else 0,
            tenure=Tenure.decode(owner.value) if owner else None,
            tenure_revision=owner.mod_revision if owner else 0,
            leased=self.etcd.entry(KEYS.lease(name)) is not None,
        )

    def node(self, name: str) -> Node:
        entry = self.etcd.entry(KEYS.node(name))
        assert entry is not None
        return Node(NodeRecord.decode(entry.value), entry.create_revision, entry.lease)

    def claim(self, by: str, *names: str, beside: Sequence[Dataset] = ()) -> Txn:
        held = [self.dataset(n) for n in names]
        known = {
            i: e.mod_revision
            for d in held
            if d.tenure and (e := self.etcd.entry(KEYS.fence(i := d.tenure.incarnation))) is not None
        }
        fences = {i: fence("x") for i in known}
        uids = {n: f"uid of {n}" for n in names}
        return ownership.claim(self.seats[by], held, cluster(fences=fences), uids, "why", None, known, beside)

    def commit(self, txn: Txn) -> bool:
        return self.etcd.apply(txn).succeeded

    def holder(self, name: str = "d") -> tuple[str, int, State]:
        found = self.dataset(name).tenure
        assert found is not None
        return found.incarnation, found.epoch, found.state


@pytest.fixture
def world() -> World:
    made = World()
    made.declare("d")
    assert made.commit(made.claim("a", "d"))
    assert made.commit(ownership.activate(made.seats["a"], made.dataset()))
    return made


def test_of_two_claims_one_commits() -> None:
    world = World()
    world.declare("d")
    first, second = world.claim("a", "d"), world.claim("b", "d")
    assert world.commit(first)
    assert not world.commit(second)


def test_a_wish_put_in_between_stops_the_claim() -> None:
    world = World()
    world.declare("d")
    txn = world.claim("a", "d")
    world.put(KEYS.desired("d"), "b")
    assert not world.commit(txn)


def test_a_claim_on_a_lease_that_is_gone_is_a_plain_no() -> None:
    world = World()
    world.declare("d")
    world.etcd.expire(world.seats["a"].lease)
    with pytest.raises(LeaseGone):
        world.commit(world.claim("a", "d"))
    assert world.dataset().tenure is None


def test_a_handover_takes_effect_at_once(world: World) -> None:
    assert world.commit(ownership.handover(world.seats["a"], [world.dataset()], "b", world.node("b"), "desired says b"))
    assert world.holder() == ("b.1", 2, State.ASSIGNED)
    entry = world.etcd.entry(KEYS.lease("d"))
    assert entry is not None
    assert entry.lease == world.seats["b"].lease


@pytest.mark.parametrize("trouble", ["rejoined", "lost its lease", "fenced", "gone and back on the same lease"])
def test_a_handover_to_a_node_that_is_not_as_it_was_read_fails_as_a_whole(world: World, trouble: str) -> None:
    world.declare("e")
    world.commit(world.claim("a", "e"))
    before = [world.dataset("d"), world.dataset("e")]
    txn = ownership.handover(world.seats["a"], before, "b", world.node("b"), "why")
    match trouble:
        case "rejoined":
            world.join("b", life=2)
        case "lost its lease":
            world.etcd.expire(world.seats["b"].lease)
        case "fenced":
            world.fence("b.1")
        case _:
            entry = world.etcd.entry(KEYS.node("b"))
            assert entry is not None
            world.etcd.apply(Txn((), (Delete(KEYS.node("b")),)))
            world.etcd.apply(Txn((), (Put(KEYS.node("b"), entry.value, entry.lease),)))
    assert not world.commit(txn)
    assert [world.dataset("d"), world.dataset("e")] == before


def test_a_group_moves_all_or_none(world: World) -> None:
    world.declare("e")
    world.commit(world.claim("a", "e"))
    unit = [world.dataset("d"), world.dataset("e")]
    txn = ownership.handover(world.seats["a"], unit, "b", world.node("b"), "why")
    world.commit(ownership.touch(world.seats["a"], world.dataset("e")))
    assert not world.commit(txn)
    assert world.holder("d")[0] == "a.1"


def test_a_late_claim_and_a_handover_of_the_others_do_not_tear_a_group_apart(world: World) -> None:
    world.declare("e")
    d, e = world.dataset("d"), world.dataset("e")
    late = world.claim("a", "e", beside=[d])
    handover = ownership.handover(world.seats["a"], [d], "b", world.node("b"), "why", beside=[e])
    assert world.commit(late)
    assert not world.commit(handover)
    world.commit(
        ownership.handover(world.seats["a"], [world.dataset("d"), world.dataset("e")], "b", world.node("b"), "")
    )
    assert not world.commit(late)
    assert {world.holder("d")[0], world.holder("e")[0]} == {"b.1"}


def test_a_claim_that_comes_after_the_others_have_left_fails(world: World) -> None:
    world.declare("e")
    d, e = world.dataset("d"), world.dataset("e")
    late = world.claim("a", "e", beside=[d])
    assert world.commit(ownership.handover(world.seats["a"], [d], "b", world.node("b"), "why", beside=[e]))
    assert not world.commit(late)


def test_the_largest_unit_fits_into_one_transaction(world: World) -> None:
    names = [f"g{i:02}" for i in range(40)]
    world.declare(*names)
    for txn in (world.claim("a", *names),):
        assert max(len(txn.compare), len(txn.then)) <= MAX_OPERATIONS
        assert world.commit(txn)
    unit = [world.dataset(n) for n in names]
    assert world.commit(ownership.handover(world.seats["a"], unit, "b", world.node("b"), "why"))
    world.fence("b.1")
    assert world.commit(world.claim("c", *names))
    unit = [world.dataset(n) for n in names]
    assert world.commit(ownership.release(world.seats["c"], unit, "why"))


def test_what_was_released_can_be_claimed_by_anybody_without_a_fence(world: World) -> None:
    assert world.commit(ownership.release(world.seats["a"], [world.dataset()], "drained"))
    assert world.dataset().leased is False
    assert world.commit(world.claim("c", "d"))
    assert world.holder() == ("c.1", 2, State.ASSIGNED)


def test_deleting_and_recreating_a_dataset_never_sets_the_epoch_back(world: World) -> None:
    """C6: two incarnations in one epoch, and a node that comes back destroys the new data by its name."""
    epochs, uids = [1], {world.dataset().tenure.uid}  # type: ignore[union-attr]
    for turn in range(3):
        world.etcd.apply(Txn((), (Delete(KEYS.dataset("d")),)))
        assert world.commit(ownership.release(world.seats["a"], [world.dataset()], "its spec was deleted"))
        world.declare("d")
        txn = ownership.claim(world.seats["a"], [world.dataset()], cluster("a"), {"d": f"uid {turn}"}, "new", None, {})
        assert world.commit(txn)
        found = world.dataset().tenure
        assert found is not None
        epochs.append(found.epoch)
        uids.add(found.uid)
    assert epochs == [1, 2, 3, 4]
    assert len(uids) == 4


def test_a_zombies_report_does_not_overwrite_its_successors(world: World) -> None:
    before = world.dataset()
    world.commit(ownership.handover(world.seats["a"], [before], "b", world.node("b"), "why"))
    assert not world.commit(ownership.report(world.seats["a"], before, STATUS))
    assert world.commit(ownership.report(world.seats["b"], world.dataset(), STATUS))


def test_a_fenced_nodes_report_is_refused(world: World) -> None:
    world.fence("a.1")
    assert not world.commit(ownership.report(world.seats["a"], world.dataset(), STATUS))


def test_after_a_fence_nothing_of_that_incarnation_commits(world: World) -> None:
    world.declare("e")
    me, d = world.seats["a"], world.dataset()
    assigned = dataset(tenure=tenure(state=State.ASSIGNED), tenure_revision=d.tenure_revision)
    fresh = world.claim("a", "e")
    every = [
        ownership.touch(me, d),
        ownership.born(me, d, "object"),
        ownership.refresh(me, d),
        ownership.cleared(me, d, []),
        ownership.activate(me, assigned),
        ownership.destroyed(me, d),
        ownership.report(me, d, STATUS),
        ownership.release(me, [d], "why"),
        ownership.handover(me, [d], "b", world.node("b"), "why"),
        fresh,
    ]
    world.fence("a.1")
    assert [world.commit(txn) for txn in every] == [False] * len(every)
    world.etcd.apply(Txn((), (Delete(KEYS.fence("a.1")),)))
    assert world.commit(every[0]), "it was the fence that stopped them"


def test_what_only_looks_deleted_is_not_condemned(world: World) -> None:
    """A watch may show the tenure of a spec that was put again, and not yet that spec."""
    now = world.dataset()
    assert now.tenure is not None
    looks = replace(now, spec=None, spec_revision=0, tenure=now.tenure.model_copy(update={"reclaim": "delete"}))
    assert looks.doomed
    assert not world.commit(ownership.condemn(world.seats["a"], looks))
    world.etcd.apply(Txn((), (Delete(KEYS.dataset("d")),)))
    assert world.commit(ownership.condemn(world.seats["a"], looks))


def test_a_request_that_arrives_after_a_touch_never_commits(world: World) -> None:
    """C1: the handover is on its way when its sender decides to go on."""
    before = world.dataset()
    late = ownership.handover(world.seats["a"], [before], "b", world.node("b"), "why")
    assert world.commit(ownership.touch(world.seats["a"], before))
    assert not world.commit(late)
    assert world.holder() == ("a.1", 1, State.ACTIVE)


def test_a_touch_that_arrives_after_the_request_does_not_commit(world: World) -> None:
    before = world.dataset()
    assert world.commit(ownership.handover(world.seats["a"], [before], "b", world.node("b"), "why"))
    assert not world.commit(ownership.touch(world.seats["a"], before))


def test_a_lease_record_is_put_back_only_where_it_is_missing_and_the_tenure_still_mine(world: World) -> None:
    """H2: blindly put back, it would overwrite the claimer's."""
    assert not world.commit(ownership.reput(world.seats["a"], world.dataset()))
    world.etcd.expire(world.seats["a"].lease)
    missing = world.dataset()
    again = world.join("a")
    world.fence("a.1")
    world.commit(world.claim("c", "d"))
    assert not world.commit(ownership.reput(again, missing))


def test_a_fence_needs_the_heartbeat_that_was_watched(world: World) -> None:
    beat = Heartbeat(incarnation="a.1", counter=1, clock=0.0, d_hard=6.5)
    world.put(KEYS.heartbeat("a"), beat)
    seen = world.etcd.entry(KEYS.heartbeat("a"))
    assert seen is not None
    txn = ownership.fence(world.seats["b"], "a", beat, seen.mod_revision, fence("a"))
    world.put(KEYS.heartbeat("a"), beat)
    assert not world.commit(txn)


def test_a_fence_is_written_once(world: World) -> None:
    beat = Heartbeat(incarnation="a.1", counter=1, clock=0.0, d_hard=6.5)
    world.put(KEYS.heartbeat("a"), beat)
    revision = world.etcd.revision
    assert world.commit(ownership.fence(world.seats["b"], "a", beat, revision, fence("a")))
    assert not world.commit(ownership.fence(world.seats["c"], "a", beat, revision, fence("a")))


def test_a_placeholder_is_put_only_where_nothing_is_and_for_the_node_as_it_was_read(world: World) -> None:
    described = world.etcd.entry(KEYS.node("a"))
    assert described is not None
    txn = ownership.placeholder(world.seats["b"], "a", stand_in("a.1"), described.mod_revision)
    late = ownership.placeholder(world.seats["c"], "a", stand_in("a.1"), described.mod_revision)
    assert world.commit(txn)
    assert not world.commit(late)
    replaced = ownership.placeholder(
        world.seats["c"], "a", stand_in("a.1"), described.mod_revision, world.etcd.revision
    )
    world.join("a", life=2)
    assert not world.commit(replaced)
