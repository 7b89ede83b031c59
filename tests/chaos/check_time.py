"""What was seen outside agrees, in real time, with what etcd decided and with what is stored with the data."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator

from drover.coordinator.records import State
from tests.chaos.check_records import acks_by_writer
from tests.chaos.etcd_story import EtcdStory
from tests.chaos.history import Ack, History, Reading
from tests.chaos.verdict import Violation

INSIDE = "a writer writes only while etcd has its epoch active"
IN_TIME = "no write begins after D_hard without a heartbeat"
TOKENS = "the epoch stored with the data never falls, and is one incarnation's"
SECTORS = "no sector is written by an incarnation after its fence"
SERVED = "when all faults have ended, everything is served again"


def check(history: History) -> Iterator[Violation]:
    story = EtcdStory(history)
    starts = {(reading.uid, reading.writer): reading for reading in history.readings if reading.writer}
    for (uid, writer), acks in acks_by_writer(history).items():
        if (uid, writer) in starts:
            yield from _inside(story, starts[uid, writer], acks)
            yield from _in_time(story, starts[uid, writer], acks)
    yield from _tokens(history)
    yield from _sectors(history, story)
    for outcome in history.outcomes:
        if outcome.seconds is None:
            yield Violation(SERVED, outcome.dataset, history.about.ended, outcome.says)


def late_writes(history: History) -> list[Ack]:
    """Writes that began after D_io without a heartbeat: the ladder was late, though nobody could take over yet."""
    story = EtcdStory(history)
    starts = {(reading.uid, reading.writer): reading for reading in history.readings if reading.writer}
    late: list[Ack] = []
    for key, acks in acks_by_writer(history).items():
        if key in starts:
            beats = ((ack, story.last_beat(starts[key].incarnation, ack.began)) for ack in acks)
            late += [ack for ack, beat in beats if beat and ack.began > beat.sent + history.about.d_io]
    return late


def _inside(story: EtcdStory, start: Reading, acks: list[Ack]) -> Iterator[Violation]:
    """The bounds are cautious: what was heard of had been committed before, and not before any clock in it."""
    tenures = [held for held in story.tenures_of.get(start.dataset, []) if held.tenure.uid == start.uid]
    mine = [held for held in tenures if held.tenure.epoch == start.epoch and held.tenure.state is State.ACTIVE]
    if not mine:
        says = f"{start.writer} began in epoch {start.epoch}, which was never active"
        yield Violation(INSIDE, start.dataset, start.at, says)
        return
    if start.at < (earliest := story.not_before(mine[0].revision)):
        says = f"{start.writer} began at {start.at:.3f}; its epoch {start.epoch} was not active before {earliest:.3f}"
        yield Violation(INSIDE, start.dataset, start.at, says)
    ended = next(
        (
            held
            for held in tenures
            if held.revision > mine[0].revision and (held.tenure.epoch > start.epoch or not held.tenure.held)
        ),
        None,
    )
    if ended and acks[-1].began > ended.at:
        late = [ack for ack in acks if ack.began > ended.at]
        says = (
            f"{start.writer} began {len(late)} acknowledged writes in epoch {start.epoch} after epoch "
            f"{ended.tenure.epoch} ({ended.tenure.state}, {ended.tenure.node}) at {ended.at:.3f}"
        )
        yield Violation(INSIDE, start.dataset, late[0].began, says)


def _in_time(story: EtcdStory, start: Reading, acks: list[Ack]) -> Iterator[Violation]:
    for ack in acks:
        beat = story.last_beat(start.incarnation, ack.began)
        if beat is not None and ack.began > beat.sent + beat.heartbeat.d_hard:
            says = (
                f"{start.writer} began an acknowledged write {ack.began - beat.sent:.2f} s after the last heartbeat of "
                f"{start.incarnation} that etcd has; D_hard is {beat.heartbeat.d_hard} s"
            )
            yield Violation(IN_TIME, start.dataset, ack.began, says)
            return


def _tokens(history: History) -> Iterator[Violation]:
    names = history.uids()
    last: dict[str, tuple[int, str]] = {}
    for token in history.tokens:
        epoch, incarnation = last.get(token.uid, (0, ""))
        if token.epoch < epoch or (token.epoch == epoch and token.incarnation != incarnation):
            says = f"{token.incarnation} stored epoch {token.epoch} over epoch {epoch} of {incarnation}"
            yield Violation(TOKENS, names.get(token.uid, token.uid), token.at, says)
        last[token.uid] = (token.epoch, token.incarnation)


def _sectors(history: History, story: EtcdStory) -> Iterator[Violation]:
    """An attachment is its incarnation's that was stored with the data when it was first seen. The counter may grow no
    more from the first look after the fence was heard of."""
    names = history.uids()
    tokens: defaultdict[str, list[tuple[float, str, str]]] = defaultdict(list)
    for token in history.tokens:
        tokens[token.uid].append((token.at, token.incarnation, token.node))
    whose: dict[int, str] = {}
    at_fence: dict[int, int] = {}
    told: set[int] = set()
    for sample in history.samples:
        for device in sample.devices:
            if device.sequence not in whose:
                index = bisect_right(tokens[device.uid], sample.until, key=lambda token: token[0])
                _, incarnation, node = tokens[device.uid][index - 1] if index else (0.0, "", "")
                whose[device.sequence] = incarnation if node == device.node else ""
            fenced = story.fences.get(whose[device.sequence])
            if fenced is None or sample.at < fenced.at:
                continue
            before = at_fence.setdefault(device.sequence, device.sectors)
            if device.sectors > before and device.sequence not in told:
                told.add(device.sequence)
                says = (
                    f"{device.node} wrote {device.sectors - before} sectors by {sample.until:.3f}; "
                    f"{fenced.incarnation} was fenced for {fenced.fence.evidence} at {fenced.at:.3f}"
                )
                yield Violation(SECTORS, names.get(device.uid, device.uid), sample.until, says)
