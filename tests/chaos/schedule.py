"""What is done to the cluster, and when: all of it follows from one number.

A schedule names roles (the owner of the third dataset, etcd's leader); who that is, is looked up when its time comes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Area(StrEnum):
    """Faults of one area follow each other; those of different areas overlap."""

    NODE = "node"
    ETCD = "etcd"
    STORAGE = "storage"
    USER = "user"


class Role(StrEnum):
    OWNER = "owner"
    """The node that has the dataset with the act's number."""
    NODE = "node"
    """The node with the act's number."""
    LEADER = "leader"
    MEMBER = "member"
    ALL = "all"


@dataclass(frozen=True)
class Kind:
    """One way to do harm. shortest, longest: seconds. weight: how often, against others of its area. blind: whether it
    is allowed where storage protects nothing: a machine that stands still as a whole is beyond every promise then."""

    name: str
    area: Area
    roles: tuple[Role, ...]
    shortest: float
    longest: float
    weight: int = 2
    blind: bool = True


@dataclass(frozen=True)
class Act:
    """number, other: choose among those that the role allows."""

    at: float
    kind: Kind
    role: Role
    number: int
    other: int
    seconds: float


_SOMEBODY = (Role.OWNER, Role.OWNER, Role.NODE)
_ONE_MEMBER = (Role.LEADER, Role.MEMBER)

KINDS: tuple[Kind, ...] = (
    Kind("power cut", Area.NODE, _SOMEBODY, 0.5, 12, weight=4),
    Kind("power cut, etcd leader too", Area.NODE, (Role.OWNER,), 3, 10),
    Kind("agent killed", Area.NODE, _SOMEBODY, 0, 0, weight=3),
    Kind("agent stopped", Area.NODE, _SOMEBODY, 1, 14, weight=3),
    Kind("guard killed", Area.NODE, _SOMEBODY, 0, 0, weight=2),
    Kind("guard stopped", Area.NODE, _SOMEBODY, 1, 14, weight=2),
    Kind("processes frozen", Area.NODE, _SOMEBODY, 1, 12, blind=False),
    Kind("machine frozen", Area.NODE, _SOMEBODY, 1, 12, blind=False),
    Kind("cut off from etcd", Area.NODE, _SOMEBODY, 1, 14, weight=3),
    Kind("cut off from etcd, one way", Area.NODE, _SOMEBODY, 1, 14, weight=2),
    Kind("cut off from nodes", Area.NODE, _SOMEBODY, 2, 12, weight=1),
    Kind("cut off from all", Area.NODE, _SOMEBODY, 1, 14, weight=2),
    Kind("cut off from all, one way", Area.NODE, _SOMEBODY, 1, 14, weight=1),
    Kind("one pair cut", Area.NODE, _SOMEBODY, 2, 14, weight=2),
    Kind("clock jumps ahead", Area.NODE, _SOMEBODY, 2, 30, weight=1),
    Kind("leader killed", Area.ETCD, (Role.LEADER,), 1, 10, weight=2),
    Kind("leader stopped 8 s", Area.ETCD, (Role.LEADER,), 8, 8, weight=3),
    Kind("member killed", Area.ETCD, (Role.MEMBER,), 1, 12, weight=1),
    Kind("member cut off from members", Area.ETCD, _ONE_MEMBER, 2, 10, weight=2),
    Kind("member cut off from all, one way", Area.ETCD, _ONE_MEMBER, 2, 10, weight=1),
    Kind("all of etcd killed, 3 s", Area.ETCD, (Role.ALL,), 3, 3, weight=1),
    Kind("all of etcd killed, 10 s", Area.ETCD, (Role.ALL,), 10, 10, weight=1),
    Kind("all of etcd stopped", Area.ETCD, (Role.ALL,), 1, 6, weight=1),
    Kind("slow network to etcd", Area.ETCD, (Role.ALL, Role.MEMBER), 4, 15, weight=2),
    Kind("losses on the way to etcd", Area.ETCD, (Role.ALL, Role.MEMBER), 4, 15, weight=2),
    Kind("connections to etcd reset", Area.ETCD, (Role.ALL, Role.MEMBER), 2, 10, weight=1),
    Kind("answers of etcd lost", Area.ETCD, (Role.ALL, Role.MEMBER), 1, 6, weight=3),
    Kind("image directory full", Area.STORAGE, (Role.ALL,), 3, 15, weight=1),
    Kind("slow disks", Area.STORAGE, (Role.ALL,), 4, 15, weight=1),
    Kind("desired flaps", Area.USER, (Role.OWNER,), 0, 0, weight=2),
    Kind("nonsense in etcd", Area.USER, (Role.NODE,), 0, 0, weight=1),
    Kind("dataset made and deleted", Area.USER, (Role.NODE,), 4, 10, weight=1),
)
MINUTE = Kind("all of etcd killed, 60 s", Area.ETCD, (Role.ALL,), 60, 60)
"""Once in a run that is long enough for it."""
MOVE = Kind("move", Area.USER, (Role.OWNER,), 0, 0)

