"""`make bench-zfs`: a round of a move of a ZFS dataset of which one percent was changed, from its snapshot to the
target's answer that it is durable, beside the bare commands and beside syncoid, interleaved. On zfs-fuse."""

from __future__ import annotations

import re
from pathlib import Path

from bench.cluster import active, cluster, declare, put
from bench.measure import result, write
from bench.move import NODES
from tests.playground import Playground

ROUNDS = 10
_FILLED, _CHANGED = 200, 2
"""MiB."""
_HERE = Path(__file__).parent.resolve()
_SYNCOID = _HERE.parent / ".cache/syncoid"
_ROUND = re.compile(r"round 1: the difference, \d+ bytes in ([\d.]+) s")


def rounds(playground: Playground) -> list[float]:
    """Milliseconds of the first round of each move that sent a difference, as the agents' logs tell them."""
    logs = [playground.layout.log(playground.place(node).machine).read_text() for node in NODES]
    return [1000 * float(found) for log in logs for found in _ROUND.findall(log)]


def by_hand(playground: Playground, *command: str) -> float:
    return float(playground.exec(NODES[0], *command, check=True).stdout)


def fill(playground: Playground, node: str, path: str, mib: int) -> None:
    script = f"head -c {mib}M /dev/urandom | dd of={path} bs=1M conv=notrunc,fsync status=none"
    playground.exec(node, "sh", "-ec", script, timeout=120)


def main() -> None:
    drover: list[float] = []
    hand: list[float] = []
    syncoid: list[float] = []
    with cluster(zfs=True) as playground:
        declare(playground, "notes", NODES[0], backend="zfs")
        path = active(playground, "notes", NODES[0])["path"]
        fill(playground, NODES[0], f"{path}/data", _FILLED)
        for name in ("raw", "sync"):
            playground.sh(NODES[0], f"zfs create -o mountpoint=/run/{name} tank/{name}")
            fill(playground, NODES[0], f"/run/{name}/data", _FILLED)
        playground.sh(NODES[0], "zfs snapshot tank/raw@0 && zfs send tank/raw@0 | zfs receive tank/raw-copy")
        by_hand(playground, str(_HERE / "syncoid.sh"), str(_SYNCOID))
        for turn in range(ROUNDS + 1):
            here, there = NODES[turn % 2], NODES[(turn + 1) % 2]
            fill(playground, here, f"{path}/data", _CHANGED)
            before = len(rounds(playground))
            put(playground, "notes", there)
            active(playground, "notes", there, within=120, every=0.05)
            drover += rounds(playground)[before:]
            for name in ("raw", "sync"):
                fill(playground, NODES[0], f"/run/{name}/data", _CHANGED)
            script = str(_HERE / "zfs_by_hand.sh")
            hand.append(by_hand(playground, script, str(turn), str(turn + 1)))
            syncoid.append(by_hand(playground, str(_HERE / "syncoid.sh"), str(_SYNCOID)))
    write("zfs", [result("zfs-round", "ms", drover, hand), result("zfs-round-syncoid", "ms", syncoid, hand)])


if __name__ == "__main__":
    main()
