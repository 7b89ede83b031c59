"""The demo's judgement, its database and its client; whole demos are run by `make demo`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools.demo import database
from tools.demo.client import Client
from tools.demo.evidence import Ack, Epoch, Note, gap, losses, runs, two_writers, unanswered
from tools.demo.stage import KEPT, abandoned, left_behind, own_name, start_time
from tools.demo.telling import length

ASKED = [f"note {number}" for number in range(1, 7)]
ACKS = [
    Ack(Note(number, text, node), at)
    for number, text, node, at in [
        (1, "note 1", "a", 10.0),
        (2, "note 2", "a", 11.0),
        (3, "note 4", "b", 20.5),
        (4, "note 5", "b", 21.0),
        (5, "note 6", "a", 31.0),
    ]
]
NOTES = [ack.note for ack in ACKS]
EPOCHS = [Epoch(1, "a", 9.0), Epoch(2, "b", 20.0), Epoch(3, "a", 30.0)]


def test_what_was_acknowledged_and_kept_by_one_node_at_a_time_gives_no_reason_to_complain() -> None:
    assert losses(ACKS, NOTES, ASKED) == []
    assert two_writers(ACKS, EPOCHS) == []


def test_a_note_that_was_committed_without_an_answer_is_no_loss() -> None:
    assert losses(ACKS[:1] + ACKS[2:], NOTES, ASKED) == []


@pytest.mark.parametrize(
    ("acks", "notes", "complaint"),
    [
        (ACKS, NOTES[:-1], "number 5 ('note 6' on a) was acknowledged and is not in the table"),
        (ACKS, [*NOTES, NOTES[1]], "number 2 is in the table 2 times"),
        (ACKS, [Note(1, "note 3", "a"), *NOTES[1:]], "number 1 ('note 1' on a) was acknowledged, but the table has"),
        (ACKS, [Note(1, "note 1", "b"), *NOTES[1:]], "number 1 ('note 1' on a) was acknowledged, but the table has"),
        ([*ACKS, Ack(Note(5, "note 3", "b"), 40.0)], NOTES, "number 5 was acknowledged 2 times"),
        (ACKS, [*NOTES, Note(6, "note 7", "a")], "number 6 ('note 7' on a) is in the table, and nobody asked for it"),
    ],
)
def test_every_way_to_lose_a_note_is_found(acks: list[Ack], notes: list[Note], complaint: str) -> None:
    problems = losses(acks, notes, ASKED)
    assert any(problem.startswith(complaint) for problem in problems), problems


@pytest.mark.parametrize(
    ("acks", "epochs", "complaint"),
    [
        ([*ACKS[:3], Ack(Note(4, "note 5", "a"), 20.7), *ACKS[3:]], EPOCHS, "acknowledgements came from a, b, a, b, a"),
        (ACKS, EPOCHS[:2], "acknowledgements came from a, b, a; the epochs were a, b"),
        (ACKS, [*EPOCHS, Epoch(4, "b", 40.0)], "acknowledgements came from a, b, a; the epochs were a, b, a, b"),
        (ACKS, [EPOCHS[0], Epoch(2, "b", 10.5), EPOCHS[2]], "number 2 ('note 2' on a) was acknowledged after epoch 1"),
        (ACKS, [EPOCHS[0], Epoch(2, "b", 20.7), EPOCHS[2]], "number 3 ('note 4' on b) was acknowledged before epoch 2"),
        (ACKS, [EPOCHS[0], Epoch(2, "b", 30.0), EPOCHS[2]], "epoch 3 began no later than epoch 2"),
        (
            [*ACKS, Ack(Note(5, "note 3", "a"), 32.0)],
            EPOCHS,
            "number 5 ('note 3' on a) was acknowledged after number 5",
        ),
    ],
)
def test_every_sign_of_two_writers_is_found(acks: list[Ack], epochs: list[Epoch], complaint: str) -> None:
    problems = two_writers(acks, epochs)
    assert any(problem.startswith(complaint) for problem in problems), problems


def test_a_gap_lasts_from_the_last_acknowledgement_of_one_node_to_the_first_of_the_next() -> None:
    assert [(run.node, len(run.acks)) for run in runs(ACKS)] == [("a", 2), ("b", 2), ("a", 1)]
    assert gap(ACKS) == 10.0
    assert gap(ACKS[:4]) == 9.5
    assert (length(0.2314), length(7.412)) == ("231 ms", "7.41 s")


def test_a_note_is_unanswered_when_a_later_one_was_acknowledged_and_it_was_not() -> None:
    assert unanswered(ACKS, [*ASKED, "note 7"]) == {"note 3"}


@contextmanager
def serving(path: Path, client: Client) -> Iterator[subprocess.Popen[bytes]]:
    """The database as a workload runs it; killed at the end where it has not ended by itself."""
    command = [sys.executable, "-IS", database.__file__, "serve", str(path)]
    with subprocess.Popen(command, env={"CLIENT": client.address}) as process:
        try:
            yield process
        finally:
            process.kill()


def checked(path: Path) -> list[Note]:
    command = [sys.executable, "-IS", database.__file__, "check", str(path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=10).stdout)
    assert found["integrity_check"] == "ok"
    return [Note(*row) for row in found["notes"]]


def test_nothing_acknowledged_is_lost_when_the_database_is_killed_stopped_and_checked_while_it_writes(
    tmp_path: Path,
) -> None:
    file, here = tmp_path / "notes.db", [socket.gethostname()]
    with Client("127.0.0.1") as client:
        with serving(file, client):
            assert client.heard(here, 0, 10, count=20)
        with serving(file, client) as process:
            assert client.heard(here, len(client.acks()), 10, count=20)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        with serving(file, client):
            assert client.heard(here, len(client.acks()), 10, count=20)
            acks = client.acks()
            notes = checked(file)
            assert losses(acks, notes, client.asked()) == []
    assert len(acks) >= 60
    assert [ack.note.number for ack in acks] == sorted({ack.note.number for ack in acks})


def test_two_databases_that_write_at_once_are_found_out(tmp_path: Path) -> None:
    file, here = tmp_path / "notes.db", [socket.gethostname()]
    with Client("127.0.0.1") as client, serving(file, client):
        assert client.heard(here, 0, 10)
        with serving(file, client):
            assert client.heard(here, len(client.acks()), 10, count=100)
            acks = client.acks()
            assert losses(acks, checked(file), client.asked())
            assert two_writers(acks, [Epoch(1, here[0], 0.0)])


def test_a_demo_that_is_at_work_is_never_taken_for_a_killed_one() -> None:
    assert not abandoned(own_name())
    assert abandoned("drover-demo-12-345", started=lambda pid: None)
    assert abandoned("drover-demo-12-345", started=lambda pid: "346")
    assert not abandoned("drover-demo-12-345", started=lambda pid: "345")


@pytest.mark.parametrize("name", ["drover-demo-", "drover-demo-x", "drover-demo-12", "drover-demo-1-x", "other-1-2"])
def test_directories_of_other_names_are_left_alone(name: str) -> None:
    assert not abandoned(name, started=lambda pid: None)


def test_only_what_a_killed_demo_made_is_cleaned_up(tmp_path: Path) -> None:
    killed, kept, linked = (tmp_path / f"drover-demo-{os.getpid()}-{n}" for n in (1, 2, 3))
    killed.mkdir()
    kept.mkdir()
    (kept / KEPT).touch()
    linked.symlink_to(killed)
    (tmp_path / own_name()).mkdir()
    assert start_time(os.getpid()) not in ("1", "2", "3")
    assert left_behind(tmp_path) == [killed]
