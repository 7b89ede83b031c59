"""`drover events`: what is told of what etcd holds, oldest first."""

from __future__ import annotations

import json

import pytest

from drover.coordinator.records import Evidence, HistoryEntry
from tests.unit.cli_world import SINCE, World, world


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    made = world(monkeypatch, capsys)
    made.dataset("notes")
    return made


def test_changes_of_owner_fences_and_cordons_are_told_in_the_order_in_which_they_happened(w: World) -> None:
    w.cordon("node-b")
    w.fence("node-a")
    w.history("notes", 2, "node-c", "node-a", Evidence.SILENCE)
    lines = w.drover("events").out.splitlines()
    assert "node-b        cordon    by me: new disks" in lines[0]
    assert "fenced by node-z: silence (heartbeat still for 7.0 s)" in lines[1]
    assert "notes         epoch     node-a → node-c, epoch 2" in lines[2]


def test_an_epoch_is_told_with_who_asked_and_its_gap(w: World) -> None:
    entry = HistoryEntry(
        epoch=2, node="node-b", before="node-a", because="desired says node-b", asked="ann", at=SINCE, gap_ms=58
    )
    w.put(w.keys.history("notes", 2), entry)
    out = w.drover("events").out
    assert "active    node-a → node-b, epoch 2: desired says node-b, asked by ann, gap 58 ms" in out


def test_json_is_one_object_a_line(w: World) -> None:
    w.history("notes", 1, "node-a", "")
    w.history("notes", 2, "node-b", "node-a")
    told = [json.loads(line) for line in w.drover("events", "--json").out.splitlines()]
    assert [(it["dataset"], it["epoch"], it["node"], it["kind"]) for it in told] == [
        ("notes", 1, "node-a", "epoch"),
        ("notes", 2, "node-b", "epoch"),
    ]


def test_one_dataset_alone_is_told_on_request_and_a_mistyped_one_refused(w: World) -> None:
    w.dataset("mail")
    w.history("mail", 1, "node-a", "")
    w.history("notes", 1, "node-b", "")
    out = w.drover("events", "notes").out
    assert "node-b" in out
    assert "mail" not in out
    assert w.drover("events", "note").code == 3


def test_what_cannot_be_read_is_left_out(w: World) -> None:
    w.put(w.keys.history("notes", 1), "nonsense")
    w.put(w.keys.cordon("node-a"), "nonsense")
    ran = w.drover("events")
    assert (ran.code, ran.out) == (0, "")


def test_control_characters_from_etcd_do_not_reach_the_terminal(w: World) -> None:
    w.put(w.keys.history("notes", 1), HistoryEntry(epoch=1, node="a", because="\x1b[31mred", at=SINCE))
    assert "\x1b" not in w.drover("events").out


def test_a_fence_that_was_replaced_stands_before_what_followed_from_it_and_its_replacement_after(w: World) -> None:
    w.fence("node-a", Evidence.SILENCE)
    w.history("notes", 2, "node-c", "node-a", Evidence.SILENCE)
    w.fence("node-a", Evidence.OPERATOR)
    first, epoch, replaced = w.drover("events").out.splitlines()
    assert "fenced, incarnation node-a." in first
    assert first.startswith("- "), "nobody has its time any more"
    assert "node-a → node-c" in epoch
    assert "its fence says more, by node-z: operator" in replaced
