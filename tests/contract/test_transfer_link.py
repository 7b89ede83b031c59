"""The data path over a real link, between two network namespaces, when the link breaks and nobody is told."""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from drover.agent.transfer.base import Waits
from drover.coordinator.cli.playground import namespaces
from drover.coordinator.cli.playground.layout import NETNS
from tests.contract.transfer_stage import Arrivals, Node, connected, made, node, sha256, until

WAITS = Waits(silence=0.8, keep=20.0, connect=1.0)
ROOT = Path(__file__).parents[2]
MIB = 1 << 20
CLONE_NEWNET = 0x40000000


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@dataclass(frozen=True)
class Link:
    """Two namespaces: what is opened inside one stays there."""

    a: str
    b: str

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{name}") as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())

    def set(self, state: str) -> None:
        run("ip", "-n", self.a, "link", "set", "dev", "v0", state)

    def drop(self, name: str, yes: bool) -> None:
        """What leaves this end."""
        rule = "add table ip cut; add chain ip cut out { type filter hook output priority 0; policy drop; }"
        run("ip", "netns", "exec", name, "nft", rule if yes else "delete table ip cut")


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


@pytest.fixture
def link() -> Iterator[Link]:
    tag = secrets.token_hex(3)
    made = Link(f"drover-a-{tag}", f"drover-b-{tag}")
    try:
        for name in (made.a, made.b):
            namespaces.add(NETNS / name)
            run("ip", "-n", name, "link", "set", "dev", "lo", "up")
        run("ip", "-n", made.a, "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", made.b)
        for name, address in ((made.a, "10.77.0.1/24"), (made.b, "10.77.0.2/24")):
            run("ip", "-n", name, "addr", "add", address, "dev", "v0")
            run("ip", "-n", name, "link", "set", "dev", "v0", "up")
        yield made
    finally:
        for name in (made.a, made.b):
            namespaces.remove(NETNS / name)


@pytest.fixture
async def nodes(link: Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Node, Node]]:
    """node-a's sockets are in the one namespace, node-b's data port is in the other."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    async with AsyncExitStack() as stack:
        stack.enter_context(link.inside(link.a))
        a = await stack.enter_async_context(node("node-a", tmp_path, None, WAITS))
        b = await stack.enter_async_context(
            node("node-b", tmp_path, None, WAITS, "10.77.0.2:0", lambda: link.inside(link.b))
        )
        yield a, b


@pytest.mark.parametrize("how", ["link down", "nothing from the sender", "nothing from the receiver"])
@pytest.mark.long
async def test_a_link_that_breaks_is_found_out_by_silence_and_the_round_goes_on_when_it_is_back(
    link: Link, nodes: tuple[Node, Node], tmp_path: Path, how: str
) -> None:
    def broken(yes: bool) -> None:
        if how == "link down":
            link.set("down" if yes else "up")
        else:
            link.drop(link.a if how == "nothing from the sender" else link.b, yes)

    file, arrivals = made(tmp_path, 24 * MIB), Arrivals(tmp_path)
    async with connected(*nodes, arrivals) as outgoing:
        outgoing.limit(12 * MIB)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(outgoing.send(["cat", str(file)]))
            await until(lambda: arrivals.file(1).exists() and arrivals.file(1).stat().st_size > 2 * MIB)
            await asyncio.to_thread(broken, True)
            await asyncio.sleep(2 * WAITS.silence)
            stopped = os.stat(arrivals.file(1)).st_size
            await asyncio.sleep(WAITS.silence)
            assert os.stat(arrivals.file(1)).st_size == stopped < 24 * MIB
            await asyncio.to_thread(broken, False)
        assert sending.result().answer == sha256(file)
    assert len(arrivals.rounds) == 1
