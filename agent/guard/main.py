"""The guard process: `python -m drover.agent.guard.main RUN_DIR`. Standard library only.

It outlives its agent: it reads the deadline from the shared page, and when that has passed it closes the gate, runs the
ladder, and writes down what came of it. While the gate is open it does not let itself be ended by SIGTERM.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from drover.agent.cgroups import CgroupError, Cgroups
from drover.agent.guard.duty import Climb, Open, Stand, Swear, duty, is_late
from drover.agent.guard.ladder import Ladder
from drover.agent.guard.page import Page
from drover.agent.guard.settings import NOTHING, REBOOT, Files, GuardSettings, LadderRecord
from drover.agent.guard.watchdog import Watchdog, WatchdogError
from drover.agent.priority import prefer
from drover.coordinator.clock import read_clock

TICK = 0.1
"""Seconds between two looks at the page; a signal brings the next one forward."""
POKE, RELOAD, END = signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM
SIGNALS = {POKE, RELOAD, END}
AGAIN = 0.5
"""Seconds until the ladder is run again where it has left something."""
STARTS = 20
"""Seconds that a guard may take to begin anew while nothing can write, where a watchdog cannot be disarmed."""
CGROUP = "guard"
_LOCK_ALL = 3  # MCL_CURRENT | MCL_FUTURE
_STACK = 512 * 1024
"""Bytes of a thread's stack, all of them locked into memory; 8 MiB is the default."""


class Guard:
    """lock: the descriptor that holds files.lock."""

    def __init__(
        self, files: Files, settings: GuardSettings, page: Page, ladder: Ladder, watchdog: Watchdog | None, lock: int
    ) -> None:
        self._files, self._settings, self._page, self._ladder = files, settings, page, ladder
        self._watchdog, self._lock = watchdog, lock
        self._climbing: threading.Thread | None = None
        self._next = 0.0
        page.guard_starts(watchdog is not None or settings.resets == REBOOT, settings.digest)

    def run(self) -> None:
        """Until it is told to end and may, or to begin anew with other settings."""
        told: set[int] = set()
        while True:
            self.tick()
            if self._climbing is None:
                if RELOAD in told:
                    self._begin_anew()
                if END in told and self._page.seen().clean:
                    break
                if END in told:
                    say("the gate is open: end the agent, wait until its deadline has passed, then end the guard")
                told.clear()
            if (signalled := signal.sigtimedwait(SIGNALS, TICK)) is not None:
                told.add(signalled.si_signo)
            with suppress(ChildProcessError):
                os.waitpid(-1, os.WNOHANG)
        if self._watchdog is not None:
            self._watchdog.disarm()

    def tick(self) -> None:
        now, seen = read_clock(), self._page.seen()
        self._page.guard_is_seen(now)
        if self._watchdog is not None and not is_late(seen, now):
            self._watchdog.pet()
        if self._settings.resets == REBOOT and is_late(seen, now, self._settings.reset_within / 2):
            say("resetting this machine: D_io has passed, and something may still write")
            reset()
        if self._climbing is not None:
            if self._climbing.is_alive():
                return
            self._climbing = None
            seen = self._page.seen()
        match duty(seen, now):
            case Open():
                self._page.open()
            case Swear():
                self._page.swear()
                self._testify()
            case Climb(reason) if seen.open or now.raw >= self._next:
                self._page.begin_round(read_clock)
                self._climbing = threading.Thread(target=self._climb, args=(reason,), daemon=True)
                self._climbing.start()
            case Climb() | Stand():
                pass

    def _climb(self, reason: str) -> None:
        seen = self._page.seen()
        say(f"gate closed: {reason}")
        climbed = self._ladder.climb()
        now = read_clock()
        record = LadderRecord(seen.round, reason, climbed.left, climbed.seconds, now.boot, self._incarnation())
        record.save(self._files.record)
        self._next = now.raw + AGAIN
        self._page.end_round(len(climbed.left))
        for line in climbed.left:
            say(f"left: {line}")
        say(f"ladder: {climbed.seconds * 1000:.0f} ms, {'not verified' if climbed.left else 'nothing is left'}")
        os.kill(os.getpid(), POKE)

    def _incarnation(self) -> str:
        with suppress(OSError, ValueError, KeyError):
            return str(json.loads(self._files.session.read_text())["incarnation"])
        return ""

    def _testify(self) -> None:
        """In a process of its own: it needs a network, and much that a guard must not depend on."""
        with suppress(OSError):
            told = subprocess.Popen(self._settings.testify, start_new_session=True, stdin=subprocess.DEVNULL, cwd="/")
            prefer(told.pid)

    def _begin_anew(self) -> None:
        """The same process, and so the same lock, with the code and the settings that are there now."""
        held = [self._lock]
        if self._watchdog is not None and not self._let_go(self._watchdog):
            held.append(self._watchdog.descriptor)
        for descriptor in held:
            os.set_inheritable(descriptor, True)
        os.execv(sys.executable, [*command(self._files.run_dir), *map(str, held)])

    def _let_go(self, watchdog: Watchdog) -> bool:
        """Whether the watchdog is needed no more until the guard has begun anew. If it is, nobody pets it meanwhile, so
        that it gets until D_hard."""
        seen = self._page.seen()
        d_hard = seen.io(self._settings.reset_within)
        until = STARTS if seen.clean else d_hard.remaining(read_clock())
        if until > self._settings.reset_within:
            try:
                watchdog.must_reset_within(until)
            except WatchdogError:  # it takes none that long, or rounds up
                watchdog.must_reset_within(self._settings.reset_within)
        if seen.clean:
            watchdog.disarm()
        return seen.clean


