"""Where datasets go when their node shuts down, and that planning gets them there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drover.agent.plan import plan
from drover.agent.situation import Blocked, Trouble
from drover.agent.steps import Handover, Release, StopWorkload, Unpublish
from drover.agent.storage.base import Away
from drover.coordinator.protocol.dataset import Cluster, Dataset
from drover.coordinator.protocol.leaving import Leaving, Park, part
from drover.coordinator.protocol.placement import Dismiss, Give, Keep, Nothing, decide
from drover.coordinator.records import Pause, Phase
from tests.unit.making import cluster, dataset, node, spec, tenure, wants
from tests.unit.planning import NOW, running, situation, steps, using

MOVE, RELEASE, KEEP = Leaving("move", "12:00"), Leaving("release"), Leaving("keep", "12:00")
ANY: dict[str, Any] = {"spec": spec(failover="any")}


def parts(leaving: Leaving, there: Cluster, *unit: Dataset) -> Any:
    mine = [d for d in unit if d.tenure and d.tenure.incarnation == "a.1"]
    return part("a", unit, mine, there, leaving)


def test_a_dataset_moves_to_a_node_that_its_failover_allows() -> None:
    assert parts(MOVE, cluster("a", "b"), dataset(**ANY)) == Give("b", "a shuts down")
    assert parts(MOVE, cluster("a", "b", "c"), dataset(spec=spec(failover=["c"]))) == Give("c", "a shuts down")


def leaves(name: str) -> Any:
    made = node(name)
    return type(made)(made.record.model_copy(update={"leaving": True}), made.create_revision, made.lease)


@pytest.mark.parametrize(
    "there",
    [
        cluster("a"),
        cluster("a", node("b", cordoned=True)),
        cluster("a", node("b", backends=())),
        cluster("a", leaves("b")),
    ],
    ids=["nobody else", "cordoned", "without its back end", "shuts down as well"],
)
def test_what_nobody_can_take_is_kept(there: Cluster) -> None:
    assert isinstance(parts(MOVE, there, dataset(**ANY)), Park)


def test_what_nobody_else_may_have_is_kept_and_says_for_how_long() -> None:
    kept = parts(MOVE, cluster("a", "b"), dataset())
    assert kept == Park("a shuts down; it waits for a until 12:00: no other node may or can take it")


def test_a_node_that_has_refused_it_is_the_last_to_get_it() -> None:
    for name, other in (("b", "c"), ("c", "b")):
        refused = dataset(**ANY, tenure=tenure(refused=(name,)))
        assert parts(MOVE, cluster("a", "b", "c"), refused) == Give(other, "a shuts down")


def test_a_move_that_was_asked_for_decides_though_failover_does_not_allow_the_node() -> None:
    assert parts(MOVE, cluster("a", "b", "c"), dataset(**wants("c"))) == Give("c", "a shuts down")


def test_a_unit_goes_only_where_all_of_it_may() -> None:
    one, two = (
        dataset("one", spec=spec(failover="any", group="g")),
        dataset("two", spec=spec(failover=["c"], group="g")),
    )
    assert parts(MOVE, cluster("a", "b", "c"), one, two) == Give("c", "a shuts down")
    assert isinstance(parts(MOVE, cluster("a", "b"), one, two), Park)


def test_released_is_what_is_wanted_and_kept_what_is_not() -> None:
    assert parts(RELEASE, cluster("a", "b"), dataset()) == Dismiss(("d",), (), "a shuts down")
    assert isinstance(parts(RELEASE, cluster("a", "b"), dataset(spec=None)), Park), (
        "its spec is gone: that is for later"
    )


@pytest.mark.parametrize("leaving", [MOVE, RELEASE, KEEP])
def test_in_a_pause_nothing_changes_hands_because_of_a_shutdown(leaving: Leaving) -> None:
    paused = Cluster(cluster("a", "b").nodes, pause=Pause(until=datetime.now(UTC) + timedelta(hours=1)))
    assert isinstance(parts(leaving, paused, dataset(**ANY)), Park)


@pytest.mark.parametrize("leaving", [MOVE, RELEASE, KEEP])
def test_a_node_that_shuts_down_takes_nothing(leaving: Leaving) -> None:
    assert isinstance(parts(leaving, cluster("a", "b"), dataset(tenure=None)), Nothing)
    assert steps(situation(dataset(tenure=None), here={}, leaving=leaving)) == ()


def test_nobody_gives_anything_to_a_node_that_shuts_down() -> None:
    decision = decide("a", "a.1", [dataset(**wants("b"))], cluster("a", leaves("b")))
    assert isinstance(decision, Keep)


def test_workloads_stop_first_then_it_is_unmounted_and_then_handed_over() -> None:
    s = using(leaving=MOVE)
    s = situation(dataset(**ANY), cluster=s.cluster, conditions={"w": running()}, leaving=MOVE)
    assert steps(s) == (StopWorkload("w"),)
    stopped = situation(dataset(**ANY), leaving=MOVE)
    assert steps(stopped) == (Unpublish("d", leaving=False),)
    away = situation(dataset(**ANY), here={"d": Away()}, leaving=MOVE)
    assert steps(away) == (Handover(("d",), "b", "a shuts down"),)
    assert steps(situation(here={"d": Away()}, leaving=RELEASE)) == (Release(("d",), "a shuts down"),)


def test_what_is_kept_has_parted_once_it_is_unmounted_and_people_are_told_until_when_it_waits() -> None:
    mounted, away = situation(leaving=KEEP), situation(here={"d": Away()}, leaving=KEEP)
    assert plan(mounted).steps == (Unpublish("d", leaving=False),)
    assert not plan(mounted).parted
    assert (plan(away).steps, plan(away).parted) == ((), True)
    status = plan(away).statuses["d"]
    assert (status.phase, status.reason) == (Phase.WAITING, "a shuts down; it waits for a until 12:00")


def test_a_step_that_failed_has_not_parted_and_is_tried_again_at_its_time() -> None:
    trouble = situation(leaving=KEEP, trouble=Trouble("somebody is in it", NOW + 1, leaving=True))
    assert (plan(trouble).steps, plan(trouble).parted, plan(trouble).wake) == ((), False, NOW + 1)


def test_a_move_that_was_put_off_does_not_bring_a_workload_back() -> None:
    s = using(leaving=MOVE, blocked=Blocked(50, "the move waits", NOW + 60))
    assert steps(s) == (StopWorkload("w"),)
