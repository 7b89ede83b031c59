"""Single steps, on stand-ins for what they call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest

from drover.agent.execute import Executor, Stuck, Unreachable
from drover.agent.helper.pool import HelperPool
from drover.agent.local import Local
from drover.agent.steps import Activate, Destroy, Handover, Refuse, Release, Step
from drover.agent.storage.base import Away, Backend, Here, Mounted, Token, Volume
from drover.agent.telemetry import Telemetry
from drover.agent.worker import pause_after
from drover.coordinator.member import Member
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.records import State
from tests.unit.making import BACKEND, dataset, tenure


class _Member:
    def __init__(self) -> None:
        self.activated: list[str] = []
        self.verbs = self

    async def activate(self, d: Dataset) -> bool:
        self.activated.append(d.name)
        return True


class _Helpers:
    def __init__(self, stuck: bool = False) -> None:
        self._stuck = stuck
        self.late: set[str] = set()

    async def prepare(self, dataset: str) -> None:
        return None

    def stuck(self, dataset: str) -> bool:
        return self._stuck


class _Empty:
    """A back end that is well and has no volume."""

    async def health(self) -> str | None:
        return None

    async def reach(self, volume: Volume) -> str | None:
        return "it is not there"


async def activated(d: Dataset) -> list[str]:
    member = _Member()
    backends = {BACKEND: cast(Backend, _Empty())}
    helpers, telemetry = cast(HelperPool, _Helpers()), cast(Telemetry, None)
    execute = Executor(
        cast(Member, member), backends, {}, Local(backends, lambda _: None), Path("/"), telemetry, helpers
    )
    await execute.run(Activate(d.name), {d.name: d})
    return member.activated


async def test_a_volume_that_cannot_be_reached_is_not_activated() -> None:
    with pytest.raises(Unreachable):
        await activated(dataset(tenure=tenure(state=State.ASSIGNED, born=True)))


async def test_one_that_is_to_be_destroyed_is_activated_though_somebody_has_destroyed_it_already() -> None:
    doomed = dataset(spec=None, tenure=tenure(state=State.ASSIGNED, born=True, reclaim="delete"))
    assert await activated(doomed) == ["d"]


def test_the_pause_after_failures_grows_and_has_an_end() -> None:
    assert [pause_after(n) for n in (1, 2, 3)] == [0.2, 0.4, 0.8]
    assert pause_after(100_000) == 30.0


class _Owner(_Member):
    """condemns: whether etcd finds the spec gone, as the view does."""

    def __init__(self, d: Dataset, condemns: bool) -> None:
        super().__init__()
        self.cluster_id, self.said = "c", list[str]()
        self.view = self
        self._d, self._condemns = d, condemns

    def dataset(self, name: str) -> Dataset:
        return self._d

    async def condemn(self, d: Dataset) -> bool:
        return self._condemns

    async def destroyed(self, d: Dataset) -> bool:
        self.said.append(d.name)
        return True


class _Destroys(_Empty):
    def __init__(self) -> None:
        self.gone: list[str] = []

    async def destroy(self, volume: Volume, token: Token) -> None:
        self.gone.append(volume.dataset)


@pytest.mark.parametrize("condemned", [True, False])
async def test_nothing_is_destroyed_before_etcd_itself_has_found_the_spec_gone(condemned: bool) -> None:
    doomed = dataset(spec=None, tenure=tenure(born=True, reclaim="delete"))
    member, backend = _Owner(doomed, condemned), _Destroys()
    backends = {BACKEND: cast(Backend, backend)}
    helpers, telemetry = cast(HelperPool, _Helpers()), cast(Telemetry, None)
    local = Local(backends, lambda _: None)
    execute = Executor(cast(Member, member), backends, {}, local, Path("/"), telemetry, helpers)
    await execute.run(Destroy("d"), {"d": doomed})
    assert (backend.gone, member.said) == ((["d"], ["d"]) if condemned else ([], []))


@pytest.mark.parametrize(
    "step", [Handover(("d",), "b", "why"), Release(("d",), "why"), Refuse(("d",), None, "why"), Destroy("d")]
)
async def test_a_dataset_does_not_leave_while_a_killed_helper_may_still_mount_it(step: Step) -> None:
    doomed = dataset(spec=None, tenure=tenure(born=True, reclaim="delete"))
    member, backend = _Owner(doomed, True), _Destroys()
    backends = {BACKEND: cast(Backend, backend)}
    helpers, telemetry = cast(HelperPool, _Helpers(stuck=True)), cast(Telemetry, None)
    local = Local(backends, lambda _: None)
    execute = Executor(cast(Member, member), backends, {}, local, Path("/"), telemetry, helpers)
    with pytest.raises(Stuck, match="rebooted"):
        await execute.run(step, {"d": doomed})
    assert (backend.gone, member.said) == ([], [])


class _Late(_Destroys):
    """here: what a look finds."""

    here: Here = Away()

    async def look(self, volumes: Sequence[Volume]) -> Mapping[str, Here]:
        return {volume.dataset: self.here for volume in volumes}


async def test_a_dataset_does_not_leave_that_a_killed_helper_mounted_after_the_last_look() -> None:
    doomed = dataset(spec=None, tenure=tenure(born=True, reclaim="delete"))
    member, backend, helpers = _Owner(doomed, True), _Late(), _Helpers()
    backends = {BACKEND: cast(Backend, backend)}
    local = Local(backends, lambda _: None)
    execute = Executor(
        cast(Member, member), backends, {}, local, Path("/"), cast(Telemetry, None), cast(HelperPool, helpers)
    )
    assert await local.look((doomed,)) == {"d": Away()}
    helpers.late.add("d")
    backend.here = Mounted("/dev/x", Path("/d"), 1)
    with pytest.raises(Stuck, match="unmounted first"):
        await execute.run(Destroy("d"), {"d": doomed})
    assert backend.gone == []
    assert await local.look((doomed,)) == {"d": backend.here}, "the next look shows it"
    local.forget("d")
    backend.here = Away()
    await execute.run(Destroy("d"), {"d": doomed})
    assert backend.gone == ["d"]
