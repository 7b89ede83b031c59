"""`python -m tests.chaos`: run, check and repeat. `make chaos` is `run`, then `mutants`.

    run [--minutes 5] [--seed N] [--nodes 3..5] [--[no-]blind] [--[no-]armed] [--[no-]restore]
        [--only FAULT ...] [--without FAULT ...]
    check DIR...      what kept histories say now; of several, a table of all
    mutants [NAME]    builds with a known fault, each of which must be caught
    plan --seed N     what a run would do

Exit status: 0 all promises kept (mutants: all caught), 1 not.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from tests.chaos import directed, report, schedule
from tests.chaos.check import check
from tests.chaos.history import load
from tests.chaos.run import Chaos, Plan, skew
from tests.chaos.verdict import Violation

KEPT = Path(__file__).parents[2] / ".cache" / "chaos"
_STORIES = 3
_TRIES = 3
"""Runs in which a built-in fault must show: some need a moment that a busy machine misses."""


def main() -> int:
    arguments = _arguments()
    match arguments.verb:
        case "check":
            worst = max(_judge(directory) for directory in arguments.histories)
            if len(arguments.histories) > 1:
                _say("\n" + report.total([load(directory) for directory in arguments.histories]))
            return worst
        case "plan":
            for act in _schedule(arguments):
                _say(f"{act.at:7.1f}  {act.kind.name}, {act.role} {act.number}, {act.seconds} s")
            return 0
        case "mutants":
            return _mutants(arguments.names)
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    seed = arguments.seed
    seconds = arguments.minutes * 60
    nodes = arguments.nodes or 3 + seed % 3
    acts = _schedule(arguments)
    skewed = skew(seed, nodes) if arguments.skew else {}
    tls = arguments.tls
    armed, blind, restore = arguments.armed, arguments.blind, arguments.restore
    plan = Plan(seed, acts, seconds, nodes, armed=armed, blind=blind, restore=restore, skew=skewed, tls=tls)
    kind = (
        ", all ports have certificates" * tls
        + ", storage protects nothing" * blind
        + ", nodes are armed" * armed
        + ", etcd goes back" * restore
    )
    _say(f"seed {seed}: {nodes} nodes{kind}; {arguments.minutes:g} minutes, {len(acts)} faults and moves")
    directory = Chaos(plan, _directory(f"{seed}"), _say).run()
    return _judge(directory)


def _schedule(arguments: argparse.Namespace) -> list[schedule.Act]:
    seconds = arguments.minutes * 60
    return schedule.make(arguments.seed, seconds, arguments.blind, arguments.only, arguments.without)


def _mutants(names: list[str]) -> int:
    """Each must be caught, and by the promise that it breaks."""
    missed = []
    for mutant in directed.MUTANTS:
        if names and mutant.name not in names:
            continue
        _say(f"--- {mutant.name}: must break {' or '.join(repr(rule) for rule in mutant.breaks)}")
        if not any(_caught(mutant) for _ in range(_TRIES)):
            missed.append(mutant.name)
    _say(f"not caught: {', '.join(missed)}" if missed else "every fault that was built in was caught")
    return 1 if missed else 0


def _caught(mutant: directed.Mutant) -> bool:
    violations = check(load(Chaos(mutant.plan, _directory(f"mutant-{mutant.name}"), _say).run()))
    found = sorted({violation.rule for violation in violations})
    caught = bool(set(found) & mutant.breaks)
    _say(f"    {'caught' if caught else 'NOT CAUGHT'}; broken promises that were found: {found}")
    return caught


def _judge(directory: Path) -> int:
    history = load(directory)
    violations = check(history)
    _say(report.summary(history, violations))
    (directory / "report.json").write_text(report.as_json(history, violations))
    told: set[tuple[str, str]] = set()
    for violation in violations:
        _say(f"*** {violation.rule}: {violation.about}: {violation.says}")
    for violation in _first_of_each(violations)[:_STORIES]:
        told.add((violation.rule, violation.about))
        _say("\n" + report.story(history, violation, directory))
    _say(f"kept in {directory}; again: python -m tests.chaos check {directory}")
    return 1 if violations else 0


def _first_of_each(violations: list[Violation]) -> list[Violation]:
    first: dict[str, Violation] = {}
    for violation in violations:
        first.setdefault(violation.rule, violation)
    return list(first.values())


def _directory(name: str) -> Path:
    return KEPT / f"{name.replace(' ', '-')}-{time.strftime('%m%d-%H%M%S')}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name in ("run", "plan"):
        verb = verbs.add_parser(name)
        verb.add_argument("--minutes", type=float, default=5.0)
        verb.add_argument("--seed", type=int, default=random.randrange(10**6))
        verb.add_argument("--nodes", type=int, choices=(3, 4, 5))
        by_seed = argparse.BooleanOptionalAction
        verb.add_argument("--blind", action=by_seed, help="storage protects nothing; default: as the seed has it")
        verb.add_argument(
            "--restore", action=by_seed, help="etcd goes back to a snapshot at the end; default: the same"
        )
        verb.add_argument("--armed", action=by_seed, help="nodes that cannot stop in time are reset; default: the same")
        verb.add_argument("--tls", action="store_true", help="all ports and etcd have certificates")
        verb.add_argument("--skew", action=argparse.BooleanOptionalAction, default=True, help="clocks run differently")
        verb.add_argument("--only", nargs="*", default=[], metavar="FAULT")
        verb.add_argument("--without", nargs="*", default=[], metavar="FAULT")
    verbs.add_parser("check").add_argument("histories", type=Path, nargs="+", metavar="DIR")
    verbs.add_parser("mutants").add_argument("names", nargs="*", metavar="NAME")
    given = parser.parse_args()
    if given.verb in ("run", "plan"):
        given.blind = given.seed % 2 == 1 if given.blind is None else given.blind
        given.restore = given.seed % 3 == 0 if given.restore is None else given.restore
        given.armed = given.seed % 4 >= 2 if given.armed is None else given.armed
    return given


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
