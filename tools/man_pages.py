"""Writes the manual pages from the command itself: `python -m tools.man_pages DIRECTORY`, for packages.

click-man does this for click's commands; typer's are its own and no click commands.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from drover import __version__
from drover.coordinator.cli import main
from drover.coordinator.cli.errors import ExitCode


def pages() -> dict[str, str]:
    """By file name: drover.1, and one for each verb, as drover-move.1."""
    root = typer.main.get_command(main.app)
    made = {"drover.1": _page("drover", root, [f"drover-{name}" for name in main.VERBS])}
    for name in main.VERBS:
        made[f"drover-{name}.1"] = _page(f"drover {name}", main.load(name), ["drover"])
    return made


def _page(path: str, command: Any, see_also: list[str]) -> str:
    summary, *more = [part.strip() for part in (command.help or "").split("\n\n")]
    lines = [
        f'.TH "{path.replace(" ", "-").upper()}" "1" "" "drover {__version__}" "Drover"',
        ".SH NAME",
        f"{_text(path.replace(' ', '-'))} \\- {_text(summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        _text(_usage(path, command)),
    ]
    if more:
        lines += [".SH DESCRIPTION", *("\n.PP\n".join(_text(" ".join(part.split())) for part in more)).splitlines()]
    lines += _parameters(path, command, ".SH")
    for name, verb in getattr(command, "commands", {}).items():
        lines += [".SH COMMAND " + _text(name.upper()), _text(_usage(f"{path} {name}", verb)), ".PP"]
        lines += [_text(" ".join((verb.help or "").split())), *_parameters(f"{path} {name}", verb, ".SS")]
    if path == "drover":
        lines += [".SH COMMANDS", *(line for name, verb in main.VERBS.items() for line in _item(name, verb.summary))]
    lines += [".SH EXIT STATUS", *(line for code in ExitCode for line in _item(str(int(code)), code.words))]
    lines += [".SH SEE ALSO", ", ".join(f"\\fB{_text(name)}\\fR(1)" for name in see_also)]
    return "\n".join(lines) + "\n"


def _usage(path: str, command: Any) -> str:
    with typer.Context(command, info_name=path) as context:
        return " ".join([path, *command.collect_usage_pieces(context)])


def _parameters(path: str, command: Any, heading: str) -> Iterator[str]:
    with typer.Context(command, info_name=path) as context:
        records = [record for it in command.get_params(context) if (record := it.get_help_record(context))]
    if records:
        yield f"{heading} OPTIONS"
        for name, told in records:
            yield from _item(name, told)


def _item(name: str, told: str) -> list[str]:
    return [".TP", f"\\fB{_text(name)}\\fR", _text(" ".join(told.split()))]


def _text(text: str) -> str:
    """As groff shows it and does not act on it."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for file, text in pages().items():
        (directory / file).write_text(text)
