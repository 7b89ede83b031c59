"""What a client was told, what the database holds, what Drover recorded, and whether they agree. Pure.

Times are Unix seconds of this computer's clock, which all nodes of a playground share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise


@dataclass(frozen=True)
class Note:
    """A row of the database. node: the one that wrote it."""

    number: int
    text: str
    node: str


@dataclass(frozen=True)
class Ack:
    """A note that the database said it had committed. at: when the client heard it."""

    note: Note
    at: float


@dataclass(frozen=True)
class Epoch:
    """As in Drover's history. began: when the node was given the dataset; the one before had stopped by then."""

    number: int
    node: str
    began: float


@dataclass(frozen=True)
class Run:
    """Acknowledgements of one node with none of another between them."""

    node: str
    acks: tuple[Ack, ...]

    @property
    def first(self) -> Ack:
        return self.acks[0]

    @property
    def last(self) -> Ack:
        return self.acks[-1]


def runs(acks: Sequence[Ack]) -> list[Run]:
    return [Run(node, tuple(group)) for node, group in groupby(acks, lambda ack: ack.note.node)]


def gap(acks: Sequence[Ack]) -> float:
    """Seconds without an acknowledgement at the last change of node; there must have been one."""
    before, after = runs(acks)[-2:]
    return after.first.at - before.last.at


def unanswered(acks: Sequence[Ack], asked: Sequence[str]) -> set[str]:
    """Texts that were sent before the last acknowledged one and never acknowledged: cut off by a move or a crash.
    asked: in the order in which they were sent."""
    heard = {ack.note.text for ack in acks}
    return set(asked[: asked.index(acks[-1].note.text)]) - heard


def losses(acks: Sequence[Ack], notes: Sequence[Note], asked: Collection[str]) -> list[str]:
    """What speaks against "every acknowledged note is in the table, once, as it was acknowledged, and nothing is there
    that nobody asked for". acks: from before the table was read; asked: all texts that were sent until afterwards."""
    held: defaultdict[int, list[Note]] = defaultdict(list)
    for note in notes:
        held[note.number].append(note)
    problems = [
        f"number {number} was acknowledged {times} times: something that was there is lost"
        for number, times in Counter(ack.note.number for ack in acks).items()
        if times > 1
    ]
    for ack in acks:
        match held[ack.note.number]:
            case []:
                problems.append(f"{_said(ack.note)} was acknowledged and is not in the table")
            case [note] if note != ack.note:
                problems.append(f"{_said(ack.note)} was acknowledged, but the table has {_said(note)}")
    problems += [f"number {number} is in the table {len(those)} times" for number, those in held.items() if those[1:]]
    problems += [f"{_said(note)} is in the table, and nobody asked for it" for note in notes if note.text not in asked]
    return problems


def two_writers(acks: Sequence[Ack], epochs: Sequence[Epoch]) -> list[str]:
    """What speaks against "one node at a time acknowledged, each in its own epoch, and numbers only grew"."""
    problems = []
    writers, owners = [run.node for run in runs(acks)], [epoch.node for epoch in epochs]
    if writers != owners:
        problems.append(f"acknowledgements came from {_listed(writers)}; the epochs were {_listed(owners)}")
    for epoch, after in pairwise(epochs):
        if not epoch.began < after.began:
            problems.append(f"epoch {after.number} began no later than epoch {epoch.number}")
    for run, epoch, end in zip(runs(acks), epochs, [*(e.began for e in epochs[1:]), float("inf")], strict=False):
        if early := [ack for ack in run.acks if ack.at < epoch.began]:
            problems.append(f"{_said(early[0].note)} was acknowledged before epoch {epoch.number} began")
        if late := [ack for ack in run.acks if ack.at >= end]:
            problems.append(f"{_said(late[-1].note)} was acknowledged after epoch {epoch.number} had ended")
    for one, after_it in pairwise(acks):
        if after_it.note.number <= one.note.number:
            problems.append(f"{_said(after_it.note)} was acknowledged after {_said(one.note)}")
    return problems


def _said(note: Note) -> str:
    return f"number {note.number} ({note.text!r} on {note.node})"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12]) or "nobody"
    return shown + (f", … ({len(names)} changes)" if len(names) > 12 else "")
