"""How the demo talks: plain lines, as they happen; colours on a terminal only."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import textwrap
from collections.abc import Sequence

from drover.coordinator.cli.output import colour

_WIDTH = 110


def title(text: str) -> None:
    _line("")
    _line(colour(text, "bold"))


def say(text: str) -> None:
    for line in textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False):
        _line(f"  {line}")


def typed(command: Sequence[str] | str) -> None:
    """A command as a person would type it: on one line, to be copied."""
    _line("  " + colour(f"$ {command if isinstance(command, str) else shlex.join(command)}", "green"))


def shown(output: str) -> None:
    """What a command printed."""
    for line in output.rstrip().splitlines():
        _line(f"    {line}".rstrip())


def good(text: str) -> None:
    _line(colour(text, "green"))


def bad(text: str) -> None:
    _line(colour(text, "red"))


def length(seconds: float) -> str:
    """Of a gap: `231 ms`, `7.41 s`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _line(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:  # nobody reads any more: as if the terminal had been closed, and no reason not to clean up
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.raise_signal(signal.SIGHUP)
