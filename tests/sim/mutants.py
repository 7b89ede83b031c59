"""Known-bad variants of the protocol: each lacks one rule, and the simulation must find a run in which that matters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from drover.agent import gatekeeper, plan, situation, worker
from drover.agent.guard.page import Page
from drover.agent.situation import Situation
from drover.agent.steps import Publish
from drover.agent.storage.base import Token
from drover.coordinator import etcd as etcd_verbs
from drover.coordinator import join, view
from drover.coordinator.member import Member
from drover.coordinator.protocol import observer, ownership, placement, session
from drover.coordinator.protocol.clock import Instant
from drover.coordinator.protocol.dataset import Cluster, Dataset
from drover.coordinator.records import Evidence, Fence, Holder, State, Tenure
from drover.coordinator.timings import Timings
from drover.coordinator.txn import Compare, ModRevision, Put, Txn, absent
from drover.coordinator.verbs import Verbs
from tests.model.store import ModelCluster
from tests.sim import mutants_promises, truth
from tests.sim.copies import SimCopies
from tests.sim.transfer import SimOutgoing

Patch = tuple[object, str, object]


@dataclass(frozen=True)
class Mutant:
    """lacks: the rule, in a few words. patches: made when asked for, so that they wrap what is there then. scenario:
    which makes the rule matter; "": whatever happens."""

    lacks: str
    patches: Callable[[], Sequence[Patch]]
    scenario: str = ""


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """The product lacks that rule meanwhile."""
    made = [patch.object(target, name, new) for target, name, new in mutant.patches()]
    for one in made:
        one.start()
    try:
        yield
    finally:
        for one in reversed(made):
            one.stop()


def _short_wait() -> Sequence[Patch]:
    return [(observer, "required_wait", lambda d_hard: 0.5 * d_hard)]


def _from_answer() -> Sequence[Patch]:
    confirmed = session._confirmed

    def late(state: Any, counter: int, revision: int, now: Instant, timings: Timings) -> Any:
        pending = tuple(replace(a, sent=now) if a.counter == counter else a for a in state.pending)
        return confirmed(replace(state, pending=pending), counter, revision, now, timings)

    return [(session, "_confirmed", late)]


def _lease_is_death() -> Sequence[Patch]:
    make = view.View._make_cluster
    revisions = view.View.fence_revisions

    def presumed(self: view.View) -> Cluster:
        cluster = make(self)
        holders = {h for t in self.tenures() for h in (t.holder, *t.unfenced)}
        gone = {h for h in holders if h.node not in cluster.nodes and h.incarnation not in cluster.fences}
        dead = {h.incarnation: Fence(node=h.node, by="", evidence=Evidence.OPERATOR) for h in gone}
        return replace(cluster, fences={**dead, **cluster.fences})

    def all_revisions(self: view.View) -> dict[str, int]:
        return dict.fromkeys(self.cluster.fences, 0) | revisions(self)

    return [(view.View, "_make_cluster", presumed), (view.View, "fence_revisions", all_revisions)]


def _compares_epochs() -> Sequence[Patch]:
    def holds(self: truth.Truth, compare: Compare) -> bool:
        so = ModelCluster._holds(self, compare)
        if so or not isinstance(compare, ModRevision) or "/owners/" not in compare.key or not compare.revision:
            return so
        now = self._entries.get(compare.key)
        then = next((c.entry for c in self._history if (c.key, c.revision) == (compare.key, compare.revision)), None)
        if now is None or then is None:
            return False
        a, b = Tenure.decode(now.value), Tenure.decode(then.value)
        return (a.epoch, a.incarnation) == (b.epoch, b.incarnation)

    return [(truth.Truth, "_holds", holds), *_handover_of_any_wish()]


def _no_touch() -> Sequence[Patch]:
    fate = Verbs._fate

    async def read_only(self: Verbs, sent: ownership.Seat, d: Dataset) -> bool | None:
        entry = await self._store.get(sent.keys.owner(d.name))
        if entry is not None and entry.mod_revision == d.tenure_revision:
            return False
        return await fate(self, sent, d)

    return [(Verbs, "_fate", read_only), *_handover_of_any_wish()]


def _handover_of_any_wish() -> Sequence[Patch]:
    """No rule by itself: a handover that does not compare `desired`, which catches most of what a touch is for."""
    handover = ownership.handover

    def blind(*args: Any, **kwargs: Any) -> Txn:
        txn = handover(*args, **kwargs)
        return replace(txn, compare=tuple(c for c in txn.compare if "/desired/" not in c.key))

    return [(ownership, "handover", blind)]


def _no_life() -> Sequence[Patch]:
    real = plan.plan

    def forgetful(s: Situation) -> plan.Plan:
        return real(replace(s, life=0))

    return [(worker, "plan", forgetful), *_handover_of_any_wish()]


def _early_mount() -> Sequence[Patch]:
    assigned = plan._assigned

    def early(s: Situation, d: Dataset) -> tuple[Any, ...]:
        if d.tenure is not None and d.tenure.born and d.tenure.state is State.ASSIGNED and s.here.get(d.name):
            return (*assigned(s, d), Publish(d.name))
        return assigned(s, d)

    return [(plan, "_assigned", early)]


def _no_gate() -> Sequence[Patch]:
    """A helper does not ask whether the gate is still open."""
    return [(Page, "admits", lambda self, round_, now: True)]


def _silence_clears() -> Sequence[Patch]:
    def always(holder: Holder, d: Dataset, fence: Fence | None) -> bool:
        return fence is not None

    return [(situation, "may_clear", always)]


def _forgets_unfenced() -> Sequence[Patch]:
    """A handover does not carry `unfenced` on, and a holder that is not done with it may hand over."""
    handover = ownership.handover

    def forgetful(*args: Any, **kwargs: Any) -> Txn:
        txn = handover(*args, **kwargs)
        then = []
        for op in txn.then:
            if isinstance(op, Put) and "/owners/" in op.key:
                op = replace(op, value=Tenure.decode(op.value).model_copy(update={"unfenced": ()}).encode())
            then.append(op)
        return replace(txn, then=tuple(then))

    return [(ownership, "handover", forgetful)]


def _claim_drops() -> Sequence[Patch]:
    """A claim does not note the old holder in `unfenced`."""
    claimed = ownership._claimed

    def clean(*args: Any) -> Tenure:
        return claimed(*args).model_copy(update={"unfenced": ()})

    return [(ownership, "_claimed", clean)]


def _fence_blind() -> Sequence[Patch]:
    """A fence does not compare the heartbeat's revision."""

    fence = ownership.fence

    def blind(seat: ownership.Seat, *args: Any) -> Txn:
        txn = fence(seat, *args)
        return replace(txn, compare=tuple(c for c in txn.compare if "/heartbeats/" not in c.key))

    return [(ownership, "fence", blind)]


