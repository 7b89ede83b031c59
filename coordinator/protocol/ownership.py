"""The transactions on tenures, as values: claim, activate, handover, release and the smaller ones.

Each compares the mod revision of every record it decided on, and that its sender is not fenced. None is sent here:
`drover.coordinator.member` does, and settles those that are not answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from drover.coordinator.keys import Keys
from drover.coordinator.protocol import placement, promotion
from drover.coordinator.protocol.dataset import Cluster, Dataset, Node
from drover.coordinator.protocol.promotion import Promoted
from drover.coordinator.record import Record
from drover.coordinator.records import (
    Copies,
    Evidence,
    Fence,
    Heartbeat,
    HistoryEntry,
    Holder,
    LeaseRecord,
    Phase,
    State,
    Status,
    Tenure,
)
from drover.coordinator.specs import DatasetSpec
from drover.coordinator.trace import NOTHING, Cause, trace_id
from drover.coordinator.txn import Compare, CreateRevision, Delete, ModRevision, OnLease, Put, Txn, absent

HISTORY = 100
"""Epochs kept in history/<d>/."""

NOBODY = "drover"
"""Who asked for an epoch where nobody did: Drover acted by its rules."""
SOMEBODY = "put desired"
"""Who asked, where `desired` was put without saying by whom: with etcdctl, for example."""


@dataclass(frozen=True)
class Seat:
    """Who sends: a node in one incarnation with its lease. at: when, for people. txn: a random id for each one. cause:
    what it is part of, for people."""

    keys: Keys
    node: str
    incarnation: str
    lease: int
    at: str
    txn: str
    cause: Cause = NOTHING


def _txn(seat: Seat, compare: Sequence[Compare], then: Sequence[Put | Delete]) -> Txn:
    return Txn(compare=(*compare, absent(seat.keys.fence(seat.incarnation))), then=tuple(then))


def _owner(seat: Seat, d: Dataset) -> Compare:
    return ModRevision(seat.keys.owner(d.name), d.tenure_revision)


def _held(d: Dataset) -> Tenure:
    if d.tenure is None:
        raise ValueError(f"{d.name} has no tenure")
    return d.tenure


def _bind(seat: Seat, name: str, tenure: Tenure, lease: int) -> list[Put | Delete]:
    """A new epoch: the tenure, its lease record and its line in the history."""
    keys = seat.keys
    record = LeaseRecord(node=tenure.node, incarnation=tenure.incarnation, epoch=tenure.epoch)
    return [Put(keys.owner(name), tenure.encode()), Put(keys.lease(name), record.encode(), lease)]


def _remember(seat: Seat, name: str, tenure: Tenure, gap_ms: int | None = None, start_ms: int | None = None) -> Put:
    down, stopped = tenure.down, tenure.stopped if tenure.evidence is None else None
    entry = HistoryEntry(
        epoch=tenure.epoch,
        node=tenure.node,
        because=tenure.because,
        evidence=tenure.evidence,
        before=tenure.before,
        asked=tenure.asked,
        at=tenure.since,
        gap_ms=gap_ms,
        stop_ms=max(0, round((down - stopped) * 1000)) if down and stopped else None,
        start_ms=start_ms,
        trace=trace_id(tenure.trace),
    )
    return Put(seat.keys.history(name, tenure.epoch), entry.encode())


def _asked(datasets: Sequence[Dataset]) -> str:
    """Who caused a new epoch of these: whoever put a `desired` that no tenure has answered, else nobody."""
    asking = placement.newest_desired(datasets)
    if asking is None or asking.answered:
        return NOBODY
    return asking.desired_by or SOMEBODY


def claim(
    seat: Seat,
    datasets: Sequence[Dataset],
    cluster: Cluster,
    uids: Mapping[str, str],
    because: str,
    evidence: Evidence | None,
    fences: Mapping[str, int],
    beside: Sequence[Dataset] = (),
    homes: Mapping[str, int] = MappingProxyType({}),
    promoted: Mapping[str, Promoted] = MappingProxyType({}),
) -> Txn:
    """Take datasets that are new, released, or whose holder is fenced: all or none.

    uids: a fresh random uid for each, used where the dataset is new. fences: mod revisions of the fences relied on, by
    incarnation. beside: the other datasets of the unit, which it was decided on, too: one that comes late must not tear
    the unit apart. homes: mod revisions of the node records of last holders, by node, 0 where there is none: a join
    fences the predecessor and puts the node's record in one transaction, and the picture may show the fence first.
    promoted: by dataset: the older copy that it goes on from.
    """
    compare: list[Compare] = [_owner(seat, d) for d in beside]
    compare += [ModRevision(seat.keys.node(node), revision) for node, revision in sorted(homes.items())]
    then: list[Put | Delete] = []
    asked = _asked(datasets)
    relied: dict[str, Compare] = {}
    for d in datasets:
        old = d.tenure
        compare += [_owner(seat, d), ModRevision(seat.keys.desired(d.name), d.desired_revision)]
        compare.append(ModRevision(seat.keys.dataset(d.name), d.spec_revision))
        if old is not None and old.held:
            if old.incarnation not in cluster.fences:
                raise ValueError(f"{d.name} is held by {old.node}, which is not fenced")
            relied[old.incarnation] = ModRevision(seat.keys.fence(old.incarnation), fences[old.incarnation])
        told: dict[str, object] = {"because": because, "evidence": evidence, "asked": asked, "down": _died(d, cluster)}
        if (copy := promoted.get(d.name)) is not None:
            compare.append(ModRevision(seat.keys.copies(d.name), d.copies_revision))
            told |= {"base": copy.base, "copies": copy.copies, "promoted": copy.loss}
        tenure = _claimed(seat, d, uids[d.name], told)
        then += [*_bind(seat, d.name, tenure, seat.lease), _remember(seat, d.name, tenure)]
    return _txn(seat, [*compare, *relied.values()], then)


def _died(d: Dataset, cluster: Cluster) -> float | None:
    """When the last holder was heard last, by the clock of whoever fenced it (Unix time); one that was never active
    leaves the moment as it found it. None: not known."""
    if d.tenure is None or d.tenure.state is not State.ACTIVE:
        return d.tenure.down if d.tenure is not None and d.tenure.held else None
    fence = cluster.fences.get(d.tenure.incarnation)
    if fence is None or fence.still is None or (when := fence.when) is None:
        return None
    return when - fence.still


def _claimed(seat: Seat, d: Dataset, uid: str, told: dict[str, object]) -> Tenure:
    old = d.tenure
    unfenced: tuple[Holder, ...] = old.unfenced if old else ()
    if old is not None and old.held and old.holder not in unfenced:
        unfenced = (*unfenced, old.holder)
    base: dict[str, object]
    if old is not None and d.kept:
        base = old.model_dump() | ({"created": d.spec_created} if old.created == 0 else {})
    elif isinstance(d.spec, DatasetSpec):
        base = {"uid": uid, "created": d.spec_created, "backend": d.spec.backend, "reclaim": d.spec.reclaim}
    else:
        raise ValueError(f"{d.name} has neither data nor a usable spec")
    answers = d.asks
    if old is not None and d.kept and old.copies:
        if old.state is State.ACTIVE:
            base |= {"base": None, "promoted": None}
        if answers.value != seat.node:
            answers = old.answers  # whoever has the data took it, to send it on to where it is wanted
    return Tenure.model_validate(
        base
        | {
            "node": seat.node,
            "incarnation": seat.incarnation,
            "epoch": (old.epoch if old else 0) + 1,
            "state": State.ASSIGNED,
            "since": seat.at,
            "unfenced": unfenced,
            "refused": old.refused if old else (),
            "source": "",
            "before": old.node if old else "",
            "stopped": None,
            "trace": seat.cause.parent,
            "begun": seat.cause.begun,
            "answers": answers,
            "txn": seat.txn,
        }
        | told
    )


def _rewrite(seat: Seat, d: Dataset, **changes: object) -> Put:
    tenure = _held(d).model_copy(update={**changes, "txn": seat.txn})
    return Put(seat.keys.owner(d.name), tenure.encode())


def activate(seat: Seat, d: Dataset) -> Txn:
    """assigned → active, before any write. Raises ValueError while somebody may still write."""
    tenure = _held(d)
    if tenure.unfenced or tenure.state is not State.ASSIGNED:
        raise ValueError(f"{d.name} cannot be activated: {tenure.state}, {len(tenure.unfenced)} not cut off")
    here: dict[str, object] = {"copies": (seat.node,), "written": tenure.epoch} if tenure.copies else {}
    then: list[Put | Delete] = [_rewrite(seat, d, state=State.ACTIVE, refused=(), since=seat.at, **here)]
    if tenure.epoch > HISTORY:
        first = tenure.epoch - HISTORY + 1
        then.append(Delete(seat.keys.history(d.name, 0), seat.keys.history(d.name, first)))
    return _txn(seat, [_owner(seat, d)], then)


def born(seat: Seat, d: Dataset, object_: str, local: bool = False) -> Txn:
    """The file system has been made: from now on missing data is an error. local: it is on this node only."""
    here: dict[str, object] = {"copies": (seat.node,), "written": _held(d).epoch} if local else {}
    return _txn(seat, [_owner(seat, d)], [_rewrite(seat, d, born=True, object=object_, **here)])


def refresh(seat: Seat, d: Dataset) -> Txn:
    """Copy from the spec what must outlive it, and note that `desired` is answered: it names this node."""
    spec = d.spec
    reclaim = spec.reclaim if isinstance(spec, DatasetSpec) and not d.replaced else _held(d).reclaim
    compare = [_owner(seat, d), ModRevision(seat.keys.desired(d.name), d.desired_revision)]
    return _txn(seat, compare, [_rewrite(seat, d, reclaim=reclaim, answers=d.asks)])


def stale_copy(d: Dataset, here: bool) -> bool:
    """Whether `refresh` has something to write. here: the unit's newest `desired` names this node."""
    if d.tenure is None or d.replaced:
        return False
    if isinstance(d.spec, DatasetSpec) and d.spec.reclaim != d.tenure.reclaim:
        return True
    return here and not d.answered


