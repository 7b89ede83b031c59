"""`make bench-failover`: seconds from the power cut of a dataset's node until it is writable elsewhere, with default
timings and three etcd members; the same with the etcd leader's power cut at the same moment; and beside it Patroni,
whose primary runs on the machine that dies. Then how soon it is where something proves that the node has stopped.

Every run also checks that nobody took over before the dead node's own D_hard: all nodes share one kernel, and so one
clock."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bench.cluster import active, cluster, declare, record
from bench.measure import result, show, write
from bench.postgres import DROVERS, PATRONIS, FirstCommit, Patroni, bring, patroni, workload
from drover.coordinator.cli.playground.init import HOLD, SERVICE_PID
from drover.coordinator.cli.playground.machine import power_cut
from tests.playground import Playground, eventually

RUNS = 20
DB = "db"
SPEC = {"size": "400MiB", "failover": "any", "fencing": "hard"}
"""Every node is armed: silence proves that it has stopped."""
PATIENCE = 120.0
"""Seconds that Patroni may need; its ttl is 30."""


@dataclass(frozen=True)
class Proved:
    """A fail-over that need not have waited for silence. since: seconds from when it could be proved; whole: from the
    event; by: the evidence it rests on."""

    since: float
    whole: float
    by: str


@dataclass
class Samples:
    """Seconds from a power cut. mounted: until status says so; writable: until PostgreSQL on the dataset has
    committed; peer: until PostgreSQL under Patroni has."""

    mounted: list[float] = field(default_factory=list)
    writable: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)


def leader(playground: Playground) -> str:
    """The name of the etcd member that leads."""
    told = json.loads(playground.etcdctl("endpoint", "status", "-w", "json"))
    for member in told:
        status = member["Status"]
        if status["leader"] == status["header"]["member_id"]:
            address = member["Endpoint"].split("//")[-1].rpartition(":")[0]
            return next(name for name in playground.members if playground.address(name) == address)
    raise SystemExit("etcd has no leader")


def unix(told: str) -> float:
    """A time stamp of a record."""
    return datetime.fromisoformat(told).timestamp()


def booted(at: float) -> float:
    """CLOCK_BOOTTIME as Unix time."""
    return at + time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def others(playground: Playground, node: str) -> list[str]:
    return [name for name in playground.nodes if name != node]


def evidence(playground: Playground) -> str:
    """That its newest tenure rests on."""
    return str(record(playground, f"owners/{DB}").get("evidence"))


def cut(playground: Playground, peer: Patroni, samples: Samples, with_leader: bool) -> None:
    """One power cut; everything runs again afterwards."""
    node = peer.settle()
    bring(playground, DB, node)
    victims = [node, leader(playground)] if with_leader else [node]
    alive = others(playground, node)
    with ExitStack() as stack:
        clients = [stack.enter_context(FirstCommit(playground, port, alive)) for port in (DROVERS, PATRONIS)]
        began = time.time()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda victim: power_cut(playground.place(victim)), victims))
        mounted = unix(active(playground, DB, *alive, every=0.05)["since"])
        last = record(playground, f"heartbeats/{node}")
        assert mounted > booted(last["clock"]) + last["d_hard"], "taken over before the dead node's D_hard"
        writable, promoted = (client.at(PATIENCE) for client in clients)
    samples.mounted.append(mounted - began)
    samples.writable.append(writable - began)
    samples.peer.append(promoted - began)
    for victim in victims:
        playground.start(victim)
    back(playground, node)
    peer.ended(node)
    peer.start(node)


def agent_killed(playground: Playground) -> Proved:
    """Its agent is killed and does not come back; until the dataset is active elsewhere. It can be proved once the
    guard's ladder has ended and left nothing."""
    node = record(playground, f"owners/{DB}")["node"]
    playground.sh(node, f"touch {HOLD}; kill -KILL $(cat {SERVICE_PID})")
    killed = time.time()
    active_since = unix(active(playground, DB, *others(playground, node), every=0.05)["since"])
    by = evidence(playground)
    ladder = json.loads(playground.sh(node, "cat /run/drover/ladder.json"))
    assert not ladder["left"]
    playground.start_agent(node)
    back(playground, node)
    return Proved(active_since - booted(ladder["at"]), active_since - killed, by)


def reboot(playground: Playground) -> Proved:
    """Its power is cut and comes back at once; until the dataset is active, on whichever node. It can be proved once
    the new agent asks to join; the event is that the machine is switched on."""
    owner = record(playground, f"owners/{DB}")
    node = owner["node"]
    playground.kill(node)
    on = time.time()
    playground.start(node)

    def taken() -> bool:
        status: dict[str, Any] = record(playground, f"status/{DB}")
        return status.get("phase") == "active" and status["epoch"] > owner["epoch"]

    eventually(taken, f"{DB} is active again", 30, every=0.05)
    since = unix(record(playground, f"status/{DB}")["since"])
    by = evidence(playground)
    back(playground, node)
    joined = unix(record(playground, f"nodes/{node}")["joined"])
    return Proved(since - joined, since - on, by)


def back(playground: Playground, node: str) -> None:
    """This node is a member again, in an incarnation that nobody has fenced, and etcd is whole."""

    def joined() -> bool:
        incarnation = record(playground, f"nodes/{node}").get("incarnation")
        beats = record(playground, f"heartbeats/{node}").get("incarnation") == incarnation
        return bool(incarnation) and beats and not record(playground, f"fences/{incarnation}")

    eventually(joined, f"{node} is back", 30, every=0.1)
    eventually(lambda: _healthy(playground), "all etcd members answer", 30, every=0.1)


def _healthy(playground: Playground) -> bool:
    try:
        playground.etcdctl("endpoint", "health")
    except AssertionError:
        return False
    return True


def both(name: str, samples: Sequence[Proved], wanted: str) -> list[dict[str, Any]]:
    """Where silence was the quicker proof, there is nothing to count from: those runs are in the whole time only."""
    since = [one.since for one in samples if one.by == wanted]
    by = dict(Counter(one.by for one in samples))
    whole = result(f"{name}-whole", "s", [one.whole for one in samples]) | {"evidence": by}
    return [result(name, "s", since), whole] if since else [whole]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=RUNS, help=f"of each kind; fewer than {RUNS} are not written down")
    runs = parser.parse_args().runs
    plain, led = Samples(), Samples()
    with cluster(reset=True) as playground, patroni(playground) as peer:
        declare(playground, DB, "node-a", **SPEC)
        workload(playground, DB)
        for _ in range(runs):
            cut(playground, peer, plain, with_leader=False)
            cut(playground, peer, led, with_leader=True)
    with cluster(reset=True) as playground:
        declare(playground, DB, "node-a", **SPEC)
        killed = [agent_killed(playground) for _ in range(runs)]
        rebooted = [reboot(playground) for _ in range(runs)]
    results = [
        result("failover-loopback", "s", plain.mounted),
        result("failover-loopback-leader", "s", led.mounted),
        result("failover-postgresql", "s", plain.writable, plain.peer),
        result("failover-postgresql-leader", "s", led.writable, led.peer),
        result("failover-patroni", "s", plain.peer),
        result("failover-patroni-leader", "s", led.peer),
        *both("failover-agent-killed", killed, "stopped"),
        *both("failover-reboot", rebooted, "reboot"),
    ]
    if runs < RUNS:
        show(results)
    else:
        write("failover", results)
    for line in results:
        if "evidence" in line:
            print(f"{line['name']}: taken over by {line['evidence']}")


if __name__ == "__main__":
    main()
