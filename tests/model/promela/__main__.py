"""`make model`: runs the checks, two at a time, and says what each has shown. Status 1 where one is not as expected."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.model.promela.checks import CHECKS, Check, Expected
from tests.model.promela.spin import Found, SpinFailed, run

LIMIT = 900.0
"""Seconds for one search."""


def run_all(checks: Sequence[Check], where: Path, at_once: int = 2) -> Iterator[Found | tuple[Check, SpinFailed]]:
    """In the order in which they end."""
    with ThreadPoolExecutor(at_once) as pool:
        runs = {pool.submit(run, check, where / str(CHECKS.index(check)), LIMIT): check for check in checks}
        for done in as_completed(runs):
            try:
                yield done.result()
            except SpinFailed as failed:
                yield runs[done], failed


def _line(found: Found) -> str:
    check = found.check
    figures = f"{found.states:>11,} states {found.depth:>6} deep {found.seconds:>6.1f} s"
    mark = "ok " if found.as_expected else "BAD"
    return f"{mark} {check.expected:7} {check.name:46} {figures}  {found.verdict:28} {check.shows}"


def _tell(found: Found) -> None:
    print(f"    {found.check.model} {' '.join(found.check.defines)}")
    for line in found.story:
        print(f"    {line}")
    print(f"    all of it: {found.trail}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model.promela", description=__doc__)
    parser.add_argument("words", nargs="*", help="only checks with all these words in their names")
    parser.add_argument("--quick", action="store_true", help="only those that `make test` runs, too")
    parser.add_argument("--story", action="store_true", help="tell every counterexample, also of known-bad variants")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="searches side by side (2)")
    parser.add_argument("--where", type=Path, help="for what spin makes; kept (default: a new folder below /tmp)")
    chosen = parser.parse_args(arguments)
    checks = [c for c in CHECKS if all(word in c.name for word in chosen.words) and (c.quick or not chosen.quick)]
    where = chosen.where or Path(tempfile.mkdtemp(prefix="drover-model-"))
    wrong = 0
    for found in run_all(checks, where, chosen.at_once):
        if isinstance(found, tuple):
            wrong += 1
            print(f"BAD {found[0].name}: {found[1]}", flush=True)
            continue
        wrong += not found.as_expected
        print(_line(found), flush=True)
        if found.story and (chosen.story or not found.as_expected):
            _tell(found)
    holds = sum(check.expected is Expected.HOLDS for check in checks)
    print(f"{len(checks)} checks, {holds} of the protocol as designed; {wrong} not as expected; trails below {where}")
    return 1 if wrong or not checks else 0


if __name__ == "__main__":
    sys.exit(main())
