"""`drover etcd-roles`: users and roles of etcd, so that each may do what it has to and no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from drover.coordinator.access import ROOT, Kin, Step, Wanted, steps
from drover.coordinator.cli import options, output
from drover.coordinator.cli.connection import connection, open_etcd, run_with
from drover.coordinator.cli.errors import Failed, Usage
from drover.coordinator.cli.shapes import RolesJson
from drover.coordinator.keys import DEFAULT_PREFIX, name_error
from drover.coordinator.store import Denied

_PATIENCE = 15.0
"""Seconds: etcd computes with each password for a while, on all members, and does nothing else meanwhile."""

Names = list[str] | None


def _named(what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        metavar="USER", show_default=False, help=f"{what}; may be given several times."
    )
    return option


def etcd_roles(
    agent: Annotated[Names, _named("A user that is an agent: all below the prefix, and nothing else")] = None,
    operator: Annotated[Names, _named("One that changes what is wanted, and sees everything below the prefix")] = None,
    observer: Annotated[Names, _named("One that sees everything below the prefix, and changes nothing")] = None,
    password: Annotated[
        list[str] | None,
        typer.Option(
            metavar="USER=FILE",
            show_default=False,
            help="The user logs in with the password in this file; others come with a certificate of that name.",
        ),
    ] = None,
    enable: Annotated[
        bool, typer.Option("--enable", help="From now on etcd asks everybody who they are. It needs the user root.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Set up users and roles in etcd, so that each may do what it has to and no more.

    May be given again at any time, and says what it changed. Users that are not named keep what they have. Once etcd
    asks who is there, this command needs the user root.
    """
    where = connection(endpoints, prefix)
    passwords = _passwords(password or [])
    wanted = _wanted(
        {Kin.AGENT: agent or [], Kin.OPERATOR: operator or [], Kin.OBSERVER: observer or []}, enable, passwords
    )

    async def work() -> list[Step]:
        async with open_etcd(where, _PATIENCE) as etcd:
            try:
                todo = steps(where.keys, wanted, await etcd.auth.found())
                for step in () if dry_run else todo:
                    await etcd.auth.do(step, passwords)
            except Denied as error:
                raise Failed(
                    f"etcd denies access ({error})",
                    "Give this as the user root: with its certificate, or ETCDCTL_USER.",
                ) from error
            return todo

    _tell(run_with(where, work), dry_run, as_json)


def _wanted(named: dict[Kin, list[str]], enable: bool, passwords: dict[str, str]) -> Wanted:
    users: dict[str, Kin] = {}
    for kin, names in named.items():
        for name in names:
            if wrong := name_error(name):
                raise Usage(f"the {kin}: {wrong}")
            if name in users or name == ROOT:
                raise Usage(f"{name} cannot be {kin}, too", "Each user has one role; root is etcd's own.")
            users[name] = kin
    if unknown := sorted(set(passwords) - set(users) - {ROOT}):
        raise Usage(
            f"{output.plain(unknown[0])!r} has a password, but no role",
            f"Say which: --agent {unknown[0]}, for example.",
        )
    return Wanted(users, enable, frozenset(passwords))


def _passwords(given: Sequence[str]) -> dict[str, str]:
    """Raises Usage, which never shows a password."""
    found: dict[str, str] = {}
    for text in given:
        user, equals, file = text.partition("=")
        if not equals or not user:
            raise Usage("a password is given as USER=FILE", "Example: --password node-a=/root/node-a.password")
        try:
            found[user] = Path(file).read_text().strip()
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else "it is not text"
            raise Usage(f"the password of {output.plain(user)} cannot be read: {said}") from None
        if not found[user]:
            raise Usage(f"the password of {output.plain(user)} is empty")
    return found


def _tell(done: list[Step], dry_run: bool, as_json: bool) -> None:
    if as_json:
        output.say_json(RolesJson(dry_run=dry_run, steps=[str(step) for step in done]))
        return
    for step in done:
        output.say(f"{'(not done) ' if dry_run else ''}{step}")
    if not done:
        output.say("Nothing to do: users and roles are as they should be.")
