"""What a kind of workload is: something that the agent starts when its datasets are mounted here, and stops before they
leave. One file a kind: process, docker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from drover.coordinator.specs import WorkloadSpec


class WorkloadError(Exception):
    """It cannot be started or stopped; the text is shown to users as the reason."""


class NotAllowedNow(WorkloadError):
    """The gate was closed, so it was not started."""


@dataclass(frozen=True)
class Absent:
    """Not here, and nothing of it left."""


@dataclass(frozen=True)
class Running:
    """pid: in the agent's PID namespace. since: CLOCK_BOOTTIME, seconds. fingerprint: of the spec it was started with:
    another one means that the spec has changed since. ailing: what its own check of its health says, where that is not
    that all is well, or "" where it says so or has none."""

    pid: int
    since: float
    fingerprint: str
    ailing: str = ""


@dataclass(frozen=True)
class Exited:
    """It ended by itself. status: exit code, or minus the signal. at: CLOCK_BOOTTIME, seconds. ran: seconds it ran.
    fingerprint: as in Running."""

    status: int
    at: float
    ran: float
    fingerprint: str


Condition = Absent | Running | Exited


class Runtime(Protocol):
    """One kind of workload on one node. All verbs are idempotent; what is here is found by looking, so that an agent
    that restarts adopts what runs."""

    kind: str

    async def look(self) -> Mapping[str, Condition]:
        """All workloads of this kind that are here, by name."""
        ...

    async def run(self) -> None:
        """Watches what it has to, until it is cancelled."""
        ...

    def on_change(self, wake: Callable[[str], None]) -> None:
        """`wake(name)` is called in the event loop whenever one started or ended here; adopted ones from the first
        `look` on."""
        ...

    async def prepare(self, name: str, spec: WorkloadSpec) -> None:
        """At the target, while the source still runs: everything that can be done before the data is here.
        Raises WorkloadError."""
        ...

    async def unprepare(self, name: str) -> None:
        """It does not come: what `prepare` made is given up. Nothing where it was started since."""
        ...

    async def start(self, name: str, spec: WorkloadSpec, paths: Mapping[str, Path]) -> None:
        """paths: where each of its datasets is mounted. Raises WorkloadError."""
        ...

    async def stop(self, name: str, grace: float) -> None:
        """SIGTERM, at most `grace` seconds, SIGKILL; returns when nothing of it is left. Raises WorkloadError."""
        ...

    def kill(self, names: Sequence[str]) -> list[str]:
        """The ladder's verb: at once, blocking, all of them. Returns what could not be verified as gone."""
        ...

    def kill_all(self) -> list[str]:
        """The same for whatever of this kind is here."""
        ...

    def close(self) -> None:
        """Stop watching. What runs goes on running."""
        ...


def fingerprint(spec: WorkloadSpec) -> str:
    """Changes when, and only when, a running workload would have to be started again."""
    started_with = spec.model_dump(mode="json", exclude={"restart", "stop_grace_period", "on_start_failure"})
    return hashlib.sha256(json.dumps(started_with, sort_keys=True).encode()).hexdigest()[:16]
