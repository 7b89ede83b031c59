"""Ownership in etcd: a chain of epochs, each one incarnation's, and nothing of an incarnation after its fence.

The order of revisions is the order in which etcd decided. So ownership is linearizable if every tenure may follow the
one before, and if what was seen outside (`check_time`) agrees with that order in real time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from drover.coordinator.keys import Kind
from drover.coordinator.records import Evidence, LeaseRecord, State, Tenure
from tests.chaos.etcd_story import KEYS, EtcdStory, Held
from tests.chaos.history import ERA, History
from tests.chaos.verdict import Violation

COMPLETE = "the history of etcd has no hole"
CHAIN = "a tenure follows from the one before: same epoch and holder, or the next epoch"
UNFENCED_CLAIM = "nobody takes what another holds before that one is fenced"
CARRIED = "who may still write stays in `unfenced` until its fence says otherwise"
AFTER_FENCE = "no transaction of an incarnation commits after its fence"
AGREES = "leases/<d> is absent or agrees with the tenure"
RECOVERED = "nothing is written to an etcd that went back before it is recovered"
TOO_EARLY = "nobody is fenced for silence before its own D_hard"

_NEXT = {
    State.ASSIGNED: {State.ASSIGNED, State.ACTIVE, State.RELEASED, State.DESTROYED},
    State.ACTIVE: {State.ACTIVE, State.RELEASED, State.DESTROYED},
    State.RELEASED: {State.RELEASED},
    State.DESTROYED: {State.DESTROYED},
}


def check(history: History) -> Iterator[Violation]:
    story = EtcdStory(history)
    yield from _complete(history)
    for dataset, tenures in story.tenures_of.items():
        yield from _chain(story, dataset, tenures)
    yield from _deleted(story)
    yield from _after_fence(story)
    yield from _leases(story)
    yield from _too_early(story)
    yield from _before_recovery(story)


def _complete(history: History) -> Iterator[Violation]:
    """The whole of etcd is watched, so every revision must be there."""
    revisions = sorted({change.revision for change in history.changes})
    for before, after in itertools.pairwise(revisions):
        if after != before + 1 and after // ERA == before // ERA:
            says = f"revisions {before + 1} to {after - 1} were not heard of: the run proves nothing"
            yield Violation(COMPLETE, "etcd", 0.0, says)


def _chain(story: EtcdStory, dataset: str, tenures: list[Held]) -> Iterator[Violation]:
    first = tenures[0]
    if first.tenure.epoch != 1:
        yield Violation(CHAIN, dataset, first.at, f"its first epoch is {first.tenure.epoch}")
    for before, after in itertools.pairwise(tenures):
        old, new = before.tenure, after.tenure
        if before.revision // ERA != after.revision // ERA:
            if new.epoch <= old.epoch:
                yield _broken(dataset, after, f"epoch {new.epoch} came after {old.epoch} when etcd had been restored")
        elif new.epoch == old.epoch:
            if (new.node, new.incarnation, new.uid) != (old.node, old.incarnation, old.uid):
                yield _broken(dataset, after, f"epoch {old.epoch} went from {old.incarnation} to {new.incarnation}")
            elif new.state not in _NEXT[old.state]:
                yield _broken(dataset, after, f"epoch {old.epoch} went from {old.state} to {new.state}")
            yield from _shortened(story, dataset, old, after)
        elif new.epoch == old.epoch + 1:
            yield from _next_epoch(story, dataset, old, after)
        else:
            yield _broken(dataset, after, f"epoch {new.epoch} came after {old.epoch}")


def _broken(dataset: str, at: Held, says: str) -> Violation:
    return Violation(CHAIN, dataset, at.at, f"{says} (revision {at.revision})")


def _shortened(story: EtcdStory, dataset: str, old: Tenure, after: Held) -> Iterator[Violation]:
    new = after.tenure
    for holder in set(old.unfenced) - set(new.unfenced):
        if not story.fenced_before(holder.incarnation, after.revision):
            says = f"{holder.incarnation} left `unfenced` without a fence (revision {after.revision})"
            yield Violation(CARRIED, dataset, after.at, says)
    if old.state is State.ASSIGNED and new.state is State.ACTIVE and old.unfenced:
        says = f"epoch {new.epoch} became active while {old.unfenced[0].incarnation} was not cut off"
        yield Violation(CARRIED, dataset, after.at, says)


def _next_epoch(story: EtcdStory, dataset: str, old: Tenure, after: Held) -> Iterator[Violation]:
    new = after.tenure
    if new.state is not State.ASSIGNED:
        yield _broken(dataset, after, f"epoch {new.epoch} began as {new.state}")
    due = set(old.unfenced)
    handed_over = new.source == old.node or (old.node in new.refused and new.source == "")
    if old.held and story.fenced_before(old.incarnation, after.revision):
        due.add(old.holder)
    elif old.held and not handed_over:
        says = f"{new.node} took epoch {new.epoch} from {old.incarnation}, which was alive (revision {after.revision})"
        yield Violation(UNFENCED_CLAIM, dataset, after.at, says)
    if missing := due - set(new.unfenced):
        says = f"epoch {new.epoch} forgot {', '.join(one.incarnation for one in missing)} (revision {after.revision})"
        yield Violation(CARRIED, dataset, after.at, says)


def _deleted(story: EtcdStory) -> Iterator[Violation]:
    for change, key in story.parsed:
        if key.kind is Kind.OWNERS and change.value is None:
            yield Violation(CHAIN, key.name, change.at, f"its tenure was deleted (revision {change.revision})")


def _after_fence(story: EtcdStory) -> Iterator[Violation]:
    written = [(held.revision, held.at, held.tenure.incarnation, KEYS.owner(held.dataset)) for held in story.tenures]
    written += [
        (beat.revision, beat.at, beat.heartbeat.incarnation, KEYS.heartbeat(beat.node))
        for beat in story.beats
        if not beat.heartbeat.placeholder
    ]
    for revision, at, incarnation, key in written:
        if story.fenced_before(incarnation, revision):
            fenced = story.fences[incarnation].revision
            says = f"{key} was written at revision {revision}; it was fenced at {fenced}"
            yield Violation(AFTER_FENCE, incarnation, at, says)


def _leases(story: EtcdStory) -> Iterator[Violation]:
    tenures: dict[str, Tenure] = {}
    leases: dict[str, LeaseRecord] = {}
    era = 0
    for group in story.by_revision:
        touched = set()
        if group[0][0].revision // ERA != era:  # what was restored is not told
            era = group[0][0].revision // ERA
            tenures.clear()
            leases.clear()
        for change, key in group:
            if key.kind is Kind.OWNERS and change.value is not None:
                tenures[key.name] = Tenure.decode(change.value.encode())
                touched.add(key.name)
            elif key.kind is Kind.LEASES:
                leases.pop(key.name, None)
                if change.value is not None:
                    leases[key.name] = LeaseRecord.decode(change.value.encode())
                    touched.add(key.name)
        for name in touched & leases.keys():
            lease, tenure = leases[name], tenures.get(name)
            if tenure is None and era:
                continue
            if tenure is None or (lease.incarnation, lease.epoch) != (tenure.incarnation, tenure.epoch):
                has = f"epoch {tenure.epoch} of {tenure.incarnation}" if tenure else "nothing"
                says = f"the lease names epoch {lease.epoch} of {lease.incarnation}, the tenure {has}"
                yield Violation(AGREES, name, group[0][0].at, f"{says} (revision {group[0][0].revision})")


def _too_early(story: EtcdStory) -> Iterator[Violation]:
    for fenced in story.fences.values():
        beats = story.beats_of.get(fenced.incarnation)
        if fenced.fence.evidence is not Evidence.SILENCE or not beats:
            continue
        last = beats[-1]
        waited = fenced.at - last.sent
        if waited < last.heartbeat.d_hard:
            says = (
                f"it was fenced for silence {waited:.2f} s after it had sent heartbeat {last.heartbeat.counter}, "
                f"which promised to have stopped after {last.heartbeat.d_hard} s"
            )
            yield Violation(TOO_EARLY, fenced.incarnation, fenced.at, says)


def _before_recovery(story: EtcdStory) -> Iterator[Violation]:
    """A recovery begins with the record of the cluster. Keys on leases may end before."""
    begun = {0}
    for change, key in story.parsed:
        era = change.revision // ERA
        if era not in begun and change.value is not None:
            begun.add(era)
            if key.kind is not Kind.CLUSTER:
                says = f"{change.key} was put at revision {change.revision % ERA}"
                yield Violation(RECOVERED, "etcd", change.at, says)
