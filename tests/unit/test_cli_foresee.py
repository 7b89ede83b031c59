"""`drover move --dry-run` and `--cancel`: what is foreseen, and what is called off."""

from __future__ import annotations

import json

import pytest

from drover.coordinator.records import Answers, Evidence, HistoryEntry, State
from tests.unit.cli_world import SINCE, World, world


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    made = world(monkeypatch, capsys)
    made.dataset("notes")
    return made


def moved(w: World, dataset: str, epoch: int, gap_ms: int, evidence: Evidence | None = None, **took: int) -> None:
    at = SINCE.replace("05", f"{epoch:02}")
    told = {"epoch": epoch, "node": "node-a", "because": "x", "at": at, "gap_ms": gap_ms, "evidence": evidence}
    entry = HistoryEntry.model_validate(told | took)
    w.put(w.keys.history(dataset, epoch), entry)


class TestDryRun:
    def test_says_what_stops_and_what_gap_the_last_moves_had_and_changes_nothing(self, w: World) -> None:
        w.active("notes", "node-a", 4)
        w.workload("db", "notes")
        for epoch, gap in ((2, 40), (3, 900), (4, 58)):
            moved(w, "notes", epoch, gap)
        revision = w.cluster.revision
        ran = w.drover("move", "notes", "node-b", "--dry-run")
        assert ran.code == 0
        assert "notes: node-a → node-b can be. Nothing was changed." in ran.out
        assert "workload db (at most 10 s to end)" in ran.out
        assert "about 58 ms mounted nowhere (median of the last 3 moves of notes)" in ran.out
        assert w.cluster.revision == revision

    def test_goes_by_others_on_the_same_back_end_where_it_never_moved_itself(self, w: World) -> None:
        w.active("notes", "node-a")
        w.dataset("mail")
        w.active("mail", "node-a", 2)
        moved(w, "mail", 2, 70)
        assert "median of the last move of datasets on loopback" in w.drover("move", "notes", "node-b", "--dry-run").out

    def test_the_gap_is_made_of_what_real_stops_moves_and_starts_took(self, w: World) -> None:
        w.active("notes", "node-a", 3)
        w.workload("db", "notes")
        moved(w, "notes", 2, 100, stop_ms=300, start_ms=1500)
        moved(w, "notes", 3, 100, stop_ms=300)
        told = w.drover("move", "notes", "node-b", "--dry-run").out
        assert "about 1.9 s = stop 300 ms + mounted nowhere 100 ms + start 1.5 s" in told
        found = json.loads(w.drover("move", "notes", "node-b", "--dry-run", "--json").out)
        assert (found["stop_ms"], found["gap_ms"], found["start_ms"]) == (300, 100, 1500)

    def test_of_local_copies_it_says_what_goes_over_while_nothing_runs(self, w: World) -> None:
        w.tenure("notes", "node-a", copies=("node-a",), written=1)
        told = " ".join(w.drover("move", "notes", "node-b", "--dry-run").out.split())
        assert "copies all of it while it is in use; the rest with nothing running, in at most" in told
        assert "room not known: node-b's agent tells nobody where it can be asked" in told

    def test_a_fail_over_is_no_move_to_go_by(self, w: World) -> None:
        w.active("notes", "node-a", 2)
        moved(w, "notes", 2, 7200, Evidence.SILENCE)
        assert "gap    unknown" in w.drover("move", "notes", "node-b", "--dry-run").out

    def test_names_what_moves_with_it(self, w: World) -> None:
        w.dataset("mail")
        w.workload("db", "notes", "mail")
        w.active("notes", "node-a")
        w.active("mail", "node-a")
        told = json.loads(w.drover("move", "notes", "node-b", "--dry-run", "--json").out)
        assert told["datasets"] == ["notes", "mail"]
        assert told["stops"] == ["db"]
        assert (told["source"], told["to"], told["gap_ms"]) == ("node-a", "node-b", None)

    def test_what_could_not_be_is_refused_as_the_move_would_be(self, w: World) -> None:
        w.active("notes", "node-a")
        w.cordon("node-b")
        assert w.drover("move", "notes", "node-b", "--dry-run").code == 3
        assert w.drover("move", "notes", "nodeb", "--dry-run").code == 3

    def test_a_new_one_that_the_node_cannot_make_is_refused(self, w: World) -> None:
        w.dataset("tiny", '{"backend": "loopback", "size": "1MiB"}')
        ran = w.drover("move", "tiny", "node-b", "--dry-run")
        assert ran.code == 3
        assert "too small" in ran.err


class TestCancel:
    def test_wishes_for_the_node_that_has_it(self, w: World) -> None:
        w.active("notes", "node-a")
        w.desired("notes", "node-b")
        ran = w.drover("move", "notes", "--cancel")
        assert ran.code == 0
        assert "stays on node-a: the move to node-b is called off" in ran.out
        assert w.value("/drover/desired/notes") == "node-a"

    def test_a_move_that_has_happened_cannot_be_called_off(self, w: World) -> None:
        w.desired("notes", "node-b")
        w.active("notes", "node-b", 2)
        ran = w.drover("move", "notes", "--cancel")
        assert ran.code == 3
        assert "it is on node-b" in ran.err

    def test_nothing_is_called_off_where_a_fail_over_has_answered(self, w: World) -> None:
        revision = w.desired("notes", "node-b")
        answers = Answers(value="node-b", revision=revision)
        w.tenure("notes", "node-c", 2, State.ACTIVE, answers=answers)
        assert w.drover("move", "notes", "--cancel").code == 3

    @pytest.mark.parametrize("arguments", [(), ("node-b", "--cancel"), ("--cancel", "--wait")])
    def test_where_and_cancel_exclude_each_other(self, w: World, arguments: tuple[str, ...]) -> None:
        assert w.drover("move", "notes", *arguments).code == 2
