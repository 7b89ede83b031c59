"""Options and arguments that verbs share. Imports nothing heavy: `drover --help` reads this."""

from __future__ import annotations

from typing import Annotated

import typer

from drover.coordinator.cli.completion import datasets, nodes

DEFAULT_ENDPOINTS = "127.0.0.1:2379"

DatasetName = Annotated[
    str, typer.Argument(metavar="DATASET", show_default=False, help="The dataset's name.", autocompletion=datasets)
]
NodeName = Annotated[
    str, typer.Argument(metavar="NODE", show_default=False, help="The node's name.", autocompletion=nodes)
]

Endpoints = Annotated[
    str,
    typer.Option(
        "--endpoints",
        metavar="HOST:PORT,...",
        envvar=["DROVER_ENDPOINTS", "ETCDCTL_ENDPOINTS"],
        help="The etcd members.",
    ),
]
Prefix = Annotated[
    str, typer.Option("--prefix", metavar="/NAME", envvar="DROVER_PREFIX", help="Where the cluster's keys begin.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output; errors as JSON on standard error.")]

Fencing = Annotated[
    str | None,
    typer.Option(
        metavar="hard|cooperative",
        show_default=False,
        help="What makes a silent node count as stopped: proof (hard, the default), or silence alone.",
    ),
]
Failover = Annotated[
    str | None,
    typer.Option(
        metavar="none|any|NODE,...",
        show_default=False,
        help="Who may take it when its node has died: nobody (the default), any node, or those listed.",
    ),
]
Group = Annotated[
    str | None,
    typer.Option(metavar="NAME", show_default=False, help="Datasets of one group live on one node and move together."),
]
Label = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", show_default=False, help="A label; may be given several times."),
]
Reclaim = Annotated[
    str | None,
    typer.Option(
        metavar="retain|trash|delete",
        show_default=False,
        help="What `drover rm` does to the data: keep it (the default), keep it for some days, or destroy it.",
    ),
]
Replicas = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        show_default=False,
        help="Back ends with local copies: so many other nodes keep a copy (none by default).",
    ),
]
ReplicateEvery = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", show_default=False, help="Between two snapshots that they are sent; 60 by default."
    ),
]
MaxDataLoss = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        show_default=False,
        help="Of writing that may be lost when its node has died and another one goes on from its copy; 0, the "
        "default: a person decides.",
    ),
]
ReplicateAfter = Annotated[
    str | None,
    typer.Option(metavar="SIZE", show_default=False, help="Sends one earlier when so much has changed."),
]
