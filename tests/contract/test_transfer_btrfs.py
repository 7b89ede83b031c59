"""What the data path is for: `btrfs send` on one side, `btrfs receive` on the other, on real file systems."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from drover.agent.storage.base import NoRoom, StorageError
from drover.agent.transfer.base import Check, Waits
from tests.contract.transfer_stage import Arrivals, Node, Proxy, connected, node, outcome, relay, until

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
WAITS = Waits(silence=2.0, keep=5.0, connect=3.0)


def run(*command: str | Path) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Pools:
    source: Path
    target: Path

    def snapshot(self, name: str) -> Path:
        run("btrfs", "subvolume", "snapshot", "-r", self.source / "live", self.source / name)
        return self.source / name

    def same(self, name: str) -> bool:
        """Whole, read-only, and the one that was sent."""
        told = run("btrfs", "subvolume", "show", self.target / name)
        sent = run("btrfs", "subvolume", "show", self.source / name)
        uuid = re.search(r"\n\s+UUID:\s+(\S+)", sent)
        received = re.search(r"Received UUID:\s+(\S+)", told)
        compared = subprocess.run(["diff", "-r", self.source / name, self.target / name], stdout=subprocess.DEVNULL)
        assert uuid
        assert received
        return "readonly" in told and uuid[1] == received[1] and compared.returncode == 0


@pytest.fixture
def pools(tmp_path: Path) -> Iterator[Pools]:
    made = Pools(tmp_path / "source", tmp_path / "target")
    mounted: list[Path] = []
    try:
        for pool, size in ((made.source, 512 * MIB), (made.target, 512 * MIB)):
            pool.mkdir()
            with pool.with_suffix(".img").open("wb") as image:
                image.truncate(size)
            run("mkfs.btrfs", "-q", pool.with_suffix(".img"))
            run("mount", "-o", "loop", pool.with_suffix(".img"), pool)
            mounted.append(pool)
        live = made.source / "live"
        run("btrfs", "subvolume", "create", live)
        for number in range(4):
            (live / f"large-{number}").write_bytes(os.urandom(10 * MIB))
        for number in range(300):
            (live / f"small-{number}").write_bytes(os.urandom(4096))
        yield made
    finally:
        for pool in mounted:
            run("umount", pool)


@pytest.fixture(autouse=True)
def helpers_find_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
async def a(tmp_path: Path) -> AsyncIterator[Node]:
    async with node("node-a", tmp_path, None, WAITS) as made:
        yield made


@pytest.fixture
async def b(tmp_path: Path) -> AsyncIterator[Node]:
    async with node("node-b", tmp_path, None, WAITS) as made:
        yield made


@pytest.fixture
def arrivals(pools: Pools, tmp_path: Path) -> Arrivals:
    return Arrivals(
        tmp_path,
        argv=lambda _: ["btrfs", "receive", "-q", str(pools.target)],
        check=lambda _: Check("tests.contract.transfer_jobs:nothing", {}),
    )


def send(snapshot: Path, *parent: str | Path) -> list[str]:
    return ["btrfs", "send", "-q", *map(str, parent), str(snapshot)]


async def test_a_full_round_and_an_incremental_one_arrive_whole(
    a: Node, b: Node, arrivals: Arrivals, pools: Pools
) -> None:
    async with connected(a, b, arrivals) as outgoing:
        full = await outgoing.send(send(first := pools.snapshot("first")), deterministic=True)
        (pools.source / "live" / "small-7").write_text("changed")
        (pools.source / "live" / "small-8").unlink()
        second = await outgoing.send(send(pools.snapshot("second"), "-p", first), deterministic=True)
    assert pools.same("first")
    assert pools.same("second")
    assert second.bytes < 100_000 < full.bytes


async def test_the_same_stream_cut_twice_and_its_helper_killed_arrives_whole_by_one_receive(
    a: Node, b: Node, arrivals: Arrivals, pools: Pools
) -> None:
    snapshot = pools.snapshot("first")
    proxy = Proxy(b.port.address)
    async with connected(a, b, arrivals, proxy) as outgoing:
        outgoing.limit(40 * MIB)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(outgoing.send(send(snapshot), deterministic=True))
            for passed, breaks in (
                (5 * MIB, proxy.cut),
                (15 * MIB, lambda: os.kill(relay(a), signal.SIGKILL)),
                (25 * MIB, proxy.cut),
            ):
                await until(lambda passed=passed: proxy.passed > passed)  # type: ignore[misc]
                breaks()
        assert sending.result().bytes > 40 * MIB
    assert len(arrivals.rounds) == len(arrivals.outcomes) == 1
    assert pools.same("first")


@pytest.mark.long
async def test_a_target_that_is_too_small_is_said_on_both_sides(
    a: Node, b: Node, arrivals: Arrivals, pools: Pools
) -> None:
    with suppress(OSError):
        with (pools.target / "fills it").open("wb") as file:
            while True:
                file.write(os.urandom(MIB))
                file.flush()
    async with connected(a, b, arrivals) as outgoing:
        failed = await outcome(outgoing.send(send(pools.snapshot("first"))))
    assert isinstance(failed, NoRoom)
    assert isinstance(arrivals.outcomes[0], StorageError)
    assert "No space left" in str(failed)
