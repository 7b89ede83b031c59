"""The kinds of workloads that there are. No I/O, no clock."""

from __future__ import annotations

import json
from collections.abc import Mapping

from drover.coordinator.containers import ContainerSpec
from drover.coordinator.record import InvalidRecord, one_line
from drover.coordinator.specs import ProcessSpec, WorkloadSpec

KINDS: Mapping[str, type[WorkloadSpec]] = {"process": ProcessSpec, "docker": ContainerSpec}


def decode(value: bytes) -> WorkloadSpec:
    """As `Record.decode`, of the kind that it says, which is a process where it says none. Raises InvalidRecord."""
    try:
        found = json.loads(value)
        kind = found.get("kind", "process") if isinstance(found, dict) else "process"
    except (ValueError, RecursionError):
        kind = "process"  # which says what is wrong with it
    made = KINDS.get(kind) if isinstance(kind, str) else None
    if made is None:
        raise InvalidRecord(one_line(f"kind: {kind!r} is none; there are {', '.join(KINDS)}"))
    return made.decode(value)
