"""The planner: the table at the head of agent/plan.py row by row, and what it must never ask for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drover.agent.plan import GATE_LOOK, Plan, plan
from drover.agent.situation import TRIES, Blocked, Situation, Trouble
from drover.agent.steps import (
    Activate,
    Clear,
    Create,
    Destroy,
    Grow,
    Handover,
    Publish,
    Refresh,
    Refuse,
    Release,
    Reput,
    StartWorkload,
    Step,
    StopWorkload,
    TakeClaim,
    Touch,
    Unpublish,
)
from drover.agent.storage.base import Attached, Away, Here, Mounted
from drover.agent.workloads.base import Absent, Condition, Exited, Running, fingerprint
from drover.coordinator.protocol import ownership
from drover.coordinator.protocol.placement import REFUSED_PAUSE, Claim, Cluster, Dataset, Invalid, Node
from drover.coordinator.records import Answers, DatasetSpec, Evidence, Phase, State, Tenure, WorkloadSpec
from tests.unit.making import (
    BACKEND,
    TENURE_REVISION,
    cluster,
    dataset,
    dead,
    fence,
    holder,
    node,
    seat,
    spec,
    tenure,
    wants,
    workload,
    written,
)

NOW = 1000.0
HERE = Mounted("/dev/loop0", Path("/mnt/d"), 2**30)
W = workload("d")


def situation(*unit: Dataset, **changes: Any) -> Situation:
    """Node a, live; dataset d active, mounted, and nothing to do."""
    made: dict[str, Any] = {
        "node": "a",
        "incarnation": "a.1",
        "now": NOW,
        "life": 1,
        "gate": True,
        "unit": unit or (dataset(),),
        "cluster": cluster("a", "b"),
        "here": {"d": HERE},
        "paths": {"d": "/mnt/d"},
        "allowed": frozenset({"process"}),
    }
    return Situation(**made | changes)


def running(w: WorkloadSpec = W) -> Condition:
    return Running(pid=7, since=NOW - 60, fingerprint=fingerprint(w))


def exited(w: WorkloadSpec = W, status: int = 1, at: float = NOW - 60, ran: float = 60.0) -> Condition:
    return Exited(status=status, at=at, ran=ran, fingerprint=fingerprint(w))


def using(**changes: Any) -> Situation:
    """Workload w uses d."""
    made: dict[str, Any] = {"cluster": cluster("a", "b", workloads={"w": W}), "conditions": {"w": running()}}
    return situation(**made | changes)


def steps(s: Situation) -> tuple[Step, ...]:
    return plan(s).steps


def assigned(**changes: Any) -> Dataset:
    return dataset(tenure=tenure(state=State.ASSIGNED, **changes))


class TestTheGate:
    def test_while_it_is_closed_the_ladder_is_at_work_and_nobody_else(self) -> None:
        for unit in (dataset(), dataset(**wants("b")), assigned(), dataset(tenure=None)):
            closed = situation(unit, gate=False, here={"d": Away()})
            assert plan(closed) == Plan(wake=NOW + GATE_LOOK)


class TestSomethingIsHereThatIsNotMine:
    STRAY = dataset(tenure=tenure("b"))

    def test_its_workloads_are_stopped_first_then_it_is_unpublished(self) -> None:
        s = using(unit=(self.STRAY,))
        assert steps(s) == (StopWorkload("w"),)
        assert steps(replace(s, conditions={"w": Absent()})) == (Unpublish("d", leaving=False),)

    def test_an_earlier_incarnations_is_not_mine(self) -> None:
        s = situation(dataset(tenure=tenure("a", life=0)))
        assert steps(s) == (Unpublish("d", leaving=False),)

    def test_an_attached_device_is_enough(self) -> None:
        s = situation(self.STRAY, here={"d": Attached("/dev/loop0")})
        assert steps(s) == (Unpublish("d", leaving=False),)

    def test_what_is_mine_but_not_yet_to_be_written_is_taken_down_too(self) -> None:
        """Moved away and back: what is still mounted is of an earlier epoch."""
        s = using(unit=(assigned(),))
        assert steps(s) == (StopWorkload("w"),)
        assert steps(replace(s, here={})) == (StopWorkload("w"),)
        assert steps(replace(s, conditions={})) == (Unpublish("d", leaving=False),)


class TestMineFromBeforeThisLife:
    def test_it_is_touched_before_all_else(self) -> None:
        for unit in (dataset(), dataset(**wants("b")), assigned(), dataset(spec=None)):
            old = situation(unit, life=TENURE_REVISION, here={"d": Away()})
            assert steps(old) == (Touch("d"),)

    def test_once_it_has_moved_it_is_not_touched_again(self) -> None:
        assert steps(situation(life=TENURE_REVISION - 1)) == ()


class TestWantedElsewhere:
    LEAVING = dataset(**wants("b"))

    def test_workloads_stop_then_it_is_unpublished_then_handed_over(self) -> None:
        s = using(unit=(self.LEAVING,))
        assert steps(s) == (StopWorkload("w"),)
        s = replace(s, conditions={"w": Absent()})
        assert steps(s) == (Unpublish("d"),)
        s = replace(s, here={"d": Attached("/dev/loop0")})
        assert steps(s) == (Unpublish("d"),)
        s = replace(s, here={"d": Away()})
        assert steps(s) == (Handover(("d",), "b", "desired says b"),)

    def test_a_workload_that_ended_by_itself_is_put_away_too(self) -> None:
        assert steps(using(unit=(self.LEAVING,), conditions={"w": exited()})) == (StopWorkload("w"),)

    def test_all_of_a_unit_leave_side_by_side_and_in_one_transaction(self) -> None:
        unit = (dataset("d", **wants("b")), dataset("e"))
        s = situation(*unit, here={"d": HERE, "e": HERE})
        assert steps(s) == (Unpublish("d"), Unpublish("e"))
        s = replace(s, here={})
        assert steps(s) == (Handover(("d", "e"), "b", "desired says b"),)

    def test_a_move_that_found_it_in_use_is_given_up_for_a_while(self) -> None:
        s = using(unit=(self.LEAVING,), blocked=Blocked(70, "the move waits: in use", NOW + 5))
        assert steps(s) == ()
        assert plan(s).wake == NOW + 5
        assert plan(s).statuses["d"].warning == "the move waits: in use"
        assert steps(replace(s, now=NOW + 5)) == (StopWorkload("w"),)

    def test_a_newer_wish_ends_the_waiting(self) -> None:
        newer = dataset(**wants("b", desired_revision=71))
        s = using(unit=(newer,), blocked=Blocked(70, "in use", NOW + 5))
        assert steps(s) == (StopWorkload("w"),)

    def test_trouble_with_bringing_it_up_here_does_not_hold_a_move_back(self) -> None:
        s = situation(self.LEAVING, here={"d": Away()}, trouble=Trouble("no image", NOW + 30, 5))
        assert steps(s) == (Handover(("d",), "b", "desired says b"),)

    def test_who_may_still_write_does_not_hold_a_move_back(self) -> None:
        unit = dataset(tenure=tenure(state=State.ASSIGNED, unfenced=(holder("x"),)), **wants("b"))
        assert steps(situation(unit, here={})) == (Handover(("d",), "b", "desired says b"),)


class TestNotWantedAnyMore:
    def test_it_is_released_once_nothing_uses_it(self) -> None:
        s = situation(dataset(spec=None))
        assert steps(s) == (Unpublish("d", leaving=False),)
        assert steps(replace(s, here={})) == (Release(("d",), "its spec was deleted"),)

    def test_it_is_destroyed_where_the_spec_said_so(self) -> None:
        doomed = dataset(spec=None, tenure=tenure(reclaim="delete"))
        assert steps(situation(doomed, here={})) == (Destroy("d"),)

    def test_it_is_activated_before_it_is_destroyed(self) -> None:
        doomed = dataset(spec=None, tenure=tenure(reclaim="delete", state=State.ASSIGNED))
        assert steps(situation(doomed, here={})) == (Activate("d"),)

    def test_it_is_not_destroyed_under_the_hands_of_who_may_still_write(self) -> None:
        left = tenure(reclaim="delete", state=State.ASSIGNED, unfenced=(holder("x"),))
        s = situation(dataset(spec=None, tenure=left), here={}, cluster=cluster("a", fences={"x.1": fence("x")}))
        assert steps(s) == ()
        s = replace(s, cluster=cluster("a", fences={"x.1": fence("x", Evidence.REBOOT)}))
        assert steps(s) == (Clear("d", (holder("x"),)),)

    def test_it_stays_while_a_workload_asks_for_it(self) -> None:
        s = using(unit=(dataset(spec=None),))
        assert steps(s) == ()
        assert "workload w uses it" in plan(s).statuses["d"].warning


class TestFree:
    FREE = dataset(tenure=None)

    def test_it_is_claimed_by_who_is_first(self) -> None:
        assert steps(situation(self.FREE, here={})) == (TakeClaim(Claim(("d",), "new")),)

    def test_who_is_not_first_waits_from_when_it_was_first_decided(self) -> None:
        c = cluster("a", "b", fences=dead("x"))
        lost = [dataset(n, tenure=tenure("x"), spec=spec(failover="any"), desired=None) for n in "defgh"]
        seen = [situation(d, cluster=c, here={}) for d in lost]
        later = [s for s in seen if plan(s).wake is not None]
        assert later, "a is second for at least one of them"
        s = later[0]
        assert steps(s) == ()
        wake = plan(s).wake
        assert wake is not None
        due = replace(s, now=wake, claim_since=NOW)
        assert isinstance(steps(due)[0], TakeClaim)

    def test_a_claim_that_must_wait_does_not_hold_up_what_is_held(self) -> None:
        refused = dataset("e", tenure=tenure(state=State.RELEASED, refused=("a",)))
        s = situation(dataset("d"), refused, here={"d": Away()}, claim_since=NOW)
        assert steps(s) == (Publish("d"),)
        assert plan(s).wake == NOW + REFUSED_PAUSE

    def test_what_others_hold_is_let_alone_and_its_workloads_do_not_run_here(self) -> None:
        s = using(unit=(dataset(tenure=tenure("b")),), here={"d": Away()})
        assert steps(s) == (StopWorkload("w"),)
        assert steps(replace(s, conditions={"w": Absent()})) == ()


class TestMineAndAssigned:
    def test_it_is_activated_before_anything_is_written(self) -> None:
        assert steps(situation(assigned(), here={})) == (Activate("d"),)

    def test_those_known_to_have_stopped_are_cleared_first(self) -> None:
        c = cluster("a", fences={"x.1": fence("x", armed=True), "y.1": fence("y")})
        s = situation(assigned(unfenced=(holder("x"), holder("y"))), cluster=c, here={})
        assert steps(s) == (Clear("d", (holder("x"),)),)

    def test_it_waits_for_those_who_may_still_write_and_says_what_to_do(self) -> None:
        c = cluster("a", fences={"x.1": fence("x")})
        s = situation(assigned(unfenced=(holder("x"),)), cluster=c, here={})
        assert steps(s) == ()
        status = plan(s).statuses["d"]
        assert status.phase is Phase.WAITING
        assert "drover fence x --confirm" in status.reason

    def test_it_names_the_incarnation_where_the_node_lives_on_in_another_one(self) -> None:
        c = cluster("a", node("x", life=2), fences={"x.1": fence("x")})
        s = situation(assigned(unfenced=(holder("x"),)), cluster=c, here={})
        assert "drover fence x.1 --confirm" in plan(s).statuses["d"].reason

    def test_nobody_is_asked_for_help_while_it_goes_on_by_itself(self) -> None:
        c = cluster("a", fences={"x.1": fence("x", Evidence.REBOOT)})
        s = situation(assigned(unfenced=(holder("x"),)), cluster=c, here={})
        assert plan(s).statuses["d"].phase is Phase.STARTING

    def test_after_three_failures_it_is_handed_back_to_the_source(self) -> None:
        s = situation(assigned(source="b"), here={}, trouble=Trouble("no room", NOW - 1, TRIES))
        assert steps(s) == (Refuse(("d",), "b", "a cannot take it: no room"),)

    def test_without_anybody_to_take_it_it_is_released(self) -> None:
        s = situation(assigned(), here={}, trouble=Trouble("no room", NOW - 1, TRIES))
        assert steps(s) == (Refuse(("d",), None, "a cannot take it: no room"),)

    def test_one_failure_is_no_reason_to_give_up(self) -> None:
        s = situation(assigned(source="b"), here={}, trouble=Trouble("no room", NOW - 1, TRIES - 1))
        assert steps(s) == (Activate("d"),)


class TestMineAndActive:
    def test_without_a_file_system_it_is_created(self) -> None:
        assert steps(situation(dataset(tenure=tenure(born=False)), here={})) == (Create("d"),)

    @pytest.mark.parametrize("here", [Away(), Attached("/dev/loop0")])
    def test_not_mounted_it_is_published(self, here: Here) -> None:
        assert steps(situation(here={"d": here})) == (Publish("d"),)

    def test_even_while_its_spec_cannot_be_read(self) -> None:
        assert steps(situation(dataset(spec=Invalid("no")), here={})) == (Publish("d"),)

    def test_a_larger_size_makes_it_grow(self) -> None:
        assert steps(situation(dataset(spec=spec(size="2GiB")))) == (Grow("d"),)

    def test_a_revoked_lease_is_a_non_event(self) -> None:
        assert steps(situation(dataset(leased=False))) == (Reput("d"),)

    def test_what_must_outlive_the_spec_is_copied(self) -> None:
        assert steps(situation(dataset(spec=spec(reclaim="delete")))) == (Refresh("d"),)
        assert steps(situation(dataset(desired_created=70))) == (Refresh("d"),)

    def test_mounted_and_in_order_there_is_nothing_to_do(self) -> None:
        assert plan(situation()).steps == ()
        status = plan(situation()).statuses["d"]
        assert (status.phase, status.path, status.node, status.epoch) == (Phase.ACTIVE, "/mnt/d", "a", 3)


class TestWorkloads:
    def test_one_starts_when_all_its_datasets_are_mounted(self) -> None:
        w = workload("d", "e")
        c = cluster("a", workloads={"w": w})
        s = situation(dataset("d"), dataset("e"), cluster=c, here={"d": HERE})
        assert steps(s) == (Publish("e"),)
        s = replace(s, here={"d": HERE, "e": HERE})
        assert steps(s) == (StartWorkload("w"),)

    def test_one_stops_when_a_dataset_is_no_longer_mounted(self) -> None:
        assert steps(using(here={"d": Away()})) == (Publish("d"), StopWorkload("w"))

    def test_one_whose_spec_changed_is_stopped_and_started_with_the_new_one(self) -> None:
        changed = cluster("a", workloads={"w": workload("d", command=["other"])})
        s = using(cluster=changed)
        assert steps(s) == (StopWorkload("w"),)
        assert steps(replace(s, conditions={"w": Absent()})) == (StartWorkload("w"),)

    def test_one_that_ended_is_started_again_when_it_is_time(self) -> None:
        soon = using(conditions={"w": exited(at=NOW - 0.1)})
        assert steps(soon) == ()
        assert plan(soon).wake == pytest.approx(NOW + 0.1)
        assert steps(replace(soon, now=NOW + 0.2)) == (StartWorkload("w"),)

    def test_one_that_is_done_stays_done(self) -> None:
        w = workload("d", restart="on-failure")
        s = using(cluster=cluster("a", workloads={"w": w}), conditions={"w": exited(w, status=0)})
        assert plan(s).steps == ()
        assert plan(s).wake is None

    def test_one_of_a_kind_that_is_not_allowed_here_is_not_started(self) -> None:
        s = using(conditions={"w": Absent()}, allowed=frozenset())
        assert steps(s) == ()
        assert "does not allow" in plan(s).statuses["d"].reason


class TestTrouble:
    def test_what_failed_is_tried_again_when_it_is_time_and_the_reason_is_shown(self) -> None:
        s = situation(here={"d": Away()}, trouble=Trouble("it is damaged", NOW + 3, TRIES))
        assert steps(s) == ()
        assert plan(s).wake == NOW + 3
        assert plan(s).statuses["d"].phase is Phase.FAILED
        assert plan(s).statuses["d"].reason == "it is damaged"
        assert steps(replace(s, now=NOW + 3)) == (Publish("d"),)


def test_who_speaks_for_a_dataset_that_nobody_has_says_why_it_waits() -> None:
    waiting = dataset("d", tenure=None, desired="x")
    said = [plan(situation(waiting, node=n, incarnation=f"{n}.1", here={})).statuses for n in "ab"]
    (told,) = [statuses["d"] for statuses in said if statuses]
    assert told.phase is Phase.WAITING
    assert "'x', which is not here" in told.reason


# Whatever the situation.

T = TypeVar("T")
NODES = ("a", "b", "c")


def mostly(usual: T, otherwise: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """So that what is rare does not hide what is usual."""
    return st.sampled_from([True, True, True, False]).flatmap(lambda u: st.just(usual) if u else otherwise)


names = st.sampled_from(NODES)
incarnations = st.builds(lambda n, life: f"{n}.{life}", names, st.integers(1, 2))
holders = st.builds(holder, names, st.integers(1, 2))
backends = st.sampled_from([BACKEND, "ebs"])


@st.composite
def tenures(draw: st.DrawFn) -> Tenure:
    return tenure(
        draw(st.sampled_from(["a", "a", "b", "c"])),
        draw(mostly(1, st.just(2))),
        state=draw(st.sampled_from([State.ASSIGNED, State.ACTIVE, *State])),
        unfenced=draw(mostly((), st.lists(holders, max_size=2, unique=True).map(tuple))),
        refused=draw(mostly((), st.lists(names, max_size=2, unique=True).map(tuple))),
        source=draw(st.just("") | names),
        answers=Answers(value=draw(names), revision=draw(st.sampled_from([50, 70]))),
        created=draw(mostly(40, st.just(90))),
        backend=draw(mostly(BACKEND, backends)),
        reclaim=draw(st.sampled_from(["retain", "delete"])),
        born=draw(st.booleans()),
    )


@st.composite
def datasets(draw: st.DrawFn, name: str) -> Dataset:
    put = st.sampled_from([50, 70])
    created = draw(put)
    unusual: list[DatasetSpec | Invalid | None] = [None, Invalid("mistyped")]
    usual = st.builds(
        spec,
        backend=mostly(BACKEND, backends),
        size=st.sampled_from(["1GiB", "2GiB"]),
        failover=st.sampled_from(["none", "any", ["b"], ["a", "c"]]),
        fencing=st.sampled_from(["hard", "cooperative"]),
        reclaim=st.sampled_from(["retain", "delete"]),
    )
    wish: list[str | Invalid | None] = [None, "nod-b", Invalid("mistyped"), *NODES, *NODES]
    return dataset(
        name,
        spec=draw(usual | usual | st.sampled_from(unusual)),
        desired=draw(st.sampled_from(wish)),
        desired_created=created,
        desired_revision=created + draw(st.integers(0, 9)),
        tenure=draw(st.none() | tenures() | tenures()),
        tenure_revision=draw(st.integers(55, 65)),
        leased=draw(st.booleans()),
    )


def nodes(name: str) -> st.SearchStrategy[Node]:
    offered = mostly((BACKEND,), st.sets(backends).map(lambda b: tuple(sorted(b))))
    return st.builds(node, st.just(name), mostly(1, st.just(2)), offered, mostly(False, st.just(True)))


@st.composite
def clusters(draw: st.DrawFn, used: tuple[str, ...]) -> Cluster:
    fences = draw(
        mostly({}, st.dictionaries(incarnations, st.builds(fence, names, st.sampled_from(Evidence), st.booleans())))
    )
    present = [draw(nodes(n)) for n in NODES if draw(mostly(True, st.just(False)))]
    uses = st.lists(st.sampled_from([*used, "phantom"]), min_size=1, max_size=3, unique=True)
    workloads = draw(st.dictionaries(st.sampled_from(["v", "w"]), uses.map(lambda d: workload(*d)), max_size=2))
    here = [n for n in present if n.record.incarnation not in fences]
    return cluster(*here, fences=fences, workloads=workloads)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    used = draw(st.sampled_from([("d",), ("d", "e"), ("d", "e", "f")]))
    c = draw(clusters(used))
    conditions = st.one_of(
        st.just(Absent()),
        *(st.builds(running, st.just(w)) for w in c.workloads.values()),
        *(st.builds(exited, st.just(w), at=st.floats(NOW - 60, NOW)) for w in c.workloads.values()),
        st.just(running(workload("d", command=["older"]))),
    )
    around = st.floats(NOW - 5, NOW + 5)
    places: st.SearchStrategy[Here] = st.sampled_from([Away(), Attached("/dev/loop0"), HERE])
    return Situation(
        node="a",
        incarnation=draw(mostly("a.1", st.just("a.2"))),
        now=NOW,
        life=draw(mostly(1, st.integers(50, 65))),
        gate=draw(mostly(True, st.booleans())),
        unit=tuple(draw(datasets(name)) for name in used),
        cluster=c,
        here=draw(st.dictionaries(st.sampled_from(used), places)),
        paths={name: f"/mnt/{name}" for name in used},
        conditions=draw(st.fixed_dictionaries(dict.fromkeys(c.workloads, conditions))),
        failures=draw(st.dictionaries(st.sampled_from(["v", "w"]), st.integers(0, 40))),
        allowed=draw(st.sampled_from([frozenset(), frozenset({"process"})])),
        claim_since=draw(st.none() | st.floats(NOW - 60, NOW)),
        trouble=draw(mostly(None, st.builds(Trouble, st.just("it failed"), around, st.integers(1, 5)))),
        blocked=draw(mostly(None, st.builds(Blocked, st.integers(50, 79), st.just("in use"), around))),
    )


def used_by(step: Step) -> tuple[str, ...]:
    """The datasets that a step is about."""
    match step:
        case TakeClaim(claim):
            return claim.datasets
        case Handover(names_) | Release(names_) | Refuse(names_):
            return names_
        case StartWorkload() | StopWorkload():
            return ()
        case _:
            return (step.dataset,)


def mine(s: Situation, name: str) -> Tenure | None:
    d = next(d for d in s.unit if d.name == name)
    held = d.tenure is not None and d.tenure.held and d.tenure.incarnation == s.incarnation
    return d.tenure if held else None


def idle(s: Situation, name: str) -> bool:
    """Nothing of it is here, and no workload that uses it."""
    users = [w for w, spec_ in s.cluster.workloads.items() if name in spec_.datasets]
    return isinstance(s.here.get(name, Away()), Away) and all(
        isinstance(s.conditions.get(w, Absent()), Absent) for w in users
    )


def check(s: Situation, step: Step) -> None:
    """What must hold for a step, whatever led to it."""
    unit = {d.name: d for d in s.unit}
    me = replace(seat(), node=s.node, incarnation=s.incarnation)
    about = [unit[n] for n in used_by(step)]
    if not isinstance(step, TakeClaim | Unpublish | StartWorkload | StopWorkload):
        assert all(mine(s, d.name) for d in about), "only what is mine"
    if not isinstance(step, TakeClaim | Touch | Unpublish | StopWorkload):
        assert all(d.tenure_revision > s.life for d in about), "touched first"
    match step:
        case Publish(name) | Create(name) | Grow(name) | Destroy(name):
            tenure_ = mine(s, name)
            assert tenure_ is not None
            assert tenure_.state is State.ACTIVE, "activated before any write"
            assert tenure_.unfenced == () or tenure_.state is State.ACTIVE
            if isinstance(step, Create):
                assert not tenure_.born, "missing data is never made anew"
            if isinstance(step, Destroy):
                assert idle(s, name)
                assert tenure_.reclaim == "delete"
                assert unit[name].spec is None or unit[name].replaced, "only as the user asked"
        case StartWorkload(w):
            for name in s.cluster.workloads[w].datasets:
                tenure_ = mine(s, name)
                assert tenure_ is not None
                assert tenure_.state is State.ACTIVE
                assert isinstance(s.here.get(name), Mounted)
        case Activate(name):
            assert idle(s, name), "nothing of an earlier epoch is mounted when this one begins"
            assert ownership.activate(me, unit[name]).then
        case Clear(name, stopped):
            for h in stopped:
                assert ownership.may_clear(h, unit[name], s.cluster.fences.get(h.incarnation))
        case Handover(_, to):
            assert to != s.node
            assert all(idle(s, d.name) for d in about)
            assert ownership.handover(me, about, to, s.cluster.nodes[to], "why").then
        case Release():
            assert all(idle(s, d.name) for d in about)
        case Refuse(_, to):
            assert to != s.node
            assert to is None or to in s.cluster.nodes
            assert all(idle(s, d.name) for d in about)
            assert all(d.tenure and d.tenure.state is State.ASSIGNED for d in about)
        case TakeClaim(claim):
            fences = dict.fromkeys(s.cluster.fences, 80)
            uids = {d.name: "new" for d in about}
            txn = ownership.claim(me, about, s.cluster, uids, claim.because, claim.evidence, fences)
            offered = s.cluster.nodes[s.node].record.backends
            for d in about:
                assert written(txn, d.name).backend in offered, "a claim that its node could not act on"


CLAIMS_GARBAGE = situation(dataset(tenure=tenure(state=State.RELEASED, created=90), spec=Invalid("mistyped")), here={})


@example(CLAIMS_GARBAGE)
@settings(max_examples=250, deadline=None)
@given(situations())
def test_no_situation_makes_the_planner_fail_or_ask_for_what_is_not_safe(s: Situation) -> None:
    planned = plan(s)
    if not s.gate:
        assert planned.steps == ()
    for step in planned.steps:
        check(s, step)
    about = [name for step in planned.steps if isinstance(step, Handover | Release | Refuse) for name in used_by(step)]
    busy = [name for step in planned.steps if isinstance(step, Publish | Create | Activate) for name in used_by(step)]
    assert not set(about) & set(busy), "given away and brought up at the same time"
    for name, status in planned.statuses.items():
        assert name in {d.name for d in s.unit}
        assert "\n" not in status.reason
