"""When copying has come far enough."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drover.agent.rounds import MOST, Again, Copying, CutOver, Round, verdict

LIMIT = 0.2
FULL = Round(1 << 30, 0.01, full=True)


def increments(*seconds: float) -> tuple[Round, ...]:
    return tuple(Round(1 << 20, s, full=False) for s in seconds)


def test_a_full_copy_says_nothing_about_the_rest() -> None:
    assert isinstance(verdict((), LIMIT), Again)
    assert isinstance(verdict((FULL,), LIMIT), Again)


def test_a_rest_that_is_small_enough_is_cut_over_to() -> None:
    assert verdict((FULL, *increments(0.1)), LIMIT) == CutOver(0.1, "the rest takes 100 ms")
    assert isinstance(verdict(increments(0.1), LIMIT), CutOver)


def test_as_long_as_each_round_is_much_smaller_there_is_another_one() -> None:
    assert isinstance(verdict((FULL, *increments(8.0, 4.0, 2.0)), LIMIT), Again)


def test_a_round_that_makes_it_no_smaller_is_the_last_and_says_so() -> None:
    decided = verdict((FULL, *increments(8.0, 7.0)), LIMIT)
    assert decided == CutOver(7.0, "the rest takes 7000 ms, more than 200 ms, and the last round made it no smaller")


@given(st.lists(st.floats(0.001, 1000), min_size=MOST, max_size=MOST), st.floats(0.001, 100))
def test_rounds_come_to_an_end_whatever_they_take(seconds: list[float], limit: float) -> None:
    assert isinstance(verdict(increments(*seconds), limit), CutOver)


def test_people_are_told_why_the_workload_is_stopped_now() -> None:
    found = verdict((Round(2**30, 9.0, True), Round(2**20, 0.5, False), Round(2**20, 0.5, False)), 0.2)
    assert Copying("b", 1, verdict=found).words == (
        "copying the last increment: the rest takes 500 ms, more than 200 ms, and the last round made it no smaller"
    )


def test_where_it_gives_up_only_a_short_rest_ends_the_rounds_and_people_are_told_why() -> None:
    rounds = (FULL, *increments(8.0, 7.0))
    decided = verdict(rounds, LIMIT, gives_up=True)
    assert isinstance(decided, Again)
    words = Copying("b", 3, rounds, decided).words
    assert "given up" in words
    assert "7000 ms" in words
    assert "longer_cutover: accept" in words
    assert isinstance(verdict((*rounds, *increments(0.1)), LIMIT, gives_up=True), CutOver)
