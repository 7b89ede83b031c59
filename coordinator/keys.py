"""The keyspace, in one place: every key that Drover reads or writes in etcd is built and taken apart here.

Keys are made to be typed with etcdctl: `/drover/desired/pgdata`. A key that a user mistyped must still parse, so that
it can be reported under `/drover/status/<what they typed>`; whether a name is legal is asked with `name_error`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

DEFAULT_PREFIX = "/drover"

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


class Kind(StrEnum):
    """What a key is about: the word after the prefix."""

    CLUSTER = "cluster"
    DATASETS = "datasets"
    DESIRED = "desired"
    ASKED = "asked"
    WORKLOADS = "workloads"
    NODES = "nodes"
    HEARTBEATS = "heartbeats"
    LEASES = "leases"
    OWNERS = "owners"
    COPIES = "copies"
    DIVERGED = "diverged"
    FENCES = "fences"
    CORDONS = "cordons"
    PAUSE = "pause"
    HISTORY = "history"
    SNAPSHOTS = "snapshots"
    STATUS = "status"
    TRASH = "trash"


SINGLE = frozenset({Kind.CLUSTER, Kind.PAUSE})
"""Kinds that are one key, without a name."""


@dataclass(frozen=True)
class Key:
    """A key taken apart. `name` is as the user typed it and may be illegal; empty for single keys."""

    kind: Kind
    name: str


def name_error(name: str) -> str | None:
    """Why `name` cannot be the name of a dataset, node or workload; None where it can.

    The rule: 1 to 63 of ASCII letters, digits, `_`, `.` and `-`, beginning and ending with a letter or digit. It fits
    host names, Docker volumes, cgroup and file names.
    """
    if _NAME.fullmatch(name):
        return None
    if not name:
        return "the name is empty"
    if len(name) > 63:
        return f"the name is {len(name)} characters long, at most 63 are allowed"
    bad = sorted({c for c in name if not (c.isascii() and (c.isalnum() or c in "_.-"))})
    if bad:
        return f"the name has {' '.join(repr(c) for c in bad[:5])}; allowed are ASCII letters, digits, '_', '.' and '-'"
    return "the name must begin and end with a letter or a digit"


@dataclass(frozen=True)
class Keys:
    """Builds and parses the keys below one prefix. One prefix is one cluster."""

    prefix: str = DEFAULT_PREFIX

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(/[A-Za-z0-9_.-]+)+", self.prefix):
            raise ValueError(
                f"prefix {self.prefix!r} must look like '/drover': a slash, then letters, digits, '_', '.', '-'"
            )

    def of(self, kind: Kind, name: str) -> str:
        return f"{self.prefix}/{kind}/{name}"

    def under(self, kind: Kind) -> str:
        """The common beginning of all keys of a kind that has names."""
        return f"{self.prefix}/{kind}/"

    @property
    def root(self) -> str:
        return f"{self.prefix}/"

    @property
    def cluster(self) -> str:
        return f"{self.prefix}/{Kind.CLUSTER}"

    @property
    def pause(self) -> str:
        return f"{self.prefix}/{Kind.PAUSE}"

    def dataset(self, dataset: str) -> str:
        return self.of(Kind.DATASETS, dataset)

    def desired(self, dataset: str) -> str:
        return self.of(Kind.DESIRED, dataset)

    def asked(self, dataset: str) -> str:
        return self.of(Kind.ASKED, dataset)

    def workload(self, workload: str) -> str:
        return self.of(Kind.WORKLOADS, workload)

    def node(self, node: str) -> str:
        return self.of(Kind.NODES, node)

    def heartbeat(self, node: str) -> str:
        return self.of(Kind.HEARTBEATS, node)

    def lease(self, dataset: str) -> str:
        return self.of(Kind.LEASES, dataset)

    def owner(self, dataset: str) -> str:
        return self.of(Kind.OWNERS, dataset)

    def copies(self, dataset: str) -> str:
        return self.of(Kind.COPIES, dataset)

    def snapshot(self, dataset: str, name: str) -> str:
        return self.of(Kind.SNAPSHOTS, f"{dataset}/{name}")

    def diverged(self, dataset: str, node: str) -> str:
        return self.of(Kind.DIVERGED, f"{dataset}/{node}")

    def fence(self, incarnation: str) -> str:
        return self.of(Kind.FENCES, incarnation)

    def cordon(self, node: str) -> str:
        return self.of(Kind.CORDONS, node)

    def status(self, dataset: str) -> str:
        return self.of(Kind.STATUS, dataset)

    def trash(self, name: str) -> str:
        return self.of(Kind.TRASH, name)

    def history(self, dataset: str, epoch: int) -> str:
        """Zero-padded, so that a listing is in order."""
        return self.of(Kind.HISTORY, f"{dataset}/{epoch:08d}")

    def parse(self, key: str) -> Key | None:
        """Take a key apart; None where it is not one of ours."""
        if not key.startswith(self.root):
            return None
        word, slash, name = key[len(self.root) :].partition("/")
        try:
            kind = Kind(word)
        except ValueError:
            return None
        if (kind in SINGLE) == bool(slash):
            return None
        return Key(kind, name)


def range_end(prefix: str) -> str:
    """The first key after all that begin with `prefix`, as etcd's range_end wants it."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
