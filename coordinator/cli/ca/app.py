"""`drover ca ...`: the verbs. What they need is imported when they run, so that --help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drover.coordinator.cli.options import Json
from drover.coordinator.identity import Role

app = typer.Typer(
    name="ca",
    help="Certificates for the cluster: a small authority in a directory. It needs neither etcd nor an agent; keep the "
    "directory where no node can read it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Directory = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The authority's directory.")]
_HERE = Path()


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", show_default=False, help="Made if it is missing.")],
    cluster: Annotated[
        str, typer.Option(metavar="NAME", help="The cluster's name, as its certificates say it.")
    ] = "drover",
    days: Annotated[int, typer.Option(metavar="N", min=1, max=36500, help="How long it is good for.")] = 3650,
    as_json: Json = False,
) -> None:
    """Make an authority: DIR/ca.crt, which everybody gets, and DIR/ca.key, which nobody else may have."""
    from drover.coordinator.cli.ca.init import init as run

    run(directory, cluster, days, as_json)


@app.command()
def issue(
    role: Annotated[
        Role, typer.Argument(metavar="node|operator|observer|etcd", show_default=False, help="What it is for.")
    ],
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="Whose it is: a node's name, a user of etcd.")
    ],
    address: Annotated[
        list[str] | None,
        typer.Option(
            "--address",
            metavar="ADDRESS",
            show_default=False,
            help="An address, IPv4 or IPv6, or host name of a node or member; may be given several times.",
        ),
    ] = None,
    days: Annotated[int, typer.Option(metavar="N", min=1, max=36500, help="How long it is good for.")] = 365,
    as_json: Json = False,
    directory: Directory = _HERE,
) -> None:
    """Make a certificate and its key: DIR/NAME.crt and DIR/NAME.key.

    A node's is good for the ports of its agent and towards etcd, an etcd member's for clients and peers. Operators and
    observers are users of etcd and of the agents' ports; what a user of etcd may do is for `drover etcd-roles`.
    """
    from drover.coordinator.cli.ca.issue import issue as run

    run(directory, role, name, address or [], days, as_json)


@app.command()
def renew(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", show_default=False, help="Whose; `ca`: the authority's own."),
    ] = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="With a new key: as after somebody may have read the old one.")
    ] = False,
    days: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=36500,
            show_default=False,
            help="How long they are good for: 365 days, the authority 3650, where nothing is said.",
        ),
    ] = None,
    as_json: Json = False,
    directory: Directory = _HERE,
) -> None:
    """Issue certificates again, with new dates; without names, those with less than a third of their life left.

    The key stays, so only NAME.crt has to be copied. Agents take new files up by themselves.
    """
    from drover.coordinator.cli.ca.renew import renew as run

    run(directory, names or [], new_key, days, as_json)


@app.command()
def show(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", show_default=False, help="Certificates, of any authority."),
    ] = None,
    as_json: Json = False,
    directory: Directory = _HERE,
) -> None:
    """Show what certificates say: whose, for what, where, and when they expire."""
    from drover.coordinator.cli.ca.show import show as run

    run(directory, files or [], as_json)
