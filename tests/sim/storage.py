"""Storage that all machines share, and the back ends on it: images that every machine can open (`shared`), and devices
that the platform attaches to one machine at a time (`block`). Whatever is asked of it may come late, fail or hang.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from drover.agent.guard.ladder import Cut
from drover.agent.storage.base import (
    Attached,
    Away,
    Busy,
    Capacity,
    Family,
    GateClosed,
    HelperDied,
    Here,
    Mounted,
    NotFound,
    StorageError,
    Stored,
    Token,
    Usage,
    Volume,
    check_token,
)
from drover.coordinator.specs import Limits
from tests.sim.machine import MachineProcess

if TYPE_CHECKING:
    from tests.sim.guard import SimGuard
    from tests.sim.machine import Machine
    from tests.sim.world import World

T = TypeVar("T")

TIMEOUT = 8.0
"""Seconds that a job may take."""
_POLL = 0.2
SHARED, BLOCK, LOCAL = "shared", "block", "copies"


@dataclass
class Image:
    """One volume at the storage. data: what has been written, newest last; attached: `block` only."""

    object: str
    backend: str
    dataset: str
    token: Token
    size: int
    formatted: bool = False
    data: list[int] = field(default_factory=list)
    attached: str | None = None
    holder: str = ""
    """Which machine published it last."""


@dataclass(eq=False)
class Mount:
    """Mounted and writable, in this epoch. image: by reference, as a kernel has it."""

    image: Image
    token: Token
    path: Path


@dataclass
class Slowness:
    """Of the storage, while there is trouble: chances of each call."""

    starts_late: float = 0.0
    late: float = 0.0
    fails: float = 0.0
    hangs: float = 0.0


_SOUND = Slowness()


class Job:
    """One helper at work."""

    def __init__(self, machine: Machine, dataset: str) -> None:
        self.machine, self.dataset = machine, dataset
        self.process = MachineProcess(machine, f"helper of {dataset}")
        self.answer: asyncio.Future[Any] = machine.world.loop.create_future()

    def gone(self) -> None:
        for those in (self.machine.jobs, self.machine.helpers):
            if self in those:
                those.remove(self)

    def kill(self) -> None:
        self.process.dead = True
        self.gone()
        if not self.answer.done():
            self.answer.set_exception(HelperDied("the helper was killed"))


class Storage:
    """The truth about the data. Names of volumes are made from the dataset's uid."""

    def __init__(self, world: World) -> None:
        from tests.sim.copies import Copies

        self.world = world
        self.images: dict[str, Image] = {}
        self.copies = Copies()
        self.slowness = Slowness()
        self.steps: tuple[str, ...] = ()
        """The only ones that it is for; (): all."""

    def has(self, image: Image) -> bool:
        """It was not destroyed."""
        return self.copies.has(image) if image.backend == LOCAL else self.images.get(image.object) is image

    def _slowness(self, step: str) -> Slowness:
        return self.slowness if not self.steps or step in self.steps else _SOUND

    def machine_off(self, machine: str) -> None:
        """Attachments stay until somebody detaches them; what was not durable is gone."""
        self.copies.power_cut(machine)

    def cut(self, machine: Machine) -> list[str]:
        """The last means of the ladder."""
        if self.world.loop.now < machine.unkillable:
            return [f"{d} is still mounted" for d in machine.mounts]
        machine.mounts.clear()
        for image in self.images.values():
            if image.attached == machine.name:
                self._detach(image, machine.name)
        machine.mount_table_changed()
        return []

    async def attach(self, image: Image, machine: Machine) -> None:
        """Raises Busy where another machine has it, StorageError."""
        if image.attached not in (None, machine.name):
            raise Busy(f"{image.object} is attached to {image.attached}", image.attached or "")
        await self._ask(machine, "attach", lambda: self._attach(image, machine.name))
        if image.attached != machine.name:
            raise StorageError(f"{image.object} could not be attached to {machine.name}")

    def _attach(self, image: Image, machine: str) -> None:
        if image.attached is None:
            image.attached = machine

    async def detach(self, image: Image, machine: Machine, from_: str) -> None:
        await self._ask(machine, "detach", lambda: self._detach(image, from_))

    def _detach(self, image: Image, machine: str) -> None:
        if image.attached == machine:
            image.attached = None
            holder = self.world.machines[machine]
            held = holder.mounts.get(image.dataset)
            if held is not None and held.image is image:
                del holder.mounts[image.dataset]
                self.world.say(machine, f"{image.dataset}: its device is gone")

    async def _ask(self, machine: Machine, what: str, do: Callable[[], None]) -> None:
        """A call of the platform's API. What was asked happens, whatever becomes of the one that asked."""
        world, delay = self.world, self.world.rng.uniform(0.02, 0.3)
        fate, slowness = world.rng.random(), self._slowness(what)
        if fate < slowness.fails:
            world.fault(f"{what} fails", machine.name)
            await asyncio.sleep(delay)
            raise StorageError(f"the platform refuses to {what}: try again")
        if fate < slowness.fails + slowness.late:
            world.fault(f"{what} late", machine.name)
            delay += world.rng.uniform(1.0, 12.0)
        done = world.loop.create_future()

        def land() -> None:
            do()
            world.check()
            if not done.done():
                done.set_result(None)

        world.after(delay, land)
        try:
            async with asyncio.timeout(TIMEOUT):
                await done
        except TimeoutError:
            raise StorageError(f"the platform does not answer: {what}") from None

    async def starts(self, machine: Machine) -> None:
        """Until a helper has entered the cgroup. Before that nobody finds it to kill it."""
        world, delay = self.world, self.world.rng.uniform(0.001, 0.02)
        if world.rng.random() < self.slowness.starts_late:
            world.fault("helper starts late", machine.name)
            delay += world.rng.uniform(0.5, 10.0)
        await asyncio.sleep(delay)

    async def takes(self, machine: Machine, least: float, most: float, what: str) -> None:
        """Time that a step takes; in trouble much more, or until it is killed."""
        world = self.world
        delay, fate = world.rng.uniform(least, most), world.rng.random()
        slowness = self._slowness(what)
        if fate < slowness.fails:
            world.fault(f"{what} fails", machine.name)
            await asyncio.sleep(delay)
            raise StorageError(f"input/output error in {what}")
        if fate < slowness.fails + slowness.hangs:
            world.fault(f"{what} hangs", machine.name)
            await asyncio.sleep(1000.0)
        if fate < slowness.fails + slowness.hangs + slowness.late:
            world.fault(f"{what} late", machine.name)
            delay += world.rng.uniform(0.5, 8.0)
        await asyncio.sleep(delay)
        while world.loop.now < machine.unkillable:
            await asyncio.sleep(_POLL)


