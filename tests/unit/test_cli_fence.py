"""`drover fence`: a person's word, what it is compared with, and when it is not taken."""

from __future__ import annotations

import asyncio

import pytest

from drover.coordinator.cli.errors import NotPossible
from drover.coordinator.cli.fence import declare_dead, find
from drover.coordinator.records import Evidence, Fence, State
from tests.unit.cli_world import World, incarnation, world

A = incarnation("node-a")


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    return world(monkeypatch, capsys)


def fence_of(w: World, who: str = A) -> Fence | None:
    entry = w.entry(w.keys.fence(who))
    return Fence.decode(entry.value) if entry else None


def test_without_confirm_it_explains_the_promise_and_writes_nothing(w: World) -> None:
    w.dataset("notes")
    w.active("notes", "node-a")
    ran = w.drover("fence", "node-a")
    assert ran.code == 2
    assert "this is your word that the machine of node-a" in ran.err
    assert "Others may then take notes and write." in ran.err
    assert f"drover fence {A} --confirm" in ran.err
    assert fence_of(w) is None


@pytest.mark.parametrize("who", ["node-a", A])
def test_with_confirm_it_fences_the_node_or_the_incarnation(w: World, who: str) -> None:
    w.silent("node-a")
    ran = w.drover("fence", who, "--confirm")
    assert ran.code == 0
    made = fence_of(w)
    assert made is not None
    assert (made.node, made.by, made.evidence) == ("node-a", "operator", Evidence.OPERATOR)
    assert made.detail.startswith("confirmed by ")


async def test_a_node_whose_heartbeat_moves_is_alive_and_never_fenced(w: World) -> None:
    found, _ = await find(w.store, w.keys, "node-a")
    attempt = asyncio.create_task(declare_dead(w.store, w.keys, found, "me"))
    for _ in range(20):
        await asyncio.sleep(0)
    w.beat("node-a", counter=8)
    with pytest.raises(NotPossible, match="node-a is alive"):
        await attempt
    assert fence_of(w) is None


async def test_a_heartbeat_that_came_between_look_and_fence_makes_it_fail(w: World) -> None:
    found, _ = await find(w.store, w.keys, "node-a")
    w.beat("node-a", counter=8)
    w.cluster.compact(w.cluster.revision)  # so that the watch for it hears nothing
    with pytest.raises(NotPossible, match="node-a is alive"):
        await declare_dead(w.store, w.keys, found, "me")
    assert fence_of(w) is None


def test_a_fence_that_says_as_much_already_is_left_alone(w: World) -> None:
    w.fence("node-a", Evidence.REBOOT)
    before = w.entry(w.keys.fence(A))
    ran = w.drover("fence", "node-a")
    assert ran.code == 0
    assert "node-a is fenced already: reboot" in ran.out
    assert w.entry(w.keys.fence(A)) == before


def test_mere_silence_of_an_unarmed_node_becomes_an_operators_word(w: World) -> None:
    w.fence("node-a", Evidence.SILENCE, armed=False)
    ran = w.drover("fence", A, "--confirm")
    assert ran.code == 0
    made = fence_of(w)
    assert made is not None
    assert made.evidence is Evidence.OPERATOR


def test_an_earlier_life_of_a_node_that_is_back_can_be_vouched_for(w: World) -> None:
    w.dataset("notes")
    w.fence("node-a", Evidence.SILENCE, armed=False)
    w.node("node-a", life=2)
    w.tenure("notes", "node-b", 2, State.ASSIGNED, unfenced=(w.holder("node-a"),))
    ran = w.drover("fence", A, "--confirm")
    assert ran.code == 0
    assert "frees      notes" in ran.out
    assert fence_of(w, incarnation("node-a", 2)) is None


def test_whom_nobody_knows_is_refused_with_those_that_are_like_it(w: World) -> None:
    ran = w.drover("fence", "nodea", "--confirm")
    assert ran.code == 3
    assert "there is no node or incarnation 'nodea'" in ran.err
    assert "node-a" in ran.err


def test_json_says_who_was_fenced(w: World) -> None:
    w.silent("node-a")
    assert w.drover("fence", "node-a", "--confirm", "--json").json == {
        "changed": True,
        "incarnation": A,
        "node": "node-a",
        "evidence": "operator",
    }
