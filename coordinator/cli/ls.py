"""`drover ls`: all datasets, one line each."""

from __future__ import annotations

from typing import Annotated

import typer

from drover.coordinator.cli import copies, options, output
from drover.coordinator.cli.connection import connection, run
from drover.coordinator.cli.describe import dataset_json, now
from drover.coordinator.cli.pause import paused_json
from drover.coordinator.cli.picture import Dataset, Picture, Undeclared, take_warned
from drover.coordinator.cli.shapes import DatasetsJson, TrashedJson
from drover.coordinator.cli.situation import INVALID, UNPLACED, NeedsYou, situation
from drover.coordinator.keys import DEFAULT_PREFIX
from drover.coordinator.records import Phase, State, Trashed
from drover.coordinator.sizes import format_size

HEAD = ("DATASET", "NODE", "PHASE", "SIZE", "BACKEND", "COPIES", "WHY")
"""COPIES only where a dataset has any: how old what its standbys have acknowledged is."""

_COPIES = HEAD.index("COPIES")
_COLOURS = {
    Phase.ACTIVE: "green",
    Phase.FAILED: "red",
    INVALID: "red",
    Phase.WAITING: "yellow",
    Phase.STARTING: "yellow",
    Phase.MOVING: "yellow",
}


def paint(phase: str) -> str:
    """The phase in its colour."""
    return output.colour(phase, _COLOURS.get(phase, "dim"))


def shown(dataset: Dataset, everything: bool) -> bool:
    """Without `everything`, those whose spec is gone and that nobody has any more are left out."""
    gone = isinstance(dataset.declaration, Undeclared) and dataset.desired is None
    held = dataset.tenure is not None and dataset.tenure.held
    return everything or not gone or held


def orphans(picture: Picture) -> list[str]:
    """Datasets whose spec is gone, and whose data nobody has and nobody destroys."""
    return [
        name
        for name, it in picture.datasets.items()
        if not shown(it, False) and it.tenure and it.tenure.state is State.RELEASED and it.tenure.reclaim != "delete"
        if name not in picture.trash
    ]


def _left(trashed: Trashed) -> str:
    return output.seconds(max(0.0, (trashed.until - now()).total_seconds()))


def _trashed(name: str, it: Trashed) -> TrashedJson:
    return TrashedJson(name=name, dataset=it.dataset, uid=it.uid, size=it.spec.size, until=it.until.isoformat())


def row(dataset: Dataset, picture: Picture) -> list[str]:
    seen = situation(dataset, picture, now())
    why = seen.why
    if seen.why == UNPLACED and isinstance(seen.next, NeedsYou):
        why = f"{why}: {seen.next.what}"
    spec, tenure = dataset.spec, dataset.tenure
    size = format_size(spec.size) if spec else ""
    backend = spec.backend if spec else tenure.backend if tenure else ""
    return [dataset.name, seen.node, seen.phase, size, backend, copies.cell(dataset, now()), why]


def ls(
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that were removed, with what became of the data.")
    ] = False,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """List all datasets: where each is, and why it is not where or as it should be."""
    picture, doubt = run(connection(endpoints, prefix), take_warned)
    if doubt:
        output.complain(output.plain(f"warning: {doubt}"))
    datasets = [it for it in picture.datasets.values() if shown(it, everything) and it.name not in picture.trash]
    if as_json:
        output.say_json(
            DatasetsJson(
                datasets=[dataset_json(it, picture) for it in datasets],
                ignored=dict(picture.ignored),
                paused=paused_json(picture.pause),
                trash=[_trashed(name, it) for name, it in picture.trash.items()],
            )
        )
        return
    if datasets:
        rows = [list(HEAD), *(row(it, picture) for it in datasets)]
        if not any(cells[_COPIES] for cells in rows[1:]):
            rows = [[*cells[:_COPIES], *cells[_COPIES + 1 :]] for cells in rows]
        output.say(output.table(rows[0], rows[1:], {"PHASE": paint}))
    else:
        output.complain("No datasets yet. Declare one: drover create NAME --size 1GiB")
    if picture.trash and everything:
        rows = [
            [name, it.dataset, format_size(it.spec.size), _left(it), it.by]
            for name, it in sorted(picture.trash.items(), key=lambda one: one[1].until)
        ]
        output.say("\n" + output.table(("IN THE TRASH", "WAS", "SIZE", "DESTROYED IN", "REMOVED BY"), rows))
    elif picture.trash:
        names = output.listing(sorted({it.dataset for it in picture.trash.values()}))
        output.complain(output.plain(f"in the trash: {names}. To see how long: drover ls --all"))
    if not everything and (kept := orphans(picture)):
        output.complain(output.plain(f"removed, data kept: {output.listing(kept)}. To see them: drover ls --all"))
    if apart := {it.name: it.diverged for it in datasets if it.diverged}:
        told = output.listing([f"{name} on {output.listing(list(where))}" for name, where in apart.items()])
        output.complain(output.plain(f"diverged, kept: {told}. To decide: drover show, drover resolve"))
    if picture.pause is not None:
        output.complain(output.plain(f"{picture.pause.words}: nothing moves or fails over. To go on: drover resume"))
    for key, reason in sorted(picture.ignored.items()):
        output.complain(f"ignored: {output.plain(f'{key}: {reason}')}")