class SimBackend:
    """A `Backend` on one machine, of either family."""

    def __init__(self, name: str, machine: Machine, guard: SimGuard) -> None:
        self.name = name
        self.family = Family.SHARED_FILE if name == SHARED else Family.EXCLUSIVE_BLOCK
        self.limits = Limits(fs="xfs", minimum={"xfs": 300 * 2**20})
        self._machine, self._guard = machine, guard
        self._storage = machine.world.storage

    async def health(self) -> str | None:
        return None

    async def capacity(self) -> Capacity:
        return Capacity(None, None)

    async def look(self, volumes: Sequence[Volume]) -> Mapping[str, Here]:
        await asyncio.sleep(0)
        return {v.dataset: self._here(v) for v in volumes}

    def _here(self, volume: Volume) -> Here:
        mount = self._machine.mounts.get(volume.dataset)
        if mount is not None and mount.image.token.uid == volume.uid:
            return Mounted("/dev/x", mount.path, mount.image.size)
        image = self._storage.images.get(volume.object)
        if image is not None and image.attached == self._machine.name:
            return Attached("/dev/x")
        return Away()

    async def reach(self, volume: Volume) -> str | None:
        return None if volume.object in self._storage.images else f"{volume.object} is not there"

    def _image(self, volume: Volume) -> Image:
        if (image := self._storage.images.get(volume.object)) is None:
            raise NotFound(f"{volume.object} is not there")
        return image

    async def create(self, volume: Volume, token: Token) -> str:
        machine, storage, name = self._machine, self._storage, f"{volume.dataset}-{volume.uid[:8]}"

        async def body() -> str:
            await storage.takes(machine, 0.01, 0.1, "create")
            image = storage.images.get(name)
            if image is None:
                machine.world.checks.writes(machine, volume.dataset, token, "makes")
                image = Image(name, self.name, volume.dataset, token, volume.size)
                storage.images[name] = image
            check_token(image.token, token)
            machine.world.checks.writes(machine, volume.dataset, token, "stores its token with")
            image.token, image.holder = token, machine.name
            await storage.takes(machine, 0.05, 0.8, "mkfs")
            if not image.formatted:
                machine.world.checks.formats(machine, image, token)
                image.formatted = True
            return name

        return await self._job(volume, body)

    async def publish(self, volume: Volume, token: Token, path: Path) -> Mounted:
        machine, storage = self._machine, self._storage

        async def body() -> Mounted:
            image = self._image(volume)
            check_token(image.token, token)
            if self.name == BLOCK:
                await storage.attach(image, machine)
            await storage.takes(machine, 0.01, 0.1, "publish")
            check_token(image.token, token)
            if not image.formatted:
                raise StorageError("there is no file system")
            machine.world.checks.writes(machine, volume.dataset, token, "stores its token with")
            image.token, image.holder = token, machine.name
            await storage.takes(machine, 0.02, 0.3, "mount")
            if self.name == BLOCK and image.attached != machine.name:
                raise StorageError("the device is gone")
            if volume.dataset not in machine.mounts:
                machine.mounts[volume.dataset] = Mount(image, token, path)
                machine.world.checks.mounted(machine, volume.dataset, image, token)
                machine.mount_table_changed()
            return Mounted("/dev/x", path, image.size)

        return await self._job(volume, body)

    async def unpublish(self, volume: Volume) -> None:
        machine, storage = self._machine, self._storage

        async def body() -> None:
            if any(w.alive and volume.dataset in w.datasets for w in machine.workloads.values()):
                raise Busy(f"{volume.dataset} is in use", "a workload")
            await storage.takes(machine, 0.01, 0.3, "unmount")
            if machine.mounts.pop(volume.dataset, None) is not None:
                machine.world.say(machine.name, f"{volume.dataset}: unmounted")
                machine.mount_table_changed()
            image = storage.images.get(volume.object)
            if self.name == BLOCK and image is not None and image.attached == machine.name:
                await storage.detach(image, machine, machine.name)
                if image.attached == machine.name:
                    raise StorageError("it is still attached")

        await self._job(volume, body)

    async def grow(self, volume: Volume) -> None:
        async def body() -> None:
            self._image(volume).size = volume.size

        await self._job(volume, body)

    def usage(self, mounted: Mounted) -> Usage:
        return Usage(mounted.size, 0, 0, 0, mounted.size)

    async def destroy(self, volume: Volume, token: Token) -> None:
        machine, storage = self._machine, self._storage

        async def body() -> None:
            image = storage.images.get(volume.object)
            if image is None:
                return
            check_token(image.token, token)
            await storage.takes(machine, 0.01, 0.2, "destroy")
            machine.world.checks.destroys(machine, image, token)
            storage.images.pop(volume.object, None)

        await self._job(volume, body)

    async def sever(self, volume: Volume, token: Token, machine: str) -> None:
        image = self._storage.images.get(volume.object)
        if image is None:
            return
        check_token(image.token, token)
        if self.name == BLOCK and image.attached == machine:
            await self._storage.detach(image, self._machine, machine)
            if image.attached == machine:
                raise StorageError(f"{volume.object} is still attached to {machine}")

    def last_means(self) -> Cut:
        return Cut("")

    async def stored(self) -> Sequence[Stored]:
        mine = [image for image in self._storage.images.values() if image.backend == self.name]
        return [
            Stored(Volume(i.dataset, i.token.uid, i.size, object=i.object), i.token, i.holder, i.formatted)
            for i in mine
        ]

    async def _job(self, volume: Volume, body: Callable[[], Awaitable[T]]) -> T:
        """As `HelperPool.run`: enters the cgroup, then asks the gate, then works."""
        machine, round_ = self._machine, self._guard.round
        if round_ is None:
            raise GateClosed("the gate is closed")
        job = Job(machine, volume.dataset)
        machine.helpers.append(job)

        async def work() -> None:
            try:
                await self._storage.starts(machine)
                machine.jobs.append(job)
                if not machine.page.admits(round_, machine.clock()):
                    raise GateClosed("the gate has been closed")
                result = await body()
            except (StorageError, TimeoutError) as error:
                if not job.answer.done():
                    job.answer.set_exception(error if isinstance(error, StorageError) else HelperDied("no answer"))
            else:
                if not job.answer.done():
                    job.answer.set_result(result)
            finally:
                job.gone()

        machine.world.spawn(job.process, work())
        try:
            async with asyncio.timeout(TIMEOUT):
                result: T = await job.answer
                return result
        except TimeoutError:
            raise HelperDied("the helper did not finish in time and was killed") from None
        finally:
            if job in machine.helpers:
                # What hangs in the kernel comes back from there first, having done what it was at.
                hangs = machine.unkillable - machine.world.loop.now
                if hangs > 0:
                    machine.late.add(volume.dataset)
                    machine.world.after(hangs + 2 * _POLL, job.kill)
                else:
                    job.kill()
