"""One agent asks another for its promise, over gRPC on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest

from drover.agent.api import promises, rpc
from drover.agent.promise import Promiser
from drover.agent.sight import Sight
from drover.agent.tls import Files
from drover.coordinator.clock import read_clock
from drover.coordinator.identity import Role
from drover.coordinator.promising import NotPromised
from drover.coordinator.protocol.promises import Asked, candidate
from drover.coordinator.timings import required_wait
from tests.certificates import Certificates

ASKED = Asked("farm", "node-a", "node-a.1", 6.5)


def promiser(lost: str = "") -> Promiser:
    """Node b, whose agent has not joined since it started."""
    return Promiser("node-b", "machine-b", lambda: None, lambda: lost)


async def asked(giver: Promiser, serves: Files | None, asks: Files | None, question: Asked = ASKED) -> str:
    async with rpc.serving(Sight("node-b"), "127.0.0.1:0", serves, give=giver.give) as port:
        return await promises.asking(asks)("node-b", f"127.0.0.1:{port}", question)


@pytest.mark.parametrize("secured", [False, True])
async def test_a_promise_is_kept_from_when_it_was_asked_for_and_says_whose_it_is(tmp_path: Path, secured: bool) -> None:
    made = Certificates.make(tmp_path)
    serves, asks = (made.issue(name) if secured else None for name in ("node-b", "node-a"))
    giver, before = promiser(), read_clock().raw
    assert await asked(giver, serves, asks) == candidate("node-b", "machine-b")
    assert giver.given.left("node-a", before) >= required_wait(ASKED.d_hard)


async def test_nobody_asks_in_the_name_of_another_node(tmp_path: Path) -> None:
    made = Certificates.make(tmp_path)
    serves = made.issue("node-b")
    for name, role in (("node-c", Role.NODE), ("node-a", Role.OPERATOR)):
        giver = promiser()
        with pytest.raises(NotPromised, match="in the name of node node-a"):
            await asked(giver, serves, made.issue(name, role))
        assert not giver.given.until


async def test_a_refusal_comes_with_its_reason_and_so_does_an_agent_that_is_not_there() -> None:
    with pytest.raises(NotPromised, match="does not rely on etcd: it went back"):
        await asked(promiser("it went back"), None, None)
    with pytest.raises(NotPromised, match="node-b"):
        await promises.asking(None)("node-b", "127.0.0.1:1", ASKED)
