"""The promises under everything that may go wrong, and that the checks would find a protocol without its rules."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drover.coordinator.records import Heartbeat, Tenure
from drover.coordinator.txn import Put
from tests.model.agent import KEYS, PATIENCE, T, Variant
from tests.model.machine import Node
from tests.model.world import Breach, Request, World

SECONDS, CALM = 90.0, 40.0
"""Virtual ones: with trouble, and without any at the end."""

Story = Callable[[World], None]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Trouble is what these runs are made of."""
    caplog.set_level(logging.CRITICAL, "drover")


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.mark.parametrize("seed", range(16))
def test_there_is_at_most_one_writer_and_in_the_end_there_is_one(
    seed: int, tmp_path: Path, runner: asyncio.Runner
) -> None:
    world = World(seed, tmp_path, runner)
    world.run(SECONDS)
    world.heal()
    world.run(CALM)
    assert world.unserved() == []


# What each rule is for: a story that the rule gives a good end, and its lack a bad one.


def at_home(world: World, name: str) -> Node:
    """Dataset d is active and mounted on this node."""
    node = next(n for n in world.nodes if n.name == name)
    world.wish("d", name)
    world.until(lambda: "d" in node.mounted, 30)
    assert "d" in node.mounted
    return node


def late(world: World, seconds: float) -> Callable[[], bool]:
    """The next handover of d commits so much later, and is not answered. Whether it has been sent."""
    sent: list[Request] = []

    def hold(request: Request) -> None:
        put = next((p for p in request.txn.then if p.key == KEYS.owner("d") and isinstance(p, Put)), None)
        if not sent and put is not None and Tenure.decode(put.value).node != request.sender.name:
            request.commits, request.answers = world.now + seconds, None
            sent.append(request)

    world.interfere = hold
    return lambda: bool(sent)


def a_lost_handover_commits_after_its_sender_went_on(world: World) -> None:
    a = at_home(world, "a")
    sent = late(world, 3.0)
    world.wish("d", "b")
    world.until(sent, 10)
    world.run(PATIENCE - 0.3)
    world.wish("d", "nod-b")
    world.until(lambda: "d" in a.mounted, 2)
    a.paused_until = world.now + 3
    world.run(15)


def a_handover_commits_after_its_senders_agent_was_restarted(world: World) -> None:
    a = at_home(world, "a")
    sent = late(world, 3.0)
    world.wish("d", "b")
    world.until(sent, 10)
    a.kill_agent(0.2)
    world.wish("d", "nod-b")
    world.until(lambda: "d" in a.mounted, 2.5)
    a.paused_until = world.now + 3
    world.run(15)


def the_last_answer_arrives_late_and_then_the_agent_hangs(world: World) -> None:
    a = at_home(world, "a")
    slow = T.d_soft - 1.3
    sent: list[Request] = []

    def delay(request: Request) -> None:
        if request.sender is a and KEYS.heartbeat("a") in request.txn.read:
            request.answers = world.now + slow
            sent.append(request)

    world.interfere = delay
    world.until(lambda: bool(sent), 2)
    a.cut_until = world.now + 30
    world.run(slow + 0.3)
    a.paused_until = world.now + 20
    world.run(15)


def a_lease_is_revoked_under_a_node_that_is_cut_off(world: World) -> None:
    a = at_home(world, "a")
    assert a.agent is not None
    a.cut_until = world.now + 10
    world.etcd.expire(a.agent.lease)
    world.run(15)


def an_agent_hangs_on_a_machine_that_nothing_resets(world: World) -> None:
    c = at_home(world, "c")
    assert not c.armed
    c.paused_until = world.now + 20
    world.run(18)


def a_pause_ends_with_a_heartbeat_that_is_not_answered(world: World) -> None:
    a = at_home(world, "a")
    world.maintain(60)
    world.until(lambda: a.longer > 10, 10)
    world.resume()

    def lose(request: Request) -> None:
        put = next((p for p in request.txn.then if p.key == KEYS.heartbeat("a") and isinstance(p, Put)), None)
        if put is not None and Heartbeat.decode(put.value).longer == 0:
            request.answers, a.cut_until = None, world.now + 40

    world.interfere = lose
    world.run(20)


RULES: dict[str, tuple[Story, Variant]] = {
    "touch": (a_lost_handover_commits_after_its_sender_went_on, Variant(no_touch=True)),
    "life": (a_handover_commits_after_its_senders_agent_was_restarted, Variant(no_life=True)),
    "counted from the sending": (the_last_answer_arrives_late_and_then_the_agent_hangs, Variant(from_answer=True)),
    "fence": (a_lease_is_revoked_under_a_node_that_is_cut_off, Variant(no_fence=True)),
    "bound": (a_pause_ends_with_a_heartbeat_that_is_not_answered, Variant(unbound=True)),
    "unfenced": (an_agent_hangs_on_a_machine_that_nothing_resets, Variant(ignores_unfenced=True)),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_the_story_ends_well_by_the_rules(rule: str, seed: int, tmp_path: Path, runner: asyncio.Runner) -> None:
    story, _ = RULES[rule]
    world = World(seed, tmp_path, runner, calm=True)
    story(world)
    world.heal()
    world.run(CALM)
    assert world.unserved() == []


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_the_story_ends_badly_without_the_rule(rule: str, seed: int, tmp_path: Path, runner: asyncio.Runner) -> None:
    story, lacking = RULES[rule]
    world = World(seed, tmp_path, runner, lacking, calm=True)
    with pytest.raises(Breach, match=r"of d, \d+ is active|write d"):
        story(world)


def epochs(world: World) -> dict[str, int]:
    return {name: tenure.epoch for name in world.datasets if (tenure := world.tenure(name))}


def cut_off(world: World, seconds: float) -> None:
    for node in world.nodes:
        node.cut_until = world.now + seconds


def test_in_a_pause_an_etcd_that_is_away_for_long_stops_no_writer_and_fences_nobody(
    tmp_path: Path, runner: asyncio.Runner
) -> None:
    world = World(1, tmp_path, runner, calm=True)
    a = at_home(world, "a")
    world.maintain(60)
    world.until(lambda: all(node.longer > 40 for node in world.nodes), 10)
    before = epochs(world)
    cut_off(world, 40)
    for _ in range(40):
        world.run(1)
        assert "d" in a.mounted
    world.resume()
    world.run(20)
    assert "d" in a.mounted
    assert epochs(world) == before


def test_an_agent_that_restarts_in_a_pause_goes_on_with_what_was_promised(
    tmp_path: Path, runner: asyncio.Runner
) -> None:
    world = World(2, tmp_path, runner, calm=True)
    a = at_home(world, "a")
    world.maintain(60)
    world.until(lambda: a.longer > 40, 10)
    a.cut_until = world.now + 30
    a.kill_agent(20)
    for _ in range(45):
        world.run(1)
        assert "d" in a.mounted
    assert epochs(world)["d"] == 1


def test_a_writer_that_is_cut_off_in_a_pause_and_beyond_stops_before_anybody_takes_its_dataset(
    tmp_path: Path, runner: asyncio.Runner
) -> None:
    world = World(3, tmp_path, runner, calm=True)
    a = at_home(world, "a")
    world.maintain(30)
    world.until(lambda: a.longer > 15, 10)
    a.cut_until = world.now + 200
    world.run(10)
    world.resume()
    world.run(5)
    assert "d" in a.mounted, "it has promised no more than that, and others wait for as long"
    world.until(lambda: any("d" in node.mounted for node in world.nodes if node is not a), 60)
    assert "d" not in a.mounted