def touch(seat: Seat, d: Dataset) -> Txn:
    """Rewrite the tenure as it is: once this commits, no earlier transaction on it ever can."""
    return _txn(seat, [_owner(seat, d)], [_rewrite(seat, d)])


def may_clear(holder: Holder, d: Dataset, fence: Fence | None) -> bool:
    """Whether a fence proves that this earlier holder writes no more, for families that rely on deadlines.

    Silence proves it only where the machine would have been reset, or where the spec settles for cooperation.
    """
    if fence is None:
        return False
    if d.tenure is not None and d.tenure.copies and d.tenure.promoted is None:
        return True  # nobody else has the data, so only the node itself, or one that holds the same base, takes over
    return promotion.proven(fence, d.spec if isinstance(d.spec, DatasetSpec) else None)


def cleared(seat: Seat, d: Dataset, stopped: Sequence[Holder]) -> Txn:
    """Take out of `unfenced` those that are known to write no more. Nothing else shortens it."""
    left = tuple(h for h in _held(d).unfenced if h not in stopped)
    return _txn(seat, [_owner(seat, d)], [_rewrite(seat, d, unfenced=left)])


def handover(
    seat: Seat,
    datasets: Sequence[Dataset],
    to: str,
    target: Node,
    because: str,
    refused: bool = False,
    down: float | None = None,
    beside: Sequence[Dataset] = (),
    stopped: float | None = None,
    bases: Mapping[str, str] = MappingProxyType({}),
) -> Txn:
    """Re-bind datasets that I hold, and no longer use in any way, to another node's lease: all or none.

    refused: I could not activate them, and say so, so that they do not come back to me first. down: when I stopped
    using them, stopped: when I told the first workload to end (Unix time, seconds). beside: the other datasets of the
    unit: a claim of mine of one of them that was never answered may have bound it to me. bases: by dataset with local
    copies: the guid of what the target has received last, whole and durable. Raises ValueError where the target has
    not what the epoch would start from.
    """
    keys = seat.keys
    compare: list[Compare] = [
        CreateRevision(keys.node(to), target.create_revision),
        OnLease(keys.node(to), target.lease),
        absent(keys.fence(target.record.incarnation)),
        *(_owner(seat, d) for d in beside),
    ]
    then: list[Put | Delete] = []
    asked = NOBODY if refused else _asked(datasets)
    for d in datasets:
        old = _held(d)
        compare += [_owner(seat, d), ModRevision(keys.desired(d.name), d.desired_revision)]
        tenure = old.model_copy(
            update={
                "node": to,
                "incarnation": target.record.incarnation,
                "epoch": old.epoch + 1,
                "state": State.ASSIGNED,
                "because": because,
                "since": seat.at,
                "evidence": None,
                "answers": d.asks,
                "refused": _refusers(old, seat, refused),
                "source": "" if refused else seat.node,
                "before": seat.node,
                "asked": asked,
                "down": down,
                "stopped": stopped,
                "trace": seat.cause.parent,
                "begun": seat.cause.begun,
                "txn": seat.txn,
                **_sent(seat, d.name, old, to, bases.get(d.name)),
            }
        )
        then += [*_bind(seat, d.name, tenure, target.lease), _remember(seat, d.name, tenure)]
    return _txn(seat, compare, then)


