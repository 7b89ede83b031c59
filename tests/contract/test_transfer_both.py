"""Two commands that talk through the data path: what each says is heard by the other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from drover.agent.transfer.base import Check, Received, Waits
from drover.agent.transfer.errors import CommandFailed, ConnectionCut
from tests.contract.transfer_stage import JOBS, Arrivals, Node, Proxy, connected, outcome, two_nodes

pytestmark = pytest.mark.asyncio(loop_scope="module")
WAITS = Waits(silence=2.0, keep=4.0, connect=3.0)
directory, a, b = two_nodes(WAITS)
MIB = 1 << 20

DIALOGUE = """
import sys
out, back = sys.stdout.buffer, sys.stdin.buffer
for length in (1, 1000, 300000, 5):
    out.write(length.to_bytes(4, "big") + bytes(length))
    out.flush()
    assert back.read(length) == bytes(length)[:-1] + b"!", "another answer"
assert back.read() == b"", "more than was asked for"
"""
ECHO = """
import sys
while length := int.from_bytes(sys.stdin.buffer.read(4), "big"):
    sys.stdout.buffer.write(sys.stdin.buffer.read(length)[:-1] + b"!")
    sys.stdout.buffer.flush()
    if length == 5:
        break
"""
FLOOD = "import os, threading; [threading.Thread(target=f).start() for f in ({0}, {1})]"
SAYS = "lambda: ([os.write(1, bytes(65536)) for _ in range({})], os.close(1))"
HEARS = "lambda: [1 for _ in iter(lambda: os.read(0, 65536), b'')]"


def talking(tmp_path: Path, *argv: str) -> Arrivals:
    return Arrivals(tmp_path, argv=lambda _: list(argv), check=lambda _: Check(f"{JOBS}:nothing", {}), both=True)


async def test_each_hears_what_the_other_says_round_after_round(a: Node, b: Node, tmp_path: Path) -> None:
    arrivals = talking(tmp_path, "python3", "-c", ECHO)
    async with connected(a, b, arrivals) as outgoing:
        for _ in range(2):
            sent = await outgoing.send(["python3", "-c", DIALOGUE], both=True)
            assert sent.bytes == 4 * 4 + 1 + 1000 + 300000 + 5
    assert all(isinstance(one, Received) for one in arrivals.outcomes)


async def test_much_more_than_fits_into_any_buffer_goes_both_ways_at_once(a: Node, b: Node, tmp_path: Path) -> None:
    both = FLOOD.format(SAYS.format(800), HEARS)
    async with connected(a, b, talking(tmp_path, "python3", "-c", both)) as outgoing:
        async with asyncio.timeout(60):
            assert (await outgoing.send(["python3", "-c", both], both=True)).bytes == 50 * MIB


async def test_who_listens_only_after_it_has_said_all_holds_up_nobody(a: Node, b: Node, tmp_path: Path) -> None:
    """Its answers fill every buffer on the way back; what it sends is not acknowledged behind them."""
    talks = "import os; [os.write(1, bytes(65536)) for _ in range(800)]; os.close(1)\nwhile os.read(0, 65536): pass"
    async with connected(a, b, talking(tmp_path, "python3", "-c", FLOOD.format(SAYS.format(800), HEARS))) as outgoing:
        async with asyncio.timeout(60):
            assert (await outgoing.send(["python3", "-c", talks], both=True)).bytes == 50 * MIB


async def test_a_failed_round_is_told_on_both_sides_and_nothing_of_it_is_heard_in_the_next(
    a: Node, b: Node, tmp_path: Path
) -> None:
    chatter = talking(tmp_path, "sh", "-c", "read -r how; case $how in loud) exec cat /dev/zero;; esac; echo $how")
    async with connected(a, b, chatter) as outgoing:
        failed = await outcome(outgoing.send(["sh", "-c", "echo loud; head -c 9000000 >/dev/null; exit 7"], both=True))
        assert isinstance(failed, CommandFailed)
        await outgoing.send(["sh", "-c", "echo next; read -r said; test $said = next"], both=True)
    assert isinstance(chatter.outcomes[1], Received)


async def test_a_connection_that_is_cut_ends_the_round_and_the_next_one_works(a: Node, b: Node, tmp_path: Path) -> None:
    both = FLOOD.format(SAYS.format(800), HEARS)
    proxy, arrivals = Proxy(b.port.address), talking(tmp_path, "python3", "-c", both)
    async with connected(a, b, arrivals, proxy) as outgoing:
        proxy.cut_after = proxy.passed + 5 * MIB
        assert isinstance(await outcome(outgoing.send(["python3", "-c", both], both=True)), ConnectionCut)
        assert (await outgoing.send(["python3", "-c", both], both=True)).bytes == 50 * MIB
    assert [isinstance(one, Received) for one in arrivals.outcomes] == [False, True]
