"""The agent gets the processor before what this machine is busy with: a heartbeat that waits for it comes late.

Standard library only: the guard uses it, too."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

NICE = -10
"""As much as nine others together, and no more: a loop that turned for ever would leave the machine usable."""


def prefer(pid: int) -> None:
    """All threads of this process, for one that waits may hold the interpreter's lock; but nothing that it starts in a
    session of its own, as helpers and workloads are: they must not come before heartbeats.

    By the nice value of its session's autogroup (sched(7)). Nothing is done where the process does not lead its
    session: others would be preferred with it. It has no effect where the kernel has no autogroups or shares the
    processor out by cgroups: there the weight of the agent's cgroup decides. Raises OSError; without the right to do
    it, PermissionError.
    """
    if os.getsid(pid) == pid:
        with suppress(FileNotFoundError):
            Path(f"/proc/{pid}/autogroup").write_text(str(NICE))
