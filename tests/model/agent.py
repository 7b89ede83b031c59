"""One life of a node's agent in virtual time: `Member`, `Observers` and the workers, without asyncio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from drover.agent.plan import plan
from drover.agent.situation import Situation
from drover.agent.steps import (
    Activate,
    Clear,
    Create,
    Destroy,
    Handover,
    Publish,
    Refresh,
    Release,
    Reput,
    Step,
    TakeClaim,
    Touch,
    Unpublish,
)
from drover.agent.storage.base import Away, Here, Mounted
from drover.coordinator.join import Applicant, Joined, Joining
from drover.coordinator.keys import Keys, range_end
from drover.coordinator.protocol import observer, ownership, session
from drover.coordinator.protocol.dataset import Cluster, Dataset
from drover.coordinator.protocol.observer import Watched
from drover.coordinator.protocol.session import CloseGate, Ended, LadderDone, Live, Send, Tick
from drover.coordinator.records import Evidence, Fence, Heartbeat, NodeRecord
from drover.coordinator.store import Change, LeaseGone
from drover.coordinator.timings import Timings
from drover.coordinator.txn import ModRevision, Put, Txn, TxnResult, absent
from drover.coordinator.view import View
from tests.model.store import ModelCluster

if TYPE_CHECKING:
    from tests.model.machine import Node

KEYS = Keys()
T = Timings()
PATIENCE = 1.0
"""Seconds after which a request counts as unanswered."""
SIZE = 2**30
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""What wall clocks say at 0, but for their skew."""


@dataclass(frozen=True)
class Variant:
    """Known-bad changes of the protocol, to see that the checks would find them."""

    from_answer: bool = False
    """Deadlines count from the answer to a heartbeat."""
    no_fence: bool = False
    """An absent node's datasets are claimed without its fence."""
    no_touch: bool = False
    """An unanswered handover that a read does not show counts as failed (and none compares `desired`, which alone would
    catch most of what the touch is for)."""
    no_life: bool = False
    """A restarted agent does not touch what it finds its own (and, again, no handover compares `desired`)."""
    unbound: bool = False
    """A heartbeat that promises less binds its sender only once it was answered."""
    ignores_unfenced: bool = False
    """Activated though earlier holders may still write."""


TRUE = Variant()


class Picture(View):
    """A view that is caught up by hand, as its mirrors would."""

    seen = 0

    def catch_up(self, cluster: ModelCluster) -> None:
        start, end = KEYS.root, range_end(KEYS.root)
        if self.seen == 0:
            changes = tuple(Change(e.key, e, e.mod_revision) for e in cluster.entries(start, end))
        else:
            changes = cluster.history(start, end, self.seen)
        self.seen = cluster.revision
        self._apply(changes)


@dataclass
class Job:
    """A step under way. until: when it is done, where it only takes its time (`then`), or has waited long enough.

    settle: a verb whose failure is relied on, so its fate is found out, as `Member` does it. shown: done once the
    picture shows this revision.
    """

    datasets: list[Dataset]
    until: float
    then: Callable[[], object] | None = None
    settle: bool = False
    unanswered: bool = False
    shown: int | None = None
    done: bool = False


