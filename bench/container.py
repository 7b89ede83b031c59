"""`make bench-container`: how long a client of PostgreSQL in a container waits at a move, from its last answer before
it to its first one after, beside the same steps by hand, in the same run, interleaved: stop, unmount, detach, attach,
mount, start of a container that was made beforehand."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.cluster import record
from bench.measure import result, show, write
from tests.cluster import postgres
from tests.cluster.docker import Engines
from tests.cluster.postgres import Client
from tests.playground import eventually

RUNS = 10
NAME, BY_HAND, HAND_PORT = "db", "by-hand", 5433
_MOUNTED = "/srv/by-hand"


def gap(client: Client, move: Callable[[], None]) -> float:
    """Seconds that this client waited."""
    client.goes_on()
    began = time.monotonic()
    move()
    client.goes_on()
    return client.gap(began - 1)


def moved(engines: Engines, to: str) -> None:
    engines.etcdctl("put", f"/drover/desired/{NAME}", to)
    eventually(lambda: record(engines, f"status/{NAME}").get("node") == to, f"it is on {to}", 60, 0.1)


class Hand:
    """A second PostgreSQL, moved as an administrator would who has made everything ready."""

    def __init__(self, engines: Engines, image: Path) -> None:
        self._engines, self.node = engines, engines.nodes[0]
        with image.open("wb") as file:
            file.truncate(1 << 30)
        self._image = image.name
        for node in engines.nodes:
            engines.sh(node, f"mkdir -p {_MOUNTED}")
            options = ("-v", f"{_MOUNTED}:/data", "-p", f"{HAND_PORT}:{postgres.PORT}", "--stop-signal", "SIGINT")
            engines.docker(node, "create", "--name", BY_HAND, *options, postgres.IMAGE)
        engines.sh(self.node, f"mkfs.xfs -q {self._path(self.node)}")
        self._bring(self.node)

    def move(self) -> None:
        source = self.node
        self.node = next(node for node in self._engines.nodes if node != source)
        self._engines.sh(
            source,
            f"docker stop -t 10 {BY_HAND} >/dev/null; device=$(findmnt -n -o SOURCE {_MOUNTED}); "
            f"umount {_MOUNTED}; losetup -d $device",
        )
        self._bring(self.node)

    def _bring(self, node: str) -> None:
        self._engines.sh(
            node,
            f"device=$(losetup --find --show --direct-io=on {self._path(node)}); "
            f"mount -o noatime $device {_MOUNTED}; docker start {BY_HAND} >/dev/null",
        )

    def _path(self, node: str) -> Path:
        """Of the image, as this node sees it."""
        return self._engines.home(node) / "shared" / self._image


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.container")
    parser.add_argument("--runs", type=int, default=RUNS, help="fewer show only that it works, and are not kept")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory(prefix="drover-bench-", dir="/var/tmp") as directory:
        with Engines(Path(directory) / "playground") as engines:
            postgres.load(engines, engines.nodes)
            engines.etcdctl("put", f"/drover/datasets/{NAME}", '{"backend": "loopback", "size": "1GiB"}')
            engines.etcdctl("put", f"/drover/desired/{NAME}", engines.nodes[0])
            postgres.run(engines, NAME)
            hand = Hand(engines, engines.layout.shared / "by-hand.img")
            addresses = [engines.address(node) for node in engines.nodes]
            ours, theirs = [], []
            with Client(addresses) as client, Client(addresses, HAND_PORT) as other:
                for turn in range(runs + 1):
                    to = engines.nodes[(turn + 1) % 2]
                    ours.append(gap(client, partial(moved, engines, to)))
                    theirs.append(gap(other, hand.move))
                client.all_there()
    found = [result("container-gap", "s", ours[1:], theirs[1:])]
    write("container", found) if runs >= RUNS else show(found)


if __name__ == "__main__":
    main()
