"""What a check says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from drover.coordinator.cli.shapes import FindingJson


class Severity(IntEnum):
    """The worst is the greatest."""

    OK = 0
    NOTE = 1
    """Good to know: nothing has to be done, or it could not be looked at."""
    WARNING = 2
    """It goes on, and should be mended."""
    FAILING = 3
    """Something does not work, or will not when it is needed."""


@dataclass(frozen=True)
class Finding:
    """about: what it is about, in one or two words. what: one sentence. todo: what to do, "" for nothing."""

    severity: Severity
    about: str
    what: str
    todo: str = ""

    def as_json(self) -> FindingJson:
        return FindingJson(severity=self.severity.name.lower(), about=self.about, what=self.what, todo=self.todo)


def ok(about: str, what: str) -> Finding:
    return Finding(Severity.OK, about, what)


def note(about: str, what: str, todo: str = "") -> Finding:
    return Finding(Severity.NOTE, about, what, todo)


def warning(about: str, what: str, todo: str) -> Finding:
    return Finding(Severity.WARNING, about, what, todo)


def failing(about: str, what: str, todo: str) -> Finding:
    return Finding(Severity.FAILING, about, what, todo)


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: -finding.severity)
