"""Ctrl-C never claims more than is known."""

from __future__ import annotations

import pytest

from drover.coordinator.cli import main


def test_a_verb_that_was_stopped_in_the_middle_does_not_say_that_nothing_was_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "load", interrupted)
    assert main.run(["rm", "notes"]) == 130
    told = capsys.readouterr().err
    assert "may have happened, and is not taken back" in told
    assert "Nothing was changed" not in told
