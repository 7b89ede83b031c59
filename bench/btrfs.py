"""`make bench-btrfs`: a planned move of a btrfs dataset of which a little was changed, from before its unmounting to
after its mounting on the other node, beside the bare commands, interleaved."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cluster import active, cluster, declare
from bench.measure import result, write
from bench.move import NODES, move

MOVES = 50
CHANGED = 64 * 1024
"""Bytes that are written before each move."""
_FILLED = 64 * 2**20
"""Bytes of data that do not change."""
_POOL = 2 * 2**30


@dataclass
class Bare:
    """Two pools, and a subvolume that is moved between them without Drover."""

    pools: tuple[Path, Path]
    mounts: tuple[Path, Path]
    turn: int = 0

    def cut_over(self) -> float:
        """Milliseconds, by the commands in btrfs_by_hand.sh, after a little was written."""
        here, there = self.turn % 2, (self.turn + 1) % 2
        (self.mounts[here] / "changed").write_bytes(bytes(CHANGED))
        script = Path(__file__).with_name("btrfs_by_hand.sh")
        paths = (self.pools[here], self.pools[there])
        names = (f"s{self.turn}", f"s{self.turn + 1}")
        command = [str(part) for part in (script, *paths, *names, self.mounts[here], self.mounts[there])]
        self.turn += 1
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@contextmanager
def bare(directory: Path) -> Iterator[Bare]:
    pools = (directory / "pool-a", directory / "pool-b")
    mounts = (directory / "here", directory / "there")
    try:
        for path in (*pools, *mounts):
            path.mkdir()
        for pool in pools:
            image = pool.with_suffix(".img")
            with image.open("wb") as file:
                file.truncate(_POOL)
            _run("mkfs.btrfs", "--quiet", image)
            _run("mount", "-o", "loop,noatime", image, pool)
        _run("btrfs", "subvolume", "create", pools[0] / "live")
        (pools[0] / "live/data").write_bytes(bytes(range(256)) * (_FILLED // 256))
        _run("btrfs", "subvolume", "snapshot", "-r", pools[0] / "live", pools[0] / "s0")
        _run("sh", "-c", 'btrfs -q send "$0" | btrfs -q receive "$1"', pools[0] / "s0", pools[1])
        _run("mount", "--bind", pools[0] / "live", mounts[0])
        yield Bare(pools, mounts)
    finally:
        for path in (*mounts, *pools):
            subprocess.run(["umount", str(path)], check=False, capture_output=True)


def _run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def main() -> None:
    moves, hand = [], []
    with tempfile.TemporaryDirectory(prefix="drover-bench-", dir="/var/tmp") as directory, bare(Path(directory)) as by:
        with cluster(btrfs=True) as playground:
            declare(playground, "tiny", NODES[0], backend="btrfs")
            path = active(playground, "tiny", NODES[0])["path"]
            playground.sh(NODES[0], f"head -c {_FILLED} /dev/urandom > {path}/data && sync -f {path}")
            for turn in range(MOVES + 2):
                here = NODES[turn % 2]
                playground.sh(here, f"head -c {CHANGED} /dev/urandom > {path}/changed")
                moves.append(move(playground, "tiny", NODES[(turn + 1) % 2]))
                hand.append(by.cut_over())
    write("btrfs", [result("btrfs-cutover", "ms", moves[2:], hand[2:])])


if __name__ == "__main__":
    main()
