"""etcd away for everybody: who may go on, for how long, and who waits. By clocks that the test moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.coordinator.protocol import promises, session
from drover.coordinator.protocol.clock import Deadline, Instant
from drover.coordinator.protocol.observer import observe
from drover.coordinator.protocol.promises import NONE, Asked, Candidate, Given, Terms, candidate, refusal
from drover.coordinator.protocol.session import (
    Beat,
    CloseGate,
    Event,
    Identity,
    Lapsed,
    Live,
    Promised,
    Reply,
    Send,
    Tick,
    by_promises,
    soft_deadline,
)
from drover.coordinator.records import Heartbeat
from drover.coordinator.timings import MAX_D_HARD, Timings, required_wait
from tests.unit.making import cluster

ME = Identity("a", "a.1", "machine-a", "boot-1", armed=True)
T = Timings()
BOTH = Terms(frozenset({"b/1", "c/1"}), 60.0)
ASKED = Asked("id", "a", "a.1", T.d_hard)
B = Candidate("b", "id", steady=False)


class Script:
    """Node a, whose heartbeat with these terms was sent and answered at 0."""

    def __init__(self, terms: Terms = BOTH) -> None:
        self.state: session.State = session.begin(10, 1, Instant(0, 0), Instant(0, 0))
        self.at(0.0, Beat(0.0, terms))
        self.at(0.0, Reply(2, True, 11))

    def at(self, seconds: float, event: Event) -> tuple[session.Action, ...]:
        self.state, actions = session.step(self.state, event, Instant(seconds, seconds), ME, T)
        return actions

    def promised(self, sent: float, *who: str, at: float | None = None) -> None:
        for one in who:
            self.at(sent + 0.01 if at is None else at, Promised(one, Instant(sent, sent)))

    @property
    def until(self) -> float:
        assert isinstance(self.state, Live)
        return soft_deadline(self.state, T).boot


def test_once_every_candidate_has_promised_deadlines_count_from_before_the_first_of_them_was_asked() -> None:
    script = Script()
    script.promised(3.0, "b/1")
    assert script.until == T.d_soft
    script.promised(3.4, "c/1")
    assert script.until == 3.0 + T.d_soft


def test_with_one_candidate_that_does_not_promise_it_stops_at_its_deadline() -> None:
    script = Script()
    for second in range(1, 5):
        script.promised(second, "b/1")
    assert any(isinstance(action, CloseGate) for action in script.at(T.d_soft, Tick()))


def test_a_promise_that_comes_after_the_deadline_revives_nothing() -> None:
    script = Script()
    script.promised(4.0, "b/1")
    script.promised(4.0, "c/1", at=T.d_soft + 0.1)
    assert isinstance(script.state, Lapsed)


def test_promises_of_strangers_count_for_nothing() -> None:
    script = Script()
    script.promised(3.0, "b/1", "c/2", "d/1")
    assert script.until == T.d_soft


def test_a_heartbeat_that_names_nobody_is_not_prolonged_by_anybody() -> None:
    script = Script(NONE)
    script.promised(3.0, "b/1", "c/1")
    assert script.until == T.d_soft


@pytest.mark.parametrize(
    "later", [Terms(BOTH.candidates | {"d/1"}, 60.0), Terms(frozenset({"c/1", "d/1"}), 60.0), NONE]
)
def test_what_a_heartbeat_says_that_was_not_answered_binds_as_well(later: Terms) -> None:
    script = Script()
    assert any(isinstance(action, Send) for action in script.at(1.0, Beat(0.0, later)))
    script.promised(3.0, "b/1", "c/1")
    assert script.until == T.d_soft
    script.promised(3.0, "d/1")
    assert script.until == (T.d_soft if later is NONE else 3.0 + T.d_soft)


def test_it_goes_on_by_promises_for_no_longer_than_its_heartbeat_says() -> None:
    script = Script(Terms(BOTH.candidates, 10.0))
    for second in range(1, 14):
        script.promised(second, "b/1", "c/1")
    assert script.until == 10.0 + T.d_soft


def test_an_answered_heartbeat_ends_what_goes_on_by_promises_only() -> None:
    script = Script()
    script.promised(4.0, "b/1", "c/1")
    assert not by_promises(script.state, T, Instant(4.4, 4.4))
    assert by_promises(script.state, T, Instant(5.0, 5.0))
    script.at(5.0, Beat(0.0, BOTH))
    script.at(5.1, Reply(3, True, 12))
    assert not by_promises(script.state, T, Instant(5.2, 5.2))


@pytest.mark.parametrize(
    ("me", "asked", "why"),
    [
        (B, ASKED, ""),
        (replace(B, cluster=""), ASKED, ""),
        (replace(B, steady=True), ASKED, "etcd answers b"),
        (replace(B, willing=False), ASKED, "promises is off on b"),
        (replace(B, lost="it went back"), ASKED, "does not rely on etcd"),
        (B, replace(ASKED, cluster="other"), "another cluster"),
        (replace(B, node="a"), ASKED, "its own name"),
        (B, replace(ASKED, d_hard=MAX_D_HARD + 1), "D_hard"),
        (B, replace(ASKED, d_hard=float("nan")), "D_hard"),
    ],
)
def test_who_may_promise(me: Candidate, asked: Asked, why: str) -> None:
    said = refusal(asked, me)
    assert why in said
    assert bool(said) == bool(why)


def test_a_promise_holds_for_w_from_when_it_was_asked_for_and_is_not_shortened() -> None:
    given = Given()
    assert given.left("a", 100.0) <= 0
    given.give(ASKED, 100.0)
    given.give(replace(ASKED, d_hard=1.0), 100.5)
    assert given.left("a", 100.0) == pytest.approx(required_wait(T.d_hard))
    given.give(replace(ASKED, node="b"), 200.0)
    assert set(given.until) == {"b"}


def test_who_is_not_named_waits_longer_and_a_machine_that_got_anothers_name_is_not_named() -> None:
    beat = Heartbeat(
        incarnation="a.1", counter=1, clock=0, d_hard=T.d_hard, candidates=(candidate("b", "m1"),), beyond=60.0
    )
    waits = [observe(None, "a", beat, 5, 0.0, candidate("b", machine)).wait for machine in ("m1", "m2")]
    assert waits == [required_wait(T.d_hard), required_wait(T.d_hard + 60.0)]


def test_a_heartbeat_names_all_others_that_are_here_and_nobody_where_it_is_alone() -> None:
    said = promises.terms("a", cluster("a", "b", "c"), 60.0)
    assert {one.partition("/")[0] for one in said.candidates} == {"b", "c"}
    assert promises.terms("a", cluster("a"), 60.0) is NONE
    assert promises.terms("a", cluster("a", "b"), 0.0) is NONE


seconds = st.floats(0, 30).map(lambda value: round(value, 2))


@given(
    asked=st.lists(st.tuples(seconds, st.sampled_from(["b/1", "c/1", "d/1"]), st.floats(0, 3)), max_size=40),
    beats=st.lists(st.tuples(seconds, st.sets(st.sampled_from(["b/1", "c/1", "d/1"]), min_size=1)), max_size=4),
)
def test_nobody_that_keeps_its_promises_can_call_a_node_silent_that_goes_on(
    asked: list[tuple[float, str, float]], beats: list[tuple[float, set[str]]]
) -> None:
    """Each heartbeat may be the one that is in etcd, from its sending on; each candidate counts from what it got."""
    script = Script()
    events: list[tuple[float, int, Event]] = [
        (sent + takes, 1, Promised(one, Instant(sent, sent))) for sent, one, takes in asked
    ]
    events += [(sent, 0, Beat(0.0, Terms(frozenset(who), 60.0))) for sent, who in beats]
    possible = [(0.0, BOTH)]
    granted: dict[str, float] = {}
    for at, _, event in sorted(events, key=lambda one: one[:2]):
        if isinstance(event, Beat):
            possible.append((at, event.terms))
        elif isinstance(event, Promised):
            granted[event.candidate] = max(granted.get(event.candidate, 0.0), event.sent.raw)
        script.at(at, event)
        if not isinstance(script.state, Live):
            return
        stops = soft_deadline(script.state, T).raw + T.d_hard - T.d_soft
        for sent, said in possible:
            for one in ("b/1", "c/1", "d/1", "unheard of"):
                counts = max(sent, granted.get(one, 0.0)) if one in said.candidates else sent + said.beyond
                assert stops <= counts + required_wait(T.d_hard)


def test_a_deadline_is_later_than_another_only_on_both_clocks() -> None:
    usual = Deadline(10.0, 5.0)
    assert usual.later(Deadline(12.0, 4.0)) == usual
    assert usual.later(Deadline(12.0, 6.0)) == Deadline(12.0, 6.0)
