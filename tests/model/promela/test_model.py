"""The quick checks of the model, which `make test` runs; `make model` runs all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.model.promela.checks import CHECKS, Check
from tests.model.promela.spin import run

QUICK = [check for check in CHECKS if check.quick]


@pytest.mark.parametrize("check", QUICK, ids=[check.name.replace(" ", "_") for check in QUICK])
def test_the_model_shows_what_it_should(check: Check, tmp_path: Path) -> None:
    found = run(check, tmp_path, limit=100)
    assert found.as_expected, "\n".join((f"{found.verdict}, expected: {check.expected}", *found.story))


def test_a_search_that_was_cut_short_is_not_taken_for_complete(tmp_path: Path) -> None:
    found = run(next(check for check in CHECKS if check.name == "group"), tmp_path, limit=60, depth=20)
    assert found.errors == 0
    assert not found.as_expected
