"""`python -m tests.sim`: runs seeds on all cores and prints what they came to; exit status 1, and the story of the
smallest seed that failed, where a promise was broken."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from tests.sim.campaign import Kept, campaign
from tests.sim.many import hunts, many, one
from tests.sim.mutants import MUTANTS, QUICK
from tests.sim.report import LAST, Report, story, table
from tests.sim.run import TROUBLE
from tests.sim.scenarios import KINDS
from tests.sim.world import Outcome


def hunt_all(names: Sequence[str], seeds: range, seconds: float, jobs: int) -> int:
    """How many of these mutants were not found."""
    missed = 0
    for name, outcome in hunts(names, seeds, seconds, jobs):
        missed += outcome is None
        how = f"seed {outcome.seed}: {outcome.broken}" if outcome else f"not found in {len(seeds)} runs"
        say(f"{name:28} {MUTANTS[name].lacks}: {how}")
    return missed


EVERY = 50
"""Runs between two writings of a report."""
OFTEN = 20.0
"""Seconds between two of a campaign's."""


def long_campaign(each: int, events: int, first: int, jobs: int, path: Path | None, kept: Kept) -> Report:
    """path: where its table is written now and then."""
    report = kept.load()

    def told() -> None:
        if kept.save(report, OFTEN) and path:
            write(path, report)

    campaign(report, first + report.runs, each, events, jobs, told)
    kept.save(report)
    return report


def write(path: Path, report: Report) -> None:
    path.write_text("".join(f"{line}\n" for line in table(report)))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="one run, and its story")
    parser.add_argument("--seconds", type=float, default=TROUBLE, help="virtual seconds of trouble in each run")
    parser.add_argument("--lines", type=int, default=LAST, help="lines of a story")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), default="", help="without one rule of the protocol")
    parser.add_argument("--mutants", choices=("all", "quick"), help="each mutant must be found within --seeds runs")
    parser.add_argument("--events", type=int, default=0, help="no further runs after so many events")
    parser.add_argument("--report", type=Path, help="write the table of faults to this file, as Markdown")
    parser.add_argument("--favour", default="", metavar="KIND", help="with --seed: this kind of fault, often")
    parser.add_argument("--each", type=int, help="a campaign: until each kind of fault was injected so often")
    parser.add_argument(
        "--kept",
        type=Path,
        default=Path(".cache/campaign.json"),
        help="what a campaign has come to, so that it can be ended and goes on there",
    )
    asked = parser.parse_args()
    if unknown := [kind for kind in asked.favour.split(" + ") if kind and kind not in KINDS]:
        parser.error(f"{unknown[0]}: no kind of fault; there are {', '.join(sorted(KINDS))}")
    seeds = range(asked.first, asked.first + asked.seeds)
    if asked.mutants:
        names = list(MUTANTS) if asked.mutants == "all" else list(QUICK)
        return 1 if hunt_all(names, seeds, asked.seconds, asked.jobs) else 0
    if asked.seed is not None:
        outcome = one(asked.seed, asked.seconds, asked.mutant, asked.favour)
        for line in story(outcome, asked.lines):
            say(line)
        return 1 if outcome.broken else 0
    smallest: Outcome | None = None
    if asked.each:
        report = long_campaign(asked.each, asked.events, asked.first, asked.jobs, asked.report, Kept(asked.kept))
    else:
        report = Report()
        with closing(many(seeds, asked.seconds, asked.mutant, asked.jobs)) as outcomes:
            for outcome in outcomes:
                report.add(outcome)
                if outcome.broken and (smallest is None or outcome.seed < smallest.seed):
                    smallest = outcome
                if asked.report and report.runs % EVERY == 0:
                    write(asked.report, report)
                if asked.events and report.events >= asked.events:
                    break
    if asked.report:
        write(asked.report, report)
    for line in report.lines():
        say(line)
    if not report.failed:
        return 0
    if smallest is not None:
        say("")
        for line in story(one(smallest.seed, asked.seconds, asked.mutant), asked.lines):
            say(line)
    return 1


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of names must have the same order in every run.
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]], os.environ | {"PYTHONHASHSEED": "0"}
        )
    sys.exit(main())
