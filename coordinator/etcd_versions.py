"""Which releases of etcd are refused, and which have bugs that touch what we use of it: leases, watches, reads.

Nothing here makes Drover unsafe where it is only warned of: ownership is decided by transactions, and what a lease, a
watch or a read says only wakes and informs. Sources: etcd's CHANGELOG-3.4, 3.5 and 3.6, and its issues and pull
requests of the numbers given. Releases later than those listed here count as mended.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")

Release = tuple[int, int, int]


@dataclass(frozen=True)
class Bug:
    """number: etcd's issue or pull request. effect: on those who rely on it. mended: the first release of each minor
    version without it; minor versions before the first of these have it, later ones do not. since: the first of each
    minor version with it; those that are not named have it from the start."""

    number: int
    effect: str
    mended: tuple[Release, ...]
    since: tuple[Release, ...] = field(default=())

    def is_in(self, release: Release) -> bool:
        """Whether this release has it."""
        minor = release[:2]
        if any(minor == begun[:2] and release < begun for begun in self.since):
            return False
        if self.since and minor < min(self.since)[:2]:
            return False
        for mended in self.mended:
            if minor == mended[:2]:
                return release < mended
        return minor < min(self.mended)[:2]


CORRUPTING = Bug(
    13766,
    "a member killed under load can come back without transactions that were committed, and members then differ",
    mended=((3, 5, 3),),
    since=((3, 5, 0),),
)
"""The postmortem is etcd's Documentation/postmortems/v3.5-data-inconsistency.md."""

BUGS = (
    Bug(14571, "members can differ after one was restored from a snapshot with users enabled", ((3, 4, 22), (3, 5, 6))),
    Bug(14685, "members can differ after one was killed while it was defragmented", ((3, 5, 6),), ((3, 5, 0),)),
    Bug(15247, "a leader that hung revokes leases that are being kept alive", ((3, 4, 31), (3, 5, 13))),
    Bug(20813, "a lease that was revoked can be said to be renewed", ((3, 4, 38), (3, 5, 23), (3, 6, 5))),
    Bug(15271, "a watch can go back in time, or tell an event twice", ((3, 4, 25), (3, 5, 8))),
    Bug(17529, "a watch can lose events without a word", ((3, 4, 31), (3, 5, 13))),
    Bug(19179, "a watch from the revision of a compaction can lose a deletion", ((3, 4, 36), (3, 5, 18))),
    Bug(
        20418,
        "a member that was paused can answer a linearizable read from the past",
        ((3, 4, 42), (3, 5, 28), (3, 6, 9)),
        ((3, 4, 20), (3, 5, 0)),
    ),
)


@dataclass(frozen=True)
class Sound:
    """No bug is known that touches us."""


@dataclass(frozen=True)
class Flawed:
    """It is worked with, and said so."""

    version: str
    bugs: tuple[Bug, ...]

    def __str__(self) -> str:
        known = "; ".join(f"{bug.effect} (etcd {bug.number})" for bug in self.bugs)
        return (
            f"etcd {self.version} has known bugs: {known}. No dataset is at risk: ownership does not rest on these."
            " Moves and fail-over can be later than they need be. Update etcd to its newest 3.5 or 3.6 release"
        )


@dataclass(frozen=True)
class Corrupting:
    """It is not worked with."""

    version: str

    def __str__(self) -> str:
        return (
            f"etcd {self.version} can lose committed data: {CORRUPTING.effect} (etcd {CORRUPTING.number}). Nothing is"
            " kept safe by it, so it is not used: update each member to the newest 3.5 release, and start them with"
            " --experimental-initial-corrupt-check once, which tells whether they differ already"
        )


@dataclass(frozen=True)
class Unknown:
    """A version that cannot be read, or is older than 3.4: it is worked with, and said so."""

    version: str

    def __str__(self) -> str:
        return f"etcd {self.version!r} is not a release from 3.4 on: Drover was never run on it. Use etcd 3.4 to 3.6"


Verdict = Sound | Flawed | Corrupting | Unknown


def judge(version: str) -> Verdict:
    """version: as a member's status says it, like `3.5.13`; pre-releases count as their release."""
    found = _VERSION.match(version)
    release = (int(found[1]), int(found[2]), int(found[3])) if found else (0, 0, 0)
    if release < (3, 4, 0):
        return Unknown(version)
    if CORRUPTING.is_in(release):
        return Corrupting(version)
    bugs = tuple(bug for bug in BUGS if bug.is_in(release))
    return Flawed(version, bugs) if bugs else Sound()
