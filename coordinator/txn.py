"""A transaction as a value: what is compared, what is put, what is read. etcd.py sends it, tests run it on a model."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """One key as etcd holds it. Revisions are etcd's: an absent key has no Entry, and compares as revision 0."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


@dataclass(frozen=True)
class ModRevision:
    """The key was last written at this revision; 0: it is absent."""

    key: str
    revision: int


@dataclass(frozen=True)
class CreateRevision:
    """The key was created at this revision; 0: it is absent."""

    key: str
    revision: int


@dataclass(frozen=True)
class OnLease:
    """The key hangs on this lease."""

    key: str
    lease: int


Compare = ModRevision | CreateRevision | OnLease


@dataclass(frozen=True)
class Put:
    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True)
class Delete:
    """One key, or with `end` all of [key, end)."""

    key: str
    end: str = ""


@dataclass(frozen=True)
class Txn:
    """If every compare holds, all of `then` happens; in either case `read` tells the keys as they are afterwards."""

    compare: tuple[Compare, ...]
    then: tuple[Put | Delete, ...]
    read: tuple[str, ...] = ()


@dataclass(frozen=True)
class TxnResult:
    """`revision` is etcd's revision after the transaction: the mod revision of all it put, where it succeeded."""

    succeeded: bool
    revision: int
    read: dict[str, Entry | None] = field(default_factory=dict)


def absent(key: str) -> Compare:
    return ModRevision(key, 0)


def unchanged(key: str, entry: Entry | None) -> Compare:
    """The key is as it was read: not written since, or still absent."""
    return ModRevision(key, entry.mod_revision if entry else 0)
