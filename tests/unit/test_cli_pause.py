"""`drover pause` and `resume`: what they write, whom they wait for, and what they say of who did not hear it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from drover.coordinator.cli import pause
from drover.coordinator.cli.picture import Node, Picture
from drover.coordinator.records import Heartbeat, Pause
from tests.unit.cli_world import World, incarnation, world


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    return world(monkeypatch, capsys)


def beat(w: World, node: str, longer: float = 0.0) -> None:
    made = Heartbeat(incarnation=incarnation(node), counter=8, clock=2.0, d_hard=6.5, longer=longer)
    w.put(w.keys.heartbeat(node), made)


def paused(w: World) -> Pause:
    return Pause.decode((w.value(w.keys.pause) or "").encode())


def obeyed(w: World, monkeypatch: pytest.MonkeyPatch, *nodes: str, longer: float) -> None:
    """These nodes beat again, so much longer, once `drover` waits for them."""
    before = pause.until_all

    async def after(store: object, keys: object, revision: int, told: Callable[[Node], bool]) -> Picture:
        for node in nodes:
            beat(w, node, longer)
        return await before(w.store, w.keys, revision, told)

    monkeypatch.setattr(pause, "until_all", after)


def test_pause_writes_until_when_by_whom_and_why_and_waits_for_every_node(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    obeyed(w, monkeypatch, "node-a", "node-b", "node-c", longer=1200)
    ran = w.drover("pause", "--for", "20min", "--reason", "new etcd")
    assert ran.code == 0
    assert "Taken up by node-a, node-b and node-c" in ran.out
    left = paused(w).until - datetime.now(UTC)
    assert timedelta(minutes=19) < left < timedelta(minutes=21)
    assert paused(w).by
    assert "(new etcd): nothing moves or fails over" in w.drover("ls").err
    assert w.drover("ls", "--json").json["paused"]["reason"] == "new etcd"


def test_a_node_that_does_not_take_it_up_is_told_with_exit_code_6(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    obeyed(w, monkeypatch, "node-a", "node-b", longer=1200)
    ran = w.drover("pause", "--timeout", "0.2")
    assert ran.code == 6
    assert "node-c did not take the pause up" in ran.err


def test_a_heartbeat_from_before_the_pause_is_no_answer_to_it(w: World) -> None:
    for node in ("node-a", "node-b", "node-c"):
        beat(w, node, longer=50)
    assert w.drover("pause", "--timeout", "0.2").code == 6


@pytest.mark.parametrize("text", ["0s", "7h", "2", "h", "2 weeks", "-1h"])
def test_a_duration_that_is_none_or_too_long_is_a_usage_error(w: World, text: str) -> None:
    assert w.drover("pause", "--for", text).code == 2
    assert w.entry(w.keys.pause) is None


def test_resume_takes_the_pause_away_and_waits_for_the_usual_deadlines(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    w.put(w.keys.pause, Pause(until=datetime.now(UTC) + timedelta(hours=1)))
    obeyed(w, monkeypatch, "node-a", "node-b", "node-c", longer=0)
    ran = w.drover("resume")
    assert (ran.code, ran.out) == (0, "the cluster goes on\n")
    assert w.entry(w.keys.pause) is None


def test_resume_names_the_nodes_that_may_write_on_because_they_did_not_hear_it(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    w.put(w.keys.pause, Pause(until=datetime.now(UTC) + timedelta(hours=1)))
    w.dataset("d")
    w.active("d", "node-c")
    beat(w, "node-c", longer=3000)
    w.silent("node-c")
    obeyed(w, monkeypatch, "node-a", "node-b", longer=0)
    ran = w.drover("resume")
    assert ran.code == 6
    assert "node-c may not know yet" in ran.err
    assert w.entry(w.keys.pause) is None


def test_what_was_mistyped_into_pause_pauses_nothing_and_is_shown(w: World) -> None:
    w.put(w.keys.pause, '{"until": "tomorrow"}')
    ran = w.drover("ls")
    assert "ignored: pause: until:" in ran.err
    assert w.drover("ls", "--json").json["paused"] is None


def test_waiting_ends_as_soon_as_the_last_node_has_said_so(w: World) -> None:
    async def waited() -> None:
        task = asyncio.create_task(pause.until_all(w.store, w.keys, w.cluster.revision, lambda _: True))
        for node in ("node-a", "node-b", "node-c"):
            await asyncio.sleep(0)
            assert not task.done()
            beat(w, node)
        async with asyncio.timeout(5):
            await task

    asyncio.run(waited())


def test_show_says_what_waits_for_the_end_of_the_pause(w: World) -> None:
    w.dataset("notes")
    w.desired("notes", "node-a")
    w.put(w.keys.pause, Pause(until=datetime(2026, 1, 2, 15, tzinfo=UTC), by="ann"))
    assert "node-a takes it, after the pause: paused by ann until 2026-01-02T15:00:00Z" in w.drover("show", "notes").out