def _sent(seat: Seat, name: str, old: Tenure, to: str, base: str | None) -> dict[str, object]:
    if base is not None:
        return {"base": base, "copies": (seat.node, to), "promoted": None}
    if old.copies and (to not in old.copies or old.state is State.ACTIVE):
        raise ValueError(f"{to} has no copy of {name} that is up to date")
    return {}


def _refusers(tenure: Tenure, seat: Seat, refused: bool) -> tuple[str, ...]:
    return (*tenure.refused, seat.node) if refused and seat.node not in tenure.refused else tenure.refused


def release(seat: Seat, datasets: Sequence[Dataset], because: str, refused: bool = False) -> Txn:
    """Give datasets up that I hold and no longer use: nobody has them."""
    then: list[Put | Delete] = []
    for d in datasets:
        old = _held(d)
        changes: dict[str, object] = {"because": because, "since": seat.at}
        changes["refused"] = _refusers(old, seat, refused)
        if old.copies and old.state is State.ACTIVE:
            changes["base"] = None
        then.append(_rewrite(seat, d, state=State.RELEASED, **changes))
        then.append(Delete(seat.keys.lease(d.name)))
    return _txn(seat, [_owner(seat, d) for d in datasets], then)


def condemn(seat: Seat, d: Dataset) -> Txn:
    """Before the data of a deleted spec is destroyed: its spec really is not there (any more), or is another one. A
    picture may show a tenure that is newer than the spec beside it, and from this there is no way back. Once it has
    committed it stays true: a spec that is put again has another create revision.
    """
    if not d.doomed:
        raise ValueError(f"{d.name} is not to be destroyed")
    return _txn(seat, [_owner(seat, d), ModRevision(seat.keys.dataset(d.name), d.spec_revision)], [_rewrite(seat, d)])


