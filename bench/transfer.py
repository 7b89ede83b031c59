"""`make bench-transfer`: a full copy by `btrfs send` and `btrfs receive` through the data path, plain and with TLS,
beside the same two commands with a TCP connection as standard output and input, which nothing can be faster than on a
network; interleaved, each onto a new file system and from a source that was mounted anew, until the target is synced.

Images are in a tmpfs of their own. Both ends share this machine's processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import result, write
from bench.synced import SNAPSHOT, synced
from drover.agent.tls import Files
from drover.agent.transfer.base import Check, Outgoing, Waits
from tests.certificates import Certificates
from tests.contract.transfer_stage import Arrivals, connected, node

ROOT = Path(__file__).parents[1]
LARGE, SMALL = 10 << 20, 4 << 10


def run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@dataclass(frozen=True)
class Pools:
    directory: Path
    size: int
    options: str

    @property
    def source(self) -> Path:
        return self.directory / "source"

    @property
    def target(self) -> Path:
        return self.directory / "target"

    def make(self) -> None:
        for pool in (self.source, self.target):
            pool.mkdir()
            with pool.with_suffix(".img").open("wb") as image:
                image.truncate(self.size)
        self._format(self.source)
        self._mount(self.source)

    def fill(self, write_into: Callable[[Path], None]) -> None:
        run("btrfs", "subvolume", "create", self.source / "live")
        write_into(self.source / "live")
        run("btrfs", "subvolume", "snapshot", "-r", self.source / "live", self.source / SNAPSHOT)
        run("btrfs", "filesystem", "sync", self.source)

    def renew(self) -> None:
        """Nothing of the source is in memory, and the target is empty."""
        run("umount", self.source)
        self._mount(self.source)
        if self.target.is_mount():
            run("umount", self.target)
        self._format(self.target)
        self._mount(self.target)

    def unmount(self) -> None:
        for pool in (self.source, self.target):
            if pool.is_mount():
                run("umount", pool)

    def _format(self, pool: Path) -> None:
        run("mkfs.btrfs", "-q", "-f", pool.with_suffix(".img"))

    def _mount(self, pool: Path) -> None:
        run("mount", "-o", f"loop{self.options}", pool.with_suffix(".img"), pool)


@contextmanager
def pools(size: int, options: str = "") -> Iterator[Pools]:
    with tempfile.TemporaryDirectory(prefix="drover-bench-") as directory:
        run("mount", "-t", "tmpfs", "-o", f"size={3 * size}", "none", directory)
        made = Pools(Path(directory), size, options)
        try:
            made.make()
            yield made
        finally:
            made.unmount()
            run("umount", directory)


def mixed(share: float) -> Callable[[Path], None]:
    """200 files of 10 MiB and 20,000 of 4 KiB, random, or a share of them."""

    def fill(directory: Path) -> None:
        for number in range(round(200 * share)):
            (directory / f"large-{number}").write_bytes(os.urandom(LARGE))
        for number in range(round(20_000 * share)):
            if number % 500 == 0:
                (directory / f"small-{number // 500}").mkdir()
            (directory / f"small-{number // 500}" / str(number)).write_bytes(os.urandom(SMALL))

    return fill


def text(share: float) -> Callable[[Path], None]:
    """1 GiB, which zstd makes a bit less than half of, or a share of it."""

    def fill(directory: Path) -> None:
        for number in range(round(100 * share)):
            (directory / f"text-{number}").write_text(os.urandom(5 << 20).hex())

    return fill


def raw(pools: Pools, flags: list[str]) -> float:
    """Seconds, with a connection as the commands' own standard output and input."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        out = socket.create_connection(server.getsockname())
        into, _ = server.accept()
        with out, into:
            receiving = subprocess.Popen(["btrfs", "receive", "-q", str(pools.target)], stdin=into.fileno())
            sending = subprocess.Popen(
                ["btrfs", "send", "-q", *flags, str(pools.source / SNAPSHOT)], stdout=out.fileno()
            )
        if sending.wait() or receiving.wait():
            raise RuntimeError("the bare commands failed")
        synced(str(pools.target))
        return time.monotonic() - began


async def through(outgoing: Outgoing, pools: Pools, flags: list[str]) -> float:
    began = time.monotonic()
    await outgoing.send(["btrfs", "send", "-q", *flags, str(pools.source / SNAPSHOT)])
    return time.monotonic() - began


async def rounds(pools: Pools, ways: Mapping[str, Callable[[], Awaitable[float]]], runs: int) -> dict[str, list[float]]:
    """Each way once a run, one after the other."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            await asyncio.to_thread(pools.renew)
            taken[name].append(await way())
            print(f"  {name}: {taken[name][-1]:.2f} s", flush=True)
    return taken


async def measure(directory: Path, pools: Pools, flags: list[str], runs: int) -> dict[str, list[float]]:
    """Seconds of the bare commands, and of both kinds of data path."""
    certificates = Certificates.make(directory / f"ca-{pools.directory.name}")
    async with AsyncExitStack() as stack:

        async def path(files: tuple[Files | None, Files | None]) -> Outgoing:
            a = await stack.enter_async_context(node("node-a", directory, files[0], Waits()))
            b = await stack.enter_async_context(node("node-b", directory, files[1], Waits()))
            arrivals = Arrivals(
                directory,
                argv=lambda _: ["btrfs", "receive", "-q", str(pools.target)],
                check=lambda _: Check("bench.synced:synced", {"pool": str(pools.target)}),
            )
            return await stack.enter_async_context(connected(a, b, arrivals))

        plain = await path((None, None))
        tls = await path((certificates.issue("node-a"), certificates.issue("node-b")))

        async def bare() -> float:
            return await asyncio.to_thread(raw, pools, flags)

        ways = {
            "raw": bare,
            "plain": lambda: through(plain, pools, flags),
            "tls": lambda: through(tls, pools, flags),
        }
        return await rounds(pools, ways, runs)


async def figures(share: float, runs: int) -> list[dict[str, Any]]:
    lines = []
    with tempfile.TemporaryDirectory(prefix="drover-bench-") as scratch:
        directory = Path(scratch)
        with pools(round(3 * share * 2**30) + 2**30) as full:
            full.fill(mixed(share))
            taken = await measure(directory, full, [], runs)
            lines.append(result("btrfs-full-plain", "s", taken["plain"], taken["raw"]))
            lines.append(result("btrfs-full-tls", "s", taken["tls"], taken["raw"]))
        with pools(round(2 * share * 2**30) + 2**30, ",compress=zstd:1") as compressed:
            compressed.fill(text(share))
            taken = await measure(directory, compressed, ["--proto", "2", "--compressed-data"], runs)
            lines.append(result("btrfs-full-zstd-plain", "s", taken["plain"], taken["raw"]))
            lines.append(result("btrfs-full-zstd", "s", taken["tls"], taken["raw"]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=1.0, help="of 2 GiB")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)  # the helpers call `synced`
    lines = asyncio.run(figures(arguments.share, arguments.runs))
    if arguments.share == 1.0:
        write("transfer", lines)
    else:
        print(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
