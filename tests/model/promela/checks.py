"""Every check of the model: what is searched, within which bounds, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Expected(StrEnum):
    HOLDS = "holds"
    """Everything that can be reached was looked at, and nothing is wrong anywhere."""
    FAILS = "fails"
    """A rule is switched off, and something goes wrong: so the check can fail, and the rule is needed."""
    REACHED = "reached"
    """The state can be reached: what holds does not hold for want of anything happening."""


@dataclass(frozen=True)
class Check:
    """shows: one line. defines: the bounds, and the rule that is switched off. quick: in `make test`, too."""

    name: str
    shows: str
    model: str
    expected: Expected
    defines: tuple[str, ...] = ()
    quick: bool = False


def _holds(name: str, shows: str, model: str, *defines: str, quick: bool = False) -> Check:
    return Check(name, shows, model, Expected.HOLDS, defines, quick)


def _bad(name: str, shows: str, model: str, *defines: str, quick: bool = False) -> Check:
    return Check(f"without: {name}", shows, model, Expected.FAILS, defines, quick)


def _reach(name: str, model: str, *defines: str) -> Check:
    return Check(f"reach: {name}", "the state is reached", model, Expected.REACHED, defines)


S, G, O, U = "session.pml", "gate.pml", "ownership.pml", "group.pml"
CHECKS: tuple[Check, ...] = ()
