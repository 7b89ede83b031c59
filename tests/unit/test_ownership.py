"""The transactions on tenures: what each compares, and what becomes of them on etcd's model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from drover.coordinator.protocol import ownership
from drover.coordinator.protocol.observer import stand_in
from drover.coordinator.protocol.ownership import Seat
from drover.coordinator.protocol.placement import Dataset, Invalid, Node
from drover.coordinator.records import (
    Answers,
    Evidence,
    Heartbeat,
    HistoryEntry,
    Holder,
    LeaseRecord,
    NodeRecord,
    Phase,
    Record,
    State,
    Status,
    Tenure,
)
from drover.coordinator.store import LeaseGone
from drover.coordinator.txn import CreateRevision, Delete, ModRevision, OnLease, Put, Txn, absent
from tests.model.store import MAX_OPERATIONS, ModelCluster
from tests.unit.making import (
    DESIRED_CREATED,
    KEYS,
    SPEC_REVISION,
    TENURE_REVISION,
    cluster,
    dataset,
    dead,
    fence,
    holder,
    incarnation,
    node,
    puts,
    seat,
    spec,
    tenure,
    written,
)

STATUS = Status(phase=Phase.ACTIVE)


def claim(d: Dataset | Sequence[Dataset], by: Seat | None = None, *dead_nodes: str) -> Txn:
    datasets = [d] if isinstance(d, Dataset) else list(d)
    fences = dead(*dead_nodes)
    return ownership.claim(
        by or seat("b"),
        datasets,
        cluster("b", fences=fences),
        {d.name: "new uid" for d in datasets},
        "why",
        Evidence.SILENCE if dead_nodes else None,
        dict.fromkeys(fences, 80),
    )


ASSIGNED = dataset(tenure=tenure(state=State.ASSIGNED))
EVERY = {
    "claim": claim(dataset(), seat("b"), "a"),
    "activate": ownership.activate(seat("b"), ASSIGNED),
    "born": ownership.born(seat("b"), dataset(), "object"),
    "refresh": ownership.refresh(seat("b"), dataset()),
    "touch": ownership.touch(seat("b"), dataset()),
    "cleared": ownership.cleared(seat("b"), dataset(), []),
    "handover": ownership.handover(seat("b"), [dataset()], "c", node("c"), "why"),
    "release": ownership.release(seat("b"), [dataset()], "why"),
    "destroyed": ownership.destroyed(seat("b"), dataset()),
    "reput": ownership.reput(seat("b"), dataset()),
    "report": ownership.report(seat("b"), dataset(), STATUS),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_transaction_compares_its_senders_fence_and_the_tenure_as_read(name: str) -> None:
    compare = EVERY[name].compare
    assert absent(KEYS.fence("b.1")) in compare
    assert ModRevision(KEYS.owner("d"), TENURE_REVISION) in compare


def test_fences_and_placeholders_are_not_put_by_who_is_fenced() -> None:
    beat = stand_in("a.1")
    for txn in (ownership.fence(seat("b"), "a", beat, 5, fence("a")), ownership.placeholder(seat("b"), "a", beat, 0)):
        assert absent(KEYS.fence("b.1")) in txn.compare


@pytest.mark.parametrize("name", ["touch", "activate", "born", "refresh", "cleared", "release", "destroyed"])
def test_what_is_no_change_of_incarnation_keeps_the_epoch(name: str) -> None:
    assert written(EVERY[name]).epoch == 3


@pytest.mark.parametrize("name", ["claim", "handover"])
def test_a_change_of_incarnation_is_one_epoch_more_and_stands_in_the_history(name: str) -> None:
    new = written(EVERY[name])
    assert new.epoch == 4
    line = HistoryEntry.decode(puts(EVERY[name])["history/d/00000004"].value)
    assert (line.epoch, line.node, line.because) == (4, new.node, "why")


@pytest.mark.parametrize("name", EVERY)
def test_each_rewrite_has_a_new_random_id(name: str) -> None:
    if "owners/d" in puts(EVERY[name]):
        assert written(EVERY[name]).txn == "mine"


@pytest.mark.parametrize("name", ["claim", "activate", "born", "refresh", "touch", "handover", "release", "destroyed"])
def test_every_transaction_carries_on_who_may_still_write(name: str) -> None:
    left = (holder("x"),)
    d = dataset(tenure=tenure(unfenced=left))
    txns = {
        "claim": lambda: claim(d, seat("b"), "a"),
        "born": lambda: ownership.born(seat("a"), d, "o"),
        "refresh": lambda: ownership.refresh(seat("a"), d),
        "touch": lambda: ownership.touch(seat("a"), d),
        "handover": lambda: ownership.handover(seat("a"), [d], "c", node("c"), "why"),
        "release": lambda: ownership.release(seat("a"), [d], "why"),
        "destroyed": lambda: ownership.destroyed(seat("a"), d),
    }
    if name not in txns:
        with pytest.raises(ValueError, match="not cut off"):
            ownership.activate(seat("a"), dataset(tenure=tenure(state=State.ASSIGNED, unfenced=left)))
    else:
        assert written(txns[name]()).unfenced[:1] == left


class TestClaim:
    def test_compares_all_that_it_decided_on(self) -> None:
        compare = claim(dataset(), seat("b"), "a").compare
        assert ModRevision(KEYS.desired("d"), DESIRED_CREATED) in compare
        assert ModRevision(KEYS.dataset("d"), SPEC_REVISION) in compare
        assert ModRevision(KEYS.fence("a.1"), 80) in compare

    def test_of_a_held_dataset_needs_the_holders_fence(self) -> None:
        with pytest.raises(ValueError, match="held by a, which is not fenced"):
            claim(dataset())

    def test_adds_the_dead_holder_to_those_who_may_still_write_even_if_it_was_never_active(self) -> None:
        for state in (State.ACTIVE, State.ASSIGNED):
            d = dataset(tenure=tenure(state=state, unfenced=(holder("x"),)))
            assert written(claim(d, seat("b"), "a")).unfenced == (holder("x"), holder("a"))

    def test_of_what_was_released_suspects_nobody(self) -> None:
        new = written(claim(dataset(tenure=tenure(state=State.RELEASED))))
        assert (new.state, new.unfenced, new.node) == (State.ASSIGNED, (), "b")

    def test_answers_the_wish_as_it_read_it(self) -> None:
        d = dataset(tenure=tenure(state=State.RELEASED), desired="b", desired_revision=75, desired_created=70)
        assert written(claim(d)).answers == Answers(value="b", revision=70)

    def test_keeps_the_volume_of_an_old_dataset_and_takes_a_new_uid_for_a_new_one(self) -> None:
        assert written(claim(dataset(), seat("b"), "a")).uid == "uid"
        new = written(claim(dataset(tenure=None)))
        assert (new.epoch, new.uid, new.born, new.object) == (1, "new uid", False, "")

    @pytest.mark.parametrize("state", [State.RELEASED, State.DESTROYED])
    def test_of_a_spec_put_again_goes_on_counting_epochs_with_a_new_uid(self, state: State) -> None:
        again = dataset(tenure=tenure(state=state, epoch=17), spec_created=90, spec=spec(reclaim="delete"))
        new = written(claim(again))
        assert (new.epoch, new.uid, new.created, new.born, new.reclaim) == (18, "new uid", 90, False, "delete")

    def test_of_what_was_to_be_destroyed_keeps_the_old_volume_until_it_is(self) -> None:
        again = dataset(tenure=tenure(state=State.RELEASED, reclaim="delete"), spec_created=90)
        kept = written(claim(again))
        assert (kept.uid, kept.created, kept.reclaim) == ("uid", 40, "delete")

    def test_needs_data_or_a_usable_spec(self) -> None:
        for d in (dataset(tenure=None, spec=None), dataset(tenure=None, spec=Invalid("no"))):
            with pytest.raises(ValueError, match="neither data nor a usable spec"):
                claim(d)

    def test_empties_what_belongs_to_the_handover_before(self) -> None:
        old = tenure(state=State.ASSIGNED, source="x", down=12.0)
        new = written(claim(dataset(tenure=old), seat("b"), "a"))
        assert (new.source, new.down) == ("", None)

    def test_binds_the_lease_record_to_my_lease(self) -> None:
        put = puts(claim(dataset(), seat("b", lease=33), "a"))["leases/d"]
        assert put.lease == 33
        assert LeaseRecord.decode(put.value) == LeaseRecord(node="b", incarnation="b.1", epoch=4)


class TestActivate:
    def test_empties_the_list_of_refusers(self) -> None:
        d = dataset(tenure=tenure(state=State.ASSIGNED, refused=("x",)))
        active = written(ownership.activate(seat(), d))
        assert (active.state, active.refused) == (State.ACTIVE, ())

    def test_is_for_assigned_tenures_only(self) -> None:
        for state in (State.ACTIVE, State.RELEASED, State.DESTROYED):
            with pytest.raises(ValueError, match="cannot be activated"):
                ownership.activate(seat(), dataset(tenure=tenure(state=state)))

    def test_forgets_the_epoch_that_was_a_hundred_before(self) -> None:
        d = dataset(tenure=tenure(state=State.ASSIGNED, epoch=101))
        assert Delete(KEYS.history("d", 1)) in ownership.activate(seat(), d).then


class TestCleared:
    def test_takes_out_those_who_stopped_and_nobody_else(self) -> None:
        d = dataset(tenure=tenure(unfenced=(holder("x"), holder("x", 2), holder("y"))))
        left = written(ownership.cleared(seat(), d, [holder("x", 2), holder("z")])).unfenced
        assert left == (holder("x"), holder("y"))

    @pytest.mark.parametrize("evidence", [e for e in Evidence if e is not Evidence.SILENCE])
    def test_is_allowed_by_any_positive_evidence(self, evidence: Evidence) -> None:
        assert ownership.may_clear(holder("x"), dataset(), fence("x", evidence))

    def test_is_allowed_by_silence_only_where_a_reset_was_armed_or_the_spec_settles_for_cooperation(self) -> None:
        assert not ownership.may_clear(holder("x"), dataset(), None)
        assert not ownership.may_clear(holder("x"), dataset(), fence("x"))
        assert ownership.may_clear(holder("x"), dataset(), fence("x", armed=True))
        assert ownership.may_clear(holder("x"), dataset(spec=spec(fencing="cooperative")), fence("x"))
        for unknown in (None, Invalid("no")):
            assert not ownership.may_clear(holder("x"), dataset(spec=unknown), fence("x"))


class TestHandover:
    def test_compares_the_target_as_it_was_read(self) -> None:
        compare = ownership.handover(seat(), [dataset()], "c", node("c"), "why").compare
        assert CreateRevision(KEYS.node("c"), 9) in compare
        assert OnLease(KEYS.node("c"), 7) in compare
        assert absent(KEYS.fence("c.1")) in compare
        assert ModRevision(KEYS.desired("d"), DESIRED_CREATED) in compare

    def test_binds_to_the_targets_lease_without_a_moment_in_between(self) -> None:
        txn = ownership.handover(seat(), [dataset()], "c", node("c"), "why", down=12.5)
        new = written(txn)
        assert (new.node, new.incarnation, new.state, new.source) == ("c", "c.1", State.ASSIGNED, "a")
        assert (new.uid, new.born, new.down, new.evidence) == ("uid", True, 12.5, None)
        assert puts(txn)["leases/d"].lease == 7

    def test_by_a_node_that_refuses_names_it_once_and_is_no_source_to_go_back_to(self) -> None:
        d = dataset(tenure=tenure(state=State.ASSIGNED, refused=("a",), source="b"))
        new = written(ownership.handover(seat("a"), [d], "c", node("c"), "why", refused=True))
        assert (new.refused, new.source) == (("a",), "")


class TestRelease:
    def test_keeps_the_record_and_deletes_the_lease(self) -> None:
        txn = ownership.release(seat(), [dataset()], "why")
        assert written(txn).state is State.RELEASED
        assert Delete(KEYS.lease("d")) in txn.then

    def test_by_a_node_that_refuses_names_it_once(self) -> None:
        d = dataset(tenure=tenure(state=State.ASSIGNED, refused=("x",)))
        first = ownership.release(seat("a"), [d], "why", refused=True)
        assert written(first).refused == ("x", "a")
        again = dataset(tenure=written(first))
        assert written(ownership.release(seat("a"), [again], "why", refused=True)).refused == ("x", "a")


class TestRefresh:
    def test_copies_reclaim_and_answers_the_wish(self) -> None:
        d = dataset(spec=spec(reclaim="delete"), desired_created=70)
        new = written(ownership.refresh(seat(), d))
        assert (new.reclaim, new.answers.revision) == ("delete", 70)

    def test_is_due_when_reclaim_changed_or_a_wish_that_is_fulfilled_is_not_answered(self) -> None:
        assert not ownership.stale_copy(dataset(), True)
        assert ownership.stale_copy(dataset(spec=spec(reclaim="delete")), False)
        assert ownership.stale_copy(dataset(desired_created=70), True)
        assert not ownership.stale_copy(dataset(desired_created=70), False)

    def test_takes_nothing_from_another_datasets_spec_of_the_same_name(self) -> None:
        again = dataset(spec=spec(reclaim="delete"), spec_created=90)
        assert not ownership.stale_copy(again, True)
        assert written(ownership.refresh(seat(), again)).reclaim == "retain"


def test_a_destroyed_dataset_keeps_its_epoch_and_forgets_its_volume() -> None:
    txn = ownership.destroyed(seat(), dataset())
    gone = written(txn)
    assert (gone.state, gone.epoch, gone.born, gone.object) == (State.DESTROYED, 3, False, "")
    assert Delete(KEYS.lease("d")) in txn.then


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

    def claim(self, by: str, *names: str) -> Txn:
        held = [self.dataset(n) for n in names]
        known = {
            i: e.mod_revision
            for d in held
            if d.tenure and (e := self.etcd.entry(KEYS.fence(i := d.tenure.incarnation))) is not None
        }
        fences = {i: fence("x") for i in known}
        uids = {n: f"uid of {n}" for n in names}
        return ownership.claim(self.seats[by], held, cluster(fences=fences), uids, "why", None, known)

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


class TestOnEtcd:
    def test_of_two_claims_one_commits(self) -> None:
        world = World()
        world.declare("d")
        first, second = world.claim("a", "d"), world.claim("b", "d")
        assert world.commit(first)
        assert not world.commit(second)

    def test_a_wish_put_in_between_stops_the_claim(self) -> None:
        world = World()
        world.declare("d")
        txn = world.claim("a", "d")
        world.put(KEYS.desired("d"), "b")
        assert not world.commit(txn)

    def test_a_claim_on_a_lease_that_is_gone_is_a_plain_no(self) -> None:
        world = World()
        world.declare("d")
        world.etcd.expire(world.seats["a"].lease)
        with pytest.raises(LeaseGone):
            world.commit(world.claim("a", "d"))
        assert world.dataset().tenure is None

    def test_a_handover_takes_effect_at_once(self, world: World) -> None:
        assert world.commit(
            ownership.handover(world.seats["a"], [world.dataset()], "b", world.node("b"), "desired says b")
        )
        assert world.holder() == ("b.1", 2, State.ASSIGNED)
        entry = world.etcd.entry(KEYS.lease("d"))
        assert entry is not None
        assert entry.lease == world.seats["b"].lease

    @pytest.mark.parametrize("trouble", ["rejoined", "lost its lease", "fenced", "gone and back on the same lease"])
    def test_a_handover_to_a_node_that_is_not_as_it_was_read_fails_as_a_whole(self, world: World, trouble: str) -> None:
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

    def test_a_group_moves_all_or_none(self, world: World) -> None:
        world.declare("e")
        world.commit(world.claim("a", "e"))
        unit = [world.dataset("d"), world.dataset("e")]
        txn = ownership.handover(world.seats["a"], unit, "b", world.node("b"), "why")
        world.commit(ownership.touch(world.seats["a"], world.dataset("e")))
        assert not world.commit(txn)
        assert world.holder("d")[0] == "a.1"

    def test_the_largest_unit_fits_into_one_transaction(self, world: World) -> None:
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

    def test_what_was_released_can_be_claimed_by_anybody_without_a_fence(self, world: World) -> None:
        assert world.commit(ownership.release(world.seats["a"], [world.dataset()], "drained"))
        assert world.dataset().leased is False
        assert world.commit(world.claim("c", "d"))
        assert world.holder() == ("c.1", 2, State.ASSIGNED)

    def test_deleting_and_recreating_a_dataset_never_sets_the_epoch_back(self, world: World) -> None:
        """C6: two incarnations in one epoch, and a node that comes back destroys the new data by its name."""
        epochs, uids = [1], {world.dataset().tenure.uid}  # type: ignore[union-attr]
        for turn in range(3):
            world.etcd.apply(Txn((), (Delete(KEYS.dataset("d")),)))
            assert world.commit(ownership.release(world.seats["a"], [world.dataset()], "its spec was deleted"))
            world.declare("d")
            txn = ownership.claim(
                world.seats["a"], [world.dataset()], cluster("a"), {"d": f"uid {turn}"}, "new", None, {}
            )
            assert world.commit(txn)
            found = world.dataset().tenure
            assert found is not None
            epochs.append(found.epoch)
            uids.add(found.uid)
        assert epochs == [1, 2, 3, 4]
        assert len(uids) == 4

    def test_a_zombies_report_does_not_overwrite_its_successors(self, world: World) -> None:
        before = world.dataset()
        world.commit(ownership.handover(world.seats["a"], [before], "b", world.node("b"), "why"))
        assert not world.commit(ownership.report(world.seats["a"], before, STATUS))
        assert world.commit(ownership.report(world.seats["b"], world.dataset(), STATUS))

    def test_a_fenced_nodes_report_is_refused(self, world: World) -> None:
        world.fence("a.1")
        assert not world.commit(ownership.report(world.seats["a"], world.dataset(), STATUS))

    def test_after_a_fence_nothing_of_that_incarnation_commits(self, world: World) -> None:
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

    def test_a_request_that_arrives_after_a_touch_never_commits(self, world: World) -> None:
        """C1: the handover is on its way when its sender decides to go on."""
        before = world.dataset()
        late = ownership.handover(world.seats["a"], [before], "b", world.node("b"), "why")
        assert world.commit(ownership.touch(world.seats["a"], before))
        assert not world.commit(late)
        assert world.holder() == ("a.1", 1, State.ACTIVE)

    def test_a_touch_that_arrives_after_the_request_does_not_commit(self, world: World) -> None:
        before = world.dataset()
        assert world.commit(ownership.handover(world.seats["a"], [before], "b", world.node("b"), "why"))
        assert not world.commit(ownership.touch(world.seats["a"], before))

    def test_a_lease_record_is_put_back_only_where_it_is_missing_and_the_tenure_still_mine(self, world: World) -> None:
        """H2: blindly put back, it would overwrite the claimer's."""
        assert not world.commit(ownership.reput(world.seats["a"], world.dataset()))
        world.etcd.expire(world.seats["a"].lease)
        missing = world.dataset()
        again = world.join("a")
        world.fence("a.1")
        world.commit(world.claim("c", "d"))
        assert not world.commit(ownership.reput(again, missing))

    def test_a_fence_needs_the_heartbeat_that_was_watched(self, world: World) -> None:
        beat = Heartbeat(incarnation="a.1", counter=1, clock=0.0, d_hard=6.5)
        world.put(KEYS.heartbeat("a"), beat)
        seen = world.etcd.entry(KEYS.heartbeat("a"))
        assert seen is not None
        txn = ownership.fence(world.seats["b"], "a", beat, seen.mod_revision, fence("a"))
        world.put(KEYS.heartbeat("a"), beat)
        assert not world.commit(txn)

    def test_a_fence_is_written_once(self, world: World) -> None:
        beat = Heartbeat(incarnation="a.1", counter=1, clock=0.0, d_hard=6.5)
        world.put(KEYS.heartbeat("a"), beat)
        revision = world.etcd.revision
        assert world.commit(ownership.fence(world.seats["b"], "a", beat, revision, fence("a")))
        assert not world.commit(ownership.fence(world.seats["c"], "a", beat, revision, fence("a")))

    def test_a_placeholder_is_put_only_where_nothing_is_and_for_the_node_as_it_was_read(self, world: World) -> None:
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


def test_a_tenure_knows_its_holder() -> None:
    assert tenure("b").holder == Holder(node="b", incarnation="b.1")
