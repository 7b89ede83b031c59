"""The agent's side of its guard: starts it or takes over the one that runs, and talks to it by the shared page."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from drover.agent.guard.main import END, POKE, RELOAD, command
from drover.agent.guard.page import Page
from drover.agent.guard.settings import Files, GuardSettings, LadderRecord, write
from drover.coordinator.clock import Clock, read_clock
from drover.coordinator.protocol.clock import Deadline, Instant

log = logging.getLogger(__name__)

ANSWERS = 1.0
"""Seconds without a look of the guard at the page, after which it is not relied on any more: ten of its looks."""
ALIVE = 0.25
"""Seconds between two signs of life of the agent."""
STARTS = 20.0
"""Seconds that a guard may take to start; 0.1 on an idle machine."""
LOOKS = 2
"""So many times the agent finds that it does not answer, before it takes it for hung: a machine that was paused as a
whole lets it look once more."""
_LOOK = 0.002
_AGAIN = 1.0


class GuardFailed(Exception):
    """There is no guard, so this node may own nothing. The text says what is wrong and what to do."""


class Guard:
    """A context manager; used in one event loop. Without `start`, its gate is what an earlier agent left."""

    def __init__(self, run_dir: Path, clock: Clock = read_clock) -> None:
        self._files, self._clock = Files(run_dir), clock
        self._settings: GuardSettings | None = None
        self._page = Page(self._files.page)
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._gone = asyncio.Event()
        """The guard that is held has ended."""
        self._asked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """The guard goes on: it ends what this agent leaves when nobody comes after it. Where that is nothing, it ends,
        too."""
        if self._pidfd >= 0:
            if self._page.seen().clean:
                self._signal(END)
            self._let_go()
        self._page.close()

    async def start(self, settings: GuardSettings) -> None:
        """Or take over the one that runs. Raises GuardFailed."""
        self._settings = settings
        self._page.agent_is_seen(self._clock())
        write(self._files.settings, settings.text())
        await self._ensure(settings)

    async def keep(self, closed: Callable[[], None]) -> None:
        """Once it has been started: starts it again whenever it has died or hangs, and tells it that this agent's event
        loop turns. closed: called at each look that finds the gate closed, by whomever."""
        assert self._settings is not None
        missed = 0
        while True:
            self._page.agent_is_seen(self._clock())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ALIVE):
                    await self._gone.wait()
            if self.round is None:
                closed()
            if not self._gone.is_set():
                missed = 0 if self.answers else missed + 1
                if missed > LOOKS:
                    log.error("the guard hangs; killing it")
                    self._signal(signal.SIGKILL)
                continue
            missed = 0
            if self._process is not None:
                self._process.wait()
                self._process = None
            log.error("the guard has died; starting it again")
            try:
                await self._ensure(self._settings)
            except GuardFailed as error:
                log.error("%s", error)
                await asyncio.sleep(_AGAIN)

    @property
    def answers(self) -> bool:
        """Whether the guard looks at the page. Without it no heartbeat is sent."""
        return self._clock().boot - self._page.guard_seen < ANSWERS

    @property
    def armed(self) -> bool:
        return self._page.armed

    @property
    def path(self) -> Path:
        """Of the page, for helpers."""
        return self._files.page

    @property
    def round(self) -> int | None:
        """The round of the ladder after which the gate is open; None: it is closed."""
        seen = self._page.seen()
        return seen.round if seen.open else None

    @property
    def until(self) -> Deadline:
        """When D_soft of the newest answered heartbeat passes, as far as the page knows."""
        seen = self._page.seen()
        return seen.sent.plus(seen.d_soft)

    def extend(self, sent: Instant, d_soft: float, d_io: float) -> None:
        """An answered heartbeat was sent then. d_soft, d_io: seconds from then."""
        self._page.agent_is_seen(self._clock())
        self._page.extend(sent, d_soft, d_io)

    def stay(self, since: Instant, d_soft: float, d_io: float) -> None:
        """All others have promised, asked then, not to call this node silent. d_soft, d_io: seconds from then."""
        self._page.stay(since, d_soft, d_io)

    def ask_open(self) -> None:
        """As soon as the ladder has left nothing behind, and as long as the deadline lies ahead."""
        self._page.ask_open(self._page.seen().round)
        self._poke()

    def close(self) -> None:
        """Whatever the deadline: nothing may begin to write, and all that writes is stopped."""
        self._page.ask_open(0)
        self._asked = self._page.seen().round + 1
        self._page.ask_round(self._asked)
        self._poke()

    async def opened(self, timeout: float) -> bool:
        """Whether the gate is open, at most `timeout` seconds later."""
        return await self._until(lambda: self._page.seen().open, timeout)

    async def stopped(self, timeout: float) -> list[str]:
        """What could not be verified as gone since the gate was closed, a line each; empty: nothing of this node
        writes. At most `timeout` seconds later."""
        if await self._until(self._is_stopped, timeout):
            return []
        record = LadderRecord.load(self._files.record)
        return list(record.left) if record and record.left else ["whatever the guard has not looked at yet"]

    def _is_stopped(self) -> bool:
        seen = self._page.seen()
        return seen.clean and seen.done >= self._asked

    async def _until(self, condition: Callable[[], bool], timeout: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not condition():
                    await asyncio.sleep(_LOOK)
        return condition()

    async def _ensure(self, settings: GuardSettings) -> None:
        """A guard runs, with these settings. Raises GuardFailed."""
        if self._running():
            self._hold(self._page.guard_pid)
            if self._page.loaded != settings.digest:
                self._signal(RELOAD)
        else:
            process = self._process = subprocess.Popen(  # noqa: ASYNC220 - 1 ms; a thread could leave one unnoticed
                command(self._files.run_dir), stdin=subprocess.DEVNULL, start_new_session=True, cwd="/"
            )
            self._hold(process.pid)
        digest = settings.digest
        if not await self._until(lambda: self._ready(digest) or self._gone.is_set(), STARTS) or self._gone.is_set():
            raise GuardFailed("the guard does not start, so this node may own nothing: see its messages above")

    def _ready(self, digest: int) -> bool:
        return self.answers and self._page.loaded == digest

    def _running(self) -> bool:
        """Whether somebody holds the lock that only a guard takes."""
        with open(self._files.lock, "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def _hold(self, pid: int) -> None:
        self._let_go()
        self._pidfd = os.pidfd_open(pid)
        self._gone.clear()
        asyncio.get_running_loop().add_reader(self._pidfd, self._has_ended)

    def _has_ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)  # it stays readable
        self._gone.set()

    def _let_go(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _poke(self) -> None:
        self._signal(POKE)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)
