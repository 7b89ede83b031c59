"""`make bench-failover`: seconds from the power cut of a dataset's node until it is mounted elsewhere, with default
timings and three etcd members; then the same with the etcd leader's power cut at the same moment.

Every run also checks that nobody took over before the dead node's own D_hard: all nodes share one kernel, and so one
clock."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from bench.cluster import active, cluster, declare, record
from bench.measure import result, write
from drover.coordinator.cli.playground.machine import power_cut
from tests.playground import Playground, eventually

RUNS = 10


def leader(playground: Playground) -> str:
    """The name of the etcd member that leads."""
    told = json.loads(playground.etcdctl("endpoint", "status", "-w", "json"))
    for member in told:
        status = member["Status"]
        if status["leader"] == status["header"]["member_id"]:
            address = member["Endpoint"].split("//")[-1].rpartition(":")[0]
            return next(name for name in playground.members if playground.address(name) == address)
    raise SystemExit("etcd has no leader")


def failover(playground: Playground, name: str, with_leader: bool) -> float:
    """Seconds to mounted elsewhere; everything runs again afterwards."""
    node = record(playground, f"owners/{name}")["node"]
    victims = [node, leader(playground)] if with_leader else [node]
    others = [n for n in playground.nodes if n != node]
    cut = time.time()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda victim: power_cut(playground.place(victim)), victims))
    status = active(playground, name, *others)
    mounted = datetime.fromisoformat(status["since"]).timestamp()
    last = record(playground, f"heartbeats/{node}")
    boot_now, now = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
    assert boot_now - (now - mounted) > last["clock"] + last["d_hard"], "taken over before the dead node's D_hard"
    for victim in victims:
        playground.start(victim)
    eventually(lambda: bool(record(playground, f"nodes/{node}")), f"{node} is back", 30)
    eventually(lambda: _healthy(playground), "all etcd members answer", 30)
    return mounted - cut


def _healthy(playground: Playground) -> bool:
    try:
        playground.etcdctl("endpoint", "health")
    except AssertionError:
        return False
    return True


def main() -> None:
    plain, led = [], []
    with cluster() as playground:
        declare(playground, "db", "node-a", size="400MiB", failover="any", fencing="cooperative")
        for _ in range(RUNS):
            plain.append(failover(playground, "db", with_leader=False))
            led.append(failover(playground, "db", with_leader=True))
    write("failover", [result("failover-loopback", "s", plain), result("failover-loopback-leader", "s", led)])


if __name__ == "__main__":
    main()
