"""Asks the others for their promises while etcd does not answer, and keeps those that this node has given."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drover.coordinator.protocol import promises, session
from drover.coordinator.protocol.promises import Asked, Given, Terms
from drover.coordinator.protocol.session import Live
from drover.coordinator.timings import MAX_PAUSE

if TYPE_CHECKING:
    from drover.coordinator.member import Member

log = logging.getLogger(__name__)

SILENT = 1.5
"""Others are asked once the newest answered heartbeat is older than this, in intervals."""
LOOK = 0.25
"""Intervals between two looks at who is to be asked; a promise is asked again once it is an interval old."""
TRY = 0.8
"""The time limit of one question, in intervals."""


class NotPromised(Exception):
    """It promises nothing, or does not answer. The text says why."""


Ask = Callable[[str, str, Asked], Awaitable[str]]
"""Asks a node (its name, where its gRPC is) for its promise; who has given it, as `promises.candidate` has it. Raises
NotPromised."""


@dataclass(frozen=True)
class Promises:
    """given: by this node, to others. ask: how others are asked; None: they are not. beyond: seconds for which this
    node goes on by promises, at most; 0: it asks for none."""

    given: Given = field(default_factory=Given)
    ask: Ask | None = None
    beyond: float = 0.0


class Promising:
    """Of one incarnation."""

    def __init__(self, member: Member, promises: Promises) -> None:
        self._member, self._promises = member, promises
        self._asking: set[str] = set()
        self._why: dict[str, str] = {}
        """By candidate: why it does not promise."""
        self.held = False
        """This node goes on only because all others have promised."""

    @property
    def missing(self) -> list[str]:
        """Why some do not promise, a line each."""
        return [why for _, why in sorted(self._why.items())]

    def terms(self, longer: float) -> Terms:
        """Of the next heartbeat, which says `longer`. A stand-in for a heartbeat covers both together."""
        if self._promises.ask is None:
            return promises.NONE
        beyond = min(self._promises.beyond, MAX_PAUSE - longer)
        return promises.terms(self._member.node, self._member.view.cluster, beyond)

    async def run(self) -> None:
        if (ask := self._promises.ask) is None or self._promises.beyond <= 0:
            return
        interval = self._member.timings.heartbeat
        async with asyncio.TaskGroup() as group:
            while True:
                for candidate in self._due():
                    self._asking.add(candidate)
                    group.create_task(self._one(candidate, ask))
                self._tell()
                await asyncio.sleep(LOOK * interval)

    def _due(self) -> list[str]:
        """Whom to ask now."""
        member, state, now = self._member, self._member.state, self._member.now()
        interval = member.timings.heartbeat
        if not isinstance(state, Live) or now.raw - state.sent.raw < SILENT * interval:
            self._why.clear()
            return []
        due = promises.due(state.bound, state.promised, now, interval)
        return [one for one in due if one not in self._asking]

    async def _one(self, candidate: str, ask: Ask) -> None:
        member = self._member
        node = candidate.rpartition("/")[0]
        try:
            found = member.view.cluster.nodes.get(node)
            if found is None or not found.record.grpc:
                raise NotPromised(f"it is not known where {node} is asked")
            sent = member.now()
            asked = Asked(member.cluster_id, member.node, member.incarnation, member.timings.d_hard)
            try:
                async with asyncio.timeout(TRY * member.timings.heartbeat):
                    given = await ask(node, found.record.grpc, asked)
            except TimeoutError:
                raise NotPromised(f"{node} does not answer") from None
            if given != candidate:
                raise NotPromised(f"{node} is another machine now")
            self._why.pop(candidate, None)
            member.promised(candidate, sent)
        except NotPromised as why:
            if self._why.get(candidate) != str(why):
                log.debug("no promise: %s", why)
            self._why[candidate] = str(why)
        finally:
            self._asking.discard(candidate)

    def _tell(self) -> None:
        member, state = self._member, self._member.state
        held = session.by_promises(state, member.timings, member.now())
        if held and not self.held:
            log.warning("etcd does not answer; this node goes on, as all that could call it silent promise to wait")
        elif self.held and not held:
            why = f": {'; '.join(self.missing)}" if self._why else ""
            log.warning("this node no longer goes on by others' promises%s", why)
        self.held = held
