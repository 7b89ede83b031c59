"""`--json` is everywhere: shown by walking through the command itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drover.coordinator.certificates import Certificate
from drover.coordinator.cli import main

PLAY = ("up", "down", "exec", "kill", "start", "freeze", "thaw", "partition", "heal", "agent")
TO_TRY = {f"playground {verb}" for verb in PLAY}
"""They act on this machine and have nothing to tell but that they did: `playground status --json` shows the result."""


def verbs(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, one in inner.items():
        yield from verbs(one, f"{path} {name}")


def test_every_verb_has_json() -> None:
    walked = dict(pair for name in main.VERBS for pair in verbs(main.load(name), name))
    without = {path for path, verb in walked.items() if not any("--json" in it.opts for it in verb.params)}
    assert without == TO_TRY


def test_what_an_authority_makes_is_told_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ran(*arguments: str) -> Any:
        assert main.run(["ca", *arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)["certificates"]

    where = ("--dir", str(tmp_path))
    assert ran("init", str(tmp_path))[0]["role"] == "ca"
    assert [(it["role"], it["name"]) for it in ran("issue", "operator", "ann", *where)] == [("operator", "ann")]
    assert ran("renew", *where) == []
    assert [it["file"] for it in ran("renew", "ann", *where)] == [str(tmp_path / "ann.crt")]


def test_the_authority_is_renewed_for_as_long_as_was_said(tmp_path: Path) -> None:
    assert main.run(["ca", "init", str(tmp_path)]) == 0
    for said, days in ((["--days", "20"], 20), ([], 3650)):
        assert main.run(["ca", "renew", "ca", "--dir", str(tmp_path), *said]) == 0
        found = Certificate.read(tmp_path / "ca.crt")
        assert days <= (found.expires - found.since).days <= days + 1
