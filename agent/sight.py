"""What gRPC, health probes and metrics are told: the agent as it is now (`Source`)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from drover.agent.api.source import ETCD, GUARD, SESSION, Bell, DatasetView, NodeView, Progress, Session, reported
from drover.agent.guard.client import Guard
from drover.agent.local import Local
from drover.agent.reporter import Reporter
from drover.agent.room import Room
from drover.agent.rounds import Copying, CutOver
from drover.agent.storage.base import Capacity, Mounted
from drover.agent.telemetry import Gauges
from drover.coordinator.member import Member
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.records import Phase, Status, Tenure
from drover.coordinator.specs import DatasetSpec

_Kind = tuple[str, str]
"""Phase and back end."""
_MISSED, _AT_LEAST = 10, 300.0
"""A copy is old after so many intervals, and not before so many seconds, where the spec does not say."""
_NOTHING_TOLD = Status(phase=Phase.WAITING)


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
        self.speeds: Callable[[], Mapping[str, float]] = dict
        """Bytes a second, of the datasets that are being sent."""
        self.ended = False
        self.leaving = ""
        """Why this node has left the cluster; "": it has not."""
        self.halted = ""
        """Why etcd is not relied on; "": it is."""
        self.backends: dict[str, str | None] = {}
        """What is wrong with each back end; None: nothing."""
        self.pools: dict[str, Capacity] = {}
        self.guard: Guard | None = None
        self._room = Room()
        self._wanted: dict[str, tuple[int, float]] = {}
        """Datasets of ours that are wanted elsewhere: the wish's revision, and when it was seen first."""

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
        free = {name: pool.free for name, pool in self.pools.items() if pool.free is not None}
        return NodeView(self._name, member.incarnation, session, member.margin(), free)

    def used(self) -> Mapping[str, int]:
        """What shares the room of its pool uncounted is left out."""
        if (local := self._local) is None:
            return {}
        sizes = {name: here.size for name in local.mounts if isinstance(here := local.seen(name), Mounted)}
        told = self._room.look(local.mounts)
        return {name: one.used for name, one in told.items() if one.size <= sizes.get(name, 0)}

    def health(self) -> Mapping[str, str | None]:
        member = self._member
        health: dict[str, str | None] = {f"backend.{name}": wrong for name, wrong in self.backends.items()}
        if self.guard is not None:
            health[GUARD] = None if self.guard.answers else "the guard does not answer, so no heartbeat is sent"
        if self.halted:
            return health | {ETCD: self.halted, SESSION: "halted: nothing here writes, until somebody has decided"}
        if member is None:
            return health | {ETCD: "has not joined yet", SESSION: "has not joined yet"}
        health[ETCD] = None if member.view.connected else _away(member)
        if self.leaving:
            return health | {ETCD: None, SESSION: f"has left: {self.leaving}"}
        health[SESSION] = None if member.live and not self.ended else "the session has lapsed: nothing here writes"
        return health

    def gauges(self) -> Gauges:
        member, guard = self._member, self.guard
        healthy = {name: wrong is None for name, wrong in reported(self).items()}
        shown = Gauges(
            healthy=healthy,
            connected=healthy[ETCD],
            guard=guard is not None and guard.answers,
            gate=guard is not None and guard.round is not None,
            armed=guard is not None and guard.armed,
            pools=self.pools,
            speeds=self.speeds(),
            went_back=bool(self.halted),
        )
        if member is None or self.halted:
            return shown
        return replace(
            shown,
            **self._counted(member),
            margin=member.margin(),
            soft=member.timings.d_soft,
            looks=self._local.looks if self._local else {},
            mounts=self._local.mounts if self._local else {},
            piling_up=member.history_piles_up,
            known_bugs=member.etcd_known_bugs,
            paused=member.view.cluster.pause is not None,
            by_promises=member.held,
        )

    def _counted(self, member: Member) -> dict[str, Any]:
        """What there is of the datasets, as fields of Gauges."""
        view, now = member.view, time.monotonic()
        fences, all_, held, unowned = view.cluster.fences, Counter[_Kind](), Counter[_Kind](), 0
        wanted: dict[str, tuple[int, float]] = {}
        ages: dict[str, tuple[float, float]] = {}
        for name in view.names():
            d = view.dataset(name)
            kind = (self._status(member, d).phase.value, _backend(d))
            all_[kind] += 1
            alive = d.tenure is not None and d.tenure.held and d.tenure.incarnation not in fences
            unowned += d.spec is not None and not alive
            if d.tenure is not None and alive and d.tenure.incarnation == member.incarnation:
                held[kind] += 1
                if isinstance(d.spec, DatasetSpec) and d.spec.replicas:
                    ages[name] = (age(d, d.tenure), age_limit(d.spec))
                if isinstance(d.desired, str) and not d.answered and d.desired != member.node:
                    known = self._wanted.get(name, (0, 0.0))
                    wanted[name] = known if known[0] == d.desired_revision else (d.desired_revision, now)
        self._wanted = wanted
        waits = (now - since for _, since in wanted.values())
        return {"datasets": all_, "held": held, "unowned": unowned, "ages": ages, "move_wait": max(waits, default=0.0)}

    def backend_of(self, dataset: str) -> str:
        """ "" where it is not known."""
        return _backend(self._member.view.dataset(dataset)) if self._member is not None else ""

    def datasets(self) -> Sequence[DatasetView]:
        if self._member is None:
            return ()
        return [self._dataset(self._member, name) for name in sorted(self._member.view.names())]

    def _dataset(self, member: Member, name: str) -> DatasetView:
        d = member.view.dataset(name)
        status = self._status(member, d)
        return DatasetView(
            name=name,
            phase=status.phase,
            backend=_backend(d),
            size=d.spec.size if isinstance(d.spec, DatasetSpec) else 0,
            reason=status.reason,
            warning=status.warning,
            node=d.tenure.node if d.tenure and d.tenure.held else "",
            epoch=d.tenure.epoch if d.tenure else 0,
            path=status.path,
            desired=d.desired if isinstance(d.desired, str) else "",
            progress=self._progress(name),
            here=self._local is not None and isinstance(self._local.seen(name), Mounted),
            since=status.since,
        )

    def _progress(self, name: str) -> Progress | None:
        copying = self.copying().get(name)
        return _progress(copying, self.used().get(name) if copying.full else None) if copying else None

    def _status(self, member: Member, d: Dataset) -> Status:
        """Of mine, what is about to be written; of others', what etcd has."""
        told = self._reporter.statuses.get(d.name) if self._reporter else None
        mine = d.tenure is not None and d.tenure.incarnation == member.incarnation
        return (told if mine else member.view.status(d.name)) or told or _NOTHING_TOLD


