"""Whole agents, under everything that may go wrong: the promises hold, and the simulation would find it if not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.mutants import MUTANTS

PAGE = Path(__file__).parents[2] / "docs" / "simulation.md"
RUNS = 60
"""Of `make test`; `make sim` has more."""


def sim(*arguments: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """`python -m tests.sim`: in a process of its own, since it puts other clocks in the product's place."""
    command = [sys.executable, "-m", "tests.sim", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.mark.timeout(300)
def test_every_promise_holds_under_all_faults() -> None:
    run = sim("--seeds", str(RUNS), "--jobs", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{RUNS} runs" in run.stdout


@pytest.mark.timeout(300)
def test_a_protocol_that_lacks_a_rule_is_found_out() -> None:
    run = sim("--mutants", "quick", "--seeds", "400", "--jobs", "2")
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_protocol_that_lacks_a_rule_is_found_out_within_2000_runs() -> None:
    run = sim("--mutants", "all", "--seeds", "2000", "--jobs", "2", timeout=1700)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_page_has_every_rule_that_is_left_out_and_no_other() -> None:
    rows = re.findall(r"^\| (.+) \| `([^`]+)` \| \d+ \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(mutant.lacks, name) for name, mutant in MUTANTS.items()]


@pytest.mark.timeout(300)
def test_a_seed_is_the_same_run_every_time_and_a_broken_promise_is_told_as_a_story() -> None:
    one, other = (sim("--mutant", "short wait", "--seed", "0", "--lines", "100000") for _ in range(2))
    assert one.returncode == 1
    assert one.stdout == other.stdout
    assert "CHECK" in one.stdout
    assert "agent starts" in one.stdout
