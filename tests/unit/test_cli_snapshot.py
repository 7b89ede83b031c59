"""`drover snapshot` and `drover snapshots`: what is asked for through etcd, and what is told."""

from __future__ import annotations

import json

import pytest

from drover.coordinator.records import UserSnapshot
from tests.unit.cli_world import World, world


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    made = world(monkeypatch, capsys)
    made.dataset("notes")
    made.tenure("notes", "node-a", 3)
    return made


def record(w: World, name: str = "monday") -> UserSnapshot:
    return UserSnapshot.decode((w.value(w.keys.snapshot("notes", name)) or "").encode())


def taken(w: World, name: str = "monday", **more: object) -> None:
    what = {"uid": "cafe", "node": "node-a", "guid": "g", "taken": "2026-01-02T03:04:05.000Z", "size": 4096} | more
    w.put(w.keys.snapshot("notes", name), UserSnapshot.model_validate(what))


def test_it_is_asked_for_by_a_record_that_says_of_which_dataset(w: World) -> None:
    asked = w.drover("snapshot", "notes", "--name", "monday", "--no-wait", "--json")
    assert (asked.code, asked.json["node"]) == (0, None)
    assert record(w) == UserSnapshot(uid="cafe")
    assert "not taken yet" in w.drover("snapshots", "ls").out


def test_its_name_is_the_time_where_none_is_given(w: World) -> None:
    asked = w.drover("snapshot", "notes", "--no-wait", "--json")
    assert len(asked.json["name"]) == len("20260102-030405")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("snapshot", "nots"), 3, "notes"),
        (("snapshot", "notes", "--name", "a/b"), 2, "'/'"),
        (("snapshot", "notes", "--name", "monday"), 3, "already"),
        (("snapshots", "rm", "notes", "tuesday"), 3, "no snapshot tuesday"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(w: World, arguments: tuple[str, ...], code: int, says: str) -> None:
    taken(w)
    refused = w.drover(*arguments)
    assert refused.code == code
    assert says in refused.err


def test_what_stands_in_its_way_is_said_and_it_stays_asked_for(w: World) -> None:
    waited = w.drover("snapshot", "notes", "--name", "monday", "--timeout", "1")
    assert waited.code == 1
    assert "still asked for" in waited.err
    w.put(w.keys.snapshot("notes", "monday"), UserSnapshot(uid="cafe", trouble="no room"))
    assert "no room" in w.drover("snapshots", "ls", "notes").out


def test_they_are_listed_oldest_first_with_where_they_are(w: World) -> None:
    taken(w)
    taken(w, "earlier", taken="2026-01-01T03:04:05.000Z")
    told = w.drover("snapshots", "ls", "notes", "--json").json
    assert [(one["name"], one["node"], one["size"]) for one in told] == [
        ("earlier", "node-a", 4096),
        ("monday", "node-a", 4096),
    ]
    assert json.loads(w.drover("snapshots", "ls", "other", "--json").out) == []


def test_one_that_is_there_is_removed_by_its_node_and_one_that_is_not_just_goes(w: World) -> None:
    taken(w)
    w.put(w.keys.snapshot("notes", "never"), UserSnapshot(uid="cafe"))
    assert w.drover("snapshots", "rm", "notes", "monday", "--no-wait").code == 0
    assert record(w).remove
    assert "being removed" in w.drover("snapshots", "ls").out
    w.drover("snapshots", "rm", "notes", "never")
    assert w.value(w.keys.snapshot("notes", "never")) is None
