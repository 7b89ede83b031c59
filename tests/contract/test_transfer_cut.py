"""The data path when something breaks: a cut connection, a peer that falls silent, a helper that is killed."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from drover.agent.storage.base import HelperDied, StorageError
from drover.agent.transfer.base import Check, Received, Waits
from drover.agent.transfer.errors import ConnectionCut, PeerSilent, StreamDamaged
from tests.contract.transfer_stage import (
    JOBS,
    STREAM,
    Arrivals,
    Node,
    Proxy,
    connected,
    made,
    outcome,
    relay,
    sha256,
    two_nodes,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
WAITS = Waits(silence=1.0, keep=4.0, connect=3.0)
directory, a, b = two_nodes(WAITS)
ROOT = Path(__file__).parents[2]
MIB = 1 << 20


@pytest.fixture
def proxy(b: Node) -> Proxy:
    return Proxy(b.port.address)


@pytest.fixture
def arrivals(tmp_path: Path) -> Arrivals:
    return Arrivals(tmp_path)


def once(marker: Path) -> list[str]:
    """`cat` that notes each time it is started."""
    return ["sh", "-c", f'echo x >> {marker}; exec cat "$0"', str(marker.parent / "made")]


@pytest.mark.parametrize("after", [1, 39 * MIB])
async def test_a_connection_that_is_cut_is_taken_up_again_and_neither_command_notices(
    a: Node, b: Node, proxy: Proxy, arrivals: Arrivals, tmp_path: Path, after: int
) -> None:
    file = made(tmp_path, 40 * MIB)
    async with connected(a, b, arrivals, proxy) as outgoing:
        proxy.passed, proxy.cut_after = 0, after
        sent = await outgoing.send(once(tmp_path / "starts"))
        assert (sent.bytes, sent.answer) == (40 * MIB, sha256(file))
        assert proxy.connections == 2
    assert (tmp_path / "starts").read_text() == "x\n"
    assert len(arrivals.outcomes) == 1


async def test_what_is_sent_is_counted_once_however_often_it_is_cut_and_its_speed_is_shown_meanwhile(
    a: Node, b: Node, proxy: Proxy, arrivals: Arrivals, tmp_path: Path
) -> None:
    of = {"backend": "btrfs", "purpose": "move"}
    names = ("sent_bytes", "rounds", "resumed")

    def counted() -> list[float]:
        ok = {"rounds": {"outcome": "ok"}}
        return [a.sample(f"drover_transfer_{name}_total", **of, **ok.get(name, {})) for name in names]

    def speed() -> float:
        return a.sample("drover_transfer_bytes_per_second", dataset=STREAM.dataset)

    made(tmp_path, 20 * MIB)
    before, failed = counted(), a.sample("drover_transfer_rounds_total", **of, outcome="failed")
    async with connected(a, b, arrivals, proxy) as outgoing:
        outgoing.limit(30 * MIB)
        proxy.passed, proxy.cut_after = 0, 10 * MIB
        async with asyncio.TaskGroup() as group:
            group.create_task(outgoing.send(["cat", str(tmp_path / "made")]))
            await until(lambda: speed() > 0)
        assert speed() == 0
        assert [now - then for now, then in zip(counted(), before, strict=True)] == [20 * MIB, 1, 1]
        assert isinstance(await outcome(outgoing.send(["false"])), StorageError)
    assert a.sample("drover_transfer_rounds_total", **of, outcome="failed") == failed + 1


@pytest.mark.parametrize("deterministic", [False, True])
async def test_a_connection_that_is_cut_many_times_arrives(
    a: Node, b: Node, proxy: Proxy, arrivals: Arrivals, tmp_path: Path, deterministic: bool
) -> None:
    file = made(tmp_path, 20 * MIB)
    async with connected(a, b, arrivals, proxy) as outgoing:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(outgoing.send(["cat", str(file)], deterministic=deterministic))
            outgoing.limit(20 * MIB)
            for _ in range(5):
                proxy.passed = 0
                await until(lambda: proxy.passed > 100_000)
                proxy.cut()
            outgoing.limit(None)
        assert sending.result().answer == sha256(file)


async def test_a_cut_between_two_rounds_is_mended_before_the_next(
    a: Node, b: Node, proxy: Proxy, arrivals: Arrivals
) -> None:
    async with connected(a, b, arrivals, proxy) as outgoing:
        await outgoing.send(["echo", "1"])
        proxy.cut()
        await until(lambda: proxy.connections == 2)
        assert (await outgoing.send(["echo", "22"])).bytes == 3


async def test_a_cut_while_the_receiver_checks_loses_no_answer(
    a: Node, b: Node, proxy: Proxy, arrivals: Arrivals
) -> None:
    arrivals.check = lambda file: Check(f"{JOBS}:slowly", {"path": str(file), "seconds": 0.5})
    async with connected(a, b, arrivals, proxy) as outgoing:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(outgoing.send(["echo"]))
            await until(lambda: arrivals.file(1).exists() and arrivals.file(1).stat().st_size == 1)
            await asyncio.sleep(0.1)
            proxy.refuses = True
            proxy.cut()
            await until(lambda: arrivals.outcomes)
            proxy.refuses = False
        assert sending.result().answer == sha256(arrivals.file(1))


async def test_a_silent_link_is_found_out_and_the_round_goes_on_over_a_new_connection(
    a: Node, b: Node, proxy: Proxy, arrivals: Arrivals, tmp_path: Path
) -> None:
    file = made(tmp_path, 10 * MIB)
    async with connected(a, b, arrivals, proxy) as outgoing:
        outgoing.limit(10 * MIB)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(outgoing.send(["cat", str(file)]))
            await until(lambda: proxy.passed > MIB)
            proxy.freeze()
            await until(lambda: proxy.connections == 2)
            proxy.cut()
            proxy.thaw()
        assert sending.result().answer == sha256(file)


@pytest.mark.long
async def test_a_peer_that_is_gone_for_good_is_given_up_on_both_sides_and_nothing_is_left(
    a: Node, b: Node, proxy: Proxy, arrivals: Arrivals
) -> None:
    async with connected(a, b, arrivals, proxy) as outgoing:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(outcome(outgoing.send(["yes"])))
            await until(lambda: proxy.passed > MIB)
            proxy.refuses = True
            proxy.cut()
        assert isinstance(sending.result(), PeerSilent)
        assert "it did not come back within 4 s" in str(sending.result())
        with pytest.raises(PeerSilent):
            await outgoing.send(["echo"])
        await until(lambda: arrivals.ended)
    assert isinstance(arrivals.outcomes[0], PeerSilent)
    await until(lambda: a.relays() == b.relays() == [])


@pytest.mark.long
async def test_a_slow_receiver_is_waited_for(a: Node, b: Node, arrivals: Arrivals, tmp_path: Path) -> None:
    file = made(tmp_path, 30 * MIB)
    arrivals.argv = lambda to: ["sh", "-c", f"sleep {3 * WAITS.silence}; exec cat > {to}"]
    async with connected(a, b, arrivals) as outgoing:
        assert (await outgoing.send(["cat", str(file)])).answer == sha256(file)
    assert len(arrivals.outcomes) == 1


@pytest.mark.long
async def test_a_slow_sender_is_waited_for(a: Node, b: Node, arrivals: Arrivals) -> None:
    async with connected(a, b, arrivals) as outgoing:
        assert (await outgoing.send(["sh", "-c", f"echo 1; sleep {3 * WAITS.silence}; echo 2"])).bytes == 4


@pytest.mark.parametrize(
    "point", [pytest.param("idle", marks=pytest.mark.long), pytest.param("begun", marks=pytest.mark.long), "middle"]
)
async def test_a_senders_helper_that_is_killed_is_replaced_and_what_is_made_again_goes_on(
    a: Node, b: Node, proxy: Proxy, arrivals: Arrivals, tmp_path: Path, point: str
) -> None:
    file = made(tmp_path, 20 * MIB)
    async with connected(a, b, arrivals, proxy) as outgoing:
        outgoing.limit(20 * MIB)
        if point == "idle":
            os.kill(relay(a), signal.SIGKILL)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(outgoing.send(once(tmp_path / "starts"), deterministic=True))
            if point != "idle":
                await until(lambda: arrivals.begun.is_set() if point == "begun" else proxy.passed > 5 * MIB)
                os.kill(relay(a), signal.SIGKILL)
        assert sending.result().answer == sha256(file)
    assert len(arrivals.rounds) == 1, "the receiver's command was kept"


async def test_what_is_made_again_and_differs_fails_and_the_next_round_works(
    a: Node, b: Node, proxy: Proxy, arrivals: Arrivals, tmp_path: Path
) -> None:
    async with connected(a, b, arrivals, proxy) as outgoing:
        outgoing.limit(20 * MIB)
        async with asyncio.TaskGroup() as group:
            random = ["head", "-c", str(20 * MIB), "/dev/urandom"]
            sending = group.create_task(outcome(outgoing.send(random, deterministic=True)))
            await until(lambda: proxy.passed > 5 * MIB)
            os.kill(relay(a), signal.SIGKILL)
        assert isinstance(sending.result(), StreamDamaged)
        assert (await outgoing.send(["echo"])).bytes == 1
    assert isinstance(arrivals.outcomes[0], StreamDamaged)


async def test_a_round_that_cannot_be_made_again_ends_with_its_senders_helper_and_the_next_one_works(
    a: Node, b: Node, proxy: Proxy, arrivals: Arrivals
) -> None:
    async with connected(a, b, arrivals, proxy) as outgoing:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(outcome(outgoing.send(["yes"])))
            await until(lambda: proxy.passed > MIB)
            os.kill(relay(a), signal.SIGKILL)
        assert isinstance(sending.result(), HelperDied)
        assert (await outgoing.send(["echo"])).bytes == 1
    assert isinstance(arrivals.outcomes[0], ConnectionCut)
    assert isinstance(arrivals.outcomes[1], Received)


@pytest.mark.parametrize("point", ["idle", "middle", pytest.param("checking", marks=pytest.mark.long)])
async def test_a_receivers_helper_that_is_killed_fails_the_round_on_both_sides_and_the_next_one_works(
    a: Node, b: Node, proxy: Proxy, arrivals: Arrivals, point: str
) -> None:
    async with connected(a, b, arrivals, proxy) as outgoing:
        if point == "idle":
            os.kill(relay(b), signal.SIGKILL)
        else:
            arrivals.check = lambda file: Check(f"{JOBS}:slowly", {"path": str(file), "seconds": 5})
            async with asyncio.TaskGroup() as group:
                size = 20 * MIB if point == "checking" else 10**12
                sending = group.create_task(outcome(outgoing.send(["head", "-c", str(size), "/dev/zero"])))
                if point == "middle":
                    await until(lambda: proxy.passed > 5 * MIB)
                else:
                    await until(lambda: arrivals.file(1).exists() and arrivals.file(1).stat().st_size == size)
                    await asyncio.sleep(0.2)
                os.kill(relay(b), signal.SIGKILL)
            assert isinstance(sending.result(), ConnectionCut)
            assert isinstance(arrivals.outcomes[0], HelperDied)
        arrivals.check = Arrivals(Path()).check
        assert (await outgoing.send(["echo"])).bytes == 1
