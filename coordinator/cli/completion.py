"""What shells complete besides commands and options: names of datasets and nodes, as etcd has them.

typer does the rest: `drover --install-completion`, and `_DROVER_COMPLETE=source_bash drover` for packages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from drover.coordinator.keys import Kind

PATIENCE = 1.0
"""Seconds that completion may wait for etcd: without it nothing is suggested."""


def datasets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of datasets that have a spec."""
    from drover.coordinator.keys import Kind

    return _names(ctx, Kind.DATASETS, incomplete)


def nodes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of nodes that are known."""
    from drover.coordinator.keys import Kind

    return _names(ctx, Kind.HEARTBEATS, incomplete)


def _names(ctx: typer.Context, kind: Kind, incomplete: str) -> list[str]:
    import asyncio

    from drover.coordinator.cli import connection, options
    from drover.coordinator.cli.errors import CliError
    from drover.coordinator.keys import DEFAULT_PREFIX, Keys, name_error, range_end
    from drover.coordinator.store import Store

    async def listed(store: Store, keys: Keys) -> list[str]:
        start = keys.of(kind, incomplete)
        async with asyncio.timeout(PATIENCE):
            found = await store.range(start, range_end(start))
        names = [entry.key.removeprefix(keys.under(kind)) for entry in found.entries]
        return [name for name in names if name_error(name) is None]

    asked: dict[str, Any] = ctx.params
    try:
        where = connection.connection(
            asked.get("endpoints") or options.DEFAULT_ENDPOINTS, asked.get("prefix") or DEFAULT_PREFIX
        )
        return connection.run(where, listed)
    except (CliError, TimeoutError):
        return []