def _own_fence() -> Sequence[Patch]:
    """Transactions do not compare that their sender is not fenced."""

    def without(seat: ownership.Seat, compare: Sequence[Compare], then: Sequence[Any]) -> Txn:
        return Txn(tuple(compare), tuple(then))

    return [(ownership, "_txn", without)]


def _reput_blind() -> Sequence[Patch]:
    """A lease record is put back without comparing the tenure."""

    def blind(seat: ownership.Seat, d: Dataset) -> Txn:
        txn = reput(seat, d)
        return replace(txn, compare=(absent(seat.keys.fence(seat.incarnation)),))

    reput = ownership.reput
    return [(ownership, "reput", blind)]


def _unverified_ladder() -> Sequence[Patch]:
    """What the ladder has left is not asked for: the gate opens, and the node joins, all the same."""

    async def nothing(self: gatekeeper.Gatekeeper) -> list[str]:
        return []

    return [(gatekeeper.Gatekeeper, "_stopped", nothing)]


def _same_boot() -> Sequence[Patch]:
    """A new incarnation in the same boot fences its predecessor before that is stopped."""

    async def at_once(self: join.Joining, before: Any) -> None:
        return None

    return [(join.Joining, "_clear_this_boot", at_once)]


def _unsteady() -> Sequence[Patch]:
    """An observer fences though its own heartbeats were not answered."""
    return [(Member, "steady", lambda self: True)]


