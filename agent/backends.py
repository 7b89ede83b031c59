"""The back ends that the settings name, made from what is installed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from importlib.metadata import entry_points

from drover.agent.config import Settings
from drover.agent.sight import Sight
from drover.agent.storage.base import Backend, Factory, Runner, StorageError

log = logging.getLogger(__name__)

_EVERY = 60.0
"""Seconds between two examinations."""


def make_backends(settings: Settings, runner: Runner) -> dict[str, Backend]:
    """Raises ConfigError for a back end that is not installed or whose settings are wrong."""
    installed = {point.name: point for point in entry_points(group="drover.storage")}
    backends: dict[str, Backend] = {}
    for name, table in settings.backends.items():
        try:
            if name not in installed:
                raise ValueError(f"there is no back end {name!r}; installed are {', '.join(sorted(installed))}")
            factory: Factory = installed[name].load()
            backends[name] = factory(table, settings.node, runner)
        except ValueError as wrong:
            raise settings.backend_error(name, wrong) from None
    return backends


async def examine(backends: Mapping[str, Backend], sight: Sight) -> None:
    """Until cancelled: whether each is well, and how much room it has."""
    while True:
        for name, backend in backends.items():
            sight.backends[name] = await backend.health()
            try:
                sight.pools[name] = await backend.capacity()
            except StorageError as error:
                sight.pools.pop(name, None)
                log.debug("%s does not say how much room it has: %s", name, error)
        sight.ring()
        await asyncio.sleep(_EVERY)
