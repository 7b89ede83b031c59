"""What an agent tells of its node: to the cluster, and to its guard."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import drover
from drover.agent import testify
from drover.agent.config import Settings
from drover.agent.guard.settings import Files, GuardSettings
from drover.agent.machine import boot_id
from drover.agent.storage.base import Backend
from drover.coordinator.addresses import host_port, joined
from drover.coordinator.record import timestamp
from drover.coordinator.records import NodeRecord


def node_record(settings: Settings, backends: Mapping[str, Backend]) -> NodeRecord:
    """Without incarnation and lease: who joins fills them in."""
    return NodeRecord(
        incarnation="",
        machine=settings.machine_id,
        boot=boot_id(),
        lease=0,
        address=settings.address,
        grpc=joined(settings.address, host_port(settings.listen.grpc)[1]) if settings.address else "",
        backends=tuple(sorted(backends)),
        limits={name: backend.limits for name, backend in backends.items()},
        version=drover.__version__,
        joined=timestamp(datetime.now(UTC)),
    )


def guard_settings(settings: Settings, cgroups: Path, backends: Mapping[str, Backend]) -> GuardSettings:
    return GuardSettings(
        cgroups=str(cgroups),
        cuts=tuple(backend.last_means() for backend in backends.values()),
        resets=settings.guard.reset,
        reset_within=settings.timings.d_hard - settings.timings.d_io,
        testify=testify.command(Files(settings.run_dir), settings),
        version=drover.__version__,
    )
