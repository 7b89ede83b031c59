"""`make bench-move`: a planned move of an idle loopback dataset, from before its unmounting to after its mounting on
the other node, beside the bare commands and the bare system calls, interleaved; and ten datasets at once beside one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cluster import active, cluster, declare, put, record
from bench.measure import result, write
from drover.agent.storage import loopdev, mounts
from tests.playground import Playground

MOVES = 30
MANY = 10
NODES = ("node-a", "node-b")


@dataclass
class Bare:
    """An image of the same size and kind, moved between two directories without Drover."""

    image: Path
    here: Path
    there: Path

    def by_hand(self) -> float:
        """Milliseconds, by the commands in by_hand.sh."""
        script = Path(__file__).with_name("by_hand.sh")
        command = [str(script), str(self.image), str(self.here), str(self.there)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        self.here, self.there = self.there, self.here
        return float(printed)

    def by_calls(self) -> float:
        """Milliseconds, by the system calls alone: what no mover can be faster than."""
        descriptor = os.open(self.image, os.O_RDWR)
        try:
            loop = loopdev.backed_by(descriptor)[0]
            began = time.monotonic()
            mounts.unmount(str(self.here))
            loopdev.detach(loop, 5.0)
            loop = loopdev.attach(descriptor, direct_io=True)
            mounts.mount(loop.path, str(self.there), "xfs")
            took = time.monotonic() - began
        finally:
            os.close(descriptor)
        self.here, self.there = self.there, self.here
        return took * 1000


@contextmanager
def bare(directory: Path) -> Iterator[Bare]:
    image, here, there = directory / "bare.img", directory / "here", directory / "there"
    for path in (here, there):
        path.mkdir()
    with image.open("wb") as file:
        file.truncate(2**30)
    subprocess.run(["mkfs.xfs", "-q", str(image)], check=True)
    subprocess.run(["fallocate", "--length", str(2**30), str(image)], check=True)
    attach = ["losetup", "--find", "--show", "--direct-io=on", str(image)]
    device = subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["mount", "-o", "noatime", device, str(here)], check=True)
    one = Bare(image, here, there)
    try:
        yield one
    finally:
        for path in (here, there):
            subprocess.run(["umount", str(path)], check=False, capture_output=True)
        with image.open("rb") as file:
            for loop in loopdev.backed_by(file.fileno()):
                loopdev.detach(loop, 5.0)
        shutil.rmtree(directory, ignore_errors=True)


def move(playground: Playground, name: str, to: str) -> float:
    """Milliseconds that the dataset was mounted nowhere."""
    put(playground, name, to)
    return float(active(playground, name, to)["cutover_ms"])


def at_once(playground: Playground, names: list[str], to: str) -> float:
    """Seconds from the puts, in one transaction, until the last one is active on `to`."""
    puts = "".join(f"put /drover/desired/{name} {to}\n" for name in names)
    began = time.time()
    playground.etcdctl("txn", stdin=f"\n{puts}\n\n")
    for name in names:
        active(playground, name, to, every=0.1)
    return max(_since(playground, name) for name in names) - began


def _since(playground: Playground, name: str) -> float:
    """When a dataset became active, Unix time: its status says it to the millisecond."""
    from datetime import datetime

    return datetime.fromisoformat(record(playground, f"status/{name}")["since"]).timestamp()


def main() -> None:
    moves, hand, calls = [], [], []
    with tempfile.TemporaryDirectory(prefix="drover-bench-", dir="/var/tmp") as directory, bare(Path(directory)) as by:
        with cluster() as playground:
            declare(playground, "idle", NODES[0])
            for turn in range(MOVES + 2):
                moves.append(move(playground, "idle", NODES[(turn + 1) % 2]))
                hand.append(by.by_hand())
                calls.append(by.by_calls())
            names = [f"many-{n}" for n in range(1 + MANY)]
            for name in names:
                declare(playground, name, NODES[0], size="400MiB")
            one, ten = [], []
            for turn in range(6):
                to = NODES[(turn + 1) % 2]
                one.append(at_once(playground, names[:1], to))
                ten.append(at_once(playground, names[1:], to))
    write(
        "move",
        [
            result("loopback-cutover", "ms", moves[2:], hand[2:]),
            result("loopback-calls", "ms", calls[2:], hand[2:]),
            result("ten-at-once", "s", ten[1:], one[1:]),
        ],
    )


if __name__ == "__main__":
    main()
