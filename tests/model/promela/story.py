"""Boils spin's replay of a trail down to what a reader needs: who did what, and what that changed."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_STEP = re.compile(r"\s*(\d+):\s+proc\s+(\d+) \((\w+):\d+\) (\S+):(\d+) \(state \d+\)\s+\[(.*)\]$")
_STARTED = re.compile(r"\s*Starting (\w+) with pid (\d+)")
_VALUE = re.compile(r"\s+(\S.*?) = (\S+)$")
_ASSERTION = re.compile(r"text of failed assertion: (.*)$")
_PRINTED = re.compile(r"\s*([a-z][a-z/<>]*[ ,a-z/<>]*)$")
"""What a model says before it fails."""


@dataclass(frozen=True)
class Story:
    """said: what is wrong, or `reached`. lines: who (the process), where, and what changed, in order."""

    said: str
    lines: tuple[str, ...]


def tell(replay: str) -> Story:
    """replay: what `spin -t -p -g -l` printed."""
    names: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    steps: list[tuple[str, str, list[str]]] = []
    values: dict[str, str] = {}
    said, assertion = "", ""
    number, who, file, at = "", "", "", ""
    for line in replay.splitlines():
        if started := _STARTED.match(line):
            kind, pid = started.groups()
            names[pid] = f"{kind} {kinds[kind]}"
            kinds[kind] += 1
        elif step := _STEP.match(line):
            number, pid, _, file, at, _ = step.groups()
            who = names.get(pid, "init")
            # What one does without anybody else in between is one line, until it changes something again.
            if not steps or not steps[-1][1].startswith(f"{who} "):
                steps.append((number, f"{who:10} {file}:{at}", []))
        elif steps and (value := _VALUE.match(line)):
            name, now = value.groups()
            # Arrays are shown as a whole: elements that nobody has set are no news.
            if values.get(name, "0" if "[" in name else "") != now:
                if any(change.startswith(f"{name} = ") for change in steps[-1][2]):
                    steps.append((number, f"{who:10} {file}:{at}", []))
                steps[-1][2].append(f"{name} = {now}")
            values[name] = now
        elif failed := _ASSERTION.search(line):
            assertion = failed[1]
        elif printed := _PRINTED.match(line):
            said = printed[1]
        if "trail ends" in line:
            break
    lines = tuple(f"{number:>4} {who:26} {', '.join(changed)}" for number, who, changed in steps if changed)
    return Story(said or assertion or "assertion violated", lines)
