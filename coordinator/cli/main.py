"""The `drover` command. A verb's module is imported when that verb is asked for: `drover --help` imports none."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core
import typer.main
from typer.exceptions import TyperException

from drover import __version__
from drover.coordinator.cli.errors import CliError, ExitCode, Failed, Interrupted, Usage


@dataclass(frozen=True)
class Verb:
    """One verb. summary: its docstring's first line. target: a function, or a typer app with verbs of its own."""

    summary: str
    target: str


_HERE = "drover.coordinator.cli"

VERBS = {
    "create": Verb("Declare a dataset.", f"{_HERE}.create:create"),
    "apply": Verb(
        "Make the services and volumes of a Compose file run as it says: workloads and datasets.",
        f"{_HERE}.apply:apply",
    ),
    "adopt": Verb(
        "Turn a running container of this node, with its volumes, into a workload that moves with its datasets.",
        f"{_HERE}.adopt:adopt",
    ),
    "import": Verb(
        "Make a dataset of a directory of this node, with all that is in it. Run it there.", f"{_HERE}.import_:import_"
    ),
    "ls": Verb("List all datasets: where each is, and why it is not where or as it should be.", f"{_HERE}.ls:ls"),
    "show": Verb(
        "Show one dataset: where it is and why, what its spec means, what comes next, its last epochs.",
        f"{_HERE}.show:show",
    ),
    "set": Verb("Change a dataset: its size, and what happens when its node dies.", f"{_HERE}.set:set_"),
    "move": Verb("Move a dataset to a node, with all that uses it.", f"{_HERE}.move:move"),
    "rm": Verb(
        "Remove a dataset: its data is kept, put in the trash or destroyed, as its reclaim says.", f"{_HERE}.rm:rm"
    ),
    "undelete": Verb(
        "Take a dataset out of the trash, under its old name or another one.", f"{_HERE}.undelete:undelete"
    ),
    "snapshot": Verb("Take a snapshot of a dataset, while it is in use.", f"{_HERE}.snapshot:snapshot"),
    "snapshots": Verb("The snapshots of datasets: list them, remove one.", f"{_HERE}.snapshot:app"),
    "resolve": Verb(
        "Decide which copy of a dataset counts, where copies have diverged or only an older one is left.",
        f"{_HERE}.resolve:resolve",
    ),
    "verify": Verb("Compare a dataset's standbys with the node that has it, file by file.", f"{_HERE}.verify:verify"),
    "nodes": Verb(
        "List all nodes: who is here, who is silent, who has left, who is fenced and why.", f"{_HERE}.nodes:nodes"
    ),
    "events": Verb(
        "Tell what happened: changes of owner with who asked, fences, cordons, pauses; with -f what happens now.",
        f"{_HERE}.events:events",
    ),
    "doctor": Verb(
        "Examine this node and the cluster: what is wrong, and what to do about it.", f"{_HERE}.doctor.doctor:doctor"
    ),
    "cordon": Verb("Let a node take no new datasets. What it has stays there.", f"{_HERE}.cordon:cordon"),
    "uncordon": Verb("Let a node take datasets again. Nothing comes back by itself.", f"{_HERE}.cordon:uncordon"),
    "drain": Verb("Cordon a node and move all its datasets to others, a few at a time.", f"{_HERE}.drain:drain"),
    "pause": Verb(
        "Pause the cluster: nothing moves or fails over, and owners go on writing though etcd is away.",
        f"{_HERE}.pause:pause",
    ),
    "resume": Verb(
        "End a pause. Returns when every node that is here goes by its usual deadlines again.", f"{_HERE}.pause:resume"
    ),
    "fence": Verb(
        "Give your word that a machine is off, so that others may take its datasets.", f"{_HERE}.fence:fence"
    ),
    "recover": Verb("Go on after etcd was restored from a backup, or with a copy of it.", f"{_HERE}.recover:recover"),
    "ca": Verb("Certificates for the cluster: a small authority in a directory.", f"{_HERE}.ca.app:app"),
    "etcd-roles": Verb(
        "Set up users and roles in etcd, so that each may do what it has to and no more.",
        f"{_HERE}.etcd_roles:etcd_roles",
    ),
    "etcd-unit": Verb(
        "Print a systemd unit for one member of etcd, with the flags that a small one should run with.",
        f"{_HERE}.etcd_unit:etcd_unit",
    ),
    "playground": Verb("A whole cluster on this machine, to try things on.", f"{_HERE}.playground.app:app"),
}
"""In the order of the help."""


def load(name: str) -> typer.core.TyperCommand | typer.core.TyperGroup:
    """The command of a verb; imports its module."""
    module, _, attribute = VERBS[name].target.partition(":")
    target: Any = getattr(import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        app = _plain_app()
        app.command(name)(target)
        target = app
    command: Any = typer.main.get_command(target)
    command.name = name
    return command  # type: ignore[no-any-return]


class Verbs(typer.core.TyperGroup):
    """A group that knows its commands' names and summaries without importing them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(VERBS)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in VERBS and not args[0].startswith("-"):
            from drover.coordinator.cli.output import near, plain

            raise Usage(f"there is no command {plain(args[0])!r}", near(args[0], VERBS, "Help: drover --help"), "")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load(cmd_name) if cmd_name in VERBS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])


def _plain_app(add_completion: bool = False, **settings: Any) -> typer.Typer:
    return typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=add_completion, **settings)


app = _plain_app(
    add_completion=True, cls=Verbs, no_args_is_help=True, context_settings={"help_option_names": ["--help", "-h"]}
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"drover {__version__}")
        raise typer.Exit


@app.callback()
def drover(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Keeps containers and their data together while they move between machines.

    All that drover does, etcdctl can do too: it reads and writes keys below one prefix.
    """


def run(arguments: Sequence[str]) -> int:
    """One command, as from the shell. Returns the exit code; never raises for what a user or etcd did."""
    try:
        code = typer.main.get_command(app).main(args=list(arguments), prog_name="drover", standalone_mode=False)
    except CliError as error:
        return _complain(error, arguments)
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
            return ExitCode.USAGE
        return _complain(_usage(error), arguments)
    except (typer.Abort, KeyboardInterrupt):
        return _complain(_stopped(), arguments)
    if code == ExitCode.INTERRUPTED:  # typer's answer to Ctrl-C, without a word
        return _complain(_stopped(), arguments)
    return code if isinstance(code, int) else ExitCode.DONE


def _stopped() -> CliError:
    """A verb that waits for something says itself what goes on without it."""
    outcome = "What had been asked of etcd by then may have happened, and is not taken back."
    return Interrupted("stopped", "To look: drover ls", outcome)


def _usage(error: TyperException) -> CliError:
    """typer's own complaints, in our words."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "drover"
    message = message[0].lower() + message[1:]
    return (Usage if error.exit_code == ExitCode.USAGE else Failed)(message, f"Help: {path} --help", outcome="")


def _complain(error: CliError, arguments: Sequence[str]) -> int:
    from drover.coordinator.cli import output

    if "--json" in arguments:
        output.complain(output.as_json(error.as_json()))
    else:
        output.complain(error.render())
    return int(error.code)


def main() -> None:
    """Entry point. A reader that closes the pipe early (`drover ls | head -1`) is no error."""
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()
        code = ExitCode.FAILED
    sys.exit(code)
