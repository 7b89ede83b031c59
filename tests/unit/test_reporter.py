"""What people are told, and when: a phase that passes at once is not worth a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import cast

import pytest

from drover.agent.reporter import Reporter
from drover.coordinator.member import Member
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.records import Phase, Status
from drover.coordinator.store import NoSpace
from tests.unit import making


class Etcd:
    """The member and its view: keeps every status that was written."""

    def __init__(self) -> None:
        self.view = self.verbs = self
        self.written: list[Status] = []
        self.shown: dict[str, Status] = {}
        self.full = False
        self.tenures: dict[str, int] = {}
        self.refused = asyncio.Event()
        self.news = asyncio.Event()

    def status(self, name: str) -> Status | None:
        return self.shown.get(name)

    def dataset(self, name: str) -> Dataset:
        return making.dataset(name, **({"tenure_revision": self.tenures[name]} if name in self.tenures else {}))

    async def report(self, d: Dataset, status: Status) -> bool:
        if self.full:
            self.refused.set()
            raise NoSpace("full")
        self.written.append(status)
        self.shown[d.name] = status
        self.news.set()
        return True

    async def phases(self, count: int) -> list[Phase]:
        async with asyncio.timeout(5):
            while len(self.written) < count:
                self.news.clear()
                await self.news.wait()
        return [status.phase for status in self.written]


@pytest.fixture
def etcd() -> Etcd:
    return Etcd()


@pytest.fixture
async def reporter(etcd: Etcd) -> AsyncIterator[Reporter]:
    reporter = Reporter(cast(Member, etcd), lambda dataset: None)
    running = asyncio.create_task(reporter.run())
    yield reporter
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def tell(reporter: Reporter, *phases: Phase, name: str = "d") -> None:
    for phase in phases:
        reporter.tell(making.dataset(name), Status(phase=phase, reason="as told", node="a", epoch=3))


async def test_of_a_quick_move_people_are_told_the_end_only(reporter: Reporter, etcd: Etcd) -> None:
    tell(reporter, Phase.MOVING, Phase.STARTING, Phase.ACTIVE)
    tell(reporter, Phase.WAITING, name="e")
    assert await etcd.phases(2) == [Phase.ACTIVE, Phase.WAITING]


async def test_a_phase_that_lasts_is_told(reporter: Reporter, etcd: Etcd) -> None:
    tell(reporter, Phase.MOVING)
    assert await etcd.phases(1) == [Phase.MOVING]
    tell(reporter, Phase.ACTIVE)
    assert await etcd.phases(2) == [Phase.MOVING, Phase.ACTIVE]


async def test_phases_that_follow_one_another_do_not_put_off_telling(reporter: Reporter, etcd: Etcd) -> None:
    async def flip() -> None:
        while not etcd.written:
            tell(reporter, Phase.MOVING, Phase.STARTING)
            await asyncio.sleep(0.01)

    async with asyncio.timeout(5):
        await flip()


async def test_what_etcd_did_not_take_is_told_again(reporter: Reporter, etcd: Etcd) -> None:
    etcd.full = True
    tell(reporter, Phase.ACTIVE)
    async with asyncio.timeout(5):
        await etcd.refused.wait()
    etcd.full = False
    assert await etcd.phases(1) == [Phase.ACTIVE]


async def test_those_that_arrive_one_after_the_other_are_told_when_the_last_has(reporter: Reporter, etcd: Etcd) -> None:
    names = ("d", "e", "f")
    for name in names:
        tell(reporter, Phase.STARTING, name=name)
    for name in names:
        assert etcd.written == []
        tell(reporter, Phase.ACTIVE, name=name)
        if name != "f":
            await asyncio.sleep(0)
    assert await etcd.phases(3) == [Phase.ACTIVE] * 3


async def test_one_that_has_arrived_does_not_wait_for_one_that_stays_on_its_way(reporter: Reporter, etcd: Etcd) -> None:
    tell(reporter, Phase.STARTING, name="e")
    tell(reporter, Phase.ACTIVE)
    assert await etcd.phases(2) == [Phase.ACTIVE, Phase.STARTING]


async def test_of_a_tenure_that_has_changed_nothing_is_told(reporter: Reporter, etcd: Etcd) -> None:
    etcd.tenures["gone"] = making.TENURE_REVISION + 1
    tell(reporter, Phase.ACTIVE, name="gone")
    tell(reporter, Phase.WAITING)
    assert await etcd.phases(1) == [Phase.WAITING]
