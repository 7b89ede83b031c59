"""The manual pages say what the command says, and groff acts on none of its words."""

from __future__ import annotations

import pytest

from drover.coordinator.cli import main
from drover.coordinator.cli.errors import ExitCode
from tools.man_pages import pages

MADE = pages()


def test_there_is_a_page_for_the_command_and_for_every_verb() -> None:
    assert set(MADE) == {"drover.1", *(f"drover-{name}.1" for name in main.VERBS)}


@pytest.mark.parametrize("file", MADE)
def test_every_page_has_a_name_a_synopsis_and_the_exit_codes(file: str) -> None:
    page = MADE[file]
    assert page.startswith(".TH ")
    for heading in ("NAME", "SYNOPSIS", "EXIT STATUS", "SEE ALSO"):
        assert f"\n.SH {heading}\n" in page
    assert all(f"\\fB{int(code)}\\fR\n{code.words.replace('-', chr(92) + '-')}" in page for code in ExitCode)


@pytest.mark.parametrize("file", MADE)
def test_no_line_is_taken_for_a_request_that_is_none(file: str) -> None:
    requests = {line.split()[0] for line in MADE[file].splitlines() if line.startswith((".", "'"))}
    assert requests <= {".TH", ".SH", ".SS", ".TP", ".PP"}


def test_a_verbs_page_has_all_its_options_and_commands_of_a_group_theirs() -> None:
    assert all(f"\\fB\\-\\-{name}\\fR" in MADE["drover-move.1"] for name in ("wait", "dry\\-run", "cancel"))
    assert ".SH COMMAND UP\n" in MADE["drover-playground.1"]
