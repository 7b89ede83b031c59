"""A promise that was broken, and what all checks together say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.chaos.history import History


@dataclass(frozen=True)
class Violation:
    """rule: the promise. at: when; 0: at no moment in particular. about: a dataset, node or incarnation."""

    rule: str
    about: str
    at: float
    says: str


Check = Callable[[History], Iterator[Violation]]
