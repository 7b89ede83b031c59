"""What is really here: one look at the back ends for all datasets, kept until something may have changed.

The kernel says when the mount table changes, so nothing is polled; once a minute everything is looked at all the same.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from drover.agent.storage.base import Away, Backend, Here, Mounted, StorageError, Usage, Volume
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.records import State
from drover.coordinator.specs import DatasetSpec

log = logging.getLogger(__name__)

EVERY = 60.0
"""Seconds between two looks without a reason."""
_SETTLE = 0.5
"""Seconds that mount events are gathered before a look at everything."""


def volume_of(d: Dataset) -> Volume | None:
    """A dataset's volume as its tenure has it; None where there is none (yet, or any more)."""
    tenure = d.tenure
    if tenure is None or tenure.state is State.DESTROYED:
        return None
    spec = d.spec if isinstance(d.spec, DatasetSpec) and not d.replaced else None
    return Volume(d.name, tenure.uid, spec.size if spec else 0, spec.fs if spec else None, tenure.object)


class _Look:
    """One look at a back end, for all who asked before it began."""

    def __init__(self) -> None:
        self.volumes: dict[str, Volume] = {}
        self.found: Mapping[str, Here] | None = None


class _Looks:
    """Looks at one back end, one after the other. Who asks while one is under way shares the next: whatever it did
    before it asked is seen by that."""

    def __init__(self, backend: Backend) -> None:
        self.count = 0
        self._backend = backend
        self._one_at_a_time = asyncio.Lock()
        self._next = _Look()

    async def look(self, volumes: Sequence[Volume]) -> Mapping[str, Here]:
        """Of more datasets than asked for. Raises StorageError."""
        look = self._next
        look.volumes.update((volume.dataset, volume) for volume in volumes)
        await asyncio.sleep(0)  # who was woken by the same event asks before it begins
        async with self._one_at_a_time:
            if look.found is None:
                if self._next is look:
                    self._next = _Look()
                self.count += 1
                look.found = await self._backend.look(list(look.volumes.values()))
        return look.found


class Local:
    """changed: called with the dataset whose state here is not what it was at the last look."""

    def __init__(self, backends: Mapping[str, Backend], changed: Callable[[str], None]) -> None:
        self._backends = backends
        self._looks, self._changed = {name: _Looks(backend) for name, backend in backends.items()}, changed
        self._here: dict[str, tuple[str, Here]] = {}
        self._volumes: dict[str, tuple[str, Volume]] = {}

    async def look(self, datasets: tuple[Dataset, ...]) -> dict[str, Here]:
        """What is here of each dataset that has a volume at a back end of this node. Raises StorageError."""
        here: dict[str, Here] = {}
        stale: dict[str, list[Volume]] = {}
        for d in datasets:
            volume = volume_of(d)
            if volume is None or d.tenure is None or d.tenure.backend not in self._looks:
                self._volumes.pop(d.name, None)
                continue
            self._volumes[d.name] = (d.tenure.backend, volume)
            known = self._here.get(d.name)
            if known is not None and known[0] == volume.uid:
                here[d.name] = known[1]
            else:
                stale.setdefault(d.tenure.backend, []).append(volume)
        for name, volumes in stale.items():
            found = await self._looks[name].look(volumes)
            for volume in volumes:
                here[volume.dataset] = found.get(volume.dataset, Away())
                self._here[volume.dataset] = (volume.uid, here[volume.dataset])
        return here

    @property
    def looks(self) -> Mapping[str, int]:
        """How often each back end was looked at."""
        return {name: looks.count for name, looks in self._looks.items()}

    @property
    def mounts(self) -> Mapping[str, Callable[[], Usage]]:
        """What is mounted here, as the last looks found: each is asked how full it is, and may hang."""
        return {
            name: partial(self._backends[backend].usage, here)
            for name, (backend, _) in self._volumes.items()
            if isinstance(here := self.seen(name), Mounted)
        }

    def seen(self, dataset: str) -> Here | None:
        """What the last look found."""
        known = self._here.get(dataset)
        return known[1] if known else None

    def forget(self, dataset: str) -> None:
        """A step has run: the next look is a real one."""
        self._here.pop(dataset, None)

    def forget_all(self) -> None:
        self._here.clear()

    async def run(self) -> None:
        """Looks at everything when the mount table has changed, and every so often; tells of what changed."""
        mounted = asyncio.Event()
        with _on_mount_event(mounted.set):
            while True:
                try:
                    async with asyncio.timeout(EVERY):
                        await mounted.wait()
                    await asyncio.sleep(_SETTLE)
                except TimeoutError:
                    log.debug("looking at everything")
                mounted.clear()
                try:
                    await self._look_at_all()
                except StorageError as error:
                    log.warning("cannot tell what is mounted here: %s", error)

    async def _look_at_all(self) -> None:
        by_backend: dict[str, list[Volume]] = {}
        for backend, volume in self._volumes.values():
            by_backend.setdefault(backend, []).append(volume)
        for name, volumes in by_backend.items():
            before = {v.dataset: self._here.get(v.dataset) for v in volumes}
            found = await self._looks[name].look(volumes)
            for volume in volumes:
                now = (volume.uid, found.get(volume.dataset, Away()))
                # A step that ran meanwhile knows better.
                if (
                    before[volume.dataset] is not None
                    and self._here.get(volume.dataset) == before[volume.dataset] != now
                ):
                    self._here[volume.dataset] = now
                    self._changed(volume.dataset)


class _on_mount_event:
    """Calls back in the event loop when the mount table has changed: the kernel marks mountinfo with EPOLLPRI."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._mountinfo = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._mountinfo, select.EPOLLPRI | select.EPOLLERR | select.EPOLLET)
        self._call = call

    def __enter__(self) -> None:
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._ready)

    def _ready(self) -> None:
        self._epoll.poll(0)
        self._call()

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self._epoll.close()
        os.close(self._mountinfo)
