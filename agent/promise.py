"""Whether this node promises another one, which etcd does not answer, not to call it silent."""

from __future__ import annotations

from collections.abc import Callable

from drover.coordinator.clock import Clock, read_clock
from drover.coordinator.member import Member
from drover.coordinator.promising import NotPromised
from drover.coordinator.protocol import promises
from drover.coordinator.protocol.promises import Asked, Candidate, Given


class Promiser:
    """member: of the incarnation that lives; None: there is none, and this process watches nobody. lost: why etcd is
    not relied on; "": it is. willing: the settings allow it."""

    def __init__(
        self,
        node: str,
        machine: str,
        member: Callable[[], Member | None],
        lost: Callable[[], str],
        clock: Clock = read_clock,
        willing: bool = True,
    ) -> None:
        self._me, self._member, self._lost, self._clock = (node, machine), member, lost, clock
        self._willing = willing
        self.given = Given()

    def give(self, asked: Asked) -> str:
        """Who promises, as `promises.candidate` has it. Raises NotPromised."""
        now, member = self._clock().raw, self._member()
        cluster = member.cluster_id if member is not None else ""
        me = Candidate(self._me[0], cluster, member is not None and member.steady(), self._lost(), self._willing)
        if why := promises.refusal(asked, me):
            raise NotPromised(why)
        self.given.give(asked, now)
        return promises.candidate(*self._me)
