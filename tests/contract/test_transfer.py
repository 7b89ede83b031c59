"""The data path: real processes, sockets and helpers. What arrives is what was sent, or both sides know that it is
not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from drover.agent.storage.base import GateClosed, NoRoom, StorageError
from drover.agent.transfer.base import Check, Received, Waits
from drover.agent.transfer.errors import (
    CommandFailed,
    ConnectionCut,
    PeerRefused,
    PeerSilent,
    Unreachable,
    VerificationFailed,
)
from tests.contract.transfer_stage import (
    JOBS,
    STREAM,
    Arrivals,
    Node,
    connected,
    free_address,
    made,
    sha256,
    two_nodes,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
WAITS = Waits(silence=1.0, keep=2.0, connect=3.0)
directory, a, b = two_nodes(WAITS)
ROOT = Path(__file__).parents[2]
MIB = 1 << 20


@pytest.fixture
def arrivals(tmp_path: Path) -> Arrivals:
    return Arrivals(tmp_path)


@pytest.mark.parametrize("deterministic", [False, True])
async def test_rounds_arrive_one_after_the_other_and_the_answer_is_what_the_check_says(
    a: Node, b: Node, arrivals: Arrivals, tmp_path: Path, deterministic: bool
) -> None:
    async with connected(a, b, arrivals) as outgoing:
        for number, size in enumerate((20 * MIB + 17, 0, 1), 1):
            file = made(tmp_path, size)
            sent = await outgoing.send(["cat", str(file)], {"round": number}, deterministic=deterministic)
            assert (sent.bytes, sent.answer) == (size, sha256(file))
            assert sha256(arrivals.file(number)) == sha256(file)
    assert [round_.about for round_ in arrivals.rounds] == [{"round": 1}, {"round": 2}, {"round": 3}]
    assert all(isinstance(outcome, Received) for outcome in arrivals.outcomes)
    assert arrivals.finished
    await until(lambda: a.relays() == b.relays() == [])


@pytest.mark.long
async def test_both_sides_hear_how_far_it_is(a: Node, b: Node, arrivals: Arrivals) -> None:
    sent: list[int] = []
    async with connected(a, b, arrivals) as outgoing:
        outgoing.limit(4 * MIB)
        await outgoing.send(["head", "-c", str(4 * MIB), "/dev/zero"], progress=sent.append)
    for heard in (sent, arrivals.progress):
        assert len(heard) > 1
        assert heard == sorted(heard)
        assert 0 < heard[-1] <= 4 * MIB


async def test_a_limit_holds_on_the_wire_and_can_be_taken_away_in_the_middle(
    a: Node, b: Node, arrivals: Arrivals
) -> None:
    size = 200 * MIB
    async with connected(a, b, arrivals) as outgoing:
        outgoing.limit(4 * MIB)
        slow = await outgoing.send(["head", "-c", str(4 * MIB), "/dev/zero"])
        assert slow.seconds > 0.5, "4 MiB at 4 MiB/s, whatever the first burst is"
        async with asyncio.timeout(25), asyncio.TaskGroup() as group:  # at 4 MiB/s it takes 50 s
            sending = group.create_task(outgoing.send(["head", "-c", str(size), "/dev/zero"]))
            await until(lambda: arrivals.file(2).exists() and arrivals.file(2).stat().st_size > MIB)
            assert arrivals.file(2).stat().st_size < size / 2
            outgoing.limit(None)
        assert sending.result().bytes == size


async def test_a_sending_command_that_fails_fails_the_round_on_both_sides_and_the_next_one_works(
    a: Node, b: Node, arrivals: Arrivals
) -> None:
    fails = ["sh", "-c", "head -c 3000000 /dev/zero; echo no such snapshot >&2; exit 3"]
    async with connected(a, b, arrivals) as outgoing:
        with pytest.raises(CommandFailed, match=r"failed \(status 3\): no such snapshot"):
            await outgoing.send(fails)
        assert (await outgoing.send(["echo", "whole"])).bytes == 6
    assert isinstance(arrivals.outcomes[0], CommandFailed)
    assert arrivals.outcomes[1:] == [Received(6, sha256(arrivals.file(2)))]


async def test_a_receiving_command_that_fails_is_told_to_the_sender_with_its_last_words(
    a: Node, b: Node, arrivals: Arrivals
) -> None:
    arrivals.argv = lambda file: ["sh", "-c", "head -c 100000 >/dev/null; echo cannot find parent >&2; exit 1"]
    async with connected(a, b, arrivals) as outgoing:
        with pytest.raises(CommandFailed, match=r"node-b: .*cannot find parent"):
            await outgoing.send(["sh", "-c", "yes | head -c 100000000"])
        arrivals.argv = lambda file: ["tee", str(file)]
        assert (await outgoing.send(["echo"])).bytes == 1
    assert isinstance(arrivals.outcomes[0], CommandFailed)


async def test_a_full_target_is_said_as_that(a: Node, b: Node, arrivals: Arrivals) -> None:
    arrivals.argv = lambda file: ["dd", "of=/dev/full", "bs=64k"]
    async with connected(a, b, arrivals) as outgoing:
        with pytest.raises(NoRoom, match=r"node-b: .*No space left"):
            await outgoing.send(["yes"])
        arrivals.argv = lambda file: ["tee", str(file)]
        arrivals.check = lambda file: Check(f"{JOBS}:full", {})
        with pytest.raises(NoRoom, match="the pool is full"):
            await outgoing.send(["echo"])


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("not_there", "node-b: the snapshot is not there"),
        ("broken", "KeyError: 'surprise'"),
        ("talkative", "more than"),
    ],
)
async def test_nothing_is_done_where_the_receivers_check_fails(
    a: Node, b: Node, arrivals: Arrivals, job: str, said: str
) -> None:
    arrivals.check = lambda file: Check(f"{JOBS}:{job}", {})
    async with connected(a, b, arrivals) as outgoing:
        with pytest.raises(VerificationFailed, match=said):
            await outgoing.send(["echo"])
    assert isinstance(arrivals.outcomes[0], StorageError)


@pytest.mark.long
async def test_a_check_may_take_longer_than_silence_is_borne(
    a: Node, b: Node, arrivals: Arrivals, tmp_path: Path
) -> None:
    arrivals.check = lambda file: Check(f"{JOBS}:slowly", {"path": str(file), "seconds": 2 * WAITS.silence})
    file = made(tmp_path, MIB)
    async with connected(a, b, arrivals) as outgoing:
        assert (await outgoing.send(["cat", str(file)])).answer == sha256(file)


async def test_a_command_that_cannot_be_started_is_said(a: Node, b: Node, arrivals: Arrivals) -> None:
    async with connected(a, b, arrivals) as outgoing:
        with pytest.raises(CommandFailed, match="'no-such-program' cannot be started"):
            await outgoing.send(["no-such-program"])
        arrivals.argv = lambda file: ["no-such-receiver"]
        with pytest.raises(CommandFailed, match="node-b: 'no-such-receiver' cannot be started"):
            await outgoing.send(["echo"])


async def test_what_is_too_long_to_be_said_is_not_begun(a: Node, b: Node, arrivals: Arrivals) -> None:
    async with connected(a, b, arrivals) as outgoing:
        with pytest.raises(ValueError, match="longer than 32768 bytes"):
            await outgoing.send(["echo"], {"text": "x" * 40_000})
        with pytest.raises(CommandFailed, match="failed"):
            await outgoing.send(["sh", "-c", "exit 1", "x" * 100_000])
        with pytest.raises(ValueError, match="is longer than"):
            await outgoing.send(["true", "x" * 200_000])
        assert (await outgoing.send(["echo"])).bytes == 1


async def test_a_data_port_that_nobody_listens_on_is_said(a: Node, b: Node) -> None:
    async with b.path.expect(STREAM, "node-a") as incoming:
        ticket = replace(incoming.ticket, address=free_address())
        with pytest.raises(Unreachable, match=r"node-b.*Connection refused"):
            async with a.path.connect(STREAM, ticket):
                pass


async def test_a_stream_that_is_not_expected_any_more_is_refused(a: Node, b: Node) -> None:
    async with b.path.expect(STREAM, "node-a") as incoming:
        pass
    with pytest.raises(PeerRefused, match="does not expect this stream"):
        async with a.path.connect(STREAM, incoming.ticket):
            pass


async def test_another_stream_another_sender_or_another_secret_is_refused(a: Node, b: Node) -> None:
    async with b.path.expect(STREAM, "node-a") as incoming:
        for stream, ticket in (
            (replace(STREAM, epoch=8), incoming.ticket),
            (STREAM, replace(incoming.ticket, secret="guessed")),
        ):
            with pytest.raises(PeerRefused, match="node-b refused"):
                async with a.path.connect(stream, ticket):
                    pass


@pytest.mark.long
async def test_a_sender_that_never_comes_is_not_waited_for_for_ever(b: Node) -> None:
    async with b.path.expect(STREAM, "node-a") as incoming:
        with pytest.raises(PeerSilent, match="node-a has not connected within 2 s"):
            async for _ in incoming:
                pass


async def test_behind_a_closed_gate_nothing_is_started(a: Node, b: Node) -> None:
    b.gate.close()
    with pytest.raises(GateClosed):
        async with b.path.expect(STREAM, "node-a"):
            pass
    b.gate.open(3600)


async def test_a_round_that_is_cancelled_leaves_nothing_running_and_the_receiver_is_told(
    a: Node, b: Node, arrivals: Arrivals
) -> None:
    async with connected(a, b, arrivals) as outgoing:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(outgoing.send(["yes"]), 1)
        with pytest.raises(ConnectionCut, match="cancelled"):
            await outgoing.send(["echo"])
        async with asyncio.timeout(WAITS.keep / 2):
            await until(lambda: arrivals.finished)
    assert isinstance(arrivals.outcomes[0], ConnectionCut)
    await until(lambda: a.relays() == b.relays() == [])