def _answers_nothing() -> Sequence[Patch]:
    """A tenure does not note which `desired` it has acted on."""
    return [(Dataset, "answered", property(lambda self: False))]


def _answers_value() -> Sequence[Patch]:
    """What a tenure has answered is told by the node's name, not by the request."""
    return [(Dataset, "answered", property(lambda self: self.tenure is not None))]


def _destroys_what_looks_deleted() -> Sequence[Patch]:
    """Whether a spec is gone is not asked of etcd itself before its data is destroyed."""

    async def believed(self: Verbs, d: Dataset) -> bool:
        return True

    return [(Verbs, "condemn", believed)]


def _epoch_restarts() -> Sequence[Patch]:
    """A new dataset under an old name starts with epoch 1 again."""
    claimed = ownership._claimed

    def again(seat: ownership.Seat, d: Dataset, *rest: Any) -> Tenure:
        made = claimed(seat, d, *rest)
        return made if d.kept else made.model_copy(update={"epoch": 1})

    return [(ownership, "_claimed", again)]


def _destroys_unasked() -> Sequence[Patch]:
    """A claim does not copy what the spec says of the data, and takes it for doomed."""
    claimed = ownership._claimed

    def doomed(*args: Any) -> Tenure:
        return claimed(*args).model_copy(update={"reclaim": "delete"})

    return [(ownership, "_claimed", doomed), (ownership, "stale_copy", lambda d, here: False)]


def _observer_of_absent() -> Sequence[Patch]:
    """Nobody watches a node that is not here."""

    def present(me: str, cluster: Cluster, tenures: Any, begun: Any) -> dict[str, str]:
        return dict(whom(me, cluster, (), begun))

    whom = observer.whom
    return [(observer, "whom", present)]


def _leaves_with_its_lease() -> Sequence[Patch]:
    """A node that leaves keeps its lease, so that something may still be bound to it."""

    async def kept(self: etcd_verbs.Etcd, lease: int) -> None:
        return None

    return [(etcd_verbs.Etcd, "revoke", kept)]


def _unverified_copy() -> Sequence[Patch]:
    """The receiver does not look whether a snapshot has come whole before it answers."""

    def believed(self: SimCopies, uid: str, token: Token, guid: str) -> None:
        copy = self._storage.copies.get(self._machine.name, uid)
        if copy is not None and copy.arriving is not None:
            copy.snapshots.append(replace(copy.arriving.snap, guid=guid))
            copy.arriving = None

    return [(SimCopies, "received", believed)]


def _copy_not_durable() -> Sequence[Patch]:
    """It answers before what has come is durable."""
    received = SimCopies.received

    def cached(self: SimCopies, uid: str, token: Token, guid: str) -> None:
        received(self, uid, token, guid)
        copy = self._storage.copies.get(self._machine.name, uid)
        if copy is not None:
            copy.snapshots = [replace(s, durable=False) if s.guid == guid else s for s in copy.snapshots]

    return [(SimCopies, "received", cached)]


def _hands_over_early() -> Sequence[Patch]:
    """The source hands over when it has sent the last snapshot, and does not wait for the target's answer."""

    async def unheard(self: SimOutgoing, future: Any) -> None:
        await asyncio.sleep(0.01)

    return [(SimOutgoing, "_answer", unheard)]


def _claims_without_data() -> Sequence[Patch]:
    """Anybody claims, whoever has what the epoch starts from."""
    candidates = placement._candidates

    def bare(d: Dataset) -> Dataset:
        return d if d.tenure is None else replace(d, tenure=d.tenure.model_copy(update={"copies": ()}))

    def any_of(unit: Sequence[Dataset], free: Sequence[Dataset], cluster: Cluster) -> tuple[list[str], str]:
        return candidates([bare(d) for d in unit], [bare(d) for d in free], cluster)

    return [(placement, "_has_data", lambda node, unit: True), (placement, "_candidates", any_of)]


