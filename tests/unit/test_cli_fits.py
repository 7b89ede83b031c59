"""Whether a dataset fits, as the agents of source and target tell it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from drover.coordinator.cli import agents
from drover.coordinator.cli.agents import Room
from tests.unit.cli_world import World, world

GIB = 1 << 30


class Told:
    """What the agents tell."""

    def __init__(self) -> None:
        self.rooms = {"node-b": Room({"loopback": 6 * GIB})}
        self.uses: int | None = 9 * GIB


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    made = Told()

    class Agent:
        def __init__(self, node: str) -> None:
            self._node = node

        async def room(self) -> Room:
            return made.rooms[self._node]

        async def used(self, _: str) -> int | None:
            return made.uses

    @asynccontextmanager
    async def asking(node: str, *_: object) -> AsyncIterator[Agent]:
        yield Agent(node)

    monkeypatch.setattr(agents, "asking", asking)
    return made


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    made = world(monkeypatch, capsys)
    made.dataset("notes")
    made.tenure("notes", "node-a", copies=("node-a",), written=1)
    return made


@pytest.mark.parametrize("option", [(), ("--dry-run",)])
def test_what_does_not_fit_is_refused_before_anything_is_changed(w: World, told: Told, option: tuple[str, ...]) -> None:
    ran = w.drover("move", "notes", "node-b", *option)
    assert ran.code == 3
    assert "node-b has 6 GiB free for loopback, notes needs 9 GiB. Nothing was changed." in ran.err
    assert w.entry("/drover/desired/notes") is None


def test_what_fits_is_told_with_the_room_there_is(w: World, told: Told) -> None:
    told.uses = GIB
    assert "6 GiB free on node-b, 1 GiB needed" in w.drover("move", "notes", "node-b", "--dry-run").out


def test_where_a_copy_is_already_a_difference_is_sent_and_no_room_for_all_of_it_is_asked_for(
    w: World, told: Told
) -> None:
    w.tenure("notes", "node-a", copies=("node-a", "node-b"), written=1)
    assert w.drover("move", "notes", "node-b").code == 0


def test_a_back_end_that_is_not_well_at_the_target_is_a_reason_not_to_move_there(w: World, told: Told) -> None:
    told.rooms["node-b"] = Room({}, {"backend.loopback": "the pool is not mounted"})
    ran = w.drover("move", "notes", "node-b", "--dry-run")
    assert ran.code == 3
    assert "node-b cannot take it: the pool is not mounted" in ran.err


def test_what_nobody_knows_is_no_objection(w: World, told: Told) -> None:
    told.uses = None
    assert w.drover("move", "notes", "node-b").code == 0
