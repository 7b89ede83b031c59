"""`drover verify`: whether a dataset's standbys have what its node has."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer

from drover.coordinator.cli import options, output
from drover.coordinator.cli.comparing import Difference
from drover.coordinator.cli.completion import nodes
from drover.coordinator.cli.connection import Access, connection, from_environment, run
from drover.coordinator.cli.describe import the_dataset
from drover.coordinator.cli.errors import ExitCode, Failed, NotPossible
from drover.coordinator.cli.output import listing
from drover.coordinator.cli.picture import Dataset, Picture, take
from drover.coordinator.cli.shapes import VerifiedCopyJson, VerifiedJson
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.records import Copy, State, Tenure
from drover.coordinator.sizes import format_size
from drover.coordinator.store import Store

SHOWN = 100
"""Differences of one copy that are told; the others are counted."""
_EVERY = 5.0
"""Seconds between two lines of progress."""
_TRIES = 3
"""Snapshots come and go while nothing of them is read yet."""


@dataclass(frozen=True)
class Verified:
    """One standby's copy. read: bytes of content on each node. count: of differences; the first of them are there."""

    node: str
    copy: Copy
    read: int
    count: int
    differences: tuple[Difference, ...]


async def verify_it(
    store: Store, keys: Keys, name: str, only: str, access: Access, say: Callable[[str], None]
) -> list[Verified]:
    """Each standby's newest copy, against the same snapshot on the node that has the dataset. Raises CliError,
    StoreError."""
    done: list[Verified] = []
    for node in _standbys(the_dataset(name, await take(store, keys)), only):
        for tries in range(1, _TRIES + 1):
            picture = await take(store, keys)
            dataset = the_dataset(name, picture)
            try:
                done.append(await _verify(dataset, node, picture, access, say))
                break
            except _Gone as error:
                if tries == _TRIES:
                    raise Failed(str(error), "Give the command again.", "") from None
    return done


class _Gone(Exception):
    """A snapshot was removed before it was read."""


def _standbys(dataset: Dataset, only: str) -> list[str]:
    """Raises NotPossible."""
    tenure, copies = _held(dataset), dataset.copies
    there = sorted(copies.nodes) if copies and (copies.uid, copies.epoch) == (tenure.uid, tenure.epoch) else []
    if only and only not in there:
        known = f"It is on {listing(there)}." if there else f"Look: drover show {dataset.name}"
        raise NotPossible(f"{only} has acknowledged no copy of {dataset.name} in this epoch", known)
    if not there:
        raise NotPossible(
            f"no standby has acknowledged a copy of {dataset.name} in this epoch",
            f"Is one wanted? drover set {dataset.name} --replicas 1. Is it on its way? drover show {dataset.name}",
        )
    return [only] if only else there


def _held(dataset: Dataset) -> Tenure:
    tenure = dataset.tenure
    if tenure is None or tenure.state is not State.ACTIVE:
        raise NotPossible(f"nobody has {dataset.name} at the moment", f"Look: drover show {dataset.name}")
    return tenure


async def _verify(
    dataset: Dataset, node: str, picture: Picture, access: Access, say: Callable[[str], None]
) -> Verified:
    """Raises CliError, _Gone."""
    from drover.coordinator.cli.comparing import compare
    from drover.coordinator.cli.examined import NotTold, examined

    tenure = _held(dataset)
    copy = dataset.copies.nodes.get(node) if dataset.copies else None
    if copy is None:
        raise _Gone(f"{node} is no standby of {dataset.name} any more")
    asked = {"dataset": dataset.name, "uid": tenure.uid, "guid": copy.guid}
    progress = _Progress(dataset.name, node, say)
    found: list[Difference] = []
    count = 0
    try:
        async with (
            examined(tenure.node, _address(tenure.node, picture), access, asked, progress.source) as ours,
            examined(node, _address(node, picture), access, asked, progress.copy) as theirs,
            aclosing(compare((tenure.node, ours), (node, theirs))) as differences,
        ):
            async for one in differences:
                count += 1
                if count <= SHOWN:
                    found.append(one)
    except NotTold as error:
        if error.gone:
            raise _Gone(str(error)) from None
        raise Failed(f"{dataset.name} on {node} could not be verified: {error}", "", "") from None
    return Verified(node, copy, progress.read, count, tuple(found))


def _address(node: str, picture: Picture) -> str:
    record = picture.nodes[node].record if node in picture.nodes else None
    return record.grpc if record else ""


class _Progress:
    """A line now and then. read: bytes, on the node that is behind."""

    def __init__(self, name: str, node: str, say: Callable[[str], None]) -> None:
        self._name, self._node, self._say = name, node, say
        self._ours = self._theirs = 0
        self._began = self._said = time.monotonic()

    @property
    def read(self) -> int:
        return min(self._ours, self._theirs)

    def source(self, read: int) -> None:
        self._ours = read
        self._tell()

    def copy(self, read: int) -> None:
        self._theirs = read
        self._tell()

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._said >= _EVERY and self.read:
            self._said = now
            rate = format_size(round(self.read / (now - self._began)))
            self._say(f"  {self._name} on {self._node}: {format_size(self.read)} compared, {rate}/s")


def tell(name: str, done: list[Verified], as_json: bool) -> None:
    if as_json:
        copies = [
            VerifiedCopyJson(
                node=it.node,
                guid=it.copy.guid,
                at=it.copy.at,
                bytes=it.read,
                count=it.count,
                differences=[{"path": one.path, "what": one.what} for one in it.differences],
            )
            for it in done
        ]
        output.say_json(VerifiedJson(dataset=name, same=not any(it.count for it in done), copies=copies))
        return
    for it in done:
        verdict = f"{it.count} difference{'s' * (it.count > 1)}" if it.count else "the same"
        output.say(output.plain(f"{name} on {it.node}: the copy of {it.copy.at}, {format_size(it.read)}: {verdict}"))
        for one in it.differences:
            output.say(output.plain(f"  {one.path}: {one.what}"))
        if it.count > len(it.differences):
            output.say(f"  and {it.count - len(it.differences)} more")


def verify(
    name: options.DatasetName,
    node: Annotated[
        str,
        typer.Option(metavar="NODE", show_default=False, help="Only this standby.", autocompletion=nodes),
    ] = "",
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Compare a dataset's standbys with the node that has it, file by file.

    Both nodes read the same snapshot from their disks, at the lowest priority, and tell digests of what is in it; the
    dataset itself is not touched. Exit code 1: something differs, or cannot be read.
    """
    say: Callable[[str], None] = (lambda text: None) if as_json else _say
    where = connection(endpoints, prefix)
    access = where.access or from_environment()
    done = run(where, partial(verify_it, name=name, only=node, access=access, say=say))
    tell(name, done, as_json)
    if any(it.count for it in done):
        raise typer.Exit(ExitCode.FAILED)


def _say(text: str) -> None:
    output.complain(output.plain(text))
