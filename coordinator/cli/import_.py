"""`drover import`: a directory of this node becomes a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drover.coordinator.cli import bring, options, output, spec
from drover.coordinator.cli.connection import connection, run
from drover.coordinator.cli.errors import InUse, NotPossible
from drover.coordinator.cli.picture import take
from drover.coordinator.cli.shapes import ImportJson
from drover.coordinator.keys import DEFAULT_PREFIX


def import_(
    name: options.DatasetName,
    source: Annotated[
        Path, typer.Option("--from", metavar="PATH", show_default=False, help="The directory, on this machine.")
    ],
    size: Annotated[str, typer.Option(metavar="SIZE", show_default=False, help="Default: twice what is there.")] = "",
    backend: Annotated[
        str, typer.Option(metavar="NAME", show_default=False, help="Default: the only one that this node offers.")
    ] = "",
    failover: options.Failover = None,
    fencing: options.Fencing = None,
    group: options.Group = None,
    on: Annotated[
        str, typer.Option("--on", metavar="NODE", show_default=False, help="This node's name, if it is not the host's.")
    ] = "",
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Make a dataset of a directory of this node, with all that is in it. Run it there.

    The directory stays as it is. Stop whatever writes to it: where something was written meanwhile, that is said.
    """
    where = connection(endpoints, prefix)
    spec.check_name(name, "dataset")
    if not source.is_dir():
        raise NotPossible(f"{source} is no directory of this machine")
    at = bring.place(where, on, backend, spec.typed(failover=failover, fencing=fencing, group=group))
    bring.absent([name], run(where, take))
    target = bring.make(at, name, source, size)
    bring.copy_ahead(source, target)
    bring.copy(source, target)
    bring.sync(target)
    if changed := bring.differences(source, target):
        raise InUse(
            f"{source} is being written to: {len(changed)} files of it are not as they were copied",
            f"Stop what writes there. Then: drover rm {name}, and import it again.",
            outcome=f"{name} is there, with what was copied.",
        )
    if as_json:
        output.say_json(ImportJson(dataset=name, node=at.node, path=str(target), bytes=bring.used(target)))
        return
    output.say(output.plain(f"{name} is on {at.node}, mounted at {target}, with all of {source}"))
    output.say(output.facts([("the old one", f"{source} stays as it is; nobody needs it any more")]))
