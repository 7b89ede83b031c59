"""`drover cordon`, `uncordon` and `drain`: what they write, whom they refuse, and where datasets go."""

from __future__ import annotations

import asyncio

import pytest

from drover.coordinator.cli.drain import Drain, Leg, Progress, plan
from drover.coordinator.cli.picture import take
from drover.coordinator.records import Asked, Cordon
from tests.unit.cli_world import World, world


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    return world(monkeypatch, capsys)


def legs(w: World, node: str) -> list[Leg]:
    return plan(node, asyncio.run(take(w.store, w.keys)))


def test_cordon_says_who_and_why_and_uncordon_takes_it_away(w: World) -> None:
    assert w.drover("cordon", "node-b", "--reason", "new disks").code == 0
    cordon = Cordon.decode((w.value("/drover/cordons/node-b") or "").encode())
    assert cordon.by
    assert cordon.reason == "new disks"
    assert "cordoned: new disks" in w.drover("nodes").out
    assert w.drover("uncordon", "node-b").code == 0
    assert w.entry("/drover/cordons/node-b") is None


def test_a_cordon_that_is_there_stays_as_it_is(w: World) -> None:
    w.cordon("node-b")
    before = w.cluster.revision
    assert "already" in w.drover("cordon", "node-b", "--reason", "other").out
    assert w.cluster.revision == before


def test_a_mistyped_node_is_refused_with_one_that_is_like_it(w: World) -> None:
    ran = w.drover("drain", "node-1")
    assert ran.code == 3
    assert "Did you mean" in ran.err


def test_a_node_that_is_not_here_cannot_be_drained(w: World) -> None:
    w.silent("node-b")
    assert w.drover("drain", "node-b").code == 3
    assert w.entry("/drover/cordons/node-b") is None


def test_draining_an_empty_node_cordons_it_and_says_that_it_is_empty(w: World) -> None:
    ran = w.drover("drain", "node-b")
    assert ran.code == 0
    assert "node-b is empty" in ran.out
    assert w.entry("/drover/cordons/node-b") is not None


def test_datasets_spread_over_the_nodes_with_the_fewest(w: World) -> None:
    for name in ("d1", "d2", "d3"):
        w.dataset(name)
        w.active(name, "node-a")
    w.dataset("e")
    w.active("e", "node-b")
    assert [(leg.datasets, leg.to) for leg in legs(w, "node-a")] == [
        (("d1",), "node-c"),
        (("d2",), "node-b"),
        (("d3",), "node-c"),
    ]


def test_what_moves_together_is_one_leg(w: World) -> None:
    for name in ("d1", "d2"):
        w.dataset(name, '{"backend": "loopback", "size": "1GiB", "group": "g"}')
        w.active(name, "node-a")
    assert [leg.datasets for leg in legs(w, "node-a")] == [("d1", "d2")]


def test_nothing_goes_to_a_cordoned_node_or_one_without_the_back_end(w: World) -> None:
    w.dataset("d")
    w.active("d", "node-a")
    w.cordon("node-b")
    assert [leg.to for leg in legs(w, "node-a")] == ["node-c"]
    w.node("node-c", backends=("other",), life=2)
    assert [leg.to for leg in legs(w, "node-a")] == [""]


def test_a_spec_that_lists_nodes_is_heeded(w: World) -> None:
    w.dataset("d", '{"backend": "loopback", "size": "1GiB", "failover": ["node-c"]}')
    w.active("d", "node-a")
    assert [leg.to for leg in legs(w, "node-a")] == ["node-c"]


def test_what_nobody_can_take_stays_and_is_told_with_exit_code_3(w: World) -> None:
    w.dataset("d")
    w.active("d", "node-a")
    w.cordon("node-b")
    w.cordon("node-c")
    ran = w.drover("drain", "node-a")
    assert ran.code == 3
    assert "node-a keeps d: no other uncordoned node" in ran.err
    assert w.entry("/drover/desired/d") is None


def test_no_more_than_so_many_are_asked_to_move_at_a_time(w: World) -> None:
    names = ("d1", "d2", "d3")
    for name in names:
        w.dataset(name)
        w.active(name, "node-a")

    def asked() -> list[str]:
        return [name for name in names if w.entry(w.keys.desired(name))]

    async def watched() -> None:
        progress = Progress()
        drain = Drain(w.store, w.keys, progress, told=False)
        task = asyncio.create_task(drain.run(legs_, 2, 5.0))
        async with asyncio.timeout(5):
            while len(asked()) < 2:
                await asyncio.sleep(0.01)
            assert asked() == ["d1", "d2"]
            assert progress.waiting == ["d3"]
            w.active("d1", progress.going["d1"], 2, cutover_ms=58)
            while len(asked()) < 3:
                await asyncio.sleep(0.01)
            for name in ("d2", "d3"):
                w.active(name, progress.going[name], 2)
            await task
        assert set(progress.moved) == set(names)
        assert progress.moved["d1"].cutover_ms == 58

    legs_ = legs(w, "node-a")
    asyncio.run(watched())
    told = Asked.decode((w.value("/drover/asked/d1") or "").encode())
    assert told.by.endswith("drover drain")


def test_a_move_that_takes_longer_goes_on_and_ends_with_6(w: World) -> None:
    w.dataset("d")
    w.active("d", "node-a")
    ran = w.drover("drain", "node-a", "--timeout", "0.2")
    assert ran.code == 6
    assert "d moves on by themselves" not in ran.err
    assert "d moves on by itself" in ran.err
    assert w.entry("/drover/desired/d") is not None