_LATE, _UNARMED = "a handover that is not wanted any more", "nothing resets it"
_SPECS = "specs come and go"
_COPIES = "copies on each node"
_PROMISE = "others promise"

MUTANTS: dict[str, Mutant] = {
    "short wait": Mutant("W is longer than D_hard", _short_wait),
    "from the answer": Mutant("a deadline counts from before the heartbeat was sent", _from_answer, "late words"),
    "lease is death": Mutant("only a fence says that a holder is dead", _lease_is_death),
    "compares epochs": Mutant("a transaction compares revisions", _compares_epochs, _LATE),
    "no touch": Mutant("an unanswered transaction is settled by a touch", _no_touch, _LATE),
    "no touch after a restart": Mutant("a fresh agent touches what it finds its own", _no_life, _LATE),
    "early mount": Mutant("active before any write", _early_mount),
    "no gate": Mutant("a helper asks the gate inside its cgroup", _no_gate, "late helpers"),
    "silence clears": Mutant("silence clears only where a reset was armed", _silence_clears, _UNARMED),
    "claim drops the holder": Mutant("a claim notes the old holder in unfenced", _claim_drops, _UNARMED),
    "handover forgets": Mutant("every transaction carries unfenced on", _forgets_unfenced, _UNARMED),
    "blind fence": Mutant("a fence compares the heartbeat", _fence_blind, "what is seen comes late"),
    "no own fence": Mutant("every transaction compares its sender's fence", _own_fence, "late words of the dead"),
    "blind re-put": Mutant("a lease record is put back only under the same tenure", _reput_blind, "leases end early"),
    "unverified ladder": Mutant(
        "the gate opens once it is verified that nothing writes", _unverified_ladder, "what is killed does not die"
    ),
    "same boot": Mutant(
        "a predecessor in the same boot is stopped before it is fenced", _same_boot, "a session is forgotten"
    ),
    "unsteady observer": Mutant("only who is heard calls others silent", _unsteady, "etcd away for everybody"),
    "answers nothing": Mutant("a tenure notes which desired it has acted on", _answers_nothing),
    "answers for good": Mutant("only a newer desired moves a dataset, but that does", _answers_value),
    "epoch restarts": Mutant("a tenure outlives its spec", _epoch_restarts, _SPECS),
    "destroys unasked": Mutant("only what was asked for is destroyed", _destroys_unasked, _SPECS),
    "destroys what looks deleted": Mutant(
        "etcd itself is asked whether a spec is gone", _destroys_what_looks_deleted, _SPECS
    ),
    "leaves with its lease": Mutant(
        "who leaves ends its lease before it looks at what it keeps", _leaves_with_its_lease, "machines shut down"
    ),
    "promised from the answer": Mutant(
        "a promise counts from before it was asked", mutants_promises.from_the_answer, _PROMISE
    ),
    "one candidate left out": Mutant("every candidate promises", mutants_promises.one_left_out, _PROMISE),
    "watches on": Mutant("who restarts watches anew", mutants_promises.watches_on, _PROMISE),
    "promise not kept": Mutant("who has promised waits", mutants_promises.forgets, _PROMISE),
    "hastens": Mutant("who is not named waits for longer", mutants_promises.hastens, "unheard of"),
    "absent unwatched": Mutant(
        "who is absent is watched by all, while a tenure names it", _observer_of_absent, "one dies for good"
    ),
    "unverified copy": Mutant("a receiver answers once what came is whole", _unverified_copy, _COPIES),
    "copy not durable": Mutant("and once it is durable", _copy_not_durable, _COPIES),
    "hands over early": Mutant("a handover waits for the receiver's answer", _hands_over_early, _COPIES),
    "claims without data": Mutant("only who has the data claims", _claims_without_data, _COPIES),
}

QUICK = (
    "short wait",
    "lease is death",
    "compares epochs",
    "no touch",
    "no touch after a restart",
    "early mount",
    "silence clears",
    "answers for good",
    "epoch restarts",
    "destroys unasked",
    "copy not durable",
    "claims without data",
)
"""Those that every version finds within seconds: `make test` looks for them."""
