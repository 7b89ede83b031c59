"""Two agents of one machine cannot be the same node of one cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drover.agent.alone import AlreadyRunning, Name, alone


def test_a_second_agent_with_the_same_run_dir_is_refused(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(AlreadyRunning, match=f"pid {os.getpid()} holds {tmp_path}/agent.lock"):
        with alone(tmp_path):
            pass


def test_a_second_agent_with_another_run_dir_but_the_same_name_is_refused_and_told_what_to_do() -> None:
    first, second, machine = Name("node-a", f"m-{os.getpid()}"), Name("node-a", f"m-{os.getpid()}"), f"m-{os.getpid()}"
    try:
        first.hold("cluster")
        first.hold("cluster")
        with pytest.raises(
            AlreadyRunning, match=rf"is node-a .*\(process {os.getpid()}\).*: end that one, or give this one"
        ):
            second.hold("cluster")
        second.hold("another cluster")
        other = Name("node-b", machine)
        other.hold("cluster")
        other.close()
        first.close()
        second.hold("cluster")
    finally:
        first.close()
        second.close()
