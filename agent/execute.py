"""Runs the planner's steps: each is one transaction, one verb of a back end, or one of a workload kind."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from drover.agent.copying import Copier, Sent
from drover.agent.helper.pool import HelperPool
from drover.agent.local import Local, volume_of
from drover.agent.rounds import Copying
from drover.agent.situation import Ready
from drover.agent.steps import (
    Activate,
    AskReady,
    Clear,
    Create,
    Destroy,
    Grow,
    Handover,
    LastIncrement,
    Publish,
    Refresh,
    Refuse,
    Release,
    Replicate,
    Reput,
    StartWorkload,
    Step,
    StopReplicating,
    StopWorkload,
    TakeClaim,
    Touch,
    Unpublish,
)
from drover.agent.storage.base import (
    Away,
    Backend,
    Busy,
    Family,
    LocalCopies,
    Mounted,
    NotFound,
    StorageError,
    Token,
    Volume,
)
from drover.agent.telemetry import Telemetry
from drover.agent.users import Users
from drover.agent.workloads.base import Runtime, WorkloadError, fingerprint
from drover.coordinator.member import Member
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.protocol.placement import MAX_UNIT
from drover.coordinator.records import Holder, State
from drover.coordinator.specs import MAX_CUTOVER, DatasetSpec, WorkloadSpec

log = logging.getLogger(__name__)

_LOOK = 2.0
"""Seconds that the look who uses a dataset may take before its workload is stopped for a move."""


class Unreachable(StorageError):
    """This node could not bring the dataset up, found before anything was touched."""


class Stuck(StorageError):
    """What this node has begun with the dataset's storage has neither ended nor can be ended."""


def _split(unit: Mapping[str, Dataset], names: Sequence[str]) -> tuple[list[Dataset], list[Dataset]]:
    """What a step is about, and the others of the unit; none where it is too large for one transaction."""
    others = [d for name, d in unit.items() if name not in names] if len(unit) <= MAX_UNIT else []
    return [unit[name] for name in names], others


