"""`drover rm` into the trash, and `drover undelete`: nothing is lost, names are free, and nobody's data is mixed up."""

from __future__ import annotations

import pytest

from drover.coordinator.cli import rm
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.records import Answers, State, Tenure, Trashed
from drover.coordinator.specs import DatasetSpec
from tests.unit.cli_world import World, world

SPEC = '{"backend": "loopback", "size": "2GiB", "reclaim": "trash"}'


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    monkeypatch.setattr(rm, "PATIENCE", 0.2)
    return world(monkeypatch, capsys)


def tenure(w: World, name: str) -> Tenure:
    return Tenure.decode((w.value(w.keys.owner(name)) or "").encode())


def removed(w: World, *arguments: str) -> str:
    """`notes`, which its node has given up, goes into the trash. Its name there."""
    w.dataset("notes", SPEC)
    w.tenure("notes", "node-a", 4, State.RELEASED, uid="cafe", reclaim="trash", object="cafe.img", born=True)
    ran = w.drover("rm", "notes", *arguments)
    assert ran.code == 0
    assert "(2 GiB, uid cafe) is in the trash until" in ran.out
    return "trash-cafe"


def test_the_data_keeps_its_tenure_under_another_name_and_the_old_name_is_free(w: World) -> None:
    aside = removed(w)
    kept, left = tenure(w, aside), tenure(w, "notes")
    assert (kept.uid, kept.object, kept.state, kept.reclaim, kept.epoch) == (
        "cafe",
        "cafe.img",
        State.RELEASED,
        "retain",
        4,
    )
    assert (left.state, left.trash, left.epoch) == (State.DESTROYED, aside, 4)
    assert w.entry(w.keys.dataset("notes")) is None
    assert w.drover("create", "notes", "--size", "1GiB", "--on", "node-a").code == 0


def test_ls_shows_what_is_in_the_trash_how_large_it_is_and_how_long_it_stays(w: World) -> None:
    removed(w, "--trash", "3")
    assert "in the trash: notes" in w.drover("ls").err
    out = w.drover("ls", "--all").out
    row = next(line.split() for line in out.splitlines() if line.startswith("trash-cafe"))
    assert row[:5] == ["trash-cafe", "notes", "2", "GiB", "2"]
    assert w.drover("ls", "--json").json["trash"][0]["dataset"] == "notes"


def test_a_spec_that_retains_keeps_the_data_for_good_unless_told_otherwise(w: World) -> None:
    w.dataset("notes")
    w.tenure("notes", "node-a", state=State.RELEASED)
    assert "is kept" in w.drover("rm", "notes").out
    assert w.entry(w.keys.trash("trash-cafe")) is None


def test_what_its_node_would_destroy_at_once_is_not_said_to_be_in_the_trash(w: World) -> None:
    w.dataset("notes", '{"backend": "loopback", "size": "1GiB", "reclaim": "delete"}')
    w.tenure("notes", "node-a", reclaim="delete")
    ran = w.drover("rm", "notes", "--trash", "3")
    assert ran.code == 3
    assert "drover set notes --reclaim trash" in ran.err
    assert w.entry(w.keys.dataset("notes")) is not None


def test_what_its_node_has_not_given_up_yet_is_laid_aside_later_and_its_name_not_taken_before(w: World) -> None:
    w.dataset("notes", SPEC)
    w.tenure("notes", "node-a", reclaim="trash")
    assert w.drover("rm", "notes").code == 0
    assert w.entry(w.keys.trash("trash-cafe")) is not None
    assert tenure(w, "notes").state is State.ACTIVE
    assert w.drover("create", "notes", "--size", "1GiB").code == 3
    assert w.drover("undelete", "notes").code in (3, 6)


def test_undelete_brings_spec_and_data_back_under_the_old_name(w: World) -> None:
    aside = removed(w)
    ran = w.drover("undelete", "notes", "--on", "node-b")
    assert ran.code == 0
    back = tenure(w, "notes")
    assert (back.uid, back.state, back.epoch, back.created, back.answers) == ("cafe", State.RELEASED, 4, 0, Answers())
    assert DatasetSpec.decode((w.value(w.keys.dataset("notes")) or "").encode()).size == 2 << 30
    assert w.value(w.keys.desired("notes")) == "node-b"
    assert w.entry(w.keys.owner(aside)) is None
    assert w.entry(w.keys.trash(aside)) is None


def test_undelete_under_a_name_that_is_taken_is_refused_and_goes_with_another_one(w: World) -> None:
    removed(w)
    w.dataset("notes")
    ran = w.drover("undelete", "notes")
    assert ran.code == 3
    assert "--as NAME" in ran.err
    assert w.drover("undelete", "notes", "--as", "old-notes").code == 0
    assert tenure(w, "old-notes").uid == "cafe"


def test_of_several_with_one_name_the_user_says_which(w: World) -> None:
    w.trash("notes", "aa")
    w.trash("notes", "bb")
    ran = w.drover("undelete", "notes")
    assert ran.code == 3
    assert "trash-aa and trash-bb" in ran.err
    assert w.drover("undelete", "trash-aa").code == 0


def test_what_is_not_in_the_trash_is_told_with_what_is(w: World) -> None:
    w.trash("notes")
    ran = w.drover("undelete", "note")
    assert ran.code == 3
    assert "Did you mean notes?" in ran.err


def test_a_tenure_taken_back_belongs_to_whichever_spec_is_there() -> None:
    made = Tenure(
        node="a", incarnation="a.1", epoch=4, state=State.RELEASED, uid="u", created=0, backend="loopback", txn="t"
    )
    spec = DatasetSpec(backend="loopback", size=1 << 30)
    assert Dataset("d", spec=spec, spec_created=77, tenure=made).kept


def test_the_record_can_be_read_back() -> None:
    text = b'{"dataset": "d", "uid": "u", "spec": {"backend": "loopback", "size": 5}, "until": "2026-01-02T03:04:05Z"}'
    assert Trashed.decode(Trashed.decode(text).encode()) == Trashed.decode(text)