_PAUSES = {
    Area.NODE: (2.0, 9.0),
    Area.ETCD: (4.0, 14.0),
    Area.STORAGE: (25.0, 70.0),
    Area.USER: (8.0, 25.0),
}
"""Seconds between the end of one fault of an area and the next."""
_MOVES = (2.0, 7.0)


def make(
    seed: int, seconds: float, blind: bool = False, only: Sequence[str] = (), without: Sequence[str] = ()
) -> list[Act]:
    """Acts in the order of their times, which begin at 0; all have ended by `seconds`.
    only, without: names of faults."""
    acts = [*_moves(random.Random(f"{seed} moves"), seconds)]
    for area in Area:
        kinds = [kind for kind in KINDS if kind.area is area and (kind.blind or not blind)]
        if wanted := [kind for kind in kinds if (not only or kind.name in only) and kind.name not in without]:
            acts += _faults(random.Random(f"{seed} {area}"), wanted, seconds)
    if seconds >= 240 and not only and MINUTE.name not in without:
        acts = _with_a_minute_without_etcd(random.Random(f"{seed} minute"), acts, seconds)
    return sorted(acts, key=lambda act: act.at)


def _moves(rng: random.Random, seconds: float) -> Iterator[Act]:
    at = rng.uniform(*_MOVES)
    while at < seconds:
        yield _act(rng, at, MOVE)
        at += rng.uniform(*_MOVES)


def _faults(rng: random.Random, kinds: Sequence[Kind], seconds: float) -> Iterator[Act]:
    """One after the other. All kinds come once, in random order, before chance alone decides."""
    first = rng.sample(kinds, len(kinds))
    at = rng.uniform(*_PAUSES[kinds[0].area])
    while True:
        kind = first.pop() if first else rng.choices(kinds, [kind.weight for kind in kinds])[0]
        act = _act(rng, at, kind)
        if at + act.seconds > seconds:
            return
        yield act
        at += act.seconds + rng.uniform(*_PAUSES[kind.area])


def _with_a_minute_without_etcd(rng: random.Random, acts: Sequence[Act], seconds: float) -> list[Act]:
    minute = _act(rng, rng.uniform(seconds * 0.5, seconds - 90), MINUTE)
    ends = minute.at + minute.seconds + 5

    def meets(act: Act) -> bool:
        return act.kind.area is Area.ETCD and act.at < ends and minute.at < act.at + act.seconds + 5

    return [*(act for act in acts if not meets(act)), minute]


def _act(rng: random.Random, at: float, kind: Kind) -> Act:
    seconds = round(rng.uniform(kind.shortest, kind.longest), 1)
    return Act(round(at, 1), kind, rng.choice(kind.roles), rng.randrange(1000), rng.randrange(1000), seconds)
