"""Containers keep the promises of every kind of workload, on a real Docker Engine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.playground import Playground

SUITE = Path(__file__).with_name("docker_kind.py")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_containers_pass_the_suite_of_workload_kinds(tmp_path: Path) -> None:
    with Playground(tmp_path / "pg", nodes=1, agents=False, docker=True) as playground:
        command = (sys.executable, "-m", "pytest", str(SUITE), "-p", "no:cacheprovider", "-o", "testpaths=")
        done = playground.exec(
            "node-a", "sh", "-c", f'cd {SUITE.parents[2]} && exec "$@"', "sh", *command, check=False, timeout=280
        )
        assert done.returncode == 0, done.stdout + done.stderr
