"""Runs at the start of each agent, guard and helper of an arena, before anything else: gives it another clock, storage
that protects nothing, or a fault that the checker must find. `CHAOS_CHANGES` names the file that says what.

    skew     {"node-a": 1.004}: how fast a node's clocks run, from `base` on (CLOCK_MONOTONIC_RAW)
    jumps    a directory: `jump-<node>` there says how far its CLOCK_BOOTTIME is ahead, in seconds
    blind    true: a node sees only its own devices, and cuts off nobody else's: as if each had a kernel of its own
    mutant   a name below
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import drover.coordinator.clock
from drover.coordinator.protocol.clock import Instant


def _put(changed: Any, **names: Any) -> None:
    """Puts these in the place of what a class or a module has."""
    for name, value in names.items():
        setattr(changed, name, value)


def _clock(skew: float, base: float, jumps: Path) -> Callable[[], Instant]:
    ahead = os.open(jumps, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def read_clock() -> Instant:
        boot, raw = time.clock_gettime(time.CLOCK_BOOTTIME), time.clock_gettime(time.CLOCK_MONOTONIC_RAW)
        jumped = os.pread(ahead, 32, 0)
        slow = (raw - base) * (skew - 1)
        return Instant(boot=boot + slow + (float(jumped) if jumped else 0.0), raw=raw + slow)

    return read_clock


def _blind_storage(node: str) -> None:
    """A node attaches images through its own home, and so knows its own devices by their path."""
    from drover.agent.storage import loopback_io, loopdev

    every = loopdev.backed_by

    def own(image: int) -> list[loopdev.Loop]:
        return [loop for loop in every(image) if f"/nodes/{node}/" in loop.image]

    _put(loopdev, backed_by=own)
    _put(loopback_io, _lock=lambda at, image: None)


def _waits_too_short() -> None:
    """An observer that waits for less than D_hard."""
    from drover.coordinator.protocol.observer import Watched

    _put(Watched, wait=property(lambda self: 0.3 * self.heartbeat.d_hard))


def _agent_kills_nothing() -> None:
    """It clears up after its guard, once that has said that nothing is left."""
    from drover.agent.workloads.process import ProcessRuntime

    _put(ProcessRuntime, kill_all=lambda self: [])


def _never_stops() -> None:
    """A node that goes on when its deadline has passed, and says that it has stopped."""
    from drover.agent.guard.ladder import Climbed, Ladder

    _put(Ladder, climb=lambda self: Climbed((), 0.0))
    _agent_kills_nothing()


def _unmounts_lazily() -> None:
    """A node whose fence is `umount -l`: nobody can open the files any more, and who has them open writes on."""
    from drover.agent.guard.ladder import Climbed, Ladder
    from drover.agent.storage import mounts

    def climb(self: Ladder) -> Climbed:
        for mount in reversed(mounts.table()):
            if mount.source.startswith("/dev/loop"):
                with suppress(OSError):
                    mounts.unmount(mount.path, mounts.MNT_DETACH)
        return Climbed((), 0.0)

    _put(Ladder, climb=climb)
    _agent_kills_nothing()


def _counts_from_the_answer() -> None:
    """A node whose deadline counts from when it learnt of a heartbeat, not from when it sent that."""
    from drover.coordinator.protocol import session

    honest = session._confirmed

    def confirmed(
        state: session.Live | session.Lapsed, counter: int, revision: int, now: Instant, timings: Any
    ) -> tuple[session.State, tuple[session.Action, ...]]:
        after, actions = honest(state, counter, revision, now, timings)
        if not isinstance(after, session.Ended) and after.sent != state.sent:
            after = replace(after, sent=now)
        return after, actions

    _put(session, _confirmed=confirmed)


MUTANTS: dict[str, Callable[[], None]] = {
    "waits too short": _waits_too_short,
    "never stops": _never_stops,
    "counts from the answer": _counts_from_the_answer,
    "unmounts lazily": _unmounts_lazily,
}


def _main() -> None:
    told = json.loads(Path(os.environ["CHAOS_CHANGES"]).read_text())
    node = socket.gethostname()
    skew = float(told.get("skew", {}).get(node, 1.0))
    drover.coordinator.clock.read_clock = _clock(skew, told.get("base", 0.0), Path(told["jumps"], f"jump-{node}"))
    if told.get("blind"):
        _blind_storage(node)
    if mutant := MUTANTS.get(told.get("mutant", "")):
        mutant()


if "CHAOS_CHANGES" in os.environ:
    _main()
