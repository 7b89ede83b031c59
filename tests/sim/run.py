"""Runs seeds: one, many, and on several cores."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tests.sim.scenarios import favoured
from tests.sim.swarm import unleash
from tests.sim.virtual import Chance, virtual
from tests.sim.world import Line, Outcome, World

TROUBLE = 60.0
"""Virtual seconds in which things go wrong."""
CALM = 180.0
"""Virtual seconds after which every dataset must be active again, whatever was waited for."""


@contextmanager
def simulator() -> Iterator[Simulator]:
    """The product's modules are under it until it ends."""
    directory = Path(tempfile.mkdtemp(prefix="drover-sim-", dir="/dev/shm"))
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with virtual() as chance:
            gc.disable()
            yield Simulator(directory, chance)
    finally:
        gc.enable()
        logging.disable(disabled)
        shutil.rmtree(directory)


SWEEP = 20
"""Runs between two collections of garbage."""


class _Story(logging.Handler):
    """Agents' logs become lines of the story; nothing in a run depends on them."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = self._world.loop.process.name
        self._world.story.append(Line(self._world.loop.now, process, record.getMessage()))


@contextmanager
def _logged(world: World) -> Iterator[None]:
    log, handler = logging.getLogger("drover"), _Story(world)
    level, propagate = log.level, log.propagate
    logging.disable(logging.NOTSET)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate
        logging.disable(logging.CRITICAL)


class Simulator:
    def __init__(self, directory: Path, chance: Chance) -> None:
        self._directory, self._chance = directory, chance

    def run(self, seed: int, seconds: float = TROUBLE, logs: bool = False, favours: str = "") -> Outcome:
        """One run from its beginning to its end. logs: the agents' own are part of the story. favours: kinds of fault,
        which says for how long, too; or ""."""
        directory = self._directory / str(seed)
        directory.mkdir()
        world = World(seed, directory, favours)
        self._chance.random = world.rng
        with _logged(world) if logs else nullcontext():
            return self._run(world, directory, seconds)

    def _run(self, world: World, directory: Path, seconds: float) -> Outcome:
        unleash(world)
        world.begin()
        world.run_for(favoured(world.favours).seconds if world.favours else seconds)
        settled = None if world.broken else self._settle(world)
        outcome = world.outcome(settled)
        world.broken = world.broken or "over"
        world.loop.wind_up()
        # Tasks are numbered anew in each run; asyncio's own set of them finds equal numbers slowly.
        asyncio.tasks._all_tasks.clear()  # type: ignore[attr-defined]
        if world.seed % SWEEP == 0:
            gc.collect()
        shutil.rmtree(directory)
        return outcome

    @staticmethod
    def _settle(world: World) -> float | None:
        """All trouble ends: seconds until every dataset is active. Then each moves to where it is wanted."""
        world.heal()
        healed = world.loop.now
        world.run_for(CALM, lambda: not world.unserved())
        if left := world.unserved():
            world.breach(f"{', '.join(left)} not active {CALM:.0f} s after all trouble had ended")
            return None
        settled = world.loop.now - healed
        for death in range(world.deaths):
            if death:
                world.run_for(CALM, lambda: world.all_live() and not world.unserved())
                world.run_for(world.rng.uniform(0.0, 2.0))
            world.loses_one()
            world.run_for(CALM, lambda: not world.unserved_elsewhere())
            if left := world.unserved_elsewhere():
                world.breach(f"{', '.join(left)} not active elsewhere {CALM:.0f} s after its machine had died")
                return None
            world.finds_it_again()
        # A move to an incarnation that is dead and not yet known to be is answered, and then failed over.
        world.run_for(CALM, world.all_live)
        world.move()
        world.run_for(CALM, lambda: not world.misplaced())
        if left := world.misplaced():
            world.breach(f"{', '.join(left)} not where it is wanted {CALM:.0f} s after it was asked for")
        return settled
