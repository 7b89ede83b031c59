"""`make bench-heartbeats`: how late heartbeats are sent under load: 200 datasets that never come to rest, a core burnt
beside them, and a copy of 5 GiB going on inside another dataset.

Told by the clock that the sender writes into each heartbeat: how much later than H after the one before it was sent.
One that etcd did not take is missing, so the next one counts as late by all of its time."""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection
from typing import Any

from bench.cluster import cluster, declare
from bench.idle import DATASETS, declare_all, records
from bench.measure import result, show, write
from drover.coordinator.timings import PROFILES
from tests.playground import Playground, eventually

WINDOW = 120.0
"""Seconds that are measured."""
H = PROFILES["default"].heartbeat
BATCH = 50
COPIED = 5 * 1024
"""MiB."""


class Heartbeats:
    """All that nodes send, while the context lasts: by node and incarnation, the counter of each and when it was sent
    on the sender's CLOCK_BOOTTIME, seconds. Watched, for etcd's history may be compacted meanwhile."""

    def __init__(self, playground: Playground) -> None:
        self.sent: dict[tuple[str, str], list[tuple[int, float]]] = {}
        self._connection = HTTPConnection(playground.endpoints[0].partition("//")[2], timeout=30)
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Heartbeats:
        key, end = (base64.b64encode(f"/drover/heartbeats{last}".encode()).decode() for last in "/0")
        self._connection.request("POST", "/v3/watch", json.dumps({"create_request": {"key": key, "range_end": end}}))
        self._answer = self._connection.getresponse()
        self._answer.readline()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._thread.join()
        self._connection.close()

    _ends = False

    def _read(self) -> None:
        while not self._ends:
            for event in json.loads(self._answer.readline())["result"].get("events", []):
                node = base64.b64decode(event["kv"]["key"]).decode().rpartition("/")[2]
                beat: dict[str, Any] = json.loads(base64.b64decode(event["kv"]["value"]))
                self.sent.setdefault((node, beat["incarnation"]), []).append((beat["counter"], beat["clock"]))

    def late(self) -> list[float]:
        """Milliseconds."""
        return [max(0.0, 1000 * (after - before - H)) for (_, before), (_, after) in self._pairs()]

    def missing(self) -> int:
        """How many etcd did not take in the time that they have."""
        return sum(after - before - 1 for (before, _), (after, _) in self._pairs())

    def _pairs(self) -> list[tuple[tuple[int, float], tuple[int, float]]]:
        return [pair for sent in self.sent.values() for pair in itertools.pairwise(sent)]


def percentile(samples: Sequence[float], part: float) -> float:
    """The smallest sample that at least this part of all does not exceed."""
    return sorted(samples)[math.ceil(part * len(samples)) - 1]


@contextmanager
def process(started: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """Runs until the context's end. Raises AssertionError where it has ended before."""
    try:
        yield started
        assert started.poll() is None, f"{started.args!r} has ended with {started.returncode}"
    finally:
        started.terminate()
        started.communicate(timeout=30)


def copying(playground: Playground) -> subprocess.Popen[str]:
    """Copies inside the dataset `big`, over and over, from when there is something to copy."""
    return playground.popen(
        "node-a", "sh", "-ec", "while cp /srv/drover/big/from /srv/drover/big/to; do rm /srv/drover/big/to; done"
    )


def move_all(playground: Playground, names: Sequence[str], by: int) -> None:
    """Every dataset by so many nodes further than where it was declared."""
    wanted = {name: playground.nodes[(number + by) % len(playground.nodes)] for number, name in enumerate(names)}
    for first in range(0, len(names), BATCH):
        puts = "".join(f"put /drover/desired/{name} {wanted[name]}\n" for name in names[first : first + BATCH])
        playground.etcdctl("txn", stdin=f"\n{puts}\n\n")


def converged(playground: Playground, names: Sequence[str], by: int) -> bool:
    """Whether they are all active where `move_all` wants them."""
    status = {name: told for name, (_, told) in records(playground, "status").items()}
    return all(
        status.get(name, {}).get("phase") == "active"
        and status[name]["node"] == playground.nodes[(number + by) % len(playground.nodes)]
        for number, name in enumerate(names)
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=WINDOW, help=f"fewer than {WINDOW:.0f} are not written down")
    window: float = parser.parse_args().seconds
    with cluster() as playground, ExitStack() as load:
        declare(playground, "big", "node-a", size="12GiB")
        playground.exec(
            "node-a", "dd", "if=/dev/zero", "of=/srv/drover/big/from", "bs=1M", f"count={COPIED}", timeout=600
        )
        load.enter_context(process(copying(playground)))
        load.enter_context(process(subprocess.Popen([sys.executable, "-c", "while True: pass"])))
        with Heartbeats(playground) as heartbeats:
            ends, by, rounds = time.monotonic() + window, 0, []
            names = declare_all(playground)
            while time.monotonic() < ends:
                began = time.monotonic()
                eventually(partial(converged, playground, names, by), "all are where they belong", 600, every=1.0)
                rounds.append(time.monotonic() - began)
                by += 1
                move_all(playground, names, by)
        late = heartbeats.late()
    assert len(heartbeats.sent) == len(playground.nodes), "a node lost its incarnation"
    line = result("heartbeats-late", "ms", late) | {
        "p99": round(percentile(late, 0.99), 3),
        "missing": heartbeats.missing(),
    }
    results = [line, result(f"converge-{DATASETS}-under-load", "s", rounds)]
    if window < WINDOW:
        show(results)
    else:
        write("heartbeats", results)
    print(f"p99 of {len(late)} heartbeats: {line['p99']} ms late; {line['missing']} etcd did not take in time")


if __name__ == "__main__":
    main()