def destroyed(seat: Seat, d: Dataset) -> Txn:
    """The data was destroyed on request. The tenure stays, epoch and all; what people look at goes."""
    then: list[Put | Delete] = [
        _rewrite(seat, d, state=State.DESTROYED, because="its spec was deleted", since=seat.at, born=False, object=""),
        Delete(seat.keys.lease(d.name)),
    ]
    return _txn(seat, [_owner(seat, d)], then)


def acknowledge(seat: Seat, d: Dataset, copies: Copies, revision: int) -> Txn:
    """What standbys have, told by the active owner only. revision: mod revision of copies/<d> as written last."""
    key = seat.keys.copies(d.name)
    return _txn(seat, [_owner(seat, d), ModRevision(key, revision)], [Put(key, copies.encode())])


def reput(seat: Seat, d: Dataset) -> Txn:
    """My lease was revoked though I am alive: put the lease record back. A non-event."""
    tenure = _held(d)
    record = LeaseRecord(node=tenure.node, incarnation=tenure.incarnation, epoch=tenure.epoch)
    compare = [_owner(seat, d), absent(seat.keys.lease(d.name))]
    return _txn(seat, compare, [Put(seat.keys.lease(d.name), record.encode(), seat.lease)])


def report(seat: Seat, d: Dataset, status: Status) -> Txn:
    """status/<d>, while the tenure is as read: a zombie's report cannot overwrite its successor's. With the gap that
    the change of epoch made, once it is over, for the history."""
    then = [Put(seat.keys.status(d.name), status.encode())]
    # An agent that was restarted does not know the gap any more: what stands there stays.
    told = status.cutover_ms is not None or (status.start_ms is not None and d.tenure and d.tenure.down is None)
    if d.tenure is not None and status.phase is Phase.ACTIVE and told:
        then.append(_remember(seat, d.name, d.tenure, status.cutover_ms, status.start_ms))
    return _txn(seat, [_owner(seat, d)], then)


def fence(seat: Seat, node: str, heartbeat: Heartbeat, revision: int, record: Record, pause: int = 0) -> Txn:
    """Declare an incarnation dead, while its heartbeat is at the revision that was watched. pause: mod revision of what
    stands in `pause` and is none."""
    keys = seat.keys
    compare = [ModRevision(keys.heartbeat(node), revision), absent(keys.fence(heartbeat.incarnation))]
    compare.append(ModRevision(keys.pause, pause))
    return _txn(seat, compare, [Put(keys.fence(heartbeat.incarnation), record.encode())])


def placeholder(
    seat: Seat, node: str, heartbeat: Heartbeat, described: int, instead: int = 0, owner: tuple[str, int] | None = None
) -> Txn:
    """A missing heartbeat is not silence: put one that its owner may go on from, and watch that stand still.

    described: mod revision of nodes/<n>, so that it names the incarnation that is there now; instead: that of the
    heartbeat of a fenced incarnation that it replaces. 0: there is none. owner: the dataset whose tenure names the
    incarnation of a node that is not described, and its mod revision: who has given all up meanwhile is not waited for.
    """
    key = seat.keys.heartbeat(node)
    compare = [ModRevision(key, instead), ModRevision(seat.keys.node(node), described)]
    if owner is not None:
        compare.append(ModRevision(seat.keys.owner(owner[0]), owner[1]))
    return _txn(seat, compare, [Put(key, heartbeat.encode())])
