"""Who is watched, when standing still is silence, and which fences are done with."""

from __future__ import annotations

import pytest

from drover.coordinator.protocol.observer import OBSERVERS, collectable, observe, silence, stand_in, whom
from drover.coordinator.protocol.placement import rank
from drover.coordinator.records import Evidence, Heartbeat, State
from drover.coordinator.timings import MAX_D_HARD, MAX_PAUSE, PROFILES, required_wait
from tests.unit.making import cluster, dead, fence, holder, incarnation, tenure


def beat(node: str, life: int = 1, d_hard: float = 6.5, armed: bool = False) -> Heartbeat:
    return Heartbeat(incarnation=incarnation(node, life), counter=1, clock=0.0, d_hard=d_hard, armed=armed)


@pytest.mark.parametrize("d_hard", [0.5, 4.6, 6.5, 28.0, MAX_D_HARD])
def test_the_wait_follows_from_the_d_hard_in_the_heartbeat(d_hard: float) -> None:
    watched = observe(None, "a", beat("a", d_hard=d_hard), 5, 100.0)
    assert watched.due() == pytest.approx(100.0 + 1.02 * d_hard + 0.3)


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_waits_at_least_as_long_as_its_own_heartbeats_ask_for(profile: str) -> None:
    timings = PROFILES[profile]
    assert timings.wait >= required_wait(timings.d_hard)


def test_seen_again_at_the_same_revision_it_is_still_the_first_sight_that_counts() -> None:
    first = observe(None, "a", beat("a"), 5, 100.0)
    assert observe(first, "a", beat("a"), 5, 106.0) is first


def test_a_heartbeat_that_moved_starts_the_wait_again_with_its_own_d_hard() -> None:
    first = observe(None, "a", beat("a"), 5, 100.0)
    moved = observe(first, "a", beat("a", d_hard=28.0), 6, 106.0)
    assert moved.due() == pytest.approx(106.0 + required_wait(28.0))


def test_in_a_pause_the_wait_is_as_much_longer_as_the_heartbeat_says() -> None:
    paused = beat("a").model_copy(update={"longer": 3600.0})
    assert observe(None, "a", paused, 5, 100.0).wait == required_wait(beat("a").d_hard + 3600.0)


def test_what_stands_in_for_a_missing_heartbeat_has_the_longest_wait_and_proves_no_reset() -> None:
    watched = observe(None, "a", stand_in("a.1"), 5, 100.0)
    assert watched.wait == required_wait(MAX_D_HARD + MAX_PAUSE)
    assert watched.heartbeat.placeholder
    assert not silence(watched, "b", 300.0, "now").armed


def test_a_node_that_left_is_waited_for_as_long_as_it_said_and_has_stopped_then() -> None:
    left = beat("a").model_copy(update={"left": True, "longer": 300.0})
    watched = observe(None, "a", left, 5, 100.0)
    assert watched.wait > 300.0 + left.d_hard
    record = silence(watched, "b", 420.0, "now")
    assert (record.evidence, record.detail) == (Evidence.STOPPED, "shut down, and not back in 320 s")


def test_a_heartbeat_after_it_had_left_makes_that_void() -> None:
    left = observe(None, "a", beat("a").model_copy(update={"left": True, "longer": 300.0}), 5, 100.0)
    alive = observe(left, "a", beat("a"), 6, 110.0)
    assert alive.wait == required_wait(beat("a").d_hard)
    assert silence(alive, "b", 120.0, "now").evidence is Evidence.SILENCE


def test_a_fence_by_silence_says_who_how_long_and_whether_a_reset_was_armed() -> None:
    watched = observe(None, "a", beat("a", armed=True), 5, 100.0)
    record = silence(watched, "b", 107.0, "now")
    assert (record.node, record.by, record.evidence, record.armed) == ("a", "b", Evidence.SILENCE, True)
    assert "7.0 s" in record.detail


def test_in_a_small_cluster_everybody_watches_everybody_else() -> None:
    assert whom("a", cluster("a", "b", "c", "d"), [], []) == {"b": "b.1", "c": "c.1", "d": "d.1"}


def test_in_a_large_cluster_each_node_is_watched_by_the_three_that_rank_highest_for_it() -> None:
    names = [f"n{i}" for i in range(12)]
    many = cluster(*names)
    for watched in names:
        observers = {me for me in names if watched in whom(me, many, [], [])}
        assert observers == set(rank(watched, [n for n in names if n != watched])[:OBSERVERS])


def test_who_has_begun_to_wait_goes_on_when_the_ranking_changes() -> None:
    names = [f"n{i}" for i in range(12)]
    many = cluster(*names)
    free = next(n for n in names if n != "n0" and n not in whom("n0", many, [], []))
    assert free in whom("n0", many, [], [free])


def test_an_absent_node_is_watched_by_everybody_while_a_tenure_names_its_unfenced_incarnation() -> None:
    names = [f"n{i}" for i in range(12)]
    for me in names:
        assert whom(me, cluster(*names), [tenure("gone")], []).get("gone") == "gone.1"
    assert "gone" not in whom("n0", cluster(*names, fences=dead("gone")), [tenure("gone")], [])
    assert "gone" not in whom("n0", cluster(*names), [tenure("gone", state=State.RELEASED)], [])


def test_nobody_watches_himself() -> None:
    assert "a" not in whom("a", cluster("b"), [tenure("a")], [])
    assert "a" not in whom("a", cluster("a", "b"), [tenure("a")], ["a"])


class TestAFenceIsCollected:
    def test_when_nothing_names_it_and_its_node_beats_in_another_incarnation(self) -> None:
        assert collectable(dead("a"), {"a": beat("a", life=2)}, [tenure("b")]) == ["a.1"]

    def test_not_while_a_tenure_names_it_as_holder(self) -> None:
        assert collectable(dead("a"), {"a": beat("a", life=2)}, [tenure("a")]) == []

    def test_not_while_a_released_tenure_names_it(self) -> None:
        assert collectable(dead("a"), {"a": beat("a", life=2)}, [tenure("a", state=State.RELEASED)]) == []

    def test_not_while_a_tenure_waits_for_it_to_be_cut_off(self) -> None:
        waits = tenure("b", unfenced=(holder("a"),))
        assert collectable(dead("a"), {"a": beat("a", life=2)}, [waits]) == []

    def test_not_while_its_own_heartbeat_is_the_last_one(self) -> None:
        """A machine that was paused for a week would go on from it."""
        assert collectable(dead("a"), {"a": beat("a")}, []) == []

    def test_not_without_a_heartbeat_or_with_a_placeholder_from_which_it_could_go_on(self) -> None:
        assert collectable(dead("a"), {}, []) == []
        assert collectable(dead("a"), {"a": stand_in("a.2")}, []) == []

    def test_whatever_its_evidence_was(self) -> None:
        fences = {"a.1": fence("a", Evidence.OPERATOR)}
        assert collectable(fences, {"a": beat("a", life=2)}, []) == ["a.1"]
