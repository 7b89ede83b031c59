"""How full mounts are: asked in the background, and a mount that hangs holds up nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from drover.agent import room
from drover.agent.room import Measure, Room
from drover.agent.storage.base import Usage
from tests.playground import eventually

FULL = Usage(size=100, used=60, inodes=10, inodes_used=4, free=35)
NAMES = ("good", "hanging", "well")


class Mounts:
    """Those whose name is in `hanging` answer when they are let."""

    def __init__(self) -> None:
        self.hanging: set[str] = set()
        self.let = threading.Event()
        self.asked: list[str] = []

    def of(self, *names: str) -> dict[str, Measure]:
        return {name: partial(self._measure, name) for name in names}

    def _measure(self, name: str) -> Usage:
        self.asked.append(name)
        if name == "gone":
            raise FileNotFoundError
        if name in self.hanging:
            self.let.wait(30)
        return FULL


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mounts]:
    monkeypatch.setattr(room, "_SILENT", 0.05)
    mounts = Mounts()
    yield mounts
    mounts.let.set()


def test_all_that_answers_is_told_at_once(mounts: Mounts) -> None:
    assert Room().look(mounts.of(*NAMES)) == dict.fromkeys(NAMES, FULL)


def test_it_is_asked_again_only_after_a_while(mounts: Mounts) -> None:
    room = Room()
    for _ in range(3):
        room.look(mounts.of(*NAMES))
    assert sorted(mounts.asked) == sorted(NAMES)


def test_what_is_not_mounted_any_more_is_not_told(mounts: Mounts) -> None:
    room = Room()
    room.look(mounts.of(*NAMES))
    assert set(room.look(mounts.of("good"))) == {"good"}
    assert Room().look(mounts.of("gone")) == {}


def test_a_mount_that_hangs_is_left_out_and_counted_and_the_others_are_told(mounts: Mounts) -> None:
    mounts.hanging = {"hanging"}
    room = Room()
    began = time.monotonic()
    room.look(mounts.of(*NAMES))
    assert time.monotonic() - began < 1, "nobody waits for it"
    eventually(lambda: set(room.look(mounts.of(*NAMES))) == {"good", "well"}, "the others are told")
    assert room.silent == 1
    mounts.let.set()
    eventually(lambda: room.silent == 0, "it answers again")


def test_however_many_mounts_hang_they_keep_few_threads(mounts: Mounts) -> None:
    many = mounts.of(*(f"d{number}" for number in range(50)))
    mounts.hanging = set(many)
    room = Room()

    def kept() -> int:
        room.look(many)
        return sum(thread.name == "room" for thread in threading.enumerate())

    eventually(lambda: kept() == 4, "four threads are kept")
    for _ in range(5):
        room.look(many)
    assert kept() == 4
    assert len(mounts.asked) == 4
