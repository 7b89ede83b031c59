"""What gRPC, health probes and metrics are told: the agent as it is now (`Source`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from drover.agent.api.source import ETCD, SESSION, Bell, DatasetView, NodeView, Progress, Session
from drover.agent.local import Local
from drover.agent.reporter import Reporter
from drover.agent.rounds import Copying
from drover.agent.storage.base import Mounted
from drover.coordinator.member import Member
from drover.coordinator.records import Phase, Status
from drover.coordinator.specs import DatasetSpec


class Sight:
    """Implements `Source` for whichever incarnation lives at the moment."""

    def __init__(self, node: str) -> None:
        self._name = node
        self._bell = Bell()
        self._member: Member | None = None
        self._reporter: Reporter | None = None
        self._local: Local | None = None
        self.copying: Callable[[], Mapping[str, Copying]] = dict
        """What is being sent to other nodes."""
        self.ended = False
        self.leaving = ""
        """Why this node has left the cluster; "": it has not."""
        self.halted = ""
        """Why etcd is not relied on; "": it is."""
        self.backends: dict[str, str | None] = {}
        """What is wrong with each back end; None: nothing."""

    def show(self, member: Member, reporter: Reporter, local: Local) -> None:
        """A new incarnation lives."""
        self._member, self._reporter, self._local, self.ended = member, reporter, local, False
        member.view.subscribe(lambda _: self.ring())
        self.ring()

    def ring(self) -> None:
        self._bell.ring()

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        return self._bell.subscribe(wake)

    def node(self) -> NodeView:
        member = self._member
        if member is None or self.halted:
            return NodeView(self._name, "", Session.HALTED if self.halted else Session.JOINING, 0.0)
        session = Session.ENDED if self.ended else Session.LIVE if member.live else Session.LAPSED
        return NodeView(self._name, member.incarnation, session, member.margin())

    def health(self) -> Mapping[str, str | None]:
        member = self._member
        health: dict[str, str | None] = {f"backend.{name}": wrong for name, wrong in self.backends.items()}
        if self.halted:
            return health | {ETCD: self.halted, SESSION: "halted: nothing here writes, until somebody has decided"}
        if member is None:
            return health | {ETCD: "has not joined yet", SESSION: "has not joined yet"}
        health[ETCD] = None if member.view.connected else "etcd does not answer"
        if self.leaving:
            return health | {ETCD: None, SESSION: f"has left: {self.leaving}"}
        health[SESSION] = None if member.live and not self.ended else "the session has lapsed: nothing here writes"
        return health

    def looks(self) -> Mapping[str, int]:
        return self._local.looks if self._local else {}

    def history_piles_up(self) -> bool:
        return self._member is not None and self._member.history_piles_up

    def etcd_known_bugs(self) -> int:
        return self._member.etcd_known_bugs if self._member else 0

    def etcd_went_back(self) -> bool:
        return bool(self.halted)

    def paused(self) -> bool:
        return self._member is not None and self._member.view.cluster.pause is not None

    def datasets(self) -> Sequence[DatasetView]:
        if self._member is None:
            return ()
        return [self._dataset(self._member, name) for name in sorted(self._member.view.names())]

    def _dataset(self, member: Member, name: str) -> DatasetView:
        d = member.view.dataset(name)
        told = self._reporter.statuses.get(name) if self._reporter else None
        mine = d.tenure is not None and d.tenure.incarnation == member.incarnation
        status = (told if mine else member.view.status(name)) or told or Status(phase=Phase.WAITING)
        backend = d.tenure.backend if d.tenure else d.spec.backend if isinstance(d.spec, DatasetSpec) else ""
        return DatasetView(
            name=name,
            phase=status.phase,
            backend=backend,
            size=d.spec.size if isinstance(d.spec, DatasetSpec) else 0,
            reason=status.reason,
            warning=status.warning,
            node=d.tenure.node if d.tenure and d.tenure.held else "",
            epoch=d.tenure.epoch if d.tenure else 0,
            path=status.path,
            desired=d.desired if isinstance(d.desired, str) else "",
            progress=_progress(self.copying().get(name)),
            here=self._local is not None and isinstance(self._local.seen(name), Mounted),
            since=status.since,
        )


def _progress(copying: Copying | None) -> Progress | None:
    """Bytes of the round that goes on; of one that follows another as much is expected as that had."""
    if copying is None:
        return None
    *_, last = copying.rounds or (None,)
    total = last.bytes if last is not None and not last.full else 0
    rate = f", {last.bytes / max(last.seconds, 1e-6) / 2**20:.0f} MiB/s" if last is not None else ""
    rest = f", the rest takes {last.seconds * 1000:.0f} ms" if last is not None and not last.full else ""
    return Progress(f"to {copying.to}, round {len(copying.rounds) + 1}{rate}{rest}", copying.sent, total)
