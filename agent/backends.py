"""The back ends that the settings name, made from what is installed."""

from __future__ import annotations

from importlib.metadata import entry_points

from drover.agent.config import Settings
from drover.agent.storage.base import Backend, Factory, Runner


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
