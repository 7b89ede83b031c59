"""What `create`, `set` and `move` tell after a change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drover.coordinator.cli import output
from drover.coordinator.cli.describe import dataset_json, now
from drover.coordinator.cli.picture import Picture
from drover.coordinator.cli.shapes import ChangeJson
from drover.coordinator.cli.situation import NeedsYou, OnItsOwn, situation


@dataclass(frozen=True)
class Change:
    """picture: read after the change. headline and facts: for people."""

    name: str
    picture: Picture
    headline: str
    facts: Sequence[tuple[str, str]] = ()
    changed: bool = True
    warnings: Sequence[str] = ()


def change_json(change: Change) -> ChangeJson:
    dataset = change.picture.datasets[change.name]
    return ChangeJson(
        changed=change.changed, warnings=list(change.warnings), dataset=dataset_json(dataset, change.picture)
    )


def tell(change: Change, as_json: bool) -> None:
    """Warnings on standard error, the rest on standard output."""
    if as_json:
        output.say_json(change_json(change))
        return
    dataset = change.picture.datasets[change.name]
    for warning in change.warnings:
        output.warn(warning)
    output.say(output.plain(change.headline))
    match situation(dataset, change.picture, now()):
        case situation_ if isinstance(situation_.next, NeedsYou):
            following = ("needs you", situation_.next.what)
        case situation_ if isinstance(situation_.next, OnItsOwn):
            following = ("on its own", situation_.next.what)
        case _:
            following = ("", "")
    if lines := output.facts([*change.facts, following]):
        output.say(lines)
