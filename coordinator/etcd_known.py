"""What one client knows of etcd from the headers of its answers, and what it does not take from it any more."""

from __future__ import annotations

from typing import Any

from drover.coordinator.protocol.history import WHAT_TO_DO, gone_back
from drover.coordinator.store import OtherEtcd, WentBack


class Known:
    """Headers are etcd's ResponseHeader."""

    def __init__(self) -> None:
        self.cluster_id: str | None = None
        """etcd's own cluster id, in hex; None before the first answer."""
        self.revision = 0
        """The highest revision in a linearizable answer so far."""
        self.term = 0
        """The raft term of the newest election that a majority stands behind, as far as is known."""
        self._broken: WentBack | None = None

    def check(self) -> None:
        """Raises WentBack where nothing more may be sent."""
        if self._broken is not None:
            raise self._broken.with_traceback(None)

    def same(self, address: str, header: Any) -> None:
        """Raises OtherEtcd where this answer comes from another cluster than those before."""
        found = format(header.cluster_id, "x")
        if self.cluster_id is not None and found != self.cluster_id:
            self._broken = OtherEtcd(
                f"etcd at {address} has cluster id {found}, and {self.cluster_id} answered before: {WHAT_TO_DO}"
            )
            raise self._broken
        self.cluster_id = found

    def not_before(self, seen: int, address: str, header: Any) -> None:
        """Raises WentBack where what went through etcd's log was answered as of before what had been seen when it was
        sent; first OtherEtcd, as the revisions of another cluster prove nothing about this one. Of reads it proves
        nothing either: a member that was paused answers them from the past (etcd 20418)."""
        self.same(address, header)
        if header.revision < seen:
            self._broken = WentBack(gone_back(header.revision, seen))
            raise self._broken

    def learn(self, header: Any, *, linearizable: bool) -> bool:
        """False: this member has missed an election, being cut off or just back. What it said stands all the same."""
        if linearizable:
            # A member that is cut off votes itself to ever higher terms; a majority stands behind these answers only.
            self.revision = max(self.revision, header.revision)
            self.term = max(self.term, header.raft_term)
        return bool(header.raft_term >= self.term)