def _away(member: Member) -> str:
    if member.held:
        return "etcd does not answer; this node goes on, as all others promise to wait"
    why = "; ".join(member.unpromised)
    return f"etcd does not answer; no promise of: {why}" if why else "etcd does not answer"


def _backend(d: Dataset) -> str:
    return d.tenure.backend if d.tenure else d.spec.backend if isinstance(d.spec, DatasetSpec) else ""


def age(d: Dataset, tenure: Tenure) -> float:
    """Seconds, of the newest copy that another node has acknowledged in this epoch; of the epoch, where none has."""
    if d.acknowledged:
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - max(copy.taken for copy in d.acknowledged.values()))
    try:
        return max(0.0, time.time() - datetime.fromisoformat(tenure.since).timestamp())
    except ValueError:
        return 0.0


def age_limit(spec: DatasetSpec) -> float:
    return spec.max_data_loss or max(_MISSED * spec.replicate_every, _AT_LEAST)


def _progress(copying: Copying, used: int | None) -> Progress:
    """Bytes of the round that goes on: of all of it as much is expected as is in use, of a difference as much as the
    one before had."""
    *_, last = copying.rounds or (None,)
    total = (used or 0) if copying.full else last.bytes if last is not None and not last.full else 0
    rate = f", {last.bytes / max(last.seconds, 1e-6) / 2**20:.0f} MiB/s" if last is not None else ""
    predicted = last.seconds if last is not None and not last.full else 0.0
    rest = f", the rest takes {predicted * 1000:.0f} ms" if predicted else ""
    what = f"to {copying.to}, round {len(copying.rounds) + 1}{rate}{rest}"
    cut_over = isinstance(copying.verdict, CutOver)
    return Progress(what, copying.sent, total, copying.to, copying.rounds, predicted, cut_over)
