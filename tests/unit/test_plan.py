"""The planner: the table at the head of agent/plan.py row by row, and what it must never ask for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drover.agent.plan import GATE_LOOK, Plan, plan
from drover.agent.situation import TRIES, Blocked, Trouble
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
    StopWorkload,
    TakeClaim,
    Touch,
    Unpublish,
)
from drover.agent.storage.base import Attached, Away, Here
from drover.agent.workloads.base import Absent
from drover.coordinator.protocol.dataset import Invalid
from drover.coordinator.protocol.placement import REFUSED_PAUSE, Claim
from drover.coordinator.records import Answers, Evidence, Phase, State
from tests.unit.making import (
    DESIRED_CREATED,
    TENURE_REVISION,
    cluster,
    dataset,
    dead,
    fence,
    holder,
    node,
    spec,
    tenure,
    wants,
    workload,
)
from tests.unit.planning import HERE, NOW, assigned, exited, situation, steps, using


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
        assert steps(s) == (StopWorkload("w", moving=True),)
        s = replace(s, conditions={"w": Absent()})
        assert steps(s) == (Unpublish("d"),)
        s = replace(s, here={"d": Attached("/dev/loop0")})
        assert steps(s) == (Unpublish("d"),)
        s = replace(s, here={"d": Away()})
        assert steps(s) == (Handover(("d",), "b", "desired says b"),)

    def test_a_workload_that_ended_by_itself_is_put_away_too(self) -> None:
        assert steps(using(unit=(self.LEAVING,), conditions={"w": exited()})) == (StopWorkload("w", moving=True),)

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
        assert steps(replace(s, now=NOW + 5)) == (StopWorkload("w", moving=True),)

    def test_a_newer_wish_ends_the_waiting(self) -> None:
        newer = dataset(**wants("b", desired_revision=71))
        s = using(unit=(newer,), blocked=Blocked(70, "in use", NOW + 5))
        assert steps(s) == (StopWorkload("w", moving=True),)

    def test_trouble_with_bringing_it_up_here_does_not_hold_a_move_back(self) -> None:
        s = situation(self.LEAVING, here={"d": Away()}, trouble=Trouble("no image", NOW + 30, 5))
        assert steps(s) == (Handover(("d",), "b", "desired says b"),)

    def test_trouble_on_the_way_out_is_waited_for_as_any_other(self) -> None:
        s = situation(self.LEAVING, here={"d": Away()}, trouble=Trouble("etcd is full", NOW + 30, 5, leaving=True))
        assert plan(s).steps == ()
        assert plan(s).wake == NOW + 30

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

    def test_after_a_fail_over_it_says_that_desired_was_answered_and_brings_nothing_back(self) -> None:
        answers = Answers(value="b", revision=DESIRED_CREATED)
        status = plan(
            situation(dataset(desired="b", tenure=tenure(because="failed over from b", answers=answers)))
        ).statuses["d"]
        assert status.phase is Phase.ACTIVE
        assert status.reason == "failed over from b; desired b was answered; it stays on a until it is moved"
        assert status.warning == ""
        assert plan(situation()).statuses["d"].reason == ""

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
        assert plan(s).statuses["d"].needs == ""

    def test_one_that_failed_and_is_not_restarted_needs_a_person(self) -> None:
        w = workload("d", restart="no")
        s = using(cluster=cluster("a", workloads={"w": w}), conditions={"w": exited(w, status=3)})
        assert plan(s).statuses["d"].needs == "look why w has ended; to run it again, change its spec"

    def test_one_of_a_kind_that_is_not_allowed_here_is_not_started(self) -> None:
        s = using(conditions={"w": Absent()}, allowed=frozenset())
        assert steps(s) == ()
        assert "does not allow" in plan(s).statuses["d"].reason
        assert plan(s).statuses["d"].needs.startswith("allow process in the settings of a")


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


def test_while_it_goes_on_by_others_promises_nothing_is_begun_and_people_are_told() -> None:
    held = using(held=True)
    assert steps(held) == ()
    assert "promise to wait" in plan(held).statuses["d"].reason


def test_while_it_goes_on_by_others_promises_a_workload_that_ended_is_started_again() -> None:
    assert steps(using(held=True, conditions={"w": exited()})) == (StartWorkload("w"),)
    untouched = using(held=True, conditions={"w": exited()}, life=10**6)
    assert steps(untouched) == (), "what an earlier life of the agent has sent may still commit"
