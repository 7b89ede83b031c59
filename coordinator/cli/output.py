"""What goes to the screen: plain tables and lines, colour only on a terminal, JSON on request.

Keys and values in etcd are typed by people: whatever they hold, no control character of theirs reaches the terminal.
"""

from __future__ import annotations

import difflib
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

Style = Callable[[str], str]
"""Colours a cell, by its text."""

_GAP = "  "
_COLOURS = {"green": 32, "yellow": 33, "red": 31, "dim": 2, "bold": 1}


def plain(text: str) -> str:
    """The text with control characters written out, on one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def coloured(stream: TextIO) -> bool:
    """Whether colour may be used: on a terminal, unless NO_COLOR or a dumb terminal say no."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def terminal() -> bool:
    """Whether standard output is one on which lines can be drawn anew."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def colour(text: str, name: str) -> str:
    """The text in a colour, where standard output takes colours."""
    return f"\x1b[{_COLOURS[name]}m{text}\x1b[0m" if coloured(sys.stdout) else text


def width(text: str) -> int:
    """Columns on a terminal; wide and combining characters count as they are shown."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], styles: Mapping[str, Style] | None = None, indent: int = 0
) -> str:
    """Columns two spaces apart. On a terminal the last column wraps below itself; elsewhere each row is one line."""
    cells = [list(head), *([plain(cell) or "-" for cell in row] for row in rows)]
    for row in cells:
        row[-1] = "" if row[-1] == "-" else row[-1]
    widths = [max(width(row[column]) for row in cells) for column in range(len(head) - 1)]
    start = indent + sum(widths) + len(_GAP) * len(widths)
    paint = [(styles or {}).get(title) for title in head]
    lines: list[str] = []
    for number, row in enumerate(cells):
        line = " " * indent
        for cell, columns, style in zip(row, widths, paint, strict=False):
            line += (style(cell) if style and number else cell) + " " * (columns - width(cell)) + _GAP
        lines.append((line + ("\n" + " " * start).join(_wrapped(row[-1], start))).rstrip())
    return "\n".join(lines)


def _wrapped(text: str, start: int) -> list[str]:
    room = shutil.get_terminal_size().columns - start
    if not sys.stdout.isatty() or room < 20:
        return [text]
    return textwrap.wrap(text, room) or [""]


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Indented `name  value` lines; pairs without a value are left out."""
    shown = [(name, value) for name, value in pairs if value]
    columns = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"  {name:<{columns}}  {plain(value)}" for name, value in shown)


def say(text: str) -> None:
    """Lines for a person, on standard output."""
    print(text, flush=True)  # noqa: T201


def say_json(value: Any, indent: int | None = 2) -> None:
    """indent: None for one line."""
    print(as_json(value, indent), flush=True)  # noqa: T201


def as_json(value: Any, indent: int | None = None) -> str:
    """Text as it is; but where it holds bytes that are none (a key in etcd may), only ASCII."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text if _encodable(text) else json.dumps(value, indent=indent)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def complain(text: str) -> None:
    """Lines for a person, on standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def warn(text: str) -> None:
    complain(f"warning: {plain(text)}")


def seconds(duration: float) -> str:
    """A duration as people say it: `4 s`, `12 min`, `3 h`, `5 d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if duration >= size:
            return f"{int(duration // size)} {unit}"
    return f"{int(duration)} s"


def milliseconds(count: int) -> str:
    """`58 ms`, `7.2 s`, `4 min`."""
    return f"{count} ms" if count < 1000 else f"{count / 1000:.1f} s" if count < 100_000 else seconds(count / 1000)


def age(stamp: str, now: datetime) -> str:
    """How long ago a stored time was, by the clock of whoever wrote it; "" where it says none."""
    try:
        then = datetime.fromisoformat(stamp)
    except ValueError:
        return ""
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return seconds(max(0.0, (now - then).total_seconds()))


def listing(names: Sequence[str], at_most: int = 12) -> str:
    """`a, b and c`, shortened where it is long; "none" for nothing."""
    if not names:
        return "none"
    if len(names) > at_most:
        return ", ".join(names[:at_most]) + f" and {len(names) - at_most} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def near(word: str, known: Iterable[str], otherwise: str) -> str:
    """`Did you mean …?` where something known is like it, else `otherwise`."""
    matches = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(plain(match) for match in matches)}?" if matches else otherwise
