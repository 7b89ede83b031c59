"""Bringing data that is on this node into new datasets: declare, wait until mounted here, copy, copy what has changed.

Copying is rsync's: what it leaves out, it has checked. Used by `drover import` and `drover adopt`, on the node itself.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drover.coordinator.cli import spec
from drover.coordinator.cli.connection import Connection, run
from drover.coordinator.cli.create import Request, declare
from drover.coordinator.cli.errors import Failed, NotPossible
from drover.coordinator.cli.follow import follow
from drover.coordinator.cli.output import listing
from drover.coordinator.cli.picture import Picture, Undeclared, take
from drover.coordinator.keys import Keys
from drover.coordinator.sizes import format_size
from drover.coordinator.store import Store

LEAST = 320 << 20
"""Bytes: the least that every file system of every back end takes."""
_STEP = 64 << 20
_MOUNTED_WITHIN = 60.0
_ROUNDS = 5
_SHORT = 1.0
"""Seconds: a round of copying that took no longer is as good as another one."""


@dataclass(frozen=True)
class Place:
    """How new datasets are to be made: all on this node."""

    where: Connection
    node: str
    backend: str
    options: dict[str, Any]


def place(where: Connection, on: str, backend: str, options: dict[str, Any]) -> Place:
    """on: the name of this node, if it is not the host's. backend: "": the only one that it offers. Raises
    NotPossible."""
    if shutil.which("rsync") is None:
        raise NotPossible("rsync is not installed on this machine", "Install it: apt-get install rsync")
    node = on or socket.gethostname()
    picture = run(where, take)
    found = picture.live.get(node)
    if found is None or found.record is None:
        raise NotPossible(
            f"this machine is not a node that is here: {node!r}",
            f"Run it on the node that has the data; nodes that are here: {listing(list(picture.live))}. --on says "
            "another name than the host's.",
        )
    offered = found.record.backends
    if not backend and len(offered) != 1:
        raise NotPossible(f"{node} offers several back ends: {listing(offered)}", "Say which: --backend NAME")
    return Place(where, node, backend or offered[0], options)


def absent(names: Sequence[str], picture: Picture) -> None:
    """Raises NotPossible where there is a dataset of one of these names."""
    for name in names:
        there = picture.datasets.get(name)
        if there is not None and not isinstance(there.declaration, Undeclared):
            raise NotPossible(f"there is a dataset {name} already", f"Look: drover show {name}")


def used(directory: Path) -> int:
    """Bytes of disk below it. Raises Failed."""
    done = subprocess.run(["du", "-sxB1", "--", str(directory)], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{directory} cannot be measured: {done.stderr.strip()}")
    return int(done.stdout.split()[0])


def room_for(size: int) -> int:
    """Twice as much, in whole steps."""
    return max(LEAST, -(-2 * size // _STEP) * _STEP)


def make(at: Place, name: str, source: Path, size: str) -> Path:
    """A new dataset for what is in a directory, mounted on this node; where. size: "": twice what is there.
    Raises CliError."""
    raw = {"backend": at.backend, "size": size or format_size(room_for(used(source))).replace(" ", ""), **at.options}
    spec.check(raw)

    async def made(store: Store, keys: Keys) -> str:
        await declare(store, keys, Request(name, raw, at.node))
        await follow(store, keys, name, at.node, 0, _MOUNTED_WITHIN)
        status = (await take(store, keys)).datasets[name].status
        return status.path or "" if status else ""

    path = Path(run(at.where, made) or "/nonexistent")
    if not os.path.ismount(path):
        raise Failed(
            f"{name} is mounted at {path} on {at.node}, and that is not on this machine",
            f"Run it on {at.node}. To take the new dataset away: drover rm {name}",
            outcome="",
        )
    return path


def copy(source: Path, target: Path) -> float:
    """What is different, with owners, times, links, attributes and lists of access; what is gone there goes here, too.
    Returns the seconds that it took. Raises Failed."""
    began = time.monotonic()
    options = ["-aHAXS", "--numeric-ids", "--delete", "--inplace", "--exclude=/lost+found"]
    done = subprocess.run(
        ["rsync", *options, "--", f"{source}/", f"{target}/"], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 24):  # 24: a file went while it was copied
        said = done.stderr.strip().splitlines()
        raise Failed(f"copying {source} failed: {said[-1] if said else f'rsync says {done.returncode}'}", outcome="")
    return time.monotonic() - began


def copy_ahead(source: Path, target: Path) -> int:
    """While it is in use: rounds, until another one would not be shorter. Returns how many."""
    last = copy(source, target)
    for done in range(1, _ROUNDS):
        if last < _SHORT:
            return done
        took = copy(source, target)
        if took > last / 2:
            return done + 1
        last = took
    return _ROUNDS


def sync(target: Path) -> None:
    """All of it is on the disk afterwards."""
    subprocess.run(["sync", "-f", str(target)], check=True)


def differences(source: Path, target: Path) -> list[str]:
    """Files whose contents or attributes are not the same, as rsync finds by reading all of both."""
    options = ["-aHAXSnci", "--numeric-ids", "--delete", "--exclude=/lost+found"]
    done = subprocess.run(["rsync", *options, "--", f"{source}/", f"{target}/"], capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if line and not line.startswith(".d..t")]
