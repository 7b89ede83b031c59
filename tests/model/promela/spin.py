"""Runs spin on one check: compile, search all there is, and tell what was found. Needs spin and gcc on the PATH."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.model.promela.checks import Check, Expected
from tests.model.promela.story import tell

SOURCES = Path(__file__).parent
DEPTH = 2_000_000
MEMORY = 10_000
"""MiB. A search that needs more says so, and is not complete."""
_COMPILE = ("gcc", "-w", "-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=512", f"-DMEMLIM={MEMORY}")
_TRUNCATED = (
    "max search depth too small",
    "out of memory",
    "search was not completed",
    "Search not completed",
    "Bit statespace search",
    "Hash-Compact",
)


class SpinFailed(Exception):
    """spin, gcc or the search itself could not be run. The text is what it said."""


@dataclass(frozen=True)
class Found:
    """States: different ones. depth: steps of the longest path looked at; of the trail, where there is one. story: the
    counterexample, or the way to the state looked for, a line a step; trail: all of it, in a file."""

    check: Check
    complete: bool
    errors: int
    said: str
    states: int
    depth: int
    seconds: float
    story: tuple[str, ...] = ()
    trail: Path | None = None

    @property
    def as_expected(self) -> bool:
        match self.check.expected:
            case Expected.HOLDS:
                return self.complete and self.errors == 0
            case Expected.FAILS:
                return self.errors == 1 and "reached" not in self.said
            case Expected.REACHED:
                return self.errors == 1 and self.said == "reached"

    @property
    def verdict(self) -> str:
        if self.errors:
            return self.said
        return "holds" if self.complete else "not complete"


def run(check: Check, directory: Path, limit: float, depth: int = DEPTH) -> Found:
    """Searches depth first for what must hold, and breadth first for what must be found: its story is a shortest one.

    directory: where it works, and leaves the trail. limit: seconds. depth: steps. Raises SpinFailed.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for source in SOURCES.glob("*.pml"):
        (directory / source.name).write_text(source.read_text())
    defines = [f"-D{define}" for define in check.defines]
    breadth = ["-O2"] if check.expected is Expected.HOLDS else ["-O1", "-DBFS"]
    _call(["spin", "-a", *defines, check.model], directory, 60)
    _call([*_COMPILE, *breadth, "-o", "pan", "pan.c"], directory, 120)
    begun = time.monotonic()
    out = _call(["nice", "./pan", "-E", f"-m{depth}", "-w24"], directory, limit)
    seconds = time.monotonic() - begun
    errors = int(_first(r"errors: (\d+)", out))
    found = Found(
        check=check,
        complete="Full statespace search" in out and not any(sign in out for sign in _TRUNCATED),
        errors=errors,
        said="",
        states=int(float(_first(r"([\d.e+]+) states, stored", out))),
        depth=int(_first(r"depth reached (\d+)", out)),
        seconds=seconds,
    )
    return _explained(found, defines, directory) if errors else found


def _explained(found: Found, defines: list[str], directory: Path) -> Found:
    replay = _call(["spin", "-t", "-p", "-g", "-l", *defines, found.check.model], directory, 120)
    trail = directory / "trail.txt"
    trail.write_text(replay)
    story = tell(replay)
    values = {field: getattr(found, field) for field in ("check", "complete", "errors", "states", "depth", "seconds")}
    return Found(**values, said=story.said, story=story.lines, trail=trail)


def _call(command: list[str], directory: Path, limit: float) -> str:
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=limit, check=False)
    except FileNotFoundError as error:
        raise SpinFailed(f"{error.filename} is not installed: run tools/setup") from error
    except subprocess.TimeoutExpired as error:
        raise SpinFailed(f"{' '.join(command)}: not done after {limit:.0f} s") from error
    said = done.stdout + done.stderr
    # spin and pan tell what they found in words; their status says little.
    if ("-a" in command and "Error:" in said) or (command[0] == "gcc" and done.returncode):
        raise SpinFailed(f"{' '.join(command)}: {said[:2000]}")
    return said


def _first(pattern: str, text: str) -> str:
    if found := re.search(pattern, text):
        return found[1]
    raise SpinFailed(f"pan does not say what it has found:\n{text[:2000]}")
