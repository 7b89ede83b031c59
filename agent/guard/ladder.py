"""The ladder: what stops all writing on this node when its right to write has ended. Blocking; standard library only.

Nothing here relies on etcd, on a helper or on anybody's cooperation. An empty answer means: verified, nothing is left.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drover.agent.cgroups import CONTAINERS, Cgroups

KILL = 0.8
"""Seconds in which killed processes must be gone: the time between D_soft and D_io, less the cut."""


@dataclass(frozen=True)
class Cut:
    """What a back end has for the deadline: `module:name` of a blocking function that needs the standard library only,
    and cuts off all that could still be written to. It returns a line for each thing of which it is not certain."""

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Callable[..., list[str]]:
        """Imported beforehand: a disk that hangs must not stand in the way of stopping what writes to it."""
        module, _, name = self.function.partition(":")
        found: Callable[..., list[str]] = getattr(importlib.import_module(module), name)
        return found


@dataclass(frozen=True)
class Climbed:
    """left: what could not be verified as gone, a line each. seconds: that it took."""

    left: tuple[str, ...]
    seconds: float


class Ladder:
    """Kills what writes, then cuts off what it wrote to."""

    def __init__(self, cgroups: Cgroups, cuts: Sequence[Cut]) -> None:
        """Raises ImportError, AttributeError where there is no such function."""
        self._cgroups = cgroups
        self._cuts = [(cut.load(), cut.arguments) for cut in cuts]

    def climb(self) -> Climbed:
        began = time.monotonic()
        left: list[str] = []
        for name in self._cgroups.names(CONTAINERS):
            self._cgroups.seal(f"{CONTAINERS}/{name}")
        kinds = ("workloads", CONTAINERS, "datasets")
        groups = [f"{kind}/{name}" for kind in kinds for name in self._cgroups.names(kind)]
        left += [f"processes in the cgroup {group}" for group in self._cgroups.kill_all(groups, KILL)]
        for cut, arguments in self._cuts:
            try:
                left += cut(**arguments)
            except OSError as error:
                left.append(f"{cut.__module__} failed: {error}")
        return Climbed(tuple(left), time.monotonic() - began)
