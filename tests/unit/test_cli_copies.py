"""What `ls` and `show` tell of copies, holders and who has to act."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from drover.coordinator.records import Copies, Copy
from tests.unit.cli_world import World, incarnation, world


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    """node-a has notes; node-b has a copy of 12 minutes ago, node-c should have one and has none."""
    made = world(monkeypatch, capsys)
    made.dataset("notes")
    made.dataset("mail")
    made.active("mail", "node-b")
    made.tenure("notes", "node-a", 3, copies=("node-a",), written=3, asked="ann, drover move")
    made.status("notes", "node-a", 3)
    at = (datetime.now(UTC) - timedelta(minutes=12, seconds=5)).isoformat()
    copy = Copy(guid="g", name="000003.000001", taken=1.0, at=at)
    copies(made, Copies(epoch=3, uid="cafe", standbys=("node-b", "node-c"), nodes={"node-b": copy}))
    return made


def copies(w: World, told: Copies) -> None:
    w.put(w.keys.copies("notes"), told)


def test_ls_has_a_column_for_copies_with_their_age_where_a_dataset_has_any(w: World) -> None:
    head, mail, notes = w.drover("ls").out.splitlines()
    assert head.split() == ["DATASET", "NODE", "PHASE", "SIZE", "BACKEND", "COPIES", "WHY"]
    assert "node-b 12 min, node-c none" in notes
    assert mail.split()[-1] == "-"
    w.delete(w.keys.copies("notes"))
    assert "COPIES" not in w.drover("ls").out


def test_show_tells_who_holds_it_who_asked_and_what_each_standby_has(w: World) -> None:
    told = " ".join(w.drover("show", "notes").out.split())
    assert f"holder node-a, incarnation {incarnation('node-a')}" in told
    assert "asked by ann, drover move" in told
    assert "data on node-a" in told
    assert "copy node-b: acknowledged, 12 min old" in told
    assert "copy node-c: none yet" in told
    found = w.drover("show", "notes", "--json").json
    assert found["data_on"] == ["node-a"]
    assert found["asked"] == "ann, drover move"
    assert [(it["node"], it["guid"], it["standby"]) for it in found["copies"]] == [
        ("node-b", "g", True),
        ("node-c", None, True),
    ]


def test_copies_of_an_earlier_epoch_mean_nothing_and_are_not_told(w: World) -> None:
    copies(w, Copies(epoch=2, uid="cafe", standbys=("node-b",)))
    assert w.drover("show", "notes", "--json").json["copies"] == []
    assert "COPIES" not in w.drover("ls").out


def test_why_a_copy_is_not_kept_up_is_told_beside_it(w: World) -> None:
    copies(w, Copies(epoch=3, uid="cafe", standbys=("node-c",), trouble={"node-c": "node-c is not here"}))
    assert "node-c: none yet; node-c is not here" in w.drover("show", "notes").out


def test_what_only_a_person_can_mend_is_said_as_what_is_needed_of_you(w: World) -> None:
    w.status(
        "mail", "node-b", 1, reason="workload web exited with status 3; is not restarted", needs="look why web ended"
    )
    assert "needs you  look why web ended" in w.drover("show", "mail").out
    assert w.drover("show", "mail", "--json").json["next"] == {"who": "you", "what": "look why web ended"}
