"""An event loop in virtual time: where nothing is ready, time jumps to the next timer. One thread, nothing waits.

Every callback belongs to a process (`PROCESS`), and a process can be stopped, go on, or be gone for good, as a real
one: what would have run meanwhile runs when it goes on, or never. Each process sees time at the rate of its machine's
clock.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


GRAIN = 1e-6
"""Seconds that the shortest wait takes."""


class Process:
    """What can be stopped and killed by itself. rate: seconds of its CLOCK_MONOTONIC in one true second."""

    def __init__(self, name: str, rate: float = 1.0, epoch: float = 0.0) -> None:
        self.name, self.rate, self.epoch = name, rate, epoch
        self.stopped = False
        self.dead = False
        self.parked: list[Handle] = []

    def local(self, true: float) -> float:
        return self.epoch + self.rate * true

    def true(self, local: float) -> float:
        return (local - self.epoch) / self.rate


WORLD = Process("world")
"""What is not part of any machine: never stopped, keeps true time."""
PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("process", default=WORLD)


class Handle(asyncio.Handle):
    """A callback to run: as asyncio's, but cheaper."""

    __slots__ = ("args", "callback", "context", "off", "process")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context) -> None:
        self.callback, self.args, self.context = callback, args, context
        self.process = context.get(PROCESS) or WORLD
        self.off = False

    def cancel(self) -> None:
        self.off = True

    def cancelled(self) -> bool:
        return self.off

    def __repr__(self) -> str:
        return f"<{self.process.name}: {self.callback}>"


class Timer(Handle):
    """due: in true time."""

    __slots__ = ("due",)
    due: float

    def when(self) -> float:
        return self.process.local(self.due)


def alone() -> contextvars.Context:
    """For callbacks of the world."""
    return contextvars.Context()


class Task(asyncio.Task[T]):
    """Numbered, so that sets of tasks have the same order in every run."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.AbstractEventLoop):
    """now: true time, seconds since the beginning. events: callbacks that have run."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self.process = WORLD
        self.unhandled: list[str] = []
        """Exceptions that nobody waits for."""
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._sequence = 0
        self._tasks = 0
        self._processes: list[Process] = []

    # Running.

    def run_until(self, end: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Until true time is `end`, or it is enough: asked whenever time goes on."""
        asyncio._set_running_loop(self)
        ready, timers = self._ready, self._timers
        try:
            while True:
                while ready:
                    self._run(ready.popleft())
                if enough() or not timers or timers[0][0] > end:
                    break
                due, _, timer = heapq.heappop(timers)
                if not timer.off:
                    self.now = max(self.now, due)
                    self._run(timer)
            if not enough():
                self.now = max(self.now, end)
        finally:
            asyncio._set_running_loop(None)

    def _run(self, handle: Handle) -> None:
        if handle.off:
            return
        process = handle.process
        if process.stopped or process.dead:
            process.parked.append(handle)
            return
        self.process = process
        self.events += 1
        handle.context.run(handle.callback, *handle.args)
        self.process = WORLD

    # Processes.

    def spawn(self, process: Process, main: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        self._processes.append(process)
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        return self.create_task(main, context=context)

    def join(self, process: Process, main: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """In a process that is there already."""
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        return self.create_task(main, context=context)

    def go_on(self, process: Process) -> None:
        process.stopped = False
        if not process.dead:
            self._ready.extend(process.parked)
            process.parked = []

    def wind_up(self) -> None:
        """After the end: every task is cancelled, so that none is left for the garbage collector to find."""
        for process in self._processes:
            process.stopped = process.dead = False
            self._ready.extend(process.parked)
            process.parked = []
        self._timers.clear()
        for _ in range(20):
            open_ = sorted((t for t in asyncio.all_tasks(self) if isinstance(t, Task)), key=lambda t: t.number)
            if not open_:
                break
            for task in open_:
                task.cancel()
            self.run_until(self.now + 60.0)

    # What asyncio asks of a loop.

    def time(self) -> float:
        return self.process.local(self.now)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, contextvars.copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Timer:
        timer = Timer(callback, args, contextvars.copy_context() if context is None else context)
        return self._set(timer, self.now + max(0.0, delay) / timer.process.rate)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Timer:
        timer = Timer(callback, args, contextvars.copy_context() if context is None else context)
        return self._set(timer, timer.process.true(when))

    def _set(self, timer: Timer, due: float) -> Timer:
        # However short, a wait takes time: what is left of one by rounding must not be waited for for ever.
        timer.due = due = max(due, self.now + GRAIN)
        self._sequence += 1
        heapq.heappush(self._timers, (due, self._sequence, timer))
        return timer

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        task: Task[Any] = Task(coro, loop=self, context=context, name=name or "task")
        self._tasks += 1
        task.number = self._tasks
        return task

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """At once, inline."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is the caller's, who awaits it
            future.set_exception(error)
        return future

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.unhandled.append(f"{context.get('message')}: {context.get('exception')!r}")
