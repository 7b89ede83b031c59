"""The share of the processor that the kernel gives to the agent, and to what it starts."""

from __future__ import annotations

import subprocess
import sys

from drover.agent.priority import NICE

SHOW = "print(open('/proc/self/autogroup').read().split()[-1], flush=True)"
PREFERRED = f"""
import os, subprocess, sys
from drover.agent.priority import prefer
prefer(os.getpid())
{SHOW}
subprocess.run([sys.executable, "-Ic", {SHOW!r}], start_new_session=True, check=True)
"""


def shown(own_session: bool) -> list[int]:
    command = [sys.executable, "-c", PREFERRED]
    if not own_session:
        command = ["setsid", "sh", "-c", '"$@"; exit $?', "sh", *command]
    done = subprocess.run(
        command, start_new_session=own_session, capture_output=True, text=True, timeout=30, check=True
    )
    return [int(nice) for nice in done.stdout.split()]


def test_a_process_is_preferred_and_what_it_starts_in_a_session_of_its_own_is_not() -> None:
    assert shown(own_session=True) == [NICE, 0]


def test_a_process_that_shares_its_session_is_not_preferred_for_others_would_be_too() -> None:
    assert shown(own_session=False) == [0, 0]
