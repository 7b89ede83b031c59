"""Local copies: each machine has its own, and snapshots go between them. A back end on them, as btrfs is one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drover.agent.storage.base import (
    Away,
    Busy,
    Damaged,
    Diverged,
    Family,
    Here,
    Mounted,
    NotFound,
    Sending,
    Snapshot,
    Stored,
    Superseded,
    Token,
    Volume,
    check_token,
)
from tests.sim.storage import LOCAL, Image, Mount, SimBackend

if TYPE_CHECKING:
    from tests.sim.guard import SimGuard
    from tests.sim.machine import Machine

END = "-end"


@dataclass(frozen=True)
class Snap:
    """ended: it is the end of an epoch. durable: a power cut leaves it."""

    guid: str
    name: str
    data: tuple[int, ...]
    durable: bool = True

    @property
    def told(self) -> Snapshot:
        return Snapshot(self.guid, self.name)


@dataclass
class Arriving:
    """What a receive has left. whole: all of it, as it was sent."""

    snap: Snap
    whole: bool


@dataclass
class Copy:
    """All that one machine has of one volume. live: the working copy."""

    volume: Volume
    token: Token
    holder: str
    formatted: bool = False
    live: Image | None = None
    snapshots: list[Snap] = field(default_factory=list)
    arriving: Arriving | None = None
    diverged: list[Diverged] = field(default_factory=list)


class Copies:
    """By machine and uid."""

    def __init__(self) -> None:
        self._copies: dict[tuple[str, str], Copy] = {}

    def get(self, machine: str, uid: str) -> Copy | None:
        return self._copies.get((machine, uid))

    def put(self, machine: str, copy: Copy) -> None:
        self._copies[machine, copy.volume.uid] = copy

    def remove(self, machine: str, uid: str) -> None:
        self._copies.pop((machine, uid), None)

    def of(self, machine: str) -> list[Copy]:
        return [copy for (name, _), copy in self._copies.items() if name == machine]

    def has(self, image: Image) -> bool:
        return any(copy.live is image for copy in self._copies.values())

    def power_cut(self, machine: str) -> None:
        """What was not durable is gone, and so is all that had come in part."""
        for copy in self.of(machine):
            copy.snapshots = [snap for snap in copy.snapshots if snap.durable]
            if copy.arriving is not None:
                copy.arriving.whole = False


class SimCopies(SimBackend):
    """A `LocalCopies` on one machine."""

    both_ways: bool = False

    def __init__(self, machine: Machine, guard: SimGuard) -> None:
        super().__init__(LOCAL, machine, guard)
        self.family = Family.LOCAL_COPIES

    def _copy(self, volume: Volume) -> Copy | None:
        return self._storage.copies.get(self._machine.name, volume.uid)

    def _found(self, volume: Volume) -> Copy:
        if (copy := self._copy(volume)) is None:
            raise NotFound(f"no copy of {volume.dataset} is here")
        return copy

    def _mine(self, volume: Volume, token: Token) -> Copy:
        copy = self._found(volume)
        check_token(copy.token, token)
        if copy.token != token:
            raise Superseded(f"the working copy is of epoch {copy.token.epoch}, not of {token.epoch}")
        return copy

    def _not_mounted(self, volume: Volume) -> None:
        mount = self._machine.mounts.get(volume.dataset)
        if mount is not None and mount.image.object == volume.uid:
            raise Busy(f"{volume.dataset} is still mounted here", "a mount here")

    def _image(self, volume: Volume) -> Image:
        copy = self._found(volume)
        if copy.live is None:
            raise NotFound("there is no working copy")
        return copy.live

    def _working(self, copy: Copy, data: Sequence[int]) -> Image:
        volume = copy.volume
        copy.live = Image(volume.uid, LOCAL, volume.dataset, copy.token, volume.size, copy.formatted, list(data))
        copy.live.holder = self._machine.name
        return copy.live

    def _ensure_live(self, copy: Copy) -> Image:
        if copy.live is not None:
            copy.live.token = copy.token
            return copy.live
        if not copy.snapshots or not copy.snapshots[-1].name.endswith(END):
            raise NotFound(f"there is no working copy of {copy.volume.dataset} here")
        return self._working(copy, copy.snapshots[-1].data)

    def _here(self, volume: Volume) -> Here:
        mount = self._machine.mounts.get(volume.dataset)
        if mount is not None and mount.image.token.uid == volume.uid:
            return Mounted("/dev/x", mount.path, mount.image.size)
        return Away()

    async def reach(self, volume: Volume) -> str | None:
        copy = self._copy(volume)
        return None if copy is not None and (copy.live or copy.snapshots) else "no copy is here"

    async def create(self, volume: Volume, token: Token) -> str:
        machine, storage = self._machine, self._storage

        async def body() -> str:
            await storage.takes(machine, 0.01, 0.1, "create")
            copy = self._copy(volume)
            if copy is None:
                machine.world.checks.writes(machine, volume.dataset, token, "makes")
                copy = Copy(volume, token, machine.name)
                storage.copies.put(machine.name, copy)
            check_token(copy.token, token)
            if not copy.formatted:
                machine.world.checks.writes(machine, volume.dataset, token, "stores its token with")
                copy.token = token
                image = self._working(copy, [])
                machine.world.checks.formats(machine, image, token)
                copy.formatted = image.formatted = True
            return volume.uid

        return await self._job(volume, body)

    async def publish(self, volume: Volume, token: Token, path: Path) -> Mounted:
        machine, storage = self._machine, self._storage

        async def body() -> Mounted:
            await storage.takes(machine, 0.01, 0.1, "publish")
            image = self._ensure_live(self._mine(volume, token))
            await storage.takes(machine, 0.02, 0.3, "mount")
            if self._mine(volume, token).live is not image:
                raise NotFound("the working copy is gone")
            if volume.dataset not in machine.mounts:
                machine.mounts[volume.dataset] = Mount(image, token, path)
                machine.world.checks.mounted(machine, volume.dataset, image, token)
                machine.mount_table_changed()
            return Mounted("/dev/x", path, image.size)

        return await self._job(volume, body)

    async def grow(self, volume: Volume) -> None:
        async def body() -> None:
            self._image(volume).size = volume.size

        await self._job(volume, body)

    async def destroy(self, volume: Volume, token: Token) -> None:
        machine, storage = self._machine, self._storage

        async def body() -> None:
            copy = self._copy(volume)
            if copy is None:
                return
            check_token(copy.token, token)
            self._not_mounted(volume)
            await storage.takes(machine, 0.01, 0.2, "destroy")
            if copy.live is not None:
                machine.world.checks.destroys(machine, copy.live, token)
            storage.copies.remove(machine.name, volume.uid)

        await self._job(volume, body)

    async def sever(self, volume: Volume, token: Token, machine: str) -> None:
        """No other machine can write to this one's copies."""

    async def stored(self) -> Sequence[Stored]:
        return [
            Stored(replace(copy.volume, object=copy.volume.uid), copy.token, copy.holder, copy.formatted)
            for copy in self._storage.copies.of(self._machine.name)
        ]

    # Local copies.

    async def materialise(self, volume: Volume, token: Token, base: str | None, written: int) -> str:
        async def body() -> str:
            await self._takes()
            copy = self._found(volume)
            check_token(copy.token, token)
            self._not_mounted(volume)
            if base is None:
                if copy.token.epoch < written:
                    raise NotFound(f"what is here is of epoch {copy.token.epoch}, and epoch {written} was written")
                self._ensure_live(copy)
                self._stamp(copy, token)
                return ""
            if copy.token == token and copy.live is not None:
                return ""
            snap = next((snap for snap in copy.snapshots if snap.guid == base), None)
            if snap is None:
                raise NotFound(f"the snapshot {base} is not here")
            aside = self._set_aside(copy)
            self._stamp(copy, token)
            self._working(copy, snap.data)
            return aside

        return await self._job(volume, body)

    def _stamp(self, copy: Copy, token: Token) -> None:
        copy.token, copy.holder = token, self._machine.name
        if copy.live is not None:
            copy.live.token = token

    def _set_aside(self, copy: Copy) -> str:
        if copy.live is None:
            return ""
        epoch, copy.live = copy.token.epoch, None
        copy.diverged.append(Diverged(epoch, self._machine.world.random_id(), f"/copies/diverged-{epoch}"))
        return copy.diverged[-1].path

    async def snapshots(self, volume: Volume) -> Sequence[Snapshot]:
        copy = self._copy(volume)
        return [snap.told for snap in copy.snapshots] if copy is not None else []

    async def presync(self, volume: Volume) -> None:
        await self._job(volume, self._takes)

    async def _takes(self) -> None:
        await self._storage.takes(self._machine, 0.005, 0.1, "copy's step")

    async def snapshot(self, volume: Volume, token: Token) -> Snapshot:
        return await self._take(volume, token, "")

    async def seal(self, volume: Volume, token: Token) -> Snapshot:
        return await self._take(volume, token, END)

    async def _take(self, volume: Volume, token: Token, suffix: str) -> Snapshot:
        async def body() -> Snapshot:
            await self._takes()
            copy = self._mine(volume, token)
            if suffix:
                self._not_mounted(volume)
            if copy.live is None and copy.snapshots and copy.snapshots[-1].name.endswith(END):
                return copy.snapshots[-1].told
            image = self._ensure_live(copy)
            name = f"{token.epoch:06}-{len(copy.snapshots):04}-{self._machine.world.random_id()[:4]}{suffix}"
            copy.snapshots.append(Snap(self._machine.world.random_id(), name, tuple(image.data)))
            if suffix:
                copy.live = None
            return copy.snapshots[-1].told

        return await self._job(volume, body)

    def send(self, volume: Volume, snapshot: Snapshot, parent: Snapshot | None) -> Sending:
        return Sending(("send", volume.uid, snapshot.guid, parent.guid if parent else ""), parent is None)

    async def set_aside(self, volume: Volume, token: Token) -> str:
        async def body() -> str:
            await self._takes()
            copy = self._found(volume)
            check_token(copy.token, token)
            self._not_mounted(volume)
            aside = self._set_aside(copy)
            copy.token = token
            return aside

        return await self._job(volume, body)

    async def diverged(self, volume: Volume) -> Sequence[Diverged]:
        copy = self._copy(volume)
        return list(copy.diverged) if copy is not None else []

    async def discard_diverged(self, volume: Volume, token: Token, guid: str) -> None:
        async def body() -> None:
            copy = self._found(volume)
            check_token(copy.token, token)
            copy.diverged = [kept for kept in copy.diverged if kept.guid != guid]

        await self._job(volume, body)

    async def expect(self, volume: Volume, token: Token, theirs: Collection[str]) -> Sequence[Snapshot]:
        async def body() -> Sequence[Snapshot]:
            await self._takes()
            machine, copy = self._machine, self._copy(volume)
            if copy is None:
                none = replace(token, epoch=0, incarnation="")
                copy = Copy(volume, none, machine.name, True)
                self._storage.copies.put(machine.name, copy)
            check_token(copy.token, token)
            self._not_mounted(volume)
            if copy.token != token:
                self._set_aside(copy)
            copy.token, copy.arriving = token, None
            return [snap.told for snap in copy.snapshots]

        return await self._job(volume, body)

    def receive(self, volume: Volume) -> tuple[str, ...]:
        return ("receive", volume.uid)

    def arrived(self, volume: Volume, token: Token, snapshot: Snapshot) -> tuple[str, Mapping[str, Any]]:
        return "received", {"uid": volume.uid, "token": token, "guid": snapshot.guid}

    def received(self, uid: str, token: Token, guid: str) -> None:
        """The check at the end of a round: it is whole, and durable then."""
        copy = self._storage.copies.get(self._machine.name, uid)
        if copy is None or copy.token != token:
            raise Superseded("another epoch is expected here by now")
        come = copy.arriving
        if come is None:
            if not any(snap.guid == guid for snap in copy.snapshots):
                raise Damaged("it did not arrive")
            return
        copy.arriving = None
        if not come.whole or come.snap.guid != guid:
            raise Damaged("it did not arrive whole, and was removed")
        copy.snapshots.append(come.snap)

    async def discard(self, volume: Volume) -> None:
        async def body() -> None:
            if (copy := self._copy(volume)) is not None:
                copy.arriving = None

        await self._job(volume, body)

    async def prune(self, volume: Volume, keep: Collection[str]) -> None:
        async def body() -> None:
            if (copy := self._copy(volume)) is not None:
                copy.snapshots = [s for s in copy.snapshots[:-1] if s.guid in keep] + copy.snapshots[-1:]

        await self._job(volume, body)
