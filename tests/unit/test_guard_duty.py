"""What the guard does at each state of the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from drover.agent.guard.duty import Climb, Open, Stand, Swear, agent_is_gone, duty, is_late
from drover.agent.guard.page import Page, Seen
from drover.coordinator.protocol.clock import Instant

SENT = Instant(1000.0, 500.0)
OPEN = Seen(
    SENT,
    d_soft=4.5,
    d_io=5.5,
    stays=Instant(0, 0),
    stays_soft=0.0,
    stays_io=0.0,
    asked=0,
    open_for=1,
    agent_seen=1000.0,
    open=True,
    round=1,
    began=900.0,
    done=1,
    left=0,
    sworn=0,
    verified=False,
)
CLOSED = replace(OPEN, open=False, open_for=0, verified=True)


def after(seconds: float) -> Instant:
    """So long after the newest answered heartbeat was sent."""
    return Instant(SENT.boot + seconds, SENT.raw + seconds)


def test_while_heartbeats_are_answered_it_stands() -> None:
    assert duty(OPEN, after(4.4)) == Stand()


def test_when_d_soft_has_passed_it_climbs_and_says_for_how_long_nobody_answered() -> None:
    assert duty(OPEN, after(4.6)) == Climb("no heartbeat of this node was answered for 4.6 s")


def test_one_clock_is_enough_for_a_deadline_to_have_passed() -> None:
    assert isinstance(duty(OPEN, Instant(SENT.boot + 4.6, SENT.raw)), Climb)
    assert isinstance(duty(OPEN, Instant(SENT.boot, SENT.raw + 4.6)), Climb)


def test_a_round_that_the_agent_asks_for_is_run_whatever_the_deadline() -> None:
    assert isinstance(duty(replace(OPEN, asked=2), after(0)), Climb)
    assert isinstance(duty(replace(CLOSED, asked=2), after(0)), Climb)


def test_a_round_that_an_earlier_guard_did_not_end_is_run_again() -> None:
    assert isinstance(duty(replace(CLOSED, round=2), after(0)), Climb)


def test_a_guard_that_died_between_closing_the_gate_and_beginning_a_round_leaves_one_to_be_run() -> None:
    died = replace(CLOSED, verified=False)  # as `open` has left it; the round before that had left nothing
    assert not died.clean
    assert isinstance(duty(died, after(0)), Climb)
    assert isinstance(duty(died, after(100)), Climb)


def test_a_round_begins_after_it_is_on_the_page_so_that_an_oath_about_the_one_before_names_an_older_heartbeat(
    tmp_path: Path,
) -> None:
    found: list[Seen] = []

    def clock() -> Instant:
        found.append(page.seen())
        return Instant(7.0, 7.0)

    with Page(tmp_path / "gate") as page:
        page.end_round(0)
        page.open()
        page.begin_round(clock)
        assert page.seen().began == 7.0
    assert (found[0].open, found[0].round) == (False, 2)


def test_what_was_left_is_gone_for_again_and_the_gate_stays_closed() -> None:
    assert isinstance(duty(replace(CLOSED, left=1, verified=False, open_for=1), after(0)), Climb)


def test_the_gate_opens_when_it_is_clean_and_asked_for_and_the_deadline_lies_ahead() -> None:
    assert duty(replace(CLOSED, open_for=1), after(1)) == Open()
    assert duty(CLOSED, after(1)) == Stand()
    assert duty(replace(CLOSED, open_for=1, agent_seen=1004.0), after(4.6)) == Stand()


def test_a_heartbeat_of_before_the_round_opens_nothing() -> None:
    assert duty(replace(CLOSED, open_for=1, began=1000.0), after(1)) == Stand()


def test_after_a_round_that_the_cluster_may_have_been_told_of_another_one_is_run_before_the_gate_opens() -> None:
    assert isinstance(duty(replace(CLOSED, open_for=1, sworn=1), after(1)), Climb)
    assert duty(replace(CLOSED, open_for=2, round=2, done=2, sworn=1), after(1)) == Open()


def test_a_wish_of_before_the_last_round_opens_nothing() -> None:
    assert duty(replace(CLOSED, open_for=1, round=2, done=2), after(1)) == Stand()


def test_the_machine_is_reset_when_d_io_has_passed_and_something_may_write() -> None:
    assert is_late(OPEN, after(5.6))
    assert is_late(replace(CLOSED, left=1, verified=False), after(5.6))
    assert is_late(replace(CLOSED, round=2, verified=False), after(5.6))


def test_a_ladder_that_is_run_late_gets_the_grace_to_end() -> None:
    assert not is_late(OPEN, after(5.9), 0.5)
    assert is_late(OPEN, after(6.1), 0.5)


def test_the_machine_is_not_reset_once_it_is_verified_that_nothing_writes() -> None:
    assert not is_late(CLOSED, after(5.6))
    assert not is_late(CLOSED, after(500))
    assert not is_late(replace(CLOSED, round=2), after(500))  # the ladder is run once more


def test_the_machine_is_not_reset_before_it_ever_had_a_deadline() -> None:
    assert not is_late(replace(CLOSED, sent=Instant(0.0, 0.0), done=0, verified=False), after(0))


def test_when_the_agent_is_gone_the_cluster_is_told_once_that_nothing_is_left() -> None:
    assert duty(CLOSED, after(4.6)) == Swear()
    assert duty(replace(CLOSED, sworn=1), after(4.6)) == Stand()
    assert duty(replace(CLOSED, agent_seen=1004.4), after(4.6)) == Stand()
    assert isinstance(duty(replace(CLOSED, left=1, verified=False), after(4.6)), Climb)


def test_an_agent_that_only_is_cut_off_is_not_gone() -> None:
    assert not agent_is_gone(replace(CLOSED, agent_seen=1004.4), after(4.6))
    assert agent_is_gone(replace(CLOSED, agent_seen=1000.0), after(4.6))


@given(
    st.builds(
        Seen,
        sent=st.just(SENT),
        d_soft=st.just(4.5),
        d_io=st.just(5.5),
        stays=st.floats(0, 6).map(lambda seconds: after(seconds)),
        stays_soft=st.sampled_from([0.0, 4.5]),
        stays_io=st.just(5.5),
        asked=st.integers(0, 4),
        open_for=st.integers(0, 4),
        agent_seen=st.floats(995, 1010),
        open=st.booleans(),
        round=st.integers(1, 3),
        began=st.floats(990, 1010),
        done=st.integers(1, 3),
        left=st.integers(0, 1),
        sworn=st.integers(0, 3),
        verified=st.booleans(),
    ),
    st.floats(0, 10),
)
def test_whatever_the_page_says_the_gate_never_opens_unverified_nor_stays_open_late(seen: Seen, late: float) -> None:
    what = duty(seen, after(late))
    if isinstance(what, Open):
        assert seen.clean
        assert seen.sworn != seen.round
        assert seen.began < SENT.boot
        assert late < 4.5
    if isinstance(what, Swear):
        assert seen.clean
    if seen.open and late > max(4.5, seen.stays.boot - SENT.boot + seen.stays_soft):
        assert isinstance(what, Climb)


def promised(seen: Seen, seconds: float) -> Seen:
    """All others were asked for their promise so long after the newest answered heartbeat was sent."""
    return replace(seen, stays=after(seconds), stays_soft=4.5, stays_io=5.5)


def test_promises_of_all_others_keep_an_open_gate_open_and_the_machine_from_being_reset() -> None:
    seen = promised(OPEN, 4.0)
    assert duty(seen, after(8.4)) == Stand()
    assert isinstance(duty(seen, after(8.6)), Climb)
    assert not is_late(seen, after(9.4))
    assert is_late(seen, after(9.6))


def test_promises_open_no_gate() -> None:
    assert duty(promised(replace(CLOSED, open_for=1, agent_seen=1004.0, began=999.0), 4.0), after(4.4)) == Open()
    assert duty(promised(replace(CLOSED, open_for=1, agent_seen=1004.0, began=1001.0), 4.0), after(4.4)) == Stand()
    assert duty(promised(replace(CLOSED, open_for=1, agent_seen=1004.0, began=999.0), 4.0), after(5.0)) == Stand()
