"""A playground to measure in, and the few things that all measurements ask of it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.playground import Playground


@contextmanager
def cluster(etcd: int = 3) -> Iterator[Playground]:
    """Three nodes, default timings, etcd's own defaults."""
    with tempfile.TemporaryDirectory(prefix="drover-bench-", dir="/var/tmp") as directory:
        with Playground(Path(directory) / "playground", nodes=3, etcd=etcd, timings="default") as playground:
            yield playground


def record(playground: Playground, key: str) -> dict[str, Any]:
    """A record below /drover; empty where there is none."""
    text = playground.etcdctl("get", "--print-value-only", f"/drover/{key}")
    value: dict[str, Any] = json.loads(text) if text else {}
    return value


def declare(playground: Playground, name: str, on: str, size: str = "1GiB", **spec: str) -> None:
    """A dataset that is active on a node."""
    playground.etcdctl("put", f"/drover/datasets/{name}", json.dumps({"backend": "loopback", "size": size} | spec))
    put(playground, name, on)
    active(playground, name, on)


def put(playground: Playground, name: str, node: str) -> None:
    playground.etcdctl("put", f"/drover/desired/{name}", node)


def active(playground: Playground, name: str, *nodes: str, within: float = 30.0) -> dict[str, Any]:
    """Waits until its status says active on one of these nodes; that status."""
    found: dict[str, Any] = {}

    def there() -> bool:
        nonlocal found
        found = record(playground, f"status/{name}")
        return found.get("phase") == "active" and found.get("node") in nodes

    until(there, f"{name} active on {' or '.join(nodes)}", within)
    return found


def until(condition: Callable[[], bool], what: str, within: float) -> None:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {within:g} s: {what}")
        time.sleep(0.02)
