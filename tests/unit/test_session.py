"""A session: heartbeats out, deadlines in, by a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from drover.coordinator.keys import Keys
from drover.coordinator.protocol import session
from drover.coordinator.protocol.clock import Instant
from drover.coordinator.protocol.observer import stand_in
from drover.coordinator.protocol.session import (
    Action,
    Beat,
    CloseGate,
    Ended,
    Event,
    Identity,
    LadderDone,
    Lapsed,
    Live,
    Loss,
    OpenGate,
    Reply,
    Send,
    Tick,
    gate,
    steady,
)
from drover.coordinator.records import Heartbeat
from drover.coordinator.timings import Timings
from drover.coordinator.txn import ModRevision, Put, absent

ME = Identity("a", "a.1", "machine-a", "boot-1", armed=True)
T = Timings()


@dataclass
class Script:
    """One session, and what it did. Its first heartbeat is at revision 10 with counter 1, sent and answered at 0."""

    boot: float = 0.0
    raw: float = 0.0
    state: session.State = field(default_factory=lambda: session.begin(10, 1, Instant(0, 0), Instant(0, 0)))
    done: list[Action] = field(default_factory=list)

    @property
    def now(self) -> Instant:
        return Instant(self.boot, self.raw)

    def at(self, boot: float, raw: float | None = None) -> Script:
        self.boot, self.raw = boot, boot if raw is None else raw
        return self

    def feed(self, event: Event) -> tuple[Action, ...]:
        self.state, actions = session.step(self.state, event, self.now, ME, T)
        self.done += actions
        return actions

    def beat(self, longer: float = 0.0) -> Send:
        sends = [a for a in self.feed(Beat(longer)) if isinstance(a, Send)]
        assert len(sends) == 1
        return sends[0]

    def committed(self, send: Send, revision: int) -> tuple[Action, ...]:
        return self.feed(Reply(send.attempt.counter, True, revision, written(send), revision))

    def refused(self, send: Send, seen: Heartbeat | None, revision: int = 0) -> tuple[Action, ...]:
        return self.feed(Reply(send.attempt.counter, False, 99, seen, revision))

    @property
    def live(self) -> Live:
        assert isinstance(self.state, Live)
        return self.state

    def left(self) -> float | None:
        """Seconds in which something that writes may still begin."""
        deadline = gate(self.state, T)
        return None if deadline is None else deadline.remaining(self.now)


def written(send: Send, incarnation: str = ME.incarnation) -> Heartbeat:
    """What a heartbeat of mine leaves in etcd."""
    attempt = send.attempt
    return Heartbeat(incarnation=incarnation, counter=attempt.counter, clock=attempt.clock, d_hard=T.d_hard)


def test_the_deadline_counts_from_the_sending_and_not_from_the_answer() -> None:
    s = Script()
    send = s.at(1.0).beat()
    s.at(3.0).committed(send, 11)
    assert s.left() == pytest.approx(1.0 + T.d_soft - 3.0)


def test_a_heartbeat_that_is_not_answered_moves_no_deadline() -> None:
    s = Script()
    s.at(1.0).beat()
    s.at(2.0).beat()
    assert s.left() == pytest.approx(T.d_soft - 2.0)


def test_each_heartbeat_compares_the_one_before_and_that_nobody_has_fenced_me() -> None:
    s, keys = Script(), Keys()
    first = s.at(1.0).beat()
    s.committed(first, 11)
    txn = session.heartbeat_txn(keys, ME, T, s.at(2.0).beat())
    assert txn.compare == (absent(keys.fence("a.1")), ModRevision(keys.heartbeat("a"), 11))
    (put,) = txn.then
    assert isinstance(put, Put)
    assert put.lease == 0
    beat = Heartbeat.decode(put.value)
    assert (beat.incarnation, beat.counter, beat.clock) == ("a.1", 3, 2.0)
    assert (beat.d_hard, beat.armed, beat.machine, beat.boot) == (T.d_hard, True, "machine-a", "boot-1")


def test_a_heartbeat_that_committed_unheard_counts_from_its_own_sending() -> None:
    s = Script()
    lost = s.at(1.0).beat()
    again = s.at(2.0).beat()
    s.at(2.1).refused(again, written(lost), 11)
    assert s.live.sent == lost.attempt.sent
    assert s.live.revision == 11
    assert s.beat().revision == 11


def test_which_of_several_lost_heartbeats_committed_is_told_by_its_counter() -> None:
    s = Script()
    first, second, third = s.at(1.0).beat(), s.at(2.0).beat(), s.at(3.0).beat()
    s.refused(third, written(second), 12)
    assert s.live.sent == second.attempt.sent
    assert [a.counter for a in s.live.pending] == [third.attempt.counter]
    s.refused(s.beat(), written(first), 12)
    assert s.live.sent == second.attempt.sent, "an overtaken answer moves no deadline back"


def test_a_stranger_ends_the_session_and_is_named() -> None:
    s = Script()
    send = s.at(1.0).beat()
    stranger = Heartbeat(incarnation="a.9", counter=5, clock=1.0, d_hard=6.5, machine="machine-x")
    (closed,) = s.refused(send, stranger, 20)
    assert isinstance(closed, CloseGate)
    assert isinstance(s.state, Ended)
    assert s.state.loss is Loss.STRANGER
    assert "machine-x" in s.state.detail


def test_of_two_twins_that_were_forked_while_running_one_ends_within_one_heartbeat() -> None:
    """Both have the incarnation, the revision and the counter; only what they sent differs."""
    one, two = Script(), Script()
    first, second = one.at(1.0).beat(), two.at(1.2).beat()
    assert first.attempt.counter == second.attempt.counter
    one.committed(first, 11)
    two.refused(second, written(first), 11)
    assert isinstance(one.state, Live)
    assert isinstance(two.state, Ended)
    assert two.state.loss is Loss.STRANGER
    assert "twin" in two.state.detail


def test_a_machine_restored_from_a_snapshot_finds_heartbeats_that_it_never_sent() -> None:
    original, restored = Script(), Script()
    beats = []
    for second in range(1, 5):
        beats.append(original.at(second).beat())
        original.committed(beats[-1], 10 + second)
    restored.refused(restored.at(9.0).beat(), written(beats[-1]), 14)
    assert isinstance(restored.state, Ended)


def test_a_late_heartbeat_of_the_agent_before_this_one_is_no_twin() -> None:
    s = Script(state=session.begin(10, 1_001, Instant(0, 0), Instant(0, 0)))
    send = s.at(1.0).beat()
    s.refused(send, Heartbeat(incarnation="a.1", counter=2, clock=-0.5, d_hard=6.5), 11)
    assert s.live.revision == 11
    assert s.live.sent == Instant(0, 0)
    assert s.beat().revision == 11


def test_a_fence_ends_the_session_whatever_the_heartbeat_says() -> None:
    s = Script()
    send = s.at(1.0).beat()
    (closed,) = s.feed(Reply(send.attempt.counter, False, 20, written(send), 11, fenced=True))
    assert isinstance(closed, CloseGate)
    assert isinstance(s.state, Ended)
    assert s.state.loss is Loss.FENCED


def test_nothing_brings_an_ended_session_back() -> None:
    s = Script(state=Ended(Loss.FENCED, "fenced"))
    for event in (Beat(), Tick(), LadderDone(True), Reply(2, True, 11)):
        assert s.feed(event) == ()
        assert s.state == Ended(Loss.FENCED, "fenced")
        assert s.left() is None


def test_a_placeholder_is_gone_on_from_and_moves_no_deadline() -> None:
    s = Script()
    send = s.at(1.0).beat()
    assert s.refused(send, stand_in("a.1"), 30) == ()
    assert s.left() == pytest.approx(T.d_soft - 1.0)
    assert s.beat().revision == 30


def test_a_deleted_heartbeat_is_put_again() -> None:
    s = Script()
    s.refused(s.at(1.0).beat(), None)
    again = s.beat()
    assert again.revision == 0
    s.committed(again, 40)
    assert s.live.revision == 40


@pytest.mark.parametrize(("boot", "raw"), [(T.d_soft, 0.0), (0.0, T.d_soft)], ids=["boottime", "raw"])
def test_either_clock_ends_the_right_to_write(boot: float, raw: float) -> None:
    s = Script()
    (closed,) = s.at(boot, raw).feed(Tick())
    assert isinstance(closed, CloseGate)
    assert isinstance(s.state, Lapsed)
    assert s.left() is None


def test_just_before_the_deadline_nothing_ends() -> None:
    s = Script()
    assert s.at(T.d_soft - 0.001).feed(Tick()) == ()
    assert isinstance(s.state, Live)


def test_an_answer_to_a_heartbeat_sent_too_long_ago_does_not_save_the_session() -> None:
    s = Script()
    send = s.at(1.0).beat()
    s.at(1.0 + T.d_soft).committed(send, 11)
    assert isinstance(s.state, Lapsed)


def lapsed() -> Script:
    s = Script()
    s.at(5.0).feed(Tick())
    assert isinstance(s.state, Lapsed)
    return s


def test_a_fresh_answer_without_a_ladder_opens_nothing() -> None:
    s = lapsed()
    assert s.at(6.0).committed(s.beat(), 11) == ()
    assert s.left() is None


def test_a_ladder_that_left_something_opens_nothing() -> None:
    s = lapsed()
    s.at(6.0).committed(s.beat(), 11)
    assert s.feed(LadderDone(False)) == ()
    assert s.left() is None


def test_a_clean_ladder_without_a_fresh_answer_opens_nothing() -> None:
    s = lapsed()
    stale = s.at(5.1).beat()
    assert s.at(5.2).feed(LadderDone(True)) == ()
    assert s.at(5.1 + T.d_soft).committed(stale, 11) == ()
    assert s.left() is None


@pytest.mark.parametrize("ladder_first", [True, False])
def test_a_clean_ladder_and_a_fresh_answer_open_the_gate_of_the_same_incarnation(ladder_first: bool) -> None:
    s = lapsed()
    if ladder_first:
        s.feed(LadderDone(True))
        assert s.at(6.0).committed(s.beat(), 11) == (OpenGate(),)
    else:
        s.at(6.0).committed(s.beat(), 11)
        assert s.feed(LadderDone(True)) == (OpenGate(),)
    assert s.left() == pytest.approx(T.d_soft)


def test_a_second_lapse_needs_a_second_ladder() -> None:
    s = lapsed()
    s.feed(LadderDone(True))
    s.at(6.0).committed(s.beat(), 11)
    s.at(6.0 + T.d_soft).feed(Tick())
    assert s.at(11.0).committed(s.beat(), 12) == ()
    assert s.left() is None


def test_a_ladder_that_ran_for_nothing_is_not_remembered() -> None:
    s = Script()
    s.feed(LadderDone(True))
    s.at(T.d_soft).feed(Tick())
    s.committed(s.beat(), 11)
    assert isinstance(s.state, Lapsed)


def answered_every(s: Script, seconds: float, until: float) -> None:
    revision = 11
    while s.raw + seconds <= until:
        send = s.at(s.raw + seconds).beat()
        s.committed(send, revision)
        revision += 1


def test_who_was_answered_without_a_gap_is_steady() -> None:
    s = Script()
    answered_every(s, T.heartbeat, session.STEADY * T.heartbeat - 1)
    assert not steady(s.state, T, s.now)
    answered_every(s, T.heartbeat, session.STEADY * T.heartbeat + 1)
    assert steady(s.state, T, s.now)


def test_a_gap_makes_unsteady_for_as_long_as_at_the_beginning() -> None:
    s = Script()
    answered_every(s, T.heartbeat, 10.0)
    send = s.at(10.0 + session.GAP * T.heartbeat + 0.1).beat()
    assert not steady(s.state, T, s.now)
    s.committed(send, 50)
    assert s.live.steady_since == s.now
    assert not steady(s.state, T, s.now)


def test_a_lapsed_session_is_never_steady() -> None:
    s = Script()
    answered_every(s, T.heartbeat, 10.0)
    s.at(10.0 + T.d_soft).feed(Tick())
    assert not steady(s.state, T, s.now)


def test_a_long_outage_leaves_no_heap_of_attempts() -> None:
    s = lapsed()
    for tenth in range(600):
        s.at(5.0 + tenth / 10).beat()
    assert isinstance(s.state, Lapsed)
    assert len(s.state.pending) <= 10 * T.d_soft + 1
    s.feed(LadderDone(True))
    assert s.committed(s.beat(), 11) == (OpenGate(),)


class TestPaused:
    """In a pause a heartbeat promises to have stopped only so much later."""

    def test_the_deadline_is_as_much_later_once_such_a_heartbeat_was_answered(self) -> None:
        script = Script()
        sent = script.at(1).beat(600)
        assert script.left() == pytest.approx(T.d_soft - 1)
        script.committed(sent, 11)
        assert script.left() == pytest.approx(T.d_soft + 600)

    def test_it_is_written_into_the_heartbeat(self) -> None:
        send = Script().at(1).beat(600)
        (put,) = session.heartbeat_txn(Keys(), ME, T, send).then
        assert isinstance(put, Put)
        assert Heartbeat.decode(put.value).writes_for == T.d_hard + 600

    def test_a_heartbeat_that_promises_less_binds_from_its_sending_answered_or_not(self) -> None:
        script = Script()
        script.committed(script.at(1).beat(600), 11)
        script.at(2).beat(0)
        assert script.left() == pytest.approx(T.d_soft)

    def test_a_late_answer_to_an_earlier_heartbeat_lifts_that_bound_no_more(self) -> None:
        script = Script()
        early = script.at(1).beat(600)
        script.at(2).beat(0)
        script.committed(early, 11)
        assert script.left() == pytest.approx(T.d_soft)

    def test_a_pause_that_ends_at_one_moment_is_not_shortened_by_heartbeats_that_are_not_answered(self) -> None:
        script = Script()
        script.committed(script.at(1).beat(600), 11)
        for second in range(2, 400):
            script.at(second).beat(601 - second)
        assert script.left() == pytest.approx(T.d_soft + 601 - 399)
        assert len(script.live.pending) <= session.OPEN + 1

    def test_of_two_clocks_that_differ_the_one_that_ran_less_counts(self) -> None:
        script = Script()
        script.committed(script.at(1).beat(600), 11)
        script.at(boot=11, raw=9).beat(0)
        left = script.left()
        assert left is not None
        assert left <= T.d_soft

    def test_it_lapses_when_the_pause_is_over_and_nothing_was_answered(self) -> None:
        script = Script()
        script.committed(script.at(1).beat(600), 11)
        script.at(601 + T.d_soft - 0.1).feed(Tick())
        assert isinstance(script.state, Live)
        script.at(601 + T.d_soft + 0.1).feed(Tick())
        assert isinstance(script.state, Lapsed)
