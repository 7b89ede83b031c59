"""`drover playground ...`: the verbs. What they need is imported when they run, so that --help is quick."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drover.coordinator.cli.options import Json

if TYPE_CHECKING:
    from drover.coordinator.cli.playground.layout import Layout, Profile
    from drover.coordinator.cli.playground.machine import Place

app = typer.Typer(
    name="playground",
    help="A whole cluster on this computer: nodes, etcd, power cuts, partitions. Needs root.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", show_default=False, help="The playground's directory: its name, and its data.")
]
Name = Annotated[
    str, typer.Argument(metavar="NODE", show_default=False, help="node-a, node-b, ...; or a member: etcd-1, ...")
]
OfAgent = Annotated[bool, typer.Option("--agent", help="Only the agent's process (of a member: etcd's).")]


class Timings(StrEnum):
    FAST = "fast"
    DEFAULT = "default"
    RELAXED = "relaxed"


class Separate(StrEnum):
    ETCD = "etcd"
    NODES = "nodes"
    ALL = "all"


class Verb(StrEnum):
    STOP = "stop"
    START = "start"
    RESTART = "restart"


@app.command()
def up(
    directory: Directory,
    nodes: Annotated[int, typer.Option(metavar="N", help="How many nodes.")] = 3,
    etcd: Annotated[int, typer.Option(metavar="1|3", help="How many etcd members.")] = 1,
    agents: Annotated[bool, typer.Option("--agents/--no-agents", help="Run an agent on every node.")] = True,
    timings: Annotated[Timings | None, typer.Option(help="The agents' deadlines.", show_default=False)] = None,
    etcd_fast: Annotated[
        bool, typer.Option("--etcd-fast", help="etcd elects in 0.5 s, not 1 s: not as in production.")
    ] = False,
    reset: Annotated[
        bool,
        typer.Option("--reset/--no-reset", help="A node that cannot stop all writing in time is reset by its guard."),
    ] = True,
    btrfs: Annotated[bool, typer.Option("--btrfs", help="Give each node a btrfs pool of its own.")] = False,
    zfs: Annotated[bool, typer.Option("--zfs", help="Give each node a ZFS pool of its own (zfs-fuse).")] = False,
    folders: Annotated[bool, typer.Option("--directory", help="Give each node a folder for datasets.")] = False,
    docker: Annotated[bool, typer.Option("--docker", help="Run a Docker Engine on every node.")] = False,
    tls: Annotated[
        bool, typer.Option("--tls", help="All ports and etcd have certificates, of an authority in DIR/certificates.")
    ] = False,
    ipv6: Annotated[bool, typer.Option("--ipv6", help="Machines have addresses of IPv6 only.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for all of it.")] = 60.0,
) -> None:
    """Start a playground; return when etcd and all agents answer.

    DIR is made if it is missing. After `down`, or a reboot, the same nodes come back with their data.
    """
    from drover.coordinator.cli.output import say
    from drover.coordinator.cli.playground.up import up as bring_up

    layout = _layout(directory)
    with _explained():
        profile: Profile | None = timings.value if timings else None
        settings = bring_up(
            layout, nodes, etcd, agents, profile, etcd_fast, reset, timeout, btrfs, docker, tls, ipv6, zfs, folders
        )
    say(f"{layout.directory} is up: {settings.nodes} nodes, {settings.etcd} etcd, {settings.network}")
    say(f'For etcdctl and drover: eval "$(drover playground env {shlex.quote(str(directory))})"')


@app.command()
def down(
    directory: Directory,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the directory, too.")] = False,
) -> None:
    """End a playground: no process, namespace, mount, loop device, interface or cgroup stays. Data and logs do."""
    from drover.coordinator.cli.playground.down import down as take_down

    with _explained():
        take_down(_layout(directory), delete)


@app.command()
def env(directory: Directory, json: Json = False) -> None:
    """Print what etcdctl and drover need, as lines for a shell."""
    import os
    import shutil

    from drover.coordinator.cli.output import say, say_json
    from drover.coordinator.cli.playground.status import environment

    layout = _layout(directory)
    found = environment(layout, layout.settings())
    if json:
        say_json(found)
        return
    for name, value in found.items():
        say(f"export {name}={shlex.quote(value)}")
    beside = Path(sys.executable).parent
    if not shutil.which("etcdctl", path=os.environ.get("PATH")) and (beside / "etcdctl").exists():
        say(f'export PATH={shlex.quote(str(beside))}:"$PATH"')


@app.command()
def status(directory: Directory, json: Json = False) -> None:
    """Show machines, their agents, partitions and devices."""
    from drover.coordinator.cli.output import say, say_json
    from drover.coordinator.cli.playground.status import rendered
    from drover.coordinator.cli.playground.status import status as look

    found = look(_layout(directory))
    if json:
        say_json(found)
    else:
        say(rendered(found))


@app.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def exec(
    directory: Directory,
    node: Name,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", show_default=False, help="What to run.")],
) -> None:
    """Run a command on a machine: in all its namespaces and its cgroup, with its exit status as ours."""
    from drover.coordinator.cli.playground.enter import enter

    place = _place(directory, node)
    command = command[1:] if command[0] == "--" else command
    raise typer.Exit(enter(place.running(), place.group.path, command))


@app.command()
def kill(
    directory: Directory,
    node: Name,
    soft: Annotated[
        bool, typer.Option("--soft", help="Only kill the processes: the kernel writes what was not synced.")
    ] = False,
    agent: OfAgent = False,
) -> None:
    """Cut a machine's power: what was not synced is lost, and nobody is told."""
    import signal

    with _changing(directory, node) as place:
        if agent:
            from drover.coordinator.cli.playground.agent import send

            send(place, signal.SIGKILL)
        else:
            from drover.coordinator.cli.playground.machine import power_cut

            power_cut(place, soft)


