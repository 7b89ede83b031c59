"""Helpers that wait for jobs, so that a cut-over starts no process. The agent's side of main.py."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from drover.agent.cgroups import Cgroups
from drover.agent.helper.child import START_TIMEOUT, Child
from drover.agent.helper.main import IDLE
from drover.agent.helper.wire import error_from_wire
from drover.agent.storage.base import GateClosed, HelperDied, StorageError
from drover.agent.storage.loopdev import until

log = logging.getLogger("drover.helper")

KILL_TIMEOUT = 5.0
"""Seconds that a killed helper may take to be gone: longer means that it hangs in the kernel."""

PATIENCE = 0.15
"""Seconds without any helper coming back from its job, after which a job that waits has another one started. That takes
as long and keeps a processor busy, so many short jobs rather queue; but those that hang must hold up no other."""

PRELOADED = tuple(
    f"drover.agent.storage.{name}"
    for name in ("loopback_io", "btrfs_copies", "btrfs_named", "zfs_copies", "directory_io")
)


class Gate(Protocol):
    """What the agent knows of its gate."""

    @property
    def path(self) -> Path:
        """Of the page that the helpers look at."""
        ...

    @property
    def round(self) -> int | None:
        """The one after which it is open: what is decided on in it is not done in another. None: it is closed."""
        ...


class HelperPool:
    """Runs functions in helper processes (`Runner`). A context manager; used in one event loop.

    gate: the page that they look at. size: helpers that are there from the start;
    most: jobs at the same time. left_over: on entry also kill what an earlier agent left in datasets/*, and not only
    its idle helpers.
    """

    def __init__(
        self,
        cgroups: Cgroups,
        gate: Gate,
        modules: Sequence[str] = PRELOADED,
        size: int = 3,
        most: int = 16,
        left_over: bool = False,
    ) -> None:
        self._cgroups = cgroups
        self._gate = gate
        self._modules = modules
        self._size = size
        self._places = asyncio.Semaphore(most)
        self._left_over = left_over
        self._idle: deque[Child] = deque()
        self._waiting: deque[asyncio.Future[Child]] = deque()
        self._prepared: dict[str, Child] = {}
        self._busy: set[Child] = set()
        self._stuck: dict[str, list[Child]] = {}
        """Killed, and not gone in time, by dataset."""
        self.late: set[str] = set()
        """Datasets of such helpers: what these did last is not known. Whoever has looked, when none of them is stuck
        any more, takes the name out."""
        self._all: set[Child] = set()
        self._returned = 0
        self._wake = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Raises StorageError where a left-over helper cannot be killed."""
        await self._kill_left_overs()
        self._wake.set()
        self._keeper = asyncio.create_task(self._keep(), name="helper pool")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Jobs that still run are killed."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        for child in list(self._all):
            child.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(KILL_TIMEOUT):
                for child in list(self._all):
                    await child.gone.wait()

    async def run(self, dataset: str, function: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        """See `Runner.run`. timeout: seconds, of which waiting for a free helper is a part. Cancelled, it kills the
        helper first."""
        if self._gate.round is None:
            raise _closed()
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                await self._places.acquire()
        except TimeoutError:
            raise HelperDied(f"{function}: no helper became free within {timeout:g} s; nothing was done") from None
        try:
            child = await self._take(dataset)
            return await self._job(child, dataset, function, arguments, timeout - (time.monotonic() - started))
        finally:
            self._places.release()

    async def prepare(self, dataset: str) -> None:
        """Send a helper into the dataset's cgroup already, which can take 8 ms: the dataset's next job finds it there.
        It stays until then, or until `unprepare`. Nothing where others need the helpers more, or the gate is closed."""
        if dataset in self._prepared or self._gate.round is None or len(self._idle) < 2:
            return
        child = self._next_idle()
        if child is None or not await _ready(child):
            return
        child.send({"prepare": _cgroup(dataset)})
        if not await _ready(child):
            return
        if dataset in self._prepared:
            child.dismiss()
        else:
            self._prepared[dataset] = child

    def unprepare(self, dataset: str) -> None:
        """No job is to come, and the dataset's cgroup is to be empty."""
        if child := self._prepared.pop(dataset, None):
            child.dismiss()

    async def _job(
        self, child: Child, dataset: str, function: str, arguments: Mapping[str, Any], timeout: float
    ) -> Any:
        round_ = self._gate.round
        if round_ is None:
            self._rest(child)
            raise _closed()
        answer, timed_out, hangs = None, False, False
        self._busy.add(child)
        try:
            child.send(
                {
                    "cgroup": _cgroup(dataset),
                    "round": round_,
                    "function": function,
                    "arguments": arguments,
                }
            )
            async with asyncio.timeout(timeout):
                answer = await child.receive()
        except TimeoutError:
            timed_out = True
        finally:
            self._busy.discard(child)
            if answer is None:
                child.kill()
                if hangs := await self._hangs(child, dataset):
                    self._stuck.setdefault(dataset, []).append(child)
                    self.late.add(dataset)
        if answer is None:
            how = f"did not finish within {timeout:.0f} s and was killed" if timed_out else _death(child)
            rest = "; it hangs in the kernel: the storage does not answer" if hangs else ""
            raise HelperDied(f"the helper that ran {function} for {dataset} {how}{rest}")
        self._rest(child)
        if "error" in answer:
            raise error_from_wire(answer["error"])
        return answer["result"]

    async def _take(self, dataset: str) -> Child:
        """A helper that is ready: the prepared one, an idle one, one that comes back soon, else a new one."""
        child = self._prepared.pop(dataset, None) or self._next_idle() or await self._next_back()
        while child is not None:
            if await _ready(child):
                return child
            child = self._next_idle()
        try:
            return await self._start()
        except OSError as error:
            raise HelperDied(f"no helper process can be started: {error}; nothing was done") from error

    def _next_idle(self) -> Child | None:
        self._wake.set()
        return self._idle.popleft() if self._idle else None

    async def _next_back(self) -> Child | None:
        """The next helper that has finished its job; None: none did for a while."""
        if not self._busy and not self._prepared:
            return None
        back: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self._waiting.append(back)
        try:
            returned = None
            while not back.done() and returned != self._returned:
                returned = self._returned
                await asyncio.wait([back], timeout=PATIENCE)
        except asyncio.CancelledError:
            if back.done():
                self._rest(back.result())
            raise
        finally:
            if back in self._waiting:
                self._waiting.remove(back)
        return back.result() if back.done() else None

    def _rest(self, child: Child) -> None:
        self._returned += 1
        while self._waiting:
            if not (back := self._waiting.popleft()).done():
                back.set_result(child)
                return
        if len(self._idle) < 2 * self._size:
            self._idle.append(child)
        else:
            child.dismiss()

    async def _start(self) -> Child:
        child = await Child.start(self._cgroups, self._gate.path, self._modules, self._wake.set)
        self._all.add(child)
        if not await _ready(child):
            raise OSError(f"the helper was not ready within {START_TIMEOUT:g} s, or died ({child.exit_status})")
        return child

    async def _keep(self) -> None:
        """At least `size` helpers. Not more: starting one takes 0.2 s of CPU time, which would come just when another
        begins its job."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._all = {child for child in self._all if not child.gone.is_set()}
            self._idle = deque(child for child in self._idle if not child.gone.is_set())
            self._prepared = {dataset: child for dataset, child in self._prepared.items() if not child.gone.is_set()}
            try:
                while len(self._all) < self._size:
                    self._idle.append(await self._start())
            except OSError as error:
                log.warning("no helper can be started: %s; trying again", error)
                await asyncio.sleep(1)
                self._wake.set()

    def stuck(self, dataset: str) -> bool:
        """Whether a helper that was killed, or what it started, is still there: it hangs in the kernel, and what it was
        at may yet happen."""
        here = self._cgroups.pids(_cgroup(dataset)) if dataset in self._stuck else ()
        groups = {_group_of(pid) for pid in here}
        left = [c for c in self._stuck.pop(dataset, ()) if not c.gone.is_set() or c.pid in groups]
        if left:
            self._stuck[dataset] = left
        return bool(left)

    async def _hangs(self, child: Child, dataset: str) -> bool:
        """Waits until a killed helper and all it started are gone; whether they are not."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(KILL_TIMEOUT):
                await child.gone.wait()
        except TimeoutError:
            return True
        left = KILL_TIMEOUT - (time.monotonic() - started)
        return not await asyncio.to_thread(self._group_is_gone, child.pid, _cgroup(dataset), left)

    def _group_is_gone(self, group: int, path: str, timeout: float) -> bool:
        return until(lambda: all(_group_of(pid) != group for pid in self._cgroups.pids(path)), timeout)

    async def _kill_left_overs(self) -> None:
        paths = [IDLE]
        if self._left_over:
            paths += [f"datasets/{name}" for name in self._cgroups.names("datasets")]
        stuck = await asyncio.to_thread(self._cgroups.kill_all, paths, KILL_TIMEOUT)
        if stuck:
            raise StorageError(
                f"helpers of an earlier agent cannot be killed (in the cgroups {', '.join(stuck)}): they hang in the "
                "kernel because storage does not answer; mend the storage or reboot"
            )


async def _ready(child: Child) -> bool:
    """Whether it can take a job. One that cannot, or that nobody waits for any more, is killed."""
    ready = False
    try:
        ready = await child.rested()
    finally:
        if not ready:
            child.kill()
    return ready


def _cgroup(dataset: str) -> str:
    return f"datasets/{dataset}"


def _closed() -> GateClosed:
    return GateClosed("this node may not write now (it has no contact to the cluster): nothing was done")


def _death(child: Child) -> str:
    status = child.exit_status
    return f"was killed by signal {-status}" if status and status < 0 else f"ended early (status {status})"


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
