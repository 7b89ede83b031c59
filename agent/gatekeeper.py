"""What stands between this node's session and its guard: until when it may write, and that nothing is left once it may
not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from drover.agent.guard.client import Guard
from drover.agent.telemetry import Telemetry
from drover.agent.workloads.base import Runtime
from drover.coordinator.member import Member
from drover.coordinator.protocol.clock import Deadline, Instant
from drover.coordinator.records import Fence
from drover.coordinator.timings import Timings

log = logging.getLogger(__name__)

_OPENS = 0.25
"""Seconds that the guard is given to open the gate before it is asked again."""
_CLIMBS = 3.0
"""Seconds that the ladder may take before it is said what is left."""


class Gatekeeper:
    """Listens to the member; see `coordinator.member.Listener`. ring: called when there is something new to show."""

    def __init__(
        self,
        guard: Guard,
        runtimes: Mapping[str, Runtime],
        timings: Timings,
        telemetry: Telemetry,
        ring: Callable[[], None],
    ) -> None:
        self._guard, self._runtimes, self._timings, self._telemetry = guard, runtimes, timings, telemetry
        self._ring = ring
        self._turned = asyncio.Event()
        """The session has begun, lapsed or ended, or the guard has moved the gate."""

    def turned(self) -> None:
        self._turned.set()

    def gate(self, member: Member | None) -> Deadline | None:
        """Until when something may be begun that writes; None: not now."""
        return member.gate() if member is not None and self.gate_is_open() else None

    async def keep(self, member: Member, opened: Callable[[], None], closed: Callable[[], None]) -> None:
        """The gate is open while this node is entitled to write; once closed, by whomever, not before nothing is left.
        Looks when the session turns and, as long as the gate is closed, whenever the guard is looked at."""
        while True:
            if member.life and not member.live:
                left = await self._stopped()
                closed()
                if not member.entitled:
                    member.ladder_done(not left)
                elif not left:
                    self._guard.ask_open()
                    if await self._guard.opened(_OPENS):
                        log.info("gate open")
                        opened()
                        self._ring()
            await self._turned.wait()
            self._turned.clear()

    async def left_over(self) -> list[str]:
        """Closes the gate; what does not end of all that wrote here."""
        self._guard.close()
        return await self._stopped()

    async def _stopped(self) -> list[str]:
        """What is left of all that wrote here. What the guard has killed did not end by itself, and is forgotten."""
        if not (left := await self._guard.stopped(_CLIMBS)):
            for runtime in self._runtimes.values():
                left += await asyncio.to_thread(runtime.kill_all)
        return left

    def may_beat(self) -> bool:
        if not self._guard.answers:
            log.error("no heartbeat is sent: the guard does not answer")
        return self._guard.answers

    def deadline_counts_from(self, sent: Instant, longer: float) -> None:
        self._guard.extend(sent, self._timings.d_soft + longer, self._timings.d_io + longer)

    def goes_on_from(self, since: Instant) -> None:
        self._guard.stay(since, self._timings.d_soft, self._timings.d_io)

    def gate_is_open(self) -> bool:
        return self._guard.round is not None

    def gate_closed(self, reason: str) -> None:
        self._guard.close()
        self._turned.set()
        self._telemetry.session_lost("deadline")
        self._ring()

    def gate_opened(self) -> None:
        self._turned.set()

    def heartbeat(self, outcome: str, seconds: float) -> None:
        self._telemetry.heartbeat("ok" if outcome == "answered" else "failed", seconds)

    def fenced(self, fence: Fence, asked: float) -> None:
        self._telemetry.fenced(fence, asked)

    def watch_lag(self, seconds: float) -> None:
        self._telemetry.watch_lag(seconds)
