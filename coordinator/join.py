"""How a node takes its seat: joins as a new incarnation, or goes on as the one it was before its agent restarted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from drover.coordinator.clock import Clock
from drover.coordinator.etcd_versions import Sound, judge
from drover.coordinator.keys import Keys, Kind, range_end
from drover.coordinator.mark import MarkFile
from drover.coordinator.protocol import history, observer, recovery
from drover.coordinator.protocol.clock import Deadline, Instant
from drover.coordinator.protocol.promises import candidate
from drover.coordinator.protocol.session import Identity
from drover.coordinator.record import InvalidRecord, R
from drover.coordinator.records import Cluster, Evidence, Fence, Heartbeat, NodeRecord, Tenure
from drover.coordinator.store import LeaseGone, NoSpace, OtherEtcd, Store, Unanswered, Unavailable, Unfit, WentBack
from drover.coordinator.timings import Timings, required_wait
from drover.coordinator.txn import Compare, Entry, ModRevision, Put, Txn, absent, unchanged

log = logging.getLogger(__name__)

RESUME_STEP = 1_000
"""Counters that a restarted agent leaves out: a heartbeat of its predecessor may still be under way."""

_RETRY = 0.5


class Refused(Exception):
    """This machine cannot be that node. The text says who has the name and what to do."""


class NotOurCluster(Exception):
    """The record of the cluster cannot be understood."""


@dataclass(frozen=True)
class Saved:
    """What an agent leaves for its successor in the same boot (on tmpfs: it must not outlive the boot)."""

    incarnation: str
    lease: int

    @classmethod
    def load(cls, path: Path) -> Saved | None:
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            log.warning("%s is damaged; joining as a new incarnation", path)
            return None

    def save(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)))
        os.replace(temporary, path)


@dataclass(frozen=True)
class Applicant:
    """The node as its settings and its machine say. describe: its record, with incarnation and lease left open."""

    node: str
    machine: str
    boot: str
    timings: Timings
    describe: NodeRecord
    armed: bool = False
    until: Deadline | None = None
    """D_soft of no heartbeat that an earlier agent of this boot sent, answered or not, comes before; None: nobody knows
    it."""


@dataclass(frozen=True)
class Joined:
    """A seat taken. revision, counter, sent, longer: of the heartbeat that the session goes on from."""

    identity: Identity
    lease: int
    cluster: str
    revision: int
    counter: int
    sent: Instant
    longer: float = 0.0


LeftOver = Callable[[], Awaitable[list[str]]]
"""Stops all that an earlier incarnation of this boot may have left, and says what could not be verified as gone."""


def new_incarnation(node: str, boot: str) -> str:
    """`<node>.<boot id, shortened>.<random>`: one life of a node as a member."""
    return f"{node}.{boot.replace('-', '')[:12]}.{secrets.token_hex(4)}"


async def ensure_cluster(store: Store, keys: Keys, marks: MarkFile) -> str:
    """The cluster's id; made by whoever comes first. What this node has seen of etcd is marked on its disk.

    Raises NotOurCluster, WentBack, StoreError; OSError where the mark cannot be written.
    """
    etcd = (await store.status()).cluster_id
    mark = marks.load()
    entry = await store.get(keys.cluster)
    if entry is None and mark is None:
        made = Cluster(id=secrets.token_hex(8), etcd=etcd)
        put = Txn((absent(keys.cluster),), (Put(keys.cluster, made.encode()),), read=(keys.cluster,))
        entry = (await store.txn(put)).read[keys.cluster]
    try:
        cluster = Cluster.decode(entry.value) if entry else None
    except InvalidRecord as wrong:
        raise NotOurCluster(
            f"{keys.cluster} cannot be read ({wrong}): put back what it was, or use another prefix"
        ) from None
    if why := history.trouble(mark, cluster, etcd):
        raise OtherEtcd(why)
    if cluster is None:
        raise Unavailable(f"{keys.cluster} vanished while it was read")
    now = (await store.txn(history.witness(keys.cluster))).revision
    if mark is not None and not history.recovered(mark, cluster) and now < mark.revision:
        why = history.gone_back(now, mark.revision)
        await asyncio.to_thread(marks.broken, why)
        raise WentBack(why)
    await asyncio.to_thread(marks.save, history.Mark(cluster.id, history.newest(cluster), etcd, now))
    return cluster.id


class Joining:
    """Takes the seat, however long it needs: etcd that is away is waited for, and said so once."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        applicant: Applicant,
        saved: Path,
        clock: Clock,
        left_over: LeftOver,
        marks: MarkFile,
        only: Callable[[str], None] = lambda cluster: None,
    ) -> None:
        """only: raises where another agent of this machine has this node's name in that cluster."""
        self._only = only
        self._store, self._keys, self._who = store, keys, applicant
        self._path, self._clock, self._left_over, self._marks = saved, clock, left_over, marks
        self._incarnation = new_incarnation(applicant.node, applicant.boot)
        self._sent: dict[int, Instant] = {}
        self._judged = ""

    async def run(self) -> Joined:
        """Raises Refused, NotOurCluster, WentBack, Denied, Unfit."""
        said = ""
        while True:
            try:
                await self._judge_etcd()
                cluster = await self._cluster()
                self._only(cluster)
                if (joined := await self._attempt(cluster)) is not None:
                    Saved(joined.identity.incarnation, joined.lease).save(self._path)
                    return joined
            except Unfit:
                raise
            except (Unavailable, Unanswered, LeaseGone, NoSpace) as error:
                if str(error) != said:
                    log.warning("waiting for etcd: %s", error)
                    said = str(error)
            await asyncio.sleep(_RETRY)

    async def _cluster(self) -> str:
        try:
            return await ensure_cluster(self._store, self._keys, self._marks)
        except OSError as error:
            raise Refused(
                "what this node has seen of etcd cannot be kept on its disk, and without that it would not see etcd go "
                f"back: {error}; see state_dir in the settings"
            ) from error

    async def _judge_etcd(self) -> None:
        version = (await self._store.status()).version
        if version != self._judged and not isinstance(verdict := judge(version), Sound):
            log.warning("%s", verdict)
        self._judged = version

    async def _attempt(self, cluster: str) -> Joined | None:
        entry = await self._store.get(self._keys.heartbeat(self._who.node))
        before = _heartbeat(entry)
        if entry is not None and before is not None:
            if before.counter in self._sent and before.incarnation == self._incarnation:
                saved = Saved.load(self._path)
                lease = saved.lease if saved else 0
                return self._seat(cluster, self._incarnation, lease, entry.mod_revision, before.counter)
            if (saved := await self._resumable(before)) is not None:
                return await self._resume(cluster, entry, before, saved)
        elif (missing := await self._missing()) is not None:
            key = self._keys.heartbeat(self._who.node)
            await self._store.txn(Txn((absent(key),), (Put(key, missing.encode()),)))
            return None
        return await self._join(cluster, entry, before)

    async def _missing(self) -> Heartbeat | None:
        """A heartbeat that is missing is not silence: the placeholder for a predecessor that was never fenced.

        Without it nobody could ever fence that one: the heartbeat would be mine.
        """
        keys, me = self._keys, self._who.node
        node = await self._store.get(keys.node(me))
        owners = await self._store.range(keys.under(Kind.OWNERS), range_end(keys.under(Kind.OWNERS)))
        named = [(n.incarnation, n.machine, n.boot) for n in _readable(NodeRecord, [node] if node else [])]
        named += [(t.incarnation, "", "") for t in _readable(Tenure, owners.entries) if t.held and t.node == me]
        for incarnation, machine, boot in named:
            if not recovery.lived(incarnation):
                continue
            if await self._store.get(keys.fence(incarnation)) is None:
                return observer.stand_in(incarnation).model_copy(update={"machine": machine, "boot": boot})
        return None

    def _seat(
        self, cluster: str, incarnation: str, lease: int, revision: int, counter: int, longer: float = 0.0
    ) -> Joined:
        who = self._who
        identity = Identity(who.node, incarnation, who.machine, who.boot, who.armed)
        sent = self._sent.get(counter)
        return Joined(identity, lease, cluster, revision, counter, sent or self._clock(), longer)

    async def _resumable(self, before: Heartbeat) -> Saved | None:
        """What an earlier agent of this boot has left, if this one may go on as the same incarnation."""
        saved = Saved.load(self._path)
        if saved is None or saved.incarnation != before.incarnation:
            return None
        if before.boot not in ("", self._who.boot):
            return None
        if await self._store.get(self._keys.fence(saved.incarnation)) is not None:
            return None
        return saved

    async def _resume(self, cluster: str, entry: Entry, before: Heartbeat, saved: Saved) -> Joined | None:
        """The next link of the chain. Only its compare tells that `before` was the last one: etcd may have answered
        from the past (etcd issue 20418), and who goes on from there takes its own heartbeats for a twin's. None: read
        again."""
        counter, now = before.counter + RESUME_STEP, self._clock()
        age = max(0.0, now.boot - before.clock)
        longer = max(0.0, self._still_promised(before, Instant(now.boot - age, now.raw - age)) - age)
        beat = self._beat(saved.incarnation, counter, now, longer)
        compare = (unchanged(entry.key, entry), absent(self._keys.fence(saved.incarnation)))
        result = await self._store.txn(Txn(compare, (Put(entry.key, beat.encode()),)))
        if not result.succeeded:
            return None
        self._sent[counter] = now
        log.info("goes on as %s", saved.incarnation)
        return self._seat(cluster, saved.incarnation, saved.lease, result.revision, counter, longer)

    def _still_promised(self, before: Heartbeat, sent: Instant) -> float:
        """By how much longer than usual a session may go on that an earlier agent left in a pause. Seconds."""
        if (until := self._who.until) is None:
            return 0.0
        soft = sent.plus(self._who.timings.d_soft)
        return max(0.0, min(before.longer, until.boot - soft.boot, until.raw - soft.raw))

    async def _join(self, cluster: str, entry: Entry | None, before: Heartbeat | None) -> Joined | None:
        keys, who = self._keys, self._who
        compare: list[Compare] = [ModRevision(keys.heartbeat(who.node), entry.mod_revision if entry else 0)]
        then: list[Put] = []
        if before is not None and (fence := await self._fence_of(before, entry, compare)) is not None:
            then.append(Put(keys.fence(before.incarnation), fence.encode()))
        lease = await self._store.grant(who.timings.lease_ttl)
        # Saved before it is sent: an agent killed after the commit finds its lease again.
        Saved(self._incarnation, lease).save(self._path)
        counter, sent = len(self._sent) + 1, self._clock()
        self._sent[counter] = sent
        record = who.describe.model_copy(update={"incarnation": self._incarnation, "lease": lease})
        beat = self._beat(self._incarnation, counter, sent)
        then += [Put(keys.node(who.node), record.encode(), lease), Put(keys.heartbeat(who.node), beat.encode())]
        result = await self._store.txn(Txn(tuple(compare), tuple(then)))
        if not result.succeeded:
            return None
        log.info("joined as %s", self._incarnation)
        return self._seat(cluster, self._incarnation, lease, result.revision, counter)

    def _beat(self, incarnation: str, counter: int, sent: Instant, longer: float = 0.0) -> Heartbeat:
        who = self._who
        return Heartbeat(
            incarnation=incarnation,
            counter=counter,
            clock=round(sent.boot, 3),
            d_hard=who.timings.d_hard,
            armed=who.armed,
            longer=longer,
            machine=who.machine,
            boot=who.boot,
        )

    async def _fence_of(self, before: Heartbeat, entry: Entry | None, compare: list[Compare]) -> Fence | None:
        """The fence of the predecessor to write with the join; None: the one that is there says enough.

        Silence may prove nothing (no reset was armed); that the same machine is back proves that it has stopped.
        """
        key = self._keys.fence(before.incarnation)
        written = await self._store.get(key)
        compare.append(unchanged(key, written))
        if written is None:
            return await self._evidence(before, entry)
        if before.machine != self._who.machine:
            return None
        evidence = await self._evidence(before, entry)
        known = _readable(Fence, [written])
        return None if known and known[0].evidence is not Evidence.SILENCE else evidence

    async def _evidence(self, before: Heartbeat, entry: Entry | None) -> Fence:
        """Why the predecessor is known to write no more. Raises Refused where it may be alive."""
        who = self._who
        if before.machine == who.machine and before.boot != who.boot:
            return self._fence(before, Evidence.REBOOT, "the same machine has booted again")
        if before.machine == who.machine:
            await self._clear_this_boot(before)
            return self._fence(before, Evidence.STOPPED, "an earlier agent of this boot; nothing of it is left")
        return await self._outwait(before, entry)

    async def _clear_this_boot(self, before: Heartbeat) -> None:
        while left := await self._left_over():
            log.error("cannot join: incarnation %s of this boot has left %s", before.incarnation, "; ".join(left))
            await asyncio.sleep(_RETRY)

    async def _outwait(self, before: Heartbeat, entry: Entry | None) -> Fence:
        """Another machine has the name. It keeps it, unless its heartbeat stands still for W. Where it is fenced
        meanwhile, what this returns no longer holds: the join compares that there is no fence, and is tried again."""
        key, fence = self._keys.heartbeat(self._who.node), self._keys.fence(before.incarnation)
        start = self._clock().raw
        wait = required_wait(before.writes_for_at(candidate(self._who.node, self._who.machine)))
        log.warning("node %s was last on another machine; waiting %.0f s for a sign of it", self._who.node, wait)
        while (passed := self._clock().raw - start) < wait:
            await asyncio.sleep(min(_RETRY, wait - passed))
            if await self._store.get(fence) is not None:
                break
            now = await self._store.get(key)
            if entry is not None and now is not None and now.mod_revision != entry.mod_revision:
                raise Refused(
                    f"node {self._who.node} is alive on another machine (machine id {before.machine or 'unknown'}, this"
                    f" one is {self._who.machine}). Give this node another name, or stop the other agent"
                )
        return self._fence(before, Evidence.SILENCE, f"heartbeat still for {passed:.1f} s", armed=before.armed)

    def _fence(self, before: Heartbeat, evidence: Evidence, detail: str, armed: bool = False) -> Fence:
        who = self._who
        at, until = who.describe.joined, before.writes_until
        return Fence(node=who.node, by=who.node, evidence=evidence, armed=armed, detail=detail, at=at, until=until)


def _readable(kind: type[R], entries: Iterable[Entry]) -> list[R]:
    found = []
    for entry in entries:
        with contextlib.suppress(InvalidRecord):
            found.append(kind.decode(entry.value))
    return found


def _heartbeat(entry: Entry | None) -> Heartbeat | None:
    if entry is None:
        return None
    try:
        return Heartbeat.decode(entry.value)
    except InvalidRecord as error:
        raise Refused(f"{entry.key} is not a heartbeat ({error}); delete it once its node is known to be off") from None
