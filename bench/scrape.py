"""What a scrape costs where a node has 1,000 datasets mounted: `python -m bench.scrape`. Needs neither root nor etcd.

The parts are real (HTTP server, view, metrics, statfs of 1,000 directories); records and mounts are made up.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.request import urlopen

from bench.measure import result, write
from drover.agent.api import http
from drover.agent.room import Room
from drover.agent.sight import Sight
from drover.agent.storage.mounts import usage
from drover.agent.telemetry import Telemetry
from drover.coordinator.keys import Keys
from drover.coordinator.member import Member
from drover.coordinator.records import Copies, Copy, Phase, State, Status, Tenure
from drover.coordinator.specs import DatasetSpec
from drover.coordinator.store import Change, Store
from drover.coordinator.timings import PROFILES
from drover.coordinator.txn import Entry
from drover.coordinator.view import View

DATASETS = 1000
RUNS = 30


def _view() -> View:
    """Of a cluster with all the datasets here, active, and a copy of each elsewhere."""
    view = View(cast(Store, None), keys := Keys("/drover"))
    spec = DatasetSpec(backend="btrfs", size=1 << 30, replicas=1)
    changes: list[Change] = []

    def put(key: str, value: bytes) -> None:
        revision = len(changes) + 1
        changes.append(Change(key, Entry(key, value, revision, revision, 0), revision))

    for number in range(DATASETS):
        name = f"dataset-{number}"
        tenure = Tenure(
            node="node-a",
            incarnation="node-a.1.1",
            epoch=1,
            state=State.ACTIVE,
            uid=name,
            created=1,
            backend="btrfs",
            txn="1",
        )
        copy = Copy(guid=name, name=name, taken=1.0)
        put(keys.copies(name), Copies(epoch=1, uid=name, standbys=("node-b",), nodes={"node-b": copy}).encode())
        put(keys.dataset(name), spec.encode())
        put(keys.owner(name), tenure.encode())
        put(keys.status(name), Status(phase=Phase.ACTIVE, node="node-a", epoch=1).encode())
    view._apply(changes)
    return view


async def _run(directory: Path) -> tuple[list[float], list[float]]:
    """Seconds of whole scrapes, and for which each kept the event loop."""
    sight, telemetry, view = Sight("node-a"), Telemetry("node-a", room=Room(every=0)), _view()
    for name in view.names():
        (directory / name).mkdir()
    mounts = {name: partial(usage, directory / name) for name in view.names()}
    member = SimpleNamespace(
        view=view,
        node="node-a",
        incarnation="node-a.1.1",
        live=True,
        timings=PROFILES["default"],
        margin=lambda: 4.0,
        history_piles_up=False,
        etcd_known_bugs=0,
    )
    local = SimpleNamespace(looks={"loopback": 1}, mounts=mounts)
    sight.show(cast(Member, member), cast(Any, SimpleNamespace(statuses={})), cast(Any, local))
    scrapes, held, seen = [], [], list[int]()
    async with http.serving(sight, telemetry, "127.0.0.1:0") as port:

        def scrape() -> float:
            began = time.perf_counter()
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                body = answer.read()
            took = time.perf_counter() - began
            lines = body.decode().splitlines()
            seen.append(sum(line.startswith("drover_dataset_used_bytes{") for line in lines))
            assert sum(line.startswith("drover_replica_age_seconds{") for line in lines) == DATASETS
            return took

        await asyncio.to_thread(scrape)
        for _ in range(RUNS):
            scrapes.append(await asyncio.to_thread(scrape))
            began = time.perf_counter()
            sight.gauges()
            held.append(time.perf_counter() - began)
    telemetry.close()
    assert seen[1:] == [DATASETS] * RUNS
    return scrapes, held


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        scrapes, held = asyncio.run(_run(Path(directory)))
    write(
        "scrape",
        [
            result("scrape-1000", "ms", [1000 * took for took in scrapes]),
            result("scrape-1000-loop", "ms", [1000 * took for took in held]),
        ],
    )


if __name__ == "__main__":
    main()
