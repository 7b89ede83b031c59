"""A playground to measure in, and the few things that all measurements ask of it."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tests.playground import Playground, eventually


@contextmanager
def cluster(etcd: int = 3, reset: bool = False, btrfs: bool = False, zfs: bool = False) -> Iterator[Playground]:
    """Three nodes, default timings, etcd's own defaults. reset: every node is armed. btrfs, zfs: and has a pool."""
    with tempfile.TemporaryDirectory(prefix="drover-bench-", dir="/var/tmp") as directory:
        where = Path(directory) / "playground"
        with Playground(where, nodes=3, etcd=etcd, timings="default", reset=reset, btrfs=btrfs, zfs=zfs) as playground:
            yield playground


def record(playground: Playground, key: str) -> dict[str, Any]:
    """A record below /drover; empty where there is none. By HTTP: a process for each look would take a processor from
    what is measured."""
    asked = json.dumps({"key": base64.b64encode(f"/drover/{key}".encode()).decode()}).encode()
    for endpoint in playground.endpoints:
        with suppress(OSError), urlopen(Request(f"{endpoint}/v3/kv/range", asked), timeout=1) as answer:
            found = json.load(answer).get("kvs", [])
            value: dict[str, Any] = json.loads(base64.b64decode(found[0]["value"])) if found else {}
            return value
    return {}


def declare(playground: Playground, name: str, on: str, size: str = "1GiB", **spec: str) -> None:
    """A dataset that is active on a node."""
    playground.etcdctl("put", f"/drover/datasets/{name}", json.dumps({"backend": "loopback", "size": size} | spec))
    put(playground, name, on)
    active(playground, name, on)


def put(playground: Playground, name: str, node: str) -> None:
    playground.etcdctl("put", f"/drover/desired/{name}", node)


def active(playground: Playground, name: str, *nodes: str, within: float = 30.0, every: float = 0.01) -> dict[str, Any]:
    """Waits until its status says active on one of these nodes; that status. every: seconds between two looks, which
    cost processor time that what is measured needs, too."""
    found: dict[str, Any] = {}

    def there() -> bool:
        nonlocal found
        found = record(playground, f"status/{name}")
        return found.get("phase") == "active" and found.get("node") in nodes

    eventually(there, f"{name} active on {' or '.join(nodes)}", within, every)
    return found
