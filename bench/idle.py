"""`make bench-idle`: what an agent costs that has nothing to do: three nodes, 200 datasets, all active and none in use.

Before that, how long it takes until all are active; after it, until an agent that was killed is healthy again."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

from bench.cluster import cluster
from bench.measure import result, write
from drover.coordinator.cli.playground.layout import HTTP_PORT
from tests.playground import Playground, eventually

DATASETS = 200
SPEC = json.dumps({"backend": "loopback", "size": "16MiB", "fs": "ext4"})
"""The smallest that the back end makes."""
WINDOW = 120.0
"""Seconds of idleness that are measured."""
_QUIET = 10.0
"""Seconds without a step after which a cluster counts as idle."""
_BATCH = 50
"""Datasets declared in one transaction: etcd takes 128 operations."""
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """What one agent has used so far. cpu: seconds. rss, pss: MB (10^6 bytes)."""

    cpu: float
    rss: float
    helpers_cpu: float
    helpers_pss: float
    looks: float


def declare_all(playground: Playground) -> list[str]:
    """Spread over the nodes. What `drover create --on` writes, without a start of Python for each."""
    names = [f"d{number:03}" for number in range(DATASETS)]
    for first in range(0, DATASETS, _BATCH):
        puts = ""
        for number, name in list(enumerate(names))[first : first + _BATCH]:
            puts += f"put /drover/datasets/{name} {json.dumps(SPEC)}\n"
            puts += f"put /drover/desired/{name} {playground.nodes[number % len(playground.nodes)]}\n"
        playground.etcdctl("txn", stdin=f"\n{puts}\n\n")
    return names


def records(playground: Playground, kind: str) -> dict[str, tuple[int, dict[str, str]]]:
    """All records below /drover/KIND, by name: the revision of the last write, and what it says."""
    prefix = f"/drover/{kind}/"
    key, end = (base64.b64encode(text.encode()).decode() for text in (prefix, prefix[:-1] + "0"))
    asked = json.dumps({"key": key, "range_end": end}).encode()
    with urlopen(Request(f"{playground.endpoints[0]}/v3/kv/range", asked), timeout=5) as answer:
        found = json.load(answer).get("kvs", [])
    return {
        base64.b64decode(one["key"]).decode().removeprefix(prefix): (
            int(one["mod_revision"]),
            json.loads(base64.b64decode(one["value"])),
        )
        for one in found
    }


def metric(url: str, name: str, **labels: str) -> float:
    """The sum of a metric's series that have these labels."""
    with urlopen(f"{url}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    series = [line for line in lines if re.match(rf"{name}[{{ ]", line) and all(label in line for label in wanted)]
    return sum(float(line.rpartition(" ")[2]) for line in series)


def agent_url(playground: Playground, node: str) -> str:
    return f"http://{playground.address(node)}:{HTTP_PORT}"


def ranges(playground: Playground) -> float:
    """Range requests that etcd has answered, on all members."""
    name = "grpc_server_handled_total"
    return sum(metric(url, name, grpc_service="etcdserverpb.KV", grpc_method="Range") for url in playground.endpoints)


def cpu(pid: int) -> float:
    """Seconds, of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def memory(pid: int, file: str, field: str) -> float:
    """MB."""
    text = Path(f"/proc/{pid}/{file}").read_text()
    return int(text.partition(f"{field}:")[2].split()[0]) * 1024 / 1e6


def usage(playground: Playground, node: str) -> Usage:
    pid = playground.service_pid(node)
    assert pid is not None, f"the agent of {node} does not run"
    helpers = children(pid)
    return Usage(
        cpu(pid),
        memory(pid, "status", "VmRSS"),
        sum(map(cpu, helpers)),
        sum(memory(helper, "smaps_rollup", "Pss") for helper in helpers),
        metric(agent_url(playground, node), "drover_backend_looks_total"),
    )


def settle(playground: Playground, within: float = 120.0) -> None:
    """Until no worker has run a step for a while."""

    def steps() -> list[float]:
        return [metric(agent_url(playground, node), "drover_steps_total") for node in playground.nodes]

    deadline = time.monotonic() + within
    before, since = steps(), time.monotonic()
    while time.monotonic() - since < _QUIET:
        assert time.monotonic() < deadline, f"the agents still work after {within} s"
        time.sleep(1.0)
        if (now := steps()) != before:
            before, since = now, time.monotonic()


def activate_all(playground: Playground) -> float:
    """Seconds from the first put until the last status says active."""
    began = time.monotonic()
    names = declare_all(playground)

    def all_active() -> bool:
        time.sleep(0.2)
        found = records(playground, "status")
        return all(found.get(name, (0, {}))[1].get("phase") == "active" for name in names)

    eventually(all_active, f"{DATASETS} datasets are active", 300)
    return time.monotonic() - began


def restart(playground: Playground, node: str) -> tuple[float, float]:
    """Seconds from the kill of an agent until it is healthy again, and until it has taken up all its datasets: it
    touches the tenure of each."""
    owners = records(playground, "owners").items()
    before = {name: revision for name, (revision, owner) in owners if owner["node"] == node}

    def healthy() -> bool:
        with suppress(OSError), urlopen(f"{agent_url(playground, node)}/healthz", timeout=1):
            return True
        return False

    def taken_up() -> bool:
        time.sleep(0.05)
        now = records(playground, "owners")
        return all(now[name][0] > revision for name, revision in before.items())

    began = time.monotonic()
    playground.kill_agent(node)
    eventually(healthy, f"{node} is healthy again", 60)
    served = time.monotonic() - began
    eventually(taken_up, f"{node} has taken up its datasets", 60)
    return served, time.monotonic() - began


def main() -> None:
    with cluster() as playground:
        activation = activate_all(playground)
        settle(playground)
        asked, before = ranges(playground), [usage(playground, node) for node in playground.nodes]
        began = time.monotonic()
        time.sleep(WINDOW)
        took = time.monotonic() - began
        after, asked = [usage(playground, node) for node in playground.nodes], ranges(playground) - asked
        restarts = [restart(playground, node) for node in playground.nodes]
    pairs, minutes = list(zip(before, after, strict=True)), took / 60
    write(
        "idle",
        [
            result("idle-cpu", "% of a core", [100 * (b.cpu - a.cpu) / took for a, b in pairs]),
            result("idle-rss", "MB", [b.rss for b in after]),
            result("idle-ranges", "a minute", [asked / len(pairs) / minutes]),
            result("idle-listings", "a minute", [(b.looks - a.looks) / minutes for a, b in pairs]),
            result("idle-helpers-cpu", "% of a core", [100 * (b.helpers_cpu - a.helpers_cpu) / took for a, b in pairs]),
            result("idle-helpers-pss", "MB", [b.helpers_pss for b in after]),
            result("activate-200", "s", [activation]),
            result("restart-healthy", "s", [served for served, _ in restarts]),
            result("restart-taken-up", "s", [taken for _, taken in restarts]),
        ],
    )


if __name__ == "__main__":
    main()