def command(run_dir: Path) -> list[str]:
    return [sys.executable, "-P", "-m", "drover.agent.guard.main", str(run_dir)]


def say(text: str) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    sys.stderr.write(f"{at}Z guard: {text}\n")


def reset() -> None:
    """At once, without flushing: LINUX_REBOOT_CMD_RESTART. In a PID namespace it ends the namespace."""
    ctypes.CDLL(None, use_errno=True).reboot(0x01234567)


def harden() -> None:
    """Stays in memory and gets the processor, also on a machine that has neither to spare."""
    if ctypes.CDLL(None, use_errno=True).mlockall(_LOCK_ALL) != 0:
        say(f"its memory cannot be locked: {os.strerror(ctypes.get_errno())}")
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError as error:
        say(f"it gets no real-time priority: {error.strerror}")
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")


def own(lock: int) -> bool:
    """Whether this is the only guard of the run_dir."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main() -> None:
    """Arguments: run_dir; after beginning anew also the descriptors of the lock and of the watchdog."""
    run_dir, *held = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS | {signal.SIGINT})
    files = Files(Path(run_dir))
    lock = int(held[0]) if held else os.open(files.lock, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(lock, False)
    if not own(lock):
        sys.exit(f"guard: another one has {files.lock}")
    try:
        settings = GuardSettings.parse(files.settings.read_text())
        cgroups = Cgroups(Path(settings.cgroups))
        cgroups.make(CGROUP)
        cgroups.enter(CGROUP)
        ladder = Ladder(cgroups, settings.cuts)  # before anything is armed: it may not be there, or take its time
        with Page(files.page) as page:
            watchdog = arm(settings, int(held[1]) if len(held) > 1 else None, page)
            guard = Guard(files, settings, page, ladder, watchdog, lock)
            threading.stack_size(_STACK)
            gc.disable()
            harden()
            guard.run()
    except (CgroupError, WatchdogError, ImportError, AttributeError) as error:
        sys.exit(f"guard: {error}")


def arm(settings: GuardSettings, held: int | None, page: Page) -> Watchdog | None:
    """held: the descriptor of the device that is armed already. Raises WatchdogError; that one stays armed then."""
    old = Watchdog(held, settings.resets) if held is not None else None
    if old is not None:
        os.set_inheritable(old.descriptor, False)
        if old.is_at(settings.resets):
            if not is_late(page.seen(), read_clock()):
                old.must_reset_within(settings.reset_within)
            return old
    new = None
    if settings.resets not in (NOTHING, REBOOT):
        new = Watchdog.open(settings.resets, settings.reset_within)
    if old is not None:
        old.disarm()
    return new


if __name__ == "__main__":
    main()
