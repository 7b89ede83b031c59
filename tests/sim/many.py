"""Many runs, in processes of their own."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context

from tests.sim.mutants import MUTANTS, mutated
from tests.sim.run import simulator
from tests.sim.scenarios import scenario_of
from tests.sim.world import Outcome

CHUNK = 10


def chunk(seeds: range, seconds: float, mutant: str) -> list[Outcome]:
    """Several runs, in a process of its own. Stops at one that fails."""
    outcomes = []
    with simulator() as sim, mutated(MUTANTS[mutant]) if mutant else nullcontext():
        for seed in seeds:
            outcomes.append(replace(sim.run(seed, seconds), story=[]))
            if outcomes[-1].broken:
                break
    return outcomes


def one(seed: int, seconds: float, mutant: str, favours: str = "") -> Outcome:
    """A run with the agents' logs in its story."""
    with simulator() as sim, mutated(MUTANTS[mutant]) if mutant else nullcontext():
        return sim.run(seed, seconds, logs=True, favours=favours)


def many(seeds: range, seconds: float, mutant: str, jobs: int) -> Generator[Outcome, None, None]:
    chunks = [seeds[n : n + CHUNK] for n in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        waiting = [pool.submit(chunk, part, seconds, mutant) for part in chunks]
        try:
            for future in waiting:
                outcomes = future.result()
                yield from outcomes
                if any(outcome.broken for outcome in outcomes):
                    return
        finally:
            for other in waiting:
                other.cancel()


class NoMutant(Exception):
    """It does not fit the product any more: an agent ended by an error of its own."""


def hunt(mutant: str, seeds: range, seconds: float) -> Outcome | None:
    """The first run in which the lack of this rule matters, among those that favour what it is for. Raises NoMutant."""
    with simulator() as sim, mutated(MUTANTS[mutant]):
        for seed in seeds:
            if scenario_of(seed) == MUTANTS[mutant].scenario and (outcome := sim.run(seed, seconds)).broken:
                if " ended: " in outcome.broken:
                    raise NoMutant(f"{mutant}, seed {seed}: {outcome.broken}")
                return replace(outcome, story=[])
    return None


def hunts(names: Sequence[str], seeds: range, seconds: float, jobs: int) -> Iterator[tuple[str, Outcome | None]]:
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        waiting = [(name, pool.submit(hunt, name, seeds, seconds)) for name in names]
        for name, future in waiting:
            yield name, future.result()