class Agent:
    """One life of a node's agent: `Member`, `Observers` and the workers, without asyncio."""

    def __init__(self, node: Node) -> None:
        self.node, self.world = node, node.world
        node.lives += 1
        self.number = node.lives
        joined = self.world.runner.run(self._join())
        self.identity, self.lease = joined.identity, joined.lease
        self.state: session.State = session.begin(
            joined.revision, joined.counter, joined.sent, node.clock, joined.longer
        )
        self.life = 0
        self.picture = Picture(self.world.store, KEYS)
        self.watched: dict[str, Watched] = {}
        self.jobs: dict[frozenset[str], list[Job]] = {}
        self.claims: dict[frozenset[str], float] = {}
        self.ladder_at: float | None = None
        self.beats_at = self.leases_at = 0.0

    async def _join(self) -> Joined:
        node = self.node

        async def left_over() -> list[str]:
            node.mounted.clear()
            return []

        machine, boot = f"machine {node.name}", f"{node.name}{node.boot:012}"
        record = NodeRecord(incarnation="", machine=machine, boot=boot, lease=0, backends=("loopback",))
        who = Applicant(node.name, machine, boot, T, record, node.armed, node.until)
        return await Joining(self.world.store, KEYS, who, node.saved, lambda: node.clock, left_over, node.marks).run()

    @property
    def live(self) -> bool:
        if not self.life or not isinstance(self.state, Live):
            return False
        return not session.soft_deadline(self.state, T).passed(self.node.clock)

    def seat(self) -> ownership.Seat:
        txn = f"{self.world.rng.getrandbits(64):x}"
        return ownership.Seat(KEYS, self.node.name, self.identity.incarnation, self.lease, "now", txn)

    def send(self, txn: Txn, heard: Callable[[TxnResult], None]) -> None:
        self.world.send(self.node, self, txn, heard)

    # The session.

    def feed(self, event: session.Event) -> None:
        self.state, actions = session.step(self.state, event, self.node.clock, self.identity, T)
        for action in actions:
            match action:
                case CloseGate():
                    self.ladder_at = self.world.now + self.world.rng.uniform(0.05, T.d_io - T.d_soft)
                case Send():
                    txn = session.heartbeat_txn(KEYS, self.identity, T, action)
                    self.send(txn, lambda result, sent=action: self._answered(sent, result))  # type: ignore[misc]

    def _answered(self, send: Send, result: TxnResult) -> None:
        entry = result.read[KEYS.heartbeat(self.node.name)]
        seen = Heartbeat.decode(entry.value) if entry else None
        fenced = result.read[KEYS.fence(self.identity.incarnation)] is not None
        if result.succeeded and not self.life:
            self.life = result.revision
        revision = entry.mod_revision if entry else 0
        self.feed(session.Reply(send.attempt.counter, result.succeeded, result.revision, seen, revision, fenced))
        if self.world.variant.from_answer and isinstance(self.state, Live) and result.succeeded:
            self.state = replace(self.state, sent=self.node.clock)

    def step(self) -> None:
        now, node = self.world.now, self.node
        self.feed(Tick())
        if self.ladder_at is not None and now >= self.ladder_at:
            self.ladder_at = None
            node.mounted.clear()
            self.feed(LadderDone(True))
        if isinstance(self.state, Ended):
            if self.ladder_at is None:
                node.agent = None
            return
        if now >= self.beats_at:
            self.beats_at = now + T.heartbeat
            self._beat()
        if node.cut:
            return
        if now >= self.leases_at:
            self.leases_at = now + T.lease_ttl / 4
            self._keep_lease()
        if self.world.rng.random() < 0.8:
            self.picture.catch_up(self.world.etcd)
            self._observe()
        for name in sorted(self.picture.names()):
            self._work(self.picture.members(name))

    def _beat(self) -> None:
        pause, before = self.picture.cluster.pause, self.state
        left = (pause.until - EPOCH).total_seconds() - self.world.now + self.node.skew if pause else 0.0
        self.feed(session.Beat(max(left - T.d_soft, 0.0)))
        if self.world.variant.unbound and isinstance(self.state, Live) and isinstance(before, Live):
            self.state = replace(self.state, longer=before.longer)

    def _keep_lease(self) -> None:
        etcd, key = self.world.etcd, KEYS.node(self.node.name)
        try:
            etcd.keep_alive(self.lease)
        except LeaseGone:
            self.lease = etcd.grant(T.lease_ttl)
        entry = etcd.entry(key)
        if entry is None or entry.lease != self.lease:
            record = NodeRecord(
                incarnation=self.identity.incarnation,
                machine=self.identity.machine,
                boot=self.identity.boot,
                lease=self.lease,
                backends=("loopback",),
            )
            compare = (ModRevision(key, entry.mod_revision if entry else 0),)
            fence = absent(KEYS.fence(self.identity.incarnation))
            etcd.apply(Txn((*compare, fence), (Put(key, record.encode(), self.lease),)))

    def _observe(self) -> None:
        now, cluster = self.node.clock.raw, self.picture.cluster
        if cluster.pause is not None:
            return
        for name in observer.whom(self.node.name, cluster, self.picture.tenures(), self.watched):
            entry = self.world.etcd.entry(KEYS.heartbeat(name))
            if entry is None:
                continue
            beat = Heartbeat.decode(entry.value)
            watched = observer.observe(self.watched.get(name), name, beat, entry.mod_revision, now)
            self.watched[name] = watched
            steady = self.live and session.steady(self.state, T, self.node.clock)
            if beat.incarnation not in cluster.fences and watched.due() <= now and steady:
                fence = observer.silence(watched, self.node.name, now, "now")
                self.send(ownership.fence(self.seat(), name, beat, watched.revision, fence), lambda _: None)

    # The workers.

    def _work(self, names: frozenset[str]) -> None:
        for busy in [b for b in self.jobs if names & b]:
            for job in self.jobs[busy]:
                self._go_on(job)
            self.jobs[busy] = [job for job in self.jobs[busy] if not job.done]
            if not self.jobs[busy]:
                del self.jobs[busy]
        if any(names & busy for busy in self.jobs):
            return
        variant, unit, cluster = self.world.variant, self.picture.unit(next(iter(names))), self.picture.cluster
        if variant.no_fence:
            cluster = self._presumed_dead(unit, cluster)
        if variant.ignores_unfenced:
            unit = tuple(
                replace(d, tenure=d.tenure.model_copy(update={"unfenced": ()})) if d.tenure else d for d in unit
            )
        here: dict[str, Here] = {
            d.name: Mounted("/dev/x", Path("/x"), SIZE) if d.name in self.node.mounted else Away() for d in unit
        }
        wanted = Situation(
            node=self.node.name,
            incarnation=self.identity.incarnation,
            now=self.world.now,
            life=0 if variant.no_life else self.life,
            gate=self.live,
            unit=unit,
            cluster=cluster,
            here=here,
            claim_since=self.claims.get(names),
        )
        planned = plan(wanted)
        if planned.wake is not None and not planned.steps:
            self.claims.setdefault(names, self.world.now)
        else:
            self.claims.pop(names, None)
        for step in planned.steps:
            if self.world.rng.random() < 0.9:
                self._run(names, step, {d.name: d for d in unit}, cluster)

    def _presumed_dead(self, unit: tuple[Dataset, ...], cluster: Cluster) -> Cluster:
        named = {h for d in unit if d.tenure for h in (d.tenure.holder, *d.tenure.unfenced)}
        gone = {h for h in named if h.node not in cluster.nodes}
        fences = {h.incarnation: Fence(node=h.node, by="", evidence=Evidence.OPERATOR) for h in gone}
        return replace(cluster, fences={**cluster.fences, **fences})

    def _run(self, names: frozenset[str], step: Step, unit: dict[str, Dataset], cluster: Cluster) -> None:
        seat = self.seat()
        match step:
            case Touch(name):
                self._commit(names, [unit[name]], ownership.touch(seat, unit[name]))
            case TakeClaim(claim):
                datasets = [unit[n] for n in claim.datasets]
                fences = dict.fromkeys(cluster.fences, 0) | self.picture.fence_revisions()
                uids = {n: f"{self.world.rng.getrandbits(64):x}" for n in unit}
                beside = [d for n, d in unit.items() if n not in claim.datasets]
                txn = ownership.claim(seat, datasets, cluster, uids, claim.because, claim.evidence, fences, beside)
                self._commit(names, datasets, txn)
            case Clear(name, stopped):
                self._commit(names, [unit[name]], ownership.cleared(seat, unit[name], stopped))
            case Activate(name):
                self._commit(names, [unit[name]], ownership.activate(seat, unit[name]))
            case Create(name):
                self._writes(unit[name])
                self.node.mounted.pop(name, None)
                self._commit(names, [unit[name]], ownership.born(seat, unit[name], "object"))
            case Publish(name):
                self._writes(unit[name])
            case Unpublish(name):
                takes = self.world.now + self.world.rng.uniform(0.1, 2.0)
                job = Job([], takes, lambda: self.node.mounted.pop(name, None))
                self.jobs.setdefault(names, []).append(job)
            case Refresh(name):
                self._commit(names, [unit[name]], ownership.refresh(seat, unit[name]))
            case Reput(name):
                self._commit(names, [unit[name]], ownership.reput(seat, unit[name]))
            case Handover(those, to):
                datasets = [unit[n] for n in those]
                beside = [d for n, d in unit.items() if n not in those]
                txn = ownership.handover(seat, datasets, to, cluster.nodes[to], "why", beside=beside)
                if self.world.variant.no_touch or self.world.variant.no_life:
                    wishes = {KEYS.desired(n) for n in those}
                    txn = replace(txn, compare=tuple(c for c in txn.compare if c.key not in wishes))
                self._commit(names, datasets, txn, settle=True)
            case Release(those):
                datasets = [unit[n] for n in those]
                self._commit(names, datasets, ownership.release(seat, datasets, "why"), settle=True)
            case Destroy(name):
                self._writes(unit[name])
                self.node.mounted.pop(name, None)
                self._commit(names, [unit[name]], ownership.destroyed(seat, unit[name]))
            case _:
                raise AssertionError(f"{step} was not expected here")

    def _writes(self, d: Dataset) -> None:
        """What a helper does: look at the gate, then write."""
        if self.live and d.tenure is not None:
            self.node.writes(d.name, d.tenure.epoch)

    def _commit(self, names: frozenset[str], datasets: list[Dataset], txn: Txn, settle: bool = False) -> None:
        job = Job(datasets, self.world.now + PATIENCE, settle=settle)
        self.jobs.setdefault(names, []).append(job)

        def heard(result: TxnResult) -> None:
            if not job.unanswered:
                job.shown = result.revision if result.succeeded else 0

        self.send(txn, heard)

    def _go_on(self, job: Job) -> None:
        """`Verbs._commit`, and where no answer came `Verbs._settled`."""
        if job.shown is not None:
            job.done = self.picture.seen >= job.shown
            return
        if self.world.now < job.until:
            return
        if job.then is not None:
            job.then()
        if job.then is not None or not job.settle:
            job.done = True
            return
        job.unanswered, job.until = True, self.world.now + PATIENCE
        d = job.datasets[0]
        entry = self.world.etcd.entry(KEYS.owner(d.name))
        if entry is None or entry.mod_revision != d.tenure_revision or self.world.variant.no_touch:
            job.shown = entry.mod_revision if entry else 0
            return

        def touched(result: TxnResult) -> None:
            if result.succeeded:
                job.shown = result.revision

        self.send(ownership.touch(self.seat(), d), touched)
