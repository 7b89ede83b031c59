"""Writes docs/cli.md from the command itself: `python -m tools.cli_reference`. A test says when it is not fresh."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import typer

from drover.coordinator.cli import main, shapes
from drover.coordinator.cli.errors import ExitCode
from drover.coordinator.keys import DEFAULT_PREFIX

DOC = Path(__file__).parent.parent / "docs" / "cli.md"

_WIDTH = 110

_INTRODUCTION = f"""# The drover command

Made by `python -m tools.cli_reference` from the command itself; change the code, not this page.

Everything that `drover` does, etcdctl can do too: it reads and writes keys below one prefix (`{DEFAULT_PREFIX}`), by
transactions that compare what was read. It keeps nothing of its own. How far copies are and how much room a node has is
not in etcd: `move` asks the agents for it, and goes on without an answer.

It finds etcd by `--endpoints`, else `DROVER_ENDPOINTS`, else `ETCDCTL_ENDPOINTS`, else `127.0.0.1:2379`; the prefix by
`--prefix`, else `DROVER_PREFIX`. Certificates and a user come from `ETCDCTL_CACERT`, `ETCDCTL_CERT`, `ETCDCTL_KEY`,
`ETCDCTL_USER` and `ETCDCTL_PASSWORD`, as for etcdctl. Colour is for terminals; `NO_COLOR` turns it off.

`drover --install-completion` makes your shell complete verbs, options, datasets and nodes. Manual pages are made by
`python -m tools.man_pages DIRECTORY`.
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([_INTRODUCTION, *_exit_codes(), *_commands(), *_json(shapes)]).rstrip() + "\n"


def _exit_codes() -> Iterator[str]:
    yield "## Exit codes\n\n| code | meaning |\n|---|---|"
    yield from (f"| {int(code)} | {code.words} |" for code in ExitCode)
    yield "\nEvery error says what is wrong, what became of the user's data and intent, what to do, and its code."


def _commands() -> Iterator[str]:
    for name in main.VERBS:
        yield f"\n## drover {name}\n"
        yield from _help(main.load(name), f"drover {name}")


def _help(command: Any, path: str) -> Iterator[str]:
    with typer.Context(command, info_name=path, terminal_width=_WIDTH, max_content_width=_WIDTH) as context:
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield f"```\n{text}\n```"
    for name, verb in getattr(command, "commands", {}).items():
        yield f"\n### {path} {name}\n"
        yield from _help(verb, f"{path} {name}")


def _json(module: ModuleType) -> Iterator[str]:
    yield f"\n## JSON\n\n{(module.__doc__ or '').strip()}"
    for name, shape in vars(module).items():
        if typing.is_typeddict(shape):
            yield f"\n### {name}\n\n{shape.__doc__}\n\n| field | type | |\n|---|---|---|"
            for field, hint in typing.get_type_hints(shape, include_extras=True).items():
                bare, *told = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
                yield f"| `{field}` | {_type(bare)} | {' '.join(told)} |"
    yield '\nErrors are one line on standard error: `{"error": {"code", "kind", "message", "outcome", "todo"}}`.'


def _type(hint: Any) -> str:
    if hint is type(None):
        return "null"
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return "object"
    if inner:
        return " or ".join(_type(one) for one in inner)
    name = str(hint.__name__)
    return {"str": "text", "int": "number", "bool": "true or false"}.get(name, name)


if __name__ == "__main__":
    DOC.parent.mkdir(exist_ok=True)
    DOC.write_text(reference())