@app.command()
def start(directory: Directory, node: Name) -> None:
    """Switch a machine on again, with the same name, address and disk, in another boot."""
    from drover.coordinator.cli.playground.machine import start as switch_on

    with _changing(directory, node) as place:
        switch_on([place])


@app.command()
def freeze(
    directory: Directory,
    node: Name,
    machine: Annotated[
        bool, typer.Option("--machine", help="The machine hangs: its link and its disks stand still, too.")
    ] = False,
    agent: OfAgent = False,
) -> None:
    """Stop a machine's processes; its kernel goes on, so it still answers pings."""
    import signal

    with _changing(directory, node) as place:
        if agent:
            from drover.coordinator.cli.playground.agent import send

            send(place, signal.SIGSTOP)
        else:
            from drover.coordinator.cli.playground.machine import freeze as stop

            stop(place, whole=machine)


@app.command()
def thaw(directory: Directory, node: Name, agent: OfAgent = False) -> None:
    """Let a frozen machine go on."""
    import signal

    with _changing(directory, node) as place:
        if agent:
            from drover.coordinator.cli.playground.agent import send

            send(place, signal.SIGCONT)
        else:
            from drover.coordinator.cli.playground.machine import thaw as go_on

            go_on(place)


@app.command()
def partition(
    directory: Directory,
    node: Name,
    separate: Annotated[Separate, typer.Option("--from", help="From whom; all: this computer, too.")] = Separate.ALL,
    one_way: Annotated[bool, typer.Option("--one-way", help="Lose only what it sends; it still hears.")] = False,
) -> None:
    """Drop a machine's packets silently, for whatever addresses it has. Adds to earlier partitions."""
    from drover.coordinator.cli.playground import network
    from drover.coordinator.cli.playground.partition import From, pairs

    with _changing(directory, node) as place:
        network.cut(place.layout, pairs(place.layout, place.settings, place.machine, From(separate), one_way))


@app.command()
def heal(directory: Directory, node: Name) -> None:
    """End all partitions of a machine."""
    from drover.coordinator.cli.playground import network

    with _changing(directory, node) as place:
        network.heal(place.layout, place.machine)


@app.command()
def agent(
    directory: Directory, node: Name, verb: Annotated[Verb, typer.Argument(metavar="stop|start|restart")]
) -> None:
    """Stop a node's agent (it is not started again), start it, or restart it. kill --agent lets it die."""
    from drover.coordinator.cli.playground import agent as agents

    with _changing(directory, node) as place:
        if verb in (Verb.STOP, Verb.RESTART):
            agents.stop(place)
        if verb in (Verb.START, Verb.RESTART):
            agents.start(place, time.monotonic() + 20)


def _layout(directory: Path) -> Layout:
    from drover.coordinator.cli.playground.layout import Layout

    return Layout.of(directory)


def _place(directory: Path, name: str) -> Place:
    """Raises NotPossible where the playground is not up, Usage where it has no such machine."""
    from drover.coordinator.cli.errors import NotPossible
    from drover.coordinator.cli.playground.machine import Place
    from drover.coordinator.cli.playground.up import is_up

    layout = _layout(directory)
    settings = layout.settings()
    place = Place(layout, settings, settings.machine(name))
    if not is_up(layout, settings):
        raise NotPossible(f"the playground in {layout.directory} is down", f"drover playground up {directory}")
    return place


@contextmanager
def _changing(directory: Path, name: str) -> Iterator[Place]:
    from drover.coordinator.cli.playground.lock import locked

    with _explained(), locked(_place(directory, name).layout.directory):
        yield _place(directory, name)


@contextmanager
def _explained() -> Iterator[None]:
    """The kernel's answers name the file or call themselves."""
    from drover.coordinator.cli.errors import Failed

    try:
        yield
    except OSError as error:
        raise Failed(str(error), outcome="") from error
