"""`drover-agent tokens`: prints what this node's back ends hold, with the tokens stored with the data, for `drover
recover`. Looks at storage only: it needs neither etcd nor an agent that runs, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drover.agent.backends import make_backends
from drover.agent.config import Settings
from drover.agent.storage.base import Away, Backend, Family, GateClosed
from drover.coordinator.reports import NodeReport, VolumeReport


class Nothing:
    """A runner that runs nothing."""

    async def run(self, dataset: str, function: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        raise GateClosed("nothing is changed while volumes are reported")


async def report(settings: Settings) -> NodeReport:
    """Raises ConfigError; StorageError where a volume's token cannot be read."""
    found: list[VolumeReport] = []
    for name, backend in make_backends(settings, Nothing()).items():
        found += await volumes(name, backend)
    return NodeReport(node=settings.node, volumes=tuple(found))


async def volumes(name: str, backend: Backend) -> list[VolumeReport]:
    """All of one back end. Raises StorageError."""
    found = await backend.stored()
    # One at a time: `look` answers by dataset, and several volumes may have been the same one's.
    here = [(await backend.look([stored.volume]))[stored.volume.dataset] for stored in found]
    return [
        VolumeReport(
            dataset=stored.volume.dataset,
            uid=stored.volume.uid,
            backend=name,
            object=stored.volume.object,
            cluster=stored.token.cluster,
            epoch=stored.token.epoch,
            incarnation=stored.token.incarnation,
            node=stored.holder,
            born=stored.born,
            size=stored.volume.size,
            fs=stored.volume.fs or "",
            local=backend.family is Family.LOCAL_COPIES,
            here=there != Away(),
        )
        for stored, there in zip(found, here, strict=True)
    ]
