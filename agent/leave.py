"""How this node leaves when its machine shuts down: asked for once, over the agent's socket, and bounded in time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from drover.coordinator.depart import Departed, depart
from drover.coordinator.keys import Keys
from drover.coordinator.member import Member
from drover.coordinator.protocol.leaving import Leaving, OnShutdown
from drover.coordinator.store import Store, StoreError

log = logging.getLogger(__name__)

PATIENCE = 5.0
"""Seconds that a session gets to be live: without one nothing can be handed over, and nothing writes."""
STOPS = 10.0
"""Seconds in which what is left is killed and unmounted, after all that could be done in order."""
TELLS = 10.0
"""Seconds in which etcd is told. What this takes at most, beyond the time limit that was set, is the sum of these."""
_AGAIN = 0.5
_LOOK = 1.0


@dataclass(frozen=True)
class Hands:
    """What it needs of the agent. wake: all workers look again. parted: no unit is in use any more. settled: people
    are told. end: nothing is sent any more. left_over: everything is stopped; what could not be."""

    member: Callable[[], Member | None]
    wake: Callable[[], None]
    parted: Callable[[], bool]
    settled: Callable[[], Awaitable[None]]
    end: Callable[[], Awaitable[None]]
    left_over: Callable[[], Awaitable[list[str]]]
    etcd: Callable[[], AbstractAsyncContextManager[Store]]


@dataclass(frozen=True)
class Outcome:
    """clean: nothing is left here, and etcd has been told. told: for people."""

    clean: bool
    told: str


class Leave:
    """policy, timeout, grace: as the settings say (seconds). `run` does it, once `ask` was called."""

    def __init__(self, keys: Keys, policy: OnShutdown, timeout: float, grace: float) -> None:
        self._keys, self._policy, self._timeout, self._grace = keys, policy, timeout, grace
        self._asked = asyncio.Event()
        self._done = asyncio.Event()
        self._outcome: Outcome | None = None
        self.now: Leaving | None = None
        """This node shuts down; None: it does not."""
        self.changed = asyncio.Event()
        """A worker has parted."""

    async def ask(self) -> Outcome:
        """Returns when this node has left. A second time is no other one."""
        self._asked.set()
        await self._done.wait()
        assert self._outcome is not None
        return self._outcome

    async def run(self, hands: Hands) -> None:
        """Nothing before it is asked for; returns when it is done."""
        await self._asked.wait()
        until = datetime.now(UTC) + timedelta(seconds=self._grace)
        self.now = Leaving(self._policy, f"{until:%Y-%m-%dT%H:%M:%SZ}")
        log.warning("this machine shuts down (on_shutdown: %s)", self._policy)
        before = self._mine(hands.member())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await self._part(hands)
        member = hands.member()
        await hands.end()
        outcome = self._outcome = await self._tell(hands, member, await self._stop(hands), before)
        log.log(logging.WARNING if outcome.clean else logging.ERROR, "left: %s", outcome.told)
        self._done.set()

    async def _part(self, hands: Hands) -> None:
        loop = asyncio.get_running_loop()
        live = loop.time()
        if (member := hands.member()) is not None:
            try:
                await member.say_leaving()
            except StoreError as error:
                log.warning("others do not know yet that this node shuts down: %s", error)
        hands.wake()
        while True:
            self.changed.clear()
            member = hands.member()
            if member is not None and member.live:
                live = loop.time()
                if hands.parted():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK):
                            await hands.settled()
                    return
            elif loop.time() - live > PATIENCE:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await self.changed.wait()

    async def _stop(self, hands: Hands) -> list[str]:
        """Whatever was done in order: it is verified that nothing is left, and what is left is killed."""
        left = ["whatever was not looked at in time"]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOPS):
                while left := await hands.left_over():
                    await asyncio.sleep(_AGAIN)
        return left

    async def _tell(self, hands: Hands, member: Member | None, left: list[str], before: set[str]) -> Outcome:
        if left:
            return Outcome(
                False, f"not all could be stopped: {'; '.join(left)}. Others take over when silence proves it"
            )
        if member is None:
            return Outcome(False, "this node was no member: everything here was stopped, and etcd was told nothing")
        try:
            async with asyncio.timeout(TELLS), hands.etcd() as store:
                told = await depart(store, self._keys, member.node, member.incarnation, member.lease, self._grace)
        except (StoreError, TimeoutError) as error:
            why = str(error) or "it does not answer"
            return Outcome(False, f"everything here was stopped, but etcd could not be told: {why}")
        return self._told(member, told, before)

    def _told(self, member: Member, told: Departed, before: set[str]) -> Outcome:
        if not told.said:
            return Outcome(False, "everything here was stopped, but this incarnation had ended before")
        where: dict[str, list[str]] = {}
        for name in sorted(before | set(told.kept)):
            tenure = member.view.dataset(name).tenure
            if name in told.kept:
                where.setdefault(f"kept for {self._grace:g} s", []).append(name)
            elif tenure is not None and tenure.held:
                where.setdefault(f"on {tenure.node}", []).append(name)
            else:
                where.setdefault("released", []).append(name)
        return Outcome(True, "; ".join(f"{', '.join(names)} {how}" for how, names in where.items()) or "it had nothing")

    @staticmethod
    def _mine(member: Member | None) -> set[str]:
        if member is None:
            return set()
        tenures = ((name, member.view.dataset(name).tenure) for name in member.view.names())
        return {name for name, t in tenures if t is not None and t.held and t.incarnation == member.incarnation}
