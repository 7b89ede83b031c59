"""`drover apply`: what it shows, asks, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drover.coordinator import kinds
from drover.coordinator.containers import ContainerSpec
from tests.unit.cli_world import Ran, World, world

FILE = """
services:
  db:
    image: postgres:15
    volumes: ["pgdata:/var/lib/postgresql/data", "wal:/wal"]
volumes:
  pgdata: {x-drover: {size: 2GiB}}
  wal: {x-drover: {size: 1GiB}}
"""


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    return world(monkeypatch, capsys)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "compose.yaml"
    made.write_text(FILE)
    return made


def applied(w: World, file: Path, *options: str) -> Ran:
    return w.drover("apply", str(file), "--backend", "loopback", "--yes", *options)


def test_it_shows_what_is_new_and_writes_all_of_it_in_one_transaction(w: World, file: Path) -> None:
    ran = applied(w, file, "--on", "node-b")
    assert ran.code == 0, ran.err
    assert "+ dataset pgdata: backend loopback, size 2GiB, begins on node-b" in ran.out
    assert "+ workload db: image postgres:15" in ran.out
    keys = ("datasets/pgdata", "datasets/wal", "desired/pgdata", "desired/wal", "workloads/db")
    entries = [w.entry(f"/drover/{key}") for key in keys]
    assert len({entry.mod_revision for entry in entries if entry}) == 1
    assert all(entries)
    spec = kinds.decode((w.value("/drover/workloads/db") or "").encode())
    assert isinstance(spec, ContainerSpec)
    assert spec.datasets == ("pgdata", "wal")


def test_without_a_node_all_that_lives_together_begins_on_the_same_one(w: World, file: Path) -> None:
    assert applied(w, file).code == 0
    assert w.value("/drover/desired/pgdata") == w.value("/drover/desired/wal") != ""


def test_a_second_time_there_is_nothing_to_do_in_whatever_words(w: World, file: Path) -> None:
    applied(w, file)
    file.write_text(FILE.replace("2GiB", "2048MiB"))
    ran = applied(w, file)
    assert ran.code == 0
    assert "as it says already" in ran.out
    assert json.loads(applied(w, file, "--json").out) == {"changed": False, "differences": [], "warnings": []}


def test_a_change_is_shown_field_by_field_and_what_the_file_does_not_say_stays(w: World, file: Path) -> None:
    applied(w, file)
    w.drover("set", "pgdata", "--failover", "any")
    file.write_text(FILE.replace("postgres:15", "postgres:16").replace("2GiB", "3GiB"))
    ran = applied(w, file)
    assert "    image: postgres:15 → postgres:16" in ran.out
    assert "    size: 2GiB → 3GiB" in ran.out
    assert json.loads(w.value("/drover/datasets/pgdata") or "")["failover"] == "any"


def test_where_something_is_or_was_wished_is_not_changed_by_the_file(w: World, file: Path) -> None:
    applied(w, file, "--on", "node-a")
    w.put("/drover/desired/pgdata", "node-b")
    assert "as it says already" in applied(w, file, "--on", "node-a").out
    assert w.value("/drover/desired/pgdata") == "node-b"


def test_nothing_is_written_before_somebody_has_agreed(w: World, file: Path) -> None:
    ran = w.drover("apply", str(file), "--backend", "loopback")
    assert ran.code == 2
    assert "--yes" in ran.err
    dry = applied(w, file, "--dry-run")
    assert dry.code == 0
    assert "Nothing was changed." in dry.out
    assert w.value("/drover/datasets/pgdata") is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("image: postgres:15", "build: .", "services.db.build"),
        ("2GiB", "1MiB", "too small"),
        ("{size: 2GiB}", "{size: 2GiB, backend: tape}", "no node offers back end 'tape'"),
        ("{size: 2GiB}", "{size: 2GiB, node: node-x}", "there is no node 'node-x'"),
        ("  pgdata:", "  pgdata: {}\n  pgdata:", "'pgdata' stands there twice"),
        ("services:", "services: [", "is no YAML"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(w: World, file: Path, old: str, new: str, said: str) -> None:
    file.write_text(FILE.replace(old, new, 1))
    ran = applied(w, file)
    assert ran.code in (2, 3)
    assert said in ran.err
    assert w.value("/drover/datasets/wal") is None


def test_what_was_made_is_not_made_otherwise(w: World, file: Path) -> None:
    applied(w, file)
    file.write_text(FILE.replace("2GiB", "1GiB"))
    assert "cannot shrink" in applied(w, file).err
    file.write_text(FILE.replace("{size: 2GiB}", "{size: 2GiB, fs: ext4}"))
    assert "stays as it was made" in applied(w, file).err


def test_down_takes_the_workloads_away_and_leaves_the_data(w: World, file: Path) -> None:
    applied(w, file)
    assert "- workload db" in applied(w, file, "--down").out
    assert w.value("/drover/workloads/db") is None
    assert w.value("/drover/datasets/pgdata")


def test_a_workload_is_moved_by_its_name(w: World, file: Path) -> None:
    applied(w, file, "--on", "node-a")
    ran = w.drover("move", "--workload", "db", "node-b")
    assert ran.code == 0, ran.err
    assert "node-b" in (w.value("/drover/desired/pgdata"), w.value("/drover/desired/wal"))
    assert "there is no workload 'web'" in w.drover("move", "--workload", "web", "node-b").err
