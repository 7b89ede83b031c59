"""What etcd's members answer, as the client's protobuf messages have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Header:
    cluster_id: int
    revision: int
    raft_term: int


@dataclass(frozen=True)
class Kv:
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


@dataclass(frozen=True)
class Event:
    type: int
    kv: Kv


@dataclass(frozen=True)
class RangeAnswer:
    kvs: Sequence[Kv]
    header: Header
    more: bool = False


@dataclass(frozen=True)
class Response:
    response_range: RangeAnswer


@dataclass(frozen=True)
class TxnAnswer:
    succeeded: bool
    header: Header
    responses: Sequence[Response]


@dataclass(frozen=True)
class LeaseAnswer:
    header: Header
    ID: int = 0
    TTL: int = 0


@dataclass(frozen=True)
class StatusAnswer:
    header: Header
    version: str = "3.4.23"
    dbSize: int = 0


@dataclass(frozen=True)
class MembersAnswer:
    """All members have endpoints."""

    header: Header
    members: Sequence[Any] = ()


@dataclass(frozen=True)
class WatchAnswer:
    header: Header
    events: Sequence[Event] = ()
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    watch_id: int = 0
