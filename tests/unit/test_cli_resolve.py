"""`drover resolve`: what a person may decide, what is told before, and what is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drover.coordinator.records import Accepted, Asked, Copies, Copy, Diverged, DivergedCopy
from tests.unit.cli_world import World, incarnation, world

UNTIL = 100.0


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    """node-a had notes in epoch 3; node-b has a copy, 40 s older than what node-a can have written."""
    made = world(monkeypatch, capsys)
    made.dataset("notes")
    made.desired("notes", "node-a")
    made.tenure("notes", "node-a", 3, copies=("node-a",), written=3)
    copy = Copy(guid="g", name="000003.000001", taken=UNTIL - 40, at="12:03:04")
    made.put(made.keys.copies("notes"), Copies(epoch=3, uid="cafe", standbys=("node-b",), nodes={"node-b": copy}))
    return made


def dies(w: World, armed: bool = True) -> None:
    w.fence("node-a", armed=armed)
    entry = w.entry(w.keys.fence(incarnation("node-a")))
    assert entry is not None
    w.put(entry.key, entry.value.decode()[:-1] + f', "until": {UNTIL}}}')


def back(w: World) -> None:
    dies(w)
    w.node("node-a", life=2)


def diverged(w: World, node: str = "node-a") -> str:
    key = w.keys.diverged("notes", node)
    one = DivergedCopy(epoch=3, guid="d", path="/pool/diverged-3", size=5 << 20)
    w.put(key, Diverged(uid="cafe", copies=(one,)))
    return key


def test_keep_says_what_is_lost_and_writes_whose_copy_counts_in_that_epoch(w: World) -> None:
    dies(w)
    tried = w.drover("resolve", "notes", "--keep", "node-b", "--dry-run")
    assert tried.code == 0
    assert "the copy of 12:03:04 on node-b; what was written in the last 40 s at most is lost" in tried.out
    assert w.value(w.keys.desired("notes")) == "node-a"
    done = w.drover("resolve", "notes", "--keep", "node-b", "--json")
    assert (done.json["changed"], done.json["lost_seconds"], done.json["copy"]) == (True, 40.0, "12:03:04")
    assert w.value(w.keys.desired("notes")) == "node-b"
    asked = Asked.decode((w.value(w.keys.asked("notes")) or "").encode())
    assert asked.accepts == Accepted(epoch=3, guid="g")


@pytest.mark.parametrize(
    ("prepare", "node", "says"),
    [
        (lambda w: None, "node-b", "nothing diverged on node-b"),
        (lambda w: dies(w, armed=False), "node-b", "drover fence node-a"),
        (dies, "node-c", "Copies are on node-b"),
        (dies, "node-x", "there is no node"),
        (back, "node-b", "nothing has to be lost"),
    ],
)
def test_keep_is_refused_where_it_cannot_be_or_need_not_be(
    w: World, prepare: Callable[[World], None], node: str, says: str
) -> None:
    prepare(w)
    ran = w.drover("resolve", "notes", "--keep", node)
    assert ran.code == 3
    assert says in ran.err
    assert w.value(w.keys.desired("notes")) == "node-a"


def test_show_and_ls_tell_what_diverged_and_how_to_decide(w: World) -> None:
    diverged(w)
    assert "node-a: epoch 3, 5 MiB of its own, kept in /pool/diverged-3" in w.drover("show", "notes").out
    assert "drover resolve notes --discard node-a" in w.drover("show", "notes").out
    assert "diverged, kept: notes on node-a" in w.drover("ls").err
    (told,) = w.drover("show", "notes", "--json").json["diverged"]
    assert (told["node"], told["guid"], told["size"]) == ("node-a", "d", 5 << 20)


@pytest.mark.parametrize("asked", [("--discard", "node-b"), ("--keep", "node-a")])
def test_discard_marks_what_that_node_has_told_of(w: World, asked: tuple[str, str]) -> None:
    key = diverged(w, "node-b")
    before = w.value(key)
    assert "would go" in w.drover("resolve", "notes", *asked, "--dry-run").out
    assert w.value(key) == before
    done = w.drover("resolve", "notes", *asked, "--json")
    assert [one["guid"] for one in done.json["discarded"]] == ["d"]
    assert Diverged.decode((w.value(key) or "").encode()).copies[0].discard


def test_discard_where_nothing_diverged_is_refused(w: World) -> None:
    diverged(w)
    ran = w.drover("resolve", "notes", "--discard", "node-b")
    assert ran.code == 3
    assert "It did on node-a" in ran.err


@pytest.mark.parametrize("words", [(), ("--keep", "node-a", "--discard", "node-b")])
def test_either_keep_or_discard(w: World, words: tuple[str, ...]) -> None:
    assert w.drover("resolve", "notes", *words).code == 2


def test_ls_says_that_a_person_is_needed(w: World) -> None:
    dies(w)
    shown = w.drover("show", "notes").out
    assert "needs you" in shown