@dataclass
class Executor:
    """The hands of all workers of one incarnation. mount_root: where datasets are mounted, by name."""

    member: Member
    backends: Mapping[str, Backend]
    runtimes: Mapping[str, Runtime]
    local: Local
    mount_root: Path
    telemetry: Telemetry
    helpers: HelperPool
    outsiders: Callable[[Sequence[Path]], list[str]] | None = None
    """Which processes use what is mounted there that we have not started. May hang where the storage does. Raises
    OSError. None: nobody looks beforehand."""
    copier: Copier | None = None
    """None: no back end here has local copies."""
    users: Users | None = None
    ask_ready: Callable[[str, WorkloadSpec, str], Awaitable[Ready]] | None = None
    """Asks another node about a workload; None: nobody is asked."""
    ready: dict[str, Ready] = field(default_factory=dict)
    """By workload: what its next node has said last."""
    starts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By dataset: an epoch, and the milliseconds that its slowest workload took to start in it for the first time."""
    cutovers: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By dataset: an epoch, and the milliseconds for which it was mounted nowhere when that began."""
    _down: dict[str, float] = field(default_factory=dict)
    _stopped: dict[str, float] = field(default_factory=dict)
    """When the first workload of a dataset was told to end, since one ran (Unix time)."""
    _gaps: dict[str, int] = field(default_factory=dict)
    """By dataset: the epoch whose client gap was counted."""

    @property
    def copying(self) -> Mapping[str, Copying]:
        return self.copier.states if self.copier is not None else {}

    def path(self, dataset: str) -> Path:
        return self.mount_root / dataset

    async def run(self, step: Step, unit: Mapping[str, Dataset]) -> None:
        """Raises StorageError, WorkloadError, StoreError, NotLive. A transaction that fails its compare is no error:
        the next look tells."""
        match step:
            case Touch(name):
                await self.member.verbs.touch(unit[name])
            case TakeClaim(claim):
                taken = await self.member.verbs.claim(claim, *_split(unit, claim.datasets))
                if taken and claim.evidence is not None:
                    log.warning("%s: %s", ", ".join(claim.datasets), claim.because)
                    for _ in claim.datasets:
                        self.telemetry.failed_over(claim.evidence)
            case Clear(name, stopped):
                await self._clear(unit[name], stopped)
            case Activate(name):
                await self._activate(unit[name])
            case Refuse(names, to, because):
                await self._refuse(*_split(unit, names), to, because)
            case Create(name):
                await self._create(unit[name])
            case Publish(name):
                await self._publish(unit[name])
            case Grow(name):
                backend, volume = self._at(unit[name])
                await backend.grow(volume)
            case Refresh(name):
                await self.member.verbs.refresh(unit[name])
            case Reput(name):
                await self.member.verbs.reput(unit[name])
            case StartWorkload(name):
                await self._start(name)
            case AskReady(name, to):
                await self._ask_ready(name, to)
            case StopWorkload(name, moving):
                if moving:
                    await self._nobody_else(unit)
                await self._stop(name)
            case Unpublish(name, leaving):
                if leaving:
                    self.member.verbs.announce(name)
                await self.helpers.prepare(name)
                self._down.setdefault(name, time.time())
                backend, volume = self._at(unit[name])
                with self._nobody_begins(unit[name]):
                    await backend.unpublish(volume)
            case Handover(names, to, because):
                await self._handover(*_split(unit, names), to, because)
            case Replicate(name, to):
                self._replicate(unit[name], to)
            case StopReplicating(name):
                if self.copier is not None:
                    await self.copier.stop(name)
            case LastIncrement(name):
                if self.copier is not None:
                    await self.copier.last(name)
            case Release(names, because):
                await self._check_free([unit[n] for n in names])
                await self.member.verbs.release([unit[n] for n in names], because)
            case Destroy(name):
                await self._destroy(unit[name])

    @contextmanager
    def _nobody_begins(self, d: Dataset) -> Iterator[None]:
        """Meanwhile no container here comes to use it. Raises Busy where one does, unless it is not ours any more."""
        if self.users is None:
            yield
            return
        mine = d.tenure is not None and d.tenure.held and d.tenure.incarnation == self.member.incarnation
        self.users.leave(d.name, insist=not mine)
        try:
            yield
            self.local.forget(d.name)
        finally:
            self.users.left(d.name)

    def _at(self, d: Dataset) -> tuple[Backend, Volume]:
        volume = volume_of(d)
        if volume is None or d.tenure is None:
            raise NotFound(f"{d.name} has no volume")
        return self.backends[d.tenure.backend], volume

    def _token(self, d: Dataset) -> Token:
        if d.tenure is None:
            raise NotFound(f"{d.name} has no tenure")
        return Token(self.member.cluster_id, d.tenure.uid, d.tenure.epoch, d.tenure.incarnation)

    async def _clear(self, d: Dataset, stopped: tuple[Holder, ...]) -> None:
        backend, volume = self._at(d)
        for holder in stopped:
            await backend.sever(volume, self._token(d), holder.node)
        await self.member.verbs.cleared(d, stopped)

    async def _activate(self, d: Dataset) -> None:
        backend, volume = self._at(d)
        # What is to be destroyed may be gone already: whoever did it died before it was recorded.
        there = d.tenure is not None and d.tenure.born and not d.doomed
        wrong = await (backend.reach(volume) if there else backend.health())
        if wrong is not None:
            raise Unreachable(wrong)
        if there and d.tenure is not None and d.tenure.copies and isinstance(backend, LocalCopies):
            await backend.materialise(volume, self._token(d), d.tenure.base, d.tenure.written)
        activated, _ = await asyncio.gather(self.member.verbs.activate(d), self.helpers.prepare(d.name))
        if not activated:
            self.helpers.unprepare(d.name)

    async def _check_free(self, datasets: Iterable[Dataset]) -> None:
        """Nothing here can come to use them any more. Raises Stuck, StorageError."""
        for d in datasets:
            if self.helpers.stuck(d.name):
                raise Stuck(
                    f"a helper of {d.name} was killed and is not gone: it hangs in the kernel, and may still mount. "
                    "The dataset stays here until the storage answers or this machine is rebooted"
                )
            if d.name in self.helpers.late:
                # The look that this step rests on may be older than the last thing that it did.
                self.local.forget(d.name)
                here = (await self.local.look((d,))).get(d.name, Away())
                self.helpers.late.discard(d.name)
                if not isinstance(here, Away):
                    raise Stuck(
                        f"a helper of {d.name} was killed, hung in the kernel, and brought it here before it was gone: "
                        "it is unmounted first"
                    )

    async def _refuse(self, datasets: list[Dataset], beside: list[Dataset], to: str | None, because: str) -> None:
        await self._check_free(datasets)
        log.error("%s: %s", ", ".join(d.name for d in datasets), because)
        self.telemetry.move_failed()
        if to is not None:
            await self.member.verbs.handover(datasets, to, f"handed back: {because}", beside, refused=True)
        else:
            await self.member.verbs.release(datasets, because, refused=True)

    async def _create(self, d: Dataset) -> None:
        backend, volume = self._at(d)
        if isinstance(d.spec, DatasetSpec) and (wrong := backend.limits.refuse(d.spec.size, d.spec.fs)):
            raise StorageError(wrong)
        object_ = await backend.create(volume, self._token(d))
        await self.member.verbs.born(d, object_, backend.family is Family.LOCAL_COPIES)

    async def _publish(self, d: Dataset) -> None:
        backend, volume = self._at(d)
        await backend.publish(volume, self._token(d), self.path(d.name))
        tenure = d.tenure
        if tenure is None or tenure.down is None or self.cutovers.get(d.name, (0, 0))[0] == tenure.epoch:
            return
        seconds = max(0.0, time.time() - tenure.down)
        self.cutovers[d.name] = (tenure.epoch, round(seconds * 1000))
        if tenure.evidence is not None:
            self.telemetry.failover_gap(seconds)
        else:
            self.telemetry.moved(seconds)
            log.info("%s moved here from %s, cut-over %.0f ms", d.name, tenure.source, seconds * 1000)

    async def _start(self, name: str) -> None:
        spec = self.member.view.cluster.workloads.get(name)
        if spec is None:
            return
        runtime = self.runtimes.get(spec.kind)
        if runtime is None:
            raise WorkloadError(f"this node has no runtime for workloads of kind {spec.kind}")
        epochs = {d: t.epoch for d in spec.datasets if (t := self.member.view.dataset(d).tenure) is not None}
        first, began = {d: epoch for d, epoch in epochs.items() if self._gaps.get(d) != epoch}, time.monotonic()
        await runtime.start(name, spec, {d: self.path(d) for d in spec.datasets})
        took = round((time.monotonic() - began) * 1000)
        for dataset, epoch in first.items():
            known = self.starts.get(dataset, (0, 0))
            self.starts[dataset] = (epoch, max(took, known[1] if known[0] == epoch else 0))
        self.ready.pop(name, None)
        for dataset in spec.datasets:
            self._stopped.pop(dataset, None)
        tenures = {d: t for d in spec.datasets if (t := self.member.view.dataset(d).tenure) is not None}
        stopped = [t.stopped for d, t in tenures.items() if t.stopped and self._gaps.get(d) != t.epoch]
        self._gaps |= {d: tenure.epoch for d, tenure in tenures.items()}
        if stopped:
            self.telemetry.client_gap(time.time() - min(stopped))

    async def _ask_ready(self, name: str, to: str) -> None:
        spec = self.member.view.cluster.workloads.get(name)
        if spec is not None and self.ask_ready is not None:
            self.ready[name] = await self.ask_ready(name, spec, to)
            if trouble := self.ready[name].trouble:
                log.warning("%s is not stopped: %s cannot run it: %s", name, to, trouble)
        elif spec is not None:
            self.ready[name] = Ready(to, fingerprint(spec), time.clock_gettime(time.CLOCK_BOOTTIME), done=True)

    async def _nobody_else(self, unit: Mapping[str, Dataset]) -> None:
        """Raises Busy where a process of this machine uses the data that no workload has started and nobody stops: a
        shell, mostly. What is in a container is looked after by its engine. Where storage does not say in time, it is
        found out by unmounting."""
        paths = [here.path for name in unit if isinstance(here := self.local.seen(name), Mounted)]
        if self.outsiders is None or not paths:
            return
        try:
            async with asyncio.timeout(_LOOK):
                users = await asyncio.to_thread(self.outsiders, paths)
        except (TimeoutError, OSError):
            return
        if users:
            who = ", ".join(users)
            raise Busy(f"{', '.join(sorted(unit))}: in use by {who}, so no workload is stopped; end it", who)

    async def _stop(self, name: str) -> None:
        spec = self.member.view.cluster.workloads.get(name)
        if spec is not None and spec.kind in self.runtimes:
            for dataset in spec.datasets:
                self._stopped.setdefault(dataset, time.time())
            await self.runtimes[spec.kind].stop(name, spec.stop_grace_period)

    async def _handover(self, datasets: list[Dataset], beside: list[Dataset], to: str, because: str) -> None:
        await self._check_free(datasets)
        down = [at for d in datasets if (at := self._down.pop(d.name, None)) is not None]
        stopped = [at for d in datasets if (at := self._stopped.pop(d.name, None)) is not None]
        bases = {
            d.name: sent.base
            for d in datasets
            if (sent := self.copying.get(d.name)) is not None and sent.base is not None
            if d.tenure is not None and (sent.to, sent.epoch) == (to, d.tenure.epoch)
        }
        verbs, began, told = self.member.verbs, min(down, default=None), min(stopped, default=None)
        await verbs.handover(datasets, to, because, beside, down=began, stopped=told, bases=bases)

    def _replicate(self, d: Dataset, to: str) -> None:
        backend, volume = self._at(d)
        if self.copier is None or not isinstance(backend, LocalCopies):
            raise StorageError(f"back end {backend.name} keeps no copies here: {d.name} cannot be sent to {to}")

        def limits() -> tuple[float, bool]:
            spec = self.member.view.dataset(d.name).spec
            if not isinstance(spec, DatasetSpec):
                return MAX_CUTOVER, False
            return spec.max_cutover, spec.longer_cutover == "give up"

        kept = frozenset(copy.guid for copy in d.acknowledged.values())
        self.copier.start(Sent(backend, volume, self._token(d), limits, kept), to)

    async def _destroy(self, d: Dataset) -> None:
        if d.tenure is None or d.tenure.state is not State.ACTIVE:
            return
        await self._check_free([d])
        if not await self.member.verbs.condemn(d):
            return
        backend, volume = self._at(d)
        await backend.destroy(volume, self._token(d))
        await self.member.verbs.destroyed(self.member.view.dataset(d.name))
