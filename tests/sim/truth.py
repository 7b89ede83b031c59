"""What the members of one etcd agree on; what a backup of it is, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drover.coordinator.store import Change
from drover.coordinator.txn import Entry
from tests.model.store import ModelCluster, _Lease


@dataclass(frozen=True)
class Backup:
    """Everything at one revision. leases: TTL and keys of each."""

    entries: dict[str, Entry]
    revision: int
    leases: dict[int, tuple[int, frozenset[str]]]


class Truth(ModelCluster):
    """What the members agree on. told: every change, as it happens."""

    def __init__(self, clock: Callable[[], float], told: Callable[[Sequence[Change]], None]) -> None:
        super().__init__(clock)
        self._told = told

    def _publish(self, changes: Sequence[Change]) -> None:
        super()._publish(changes)
        if changes:
            self._told(changes)

    def past(self, revision: int) -> dict[str, Entry]:
        """All keys as they were. Raises Compacted."""
        entries: dict[str, Entry] = {}
        for change in self.history("", "\xff", 0):
            if change.revision > revision:
                break
            if change.entry is None:
                entries.pop(change.key, None)
            else:
                entries[change.key] = change.entry
        return entries

    def backup(self) -> Backup:
        leases = {lease: (held.ttl, frozenset(held.keys)) for lease, held in self._leases.items()}
        return Backup(dict(self._entries), self.revision, leases)

    def restore(self, backup: Backup, cluster_id: str, ahead: int = 0) -> None:
        """It is as it was then, without history. ahead: revisions that are left out (etcd's --bump-revision)."""
        now = self._clock()
        self._entries = dict(backup.entries)
        self.revision = self.compacted = backup.revision + ahead
        self._history = []
        self._leases = {lease: _Lease(ttl, now + ttl, set(keys)) for lease, (ttl, keys) in backup.leases.items()}
        self.cluster_id = cluster_id
