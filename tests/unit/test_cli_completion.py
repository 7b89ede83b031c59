"""What shells are offered: verbs, options, and the names that etcd has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from drover.coordinator.cli import completion, main
from tests.unit.cli_world import World, world


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    return world(monkeypatch, capsys)


def offered(words: str) -> list[str]:
    """By a bash that completes the last word."""
    asked = {
        "_DROVER_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    ran = subprocess.run(
        [Path(sys.executable).parent / "drover"], env=os.environ | asked, capture_output=True, text=True, timeout=20
    )
    return ran.stdout.split()


def test_verbs_and_options_are_completed() -> None:
    assert offered("drover unc") == ["uncordon"]
    assert offered("drover move --dry") == ["--dry-run"]


def test_names_of_datasets_and_nodes_are_completed_as_etcd_has_them(w: World) -> None:
    for name in ("notes", "mail", "news"):
        w.dataset(name)
    context = typer.Context(main.load("move"))
    assert completion.datasets(context, "n") == ["news", "notes"]
    assert completion.nodes(context, "node-b") == ["node-b"]
    assert completion.nodes(context, "") == ["node-a", "node-b", "node-c"]


def test_without_etcd_nothing_is_offered_and_nothing_is_said(w: World) -> None:
    w.store.disconnect()
    assert completion.datasets(typer.Context(main.load("move")), "") == []
