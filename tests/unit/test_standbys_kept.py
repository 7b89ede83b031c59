"""The owner's side of standbys: each is kept up by itself, and what is acknowledged is what is there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from drover.agent import standbys
from drover.agent.copying import Expected, Sent
from drover.agent.standbys import Means, Standbys
from drover.agent.storage.base import Sending, Snapshot, StorageError
from drover.agent.transfer.base import Ticket
from drover.coordinator.protocol.dataset import Cluster, Dataset
from drover.coordinator.records import Copies
from drover.coordinator.specs import DatasetSpec
from tests.unit.making import cluster, dataset, incarnation, spec, tenure


class Backend:
    """Counts its snapshots; whatever else local copies have is there, and not used."""

    name = "loopback"

    def __init__(self) -> None:
        self.taken: list[Snapshot] = []
        self.still = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_: None

    async def snapshot(self, *_: object) -> Snapshot:
        self.taken.append(Snapshot(f"g{len(self.taken) + 1}", f"{len(self.taken) + 1:06}"))
        return self.taken[-1]

    async def snapshots(self, _: object) -> list[Snapshot]:
        return list(self.taken)

    def send(self, _: object, snapshot: Snapshot, parent: Snapshot | None) -> Sending:
        return Sending((snapshot.guid,), parent is None)

    async def prune(self, _: object, keep: set[str]) -> None:
        self.taken = [one for one in self.taken if one.guid in keep or one == self.taken[-1]]

    async def changed(self, *_: object) -> int | None:
        return 0 if self.still else None


class Member:
    """Alive as the stage says."""

    def __init__(self, stage: Stage, rest: SimpleNamespace) -> None:
        self._stage, self._rest = stage, rest

    @property
    def live(self) -> bool:
        return self._stage.live

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rest, name)


@dataclass
class Stage:
    """Node a owns d; the others are standbys that receive into `there`, unless they are `away` or `hang`."""

    d: Dataset
    cluster: Cluster
    there: dict[str, list[str]] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    hang: set[str] = field(default_factory=set)
    moving: set[str] = field(default_factory=set)
    written: list[Copies] = field(default_factory=list)
    refusals: int = 0
    live: bool = True
    backend: Backend = field(default_factory=Backend)
    wakes: list[Callable[[str | None], None]] = field(default_factory=list)

    def means(self) -> Means:
        view: Any = SimpleNamespace(
            dataset=lambda _: self.d,
            unit=lambda _: (self.d,),
            names=lambda: {"d"},
            cluster=self.cluster,
            subscribe=self.wakes.append,
        )
        verbs = SimpleNamespace(acknowledge=self._acknowledge)
        named: dict[str, Any] = {"node": "a", "incarnation": incarnation("a"), "cluster_id": "c"}
        member: Any = Member(self, SimpleNamespace(**named, view=view, verbs=verbs))
        path: Any = SimpleNamespace(connect=self._connect)
        backends: Any = {"loopback": self.backend}
        return Means(member, backends, self._ask, path, lambda: self.moving)

    async def _acknowledge(self, _: Dataset, copies: Copies, revision: int) -> int:
        if self.refusals or revision != len(self.written):
            self.refusals -= 1
            return 0
        self.written.append(copies)
        self.d = replace(self.d, copies=copies, copies_revision=len(self.written))
        return len(self.written)

    @contextlib.asynccontextmanager
    async def _ask(self, sent: Sent, node: str, *_: object) -> AsyncIterator[Expected]:
        if node in self.away:
            raise StorageError(f"{node} is not here")
        if node in self.hang:
            await asyncio.Event().wait()
        there = tuple(Snapshot(guid, guid) for guid in self.there.get(node, []))
        yield Expected(Ticket(node, "", "", ""), there)

    @contextlib.asynccontextmanager
    async def _connect(self, _: object, ticket: Ticket) -> AsyncIterator[Any]:
        async def send(command: tuple[str, ...], *_: object, **__: object) -> Any:
            self.there.setdefault(ticket.node, []).append(command[0])
            return SimpleNamespace(bytes=1, seconds=0.0)

        yield SimpleNamespace(send=send)

    def change(self, **changes: Any) -> None:
        self.d = replace(self.d, **changes)
        for wake in self.wakes:
            wake("d")

    async def until(self, condition: Callable[[Copies], bool]) -> Copies:
        async with asyncio.timeout(5):
            while not self.written or not condition(self.written[-1]):
                await asyncio.sleep(0.005)
        return self.written[-1]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"_FIRST": 0.01, "_LONGEST": 0.02, "_LOOK": 0.02, "_PAUSE": 0.005}.items():
        monkeypatch.setattr(standbys, name, seconds)


def wanted(replicas: int = 2, every: float = 0.05) -> DatasetSpec:
    """Shorter times than anybody may ask for."""
    return spec(replicas=replicas).model_copy(update={"replicate_every": every})


@contextlib.asynccontextmanager
async def kept(stage: Stage) -> AsyncIterator[Standbys]:
    made = Standbys(stage.means())
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])


def owned(replicas: int = 2, every: float = 0.05) -> Stage:
    d = dataset(spec=wanted(replicas, every), tenure=tenure(copies=("a",), written=3))
    return Stage(d, cluster("a", "b", "c", "d"))


async def test_all_standbys_get_the_same_snapshot_and_it_is_acknowledged_once_it_is_there() -> None:
    stage = owned(every=60)
    async with kept(stage):
        last = await stage.until(lambda copies: len(copies.nodes) == 2)
    assert {copy.guid for copy in last.nodes.values()} == {"g1"}
    assert all(stage.there[node] == ["g1"] for node in last.nodes)
    assert (last.epoch, last.uid, set(last.standbys)) == (3, "uid", set(last.nodes))


@pytest.mark.parametrize("trouble", ["away", "hang"])
async def test_one_that_is_away_or_hangs_holds_up_no_other(trouble: str) -> None:
    stage = owned()
    async with kept(stage):
        first = await stage.until(lambda copies: len(copies.nodes) == 2)
        lost, other = first.standbys
        getattr(stage, trouble).add(lost)
        before = number(stage.written[-1], lost)
        later = await stage.until(lambda copies: number(copies, other) >= before + 4)
        assert number(later, lost) <= before + 1
        kept_for_it = {one.guid for one in stage.backend.taken}
        assert later.nodes[lost].guid in kept_for_it, "the next difference begins there"
        if trouble == "away":
            assert later.trouble == {lost: f"{lost} is not here"}
            stage.away.clear()
            back = await stage.until(lambda copies: number(copies, lost) >= before + 4)
            assert back.trouble == {}


def number(copies: Copies, node: str) -> int:
    """Of the snapshot that it has acknowledged."""
    return int(copies.nodes[node].guid[1:])


async def test_one_that_is_away_for_too_long_is_replaced_and_dropped_when_the_new_one_has_its_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = owned(replicas=1)
    async with kept(stage):
        (lost,) = (await stage.until(lambda copies: len(copies.nodes) == 1)).standbys
        stage.away.add(lost)
        await stage.until(lambda copies: bool(copies.trouble))
        monkeypatch.setattr(standbys, "REPLACED_AFTER", 0.05)
        last = await stage.until(lambda copies: lost in copies.dropped)
    (new,) = last.standbys
    assert new != lost
    assert set(last.nodes) == {new}
    chosen = next(copies for copies in stage.written if new in copies.standbys)
    assert lost in chosen.nodes
    assert lost not in chosen.dropped


async def test_fewer_replicas_drop_one_and_none_drop_all() -> None:
    stage = owned()
    async with kept(stage):
        both = await stage.until(lambda copies: len(copies.nodes) == 2)
        stage.change(spec=wanted(1))
        fewer = await stage.until(lambda copies: len(copies.dropped) == 1)
        assert set(fewer.nodes) | {*fewer.dropped} == {*both.standbys}
        stage.change(spec=wanted(0))
        none = await stage.until(lambda copies: len(copies.dropped) == 2)
    assert none.nodes == {}
    assert none.standbys == ()


async def test_nothing_is_sent_while_nothing_changes_and_the_copy_counts_as_new_all_the_same() -> None:
    stage = owned(replicas=1)
    stage.backend.still = True
    async with kept(stage):
        first = await stage.until(lambda copies: len(copies.nodes) == 1)
        (node,) = first.nodes
        later = await stage.until(lambda copies: copies.nodes[node].taken > first.nodes[node].taken)
    assert later.nodes[node].guid == "g1"
    assert stage.there[node] == ["g1"]


async def test_an_acknowledgement_that_was_refused_is_written_again() -> None:
    stage = owned(replicas=1)
    stage.refusals = 2
    async with kept(stage):
        await stage.until(lambda copies: len(copies.nodes) == 1)


async def test_while_it_is_moved_standbys_wait_and_in_the_next_epoch_nothing_old_counts() -> None:
    stage = owned(replicas=1)
    stage.moving.add("d")
    async with kept(stage) as made:
        await stage.until(lambda copies: len(copies.standbys) == 1)
        await asyncio.sleep(0.05)
        assert stage.there == {}
        stage.moving.clear()
        made.wake("d")
        await stage.until(lambda copies: len(copies.nodes) == 1)
        stage.moving.add("d")
        stage.change(tenure=tenure(copies=("a",), written=4, epoch=4))
        later = await stage.until(lambda copies: copies.epoch == 4)
        assert later.nodes == {}


async def test_after_a_long_time_without_etcd_nobody_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = owned(replicas=1)
    monkeypatch.setattr(standbys, "REPLACED_AFTER", 0.1)
    async with kept(stage):
        (node,) = (await stage.until(lambda copies: len(copies.nodes) == 1)).standbys
        stage.live = False
        await asyncio.sleep(0.4)
        stage.live = True
        count = len(stage.written)
        last = await stage.until(lambda copies: len(stage.written) > count)
    assert last.standbys == (node,)
    assert not last.dropped
