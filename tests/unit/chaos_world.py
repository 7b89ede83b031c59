"""A history as the checker of the chaos runs reads it, of a run in which every promise was kept.

Dataset d: node a has it in epoch 1, is cut off after its heartbeat at 10, stops, and is fenced at 17; b claims it in
epoch 2 and hands it over to c, in epoch 3. Each has a writer; the last reading has all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from drover.coordinator.records import Evidence, Fence, Heartbeat, Holder, LeaseRecord, State, Tenure
from tests.chaos.history import ERA, About, Ack, Change, Device, Fault, History, Outcome, Reading, Run, Sample, Token

UID = "u1"
D_HARD = 6.5
A, B, C = "a.1", "b.1", "c.1"
WRITERS = {1: "a/7/1", 2: "b/8/2", 3: "c/9/3"}
ENDED = 40.0


class Changes:
    """etcd's, one revision after the other, in the order of their times."""

    def __init__(self) -> None:
        self._made: list[tuple[float, dict[str, str | None]]] = []
        self.restored = math.inf
        """When etcd went back, if it did: what comes later has other revisions."""

    def add(self, at: float, **values: Any) -> None:
        """One transaction. Values are records, text, or None for a deletion; `__` in a name stands for a slash."""
        texts = {name.replace("__", "/"): self._text(value) for name, value in values.items()}
        self._made.append((at, texts))

    def all(self) -> tuple[Change, ...]:
        made = sorted(self._made, key=lambda one: one[0])
        return tuple(
            Change(revision + ERA * (at > self.restored), at, f"/drover/{key}", value)
            for revision, (at, values) in enumerate(made, start=100)
            for key, value in values.items()
        )

    @staticmethod
    def _text(value: Any) -> str | None:
        return value if value is None or isinstance(value, str) else value.encode().decode()


def tenure(epoch: int, incarnation: str, state: State, **more: Any) -> Tenure:
    node = incarnation.partition(".")[0]
    made = {"uid": UID, "created": 5, "backend": "loopback", "txn": f"{epoch}{state}", **more}
    return Tenure(node=node, incarnation=incarnation, epoch=epoch, state=state, **made)


def lease(epoch: int, incarnation: str) -> LeaseRecord:
    return LeaseRecord(node=incarnation.partition(".")[0], incarnation=incarnation, epoch=epoch)


def beat(incarnation: str, counter: int, clock: float) -> Heartbeat:
    return Heartbeat(incarnation=incarnation, counter=counter, clock=clock, d_hard=D_HARD)


def silence(node: str) -> Fence:
    return Fence(node=node, by="b", evidence=Evidence.SILENCE)


def holder(incarnation: str) -> Holder:
    return Holder(node=incarnation.partition(".")[0], incarnation=incarnation)


def owned(changes: Changes) -> None:
    """What happens to the tenure."""
    changes.add(1.0, owners__d=tenure(1, A, State.ASSIGNED), leases__d=lease(1, A))
    changes.add(1.1, owners__d=tenure(1, A, State.ACTIVE))
    changes.add(17.0, **{"fences/a.1": silence("a")})
    unfenced = (holder(A),)
    changes.add(17.1, owners__d=tenure(2, B, State.ASSIGNED, unfenced=unfenced), leases__d=lease(2, B))
    changes.add(17.2, owners__d=tenure(2, B, State.ASSIGNED))
    changes.add(17.3, owners__d=tenure(2, B, State.ACTIVE))
    changes.add(25.0, owners__d=tenure(3, C, State.ASSIGNED, source="b"), leases__d=lease(3, C))
    changes.add(25.1, owners__d=tenure(3, C, State.ACTIVE, source="b"))


def beats(changes: Changes, a_until: int = 10) -> None:
    for second in range(int(ENDED)):
        for node in "abc":
            if node != "a" or second <= a_until:
                changes.add(second + 0.02, **{f"heartbeats/{node}": beat(f"{node}.1", second + 1, float(second))})


def acks(epoch: int, first: int, last: int, began: float, every: float = 0.5) -> Iterator[Ack]:
    for sequence in range(first, last + 1):
        at = began + (sequence - first) * every
        yield Ack(UID, WRITERS[epoch], epoch, sequence, at, at + 0.01)


def reading(epoch: int, incarnation: str, at: float, *runs: Run, writer: str | None = None) -> Reading:
    named = WRITERS[epoch] if writer is None else writer
    return Reading("d", UID, named, incarnation.partition(".")[0], epoch, incarnation, at, runs, 0)


def samples() -> Iterator[Sample]:
    """Each writer's device counts up while it writes, and is there for some time after."""
    for step in range(int(ENDED * 5)):
        at = step / 5
        devices = [
            Device(number, UID, node, int(10 * (min(at, ended) - began)))
            for number, (node, began, ended, gone) in enumerate(
                [("a", 1.4, 14.5, 17.6), ("b", 17.4, 24.5, 24.8), ("c", 25.2, 38.0, ENDED)]
            )
            if began <= at < gone
        ]
        yield Sample(at, at + 0.001, tuple(devices))


FIRST, SECOND, THIRD = Run(WRITERS[1], 1, 26), Run(WRITERS[2], 27, 40), Run(WRITERS[3], 41, 60)


def sound(tell: Callable[[Changes], None] = owned, a_until: int = 10) -> History:
    """The history. tell: what happens to the tenure; a_until: the second of a's last heartbeat."""
    changes = Changes()
    beats(changes, a_until)
    tell(changes)
    return History(
        About(1, ("a", "b", "c"), ("d",), 5.5, 0.0, ENDED),
        acks=(*acks(1, 1, 26, 2.0), *acks(2, 27, 40, 17.6), *acks(3, 41, 60, 26.0)),
        readings=(
            reading(1, A, 1.5),
            reading(2, B, 17.5, FIRST),
            reading(3, C, 25.5, FIRST, SECOND),
            reading(3, C, 39.0, FIRST, SECOND, THIRD, writer=""),
        ),
        changes=changes.all(),
        samples=tuple(samples()),
        tokens=(Token(1.3, UID, 1, A, "a"), Token(17.35, UID, 2, B, "b"), Token(25.15, UID, 3, C, "c")),
        faults=(Fault("cut off from etcd", "a", 10.5, 20.0), Fault("move", "d", 24.4, 24.4)),
        outcomes=(Outcome("d", 0.5),),
    )


def with_reading(history: History, index: int, **changed: Any) -> History:
    readings = list(history.readings)
    readings[index] = replace(readings[index], **changed)
    return replace(history, readings=tuple(readings))
