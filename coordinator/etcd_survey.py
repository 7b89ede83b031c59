"""Every member of etcd asked by itself: what it says of itself, how fast it answers, and whether all hold the same.

For `drover doctor`: nothing is changed, and a member that does not answer is a fact, not an error.
"""

from __future__ import annotations

import asyncio
import ssl
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from etcd3.etcdrpc import rpc_pb2
from prometheus_client.parser import text_string_to_metric_families

from drover.coordinator import direct
from drover.coordinator.etcd_members import Members, now
from drover.coordinator.etcd_rpc import Credentials, Endpoint, Member, Tls, encode, parse_endpoint, txn_request
from drover.coordinator.protocol.history import witness
from drover.coordinator.store import StoreError

ALARMS = {1: "NOSPACE", 2: "CORRUPT"}
"""etcd's AlarmType; CORRUPT is younger than the generated stubs."""
_TRIES = 5
"""Requests whose time is taken, of each kind."""
_METRICS = 4 << 20
"""Bytes of /metrics that are read at most."""


@dataclass(frozen=True)
class Latency:
    """Seconds, of some requests one after the other."""

    median: float
    worst: float


@dataclass(frozen=True)
class NotTold:
    """It could not be found out. why: one line, for people."""

    why: str


@dataclass(frozen=True)
class Numbers:
    """What etcd's own /metrics tell. quota, in_use: bytes. fsync, commit: seconds that 99 % of them took at most, since
    the member started. elections: changes of leader that it has seen. None: not among them."""

    quota: int | None = None
    in_use: int | None = None
    fsync: float | None = None
    commit: float | None = None
    elections: int | None = None


@dataclass(frozen=True)
class Silent:
    """A member that did not answer."""

    address: str
    why: str


@dataclass(frozen=True)
class Answering:
    """A member that answered. revision, compacted: etcd's, as this member has them. size: bytes of its database.
    leader: the id of the member that it takes for the leader, "" for none. hash: of all keys as of one revision that
    every member was asked for. serializable: from its own memory; linearizable: after asking the others; write: through
    the log of all, by a transaction that changes nothing."""

    address: str
    id: str
    cluster: str
    version: str
    leader: str
    term: int
    revision: int
    size: int
    serializable: Latency | NotTold
    linearizable: Latency | NotTold
    write: Latency | NotTold
    numbers: Numbers | NotTold = NotTold("not asked")
    compacted: int = 0
    hash: int | NotTold = NotTold("not asked")


@dataclass(frozen=True)
class Listed:
    """A member as etcd's own list has it."""

    id: str
    name: str
    clients: tuple[str, ...]
    peers: tuple[str, ...]


@dataclass(frozen=True)
class EtcdFacts:
    """members: by endpoint, as given. listed: all that there are. alarms: like `NOSPACE etcd-1`. secure: by TLS."""

    members: tuple[Answering | Silent, ...]
    listed: tuple[Listed, ...] | NotTold
    alarms: tuple[str, ...] | NotTold
    secure: bool

    @property
    def answering(self) -> tuple[Answering, ...]:
        return tuple(member for member in self.members if isinstance(member, Answering))


async def survey(
    endpoints: Sequence[str], tls: Tls | None, credentials: Credentials | None, key: str, timeout: float = 2.0
) -> EtcdFacts:
    """key: one that this user may write; nothing is written. timeout: seconds, of each request.

    Raises ValueError for an endpoint that is none, OSError where a certificate cannot be read.
    """
    parsed = [parse_endpoint(text) for text in endpoints]
    asked = [_Asked(endpoint, tls, credentials, key, timeout) for endpoint in parsed]
    try:
        found = await asyncio.gather(*(one.look() for one in asked))
        known = [member for member in found if isinstance(member, Answering)]
        common = min((member.revision for member in known), default=0)
        members = await asyncio.gather(*(one.hashed(told, common) for one, told in zip(asked, found, strict=True)))
        first = next((one for one, told in zip(asked, found, strict=True) if isinstance(told, Answering)), None)
        listed = await first.listed() if first else NotTold("no member answers")
        names = {} if isinstance(listed, NotTold) else {it.id: it.name for it in listed}
        alarms = await first.alarms(names) if first else NotTold("no member answers")
    finally:
        for one in asked:
            await one.close()
    secure = tls is not None or any(endpoint.secure for endpoint in parsed)
    return EtcdFacts(tuple(members), listed, alarms, secure)


class _Asked:
    """One member, by a connection of its own."""

    def __init__(
        self, endpoint: Endpoint, tls: Tls | None, credentials: Credentials | None, key: str, timeout: float
    ) -> None:
        self._endpoint, self._tls, self._key, self._timeout = endpoint, tls, key, timeout
        self._members = Members([endpoint], timeout, tls, credentials, "")

    async def close(self) -> None:
        await self._members.close()

    async def look(self) -> Answering | Silent:
        member = self._members.first
        if not await member.connect(self._timeout):
            return Silent(self._endpoint.address, f"no connection within {self._timeout:g} s")
        try:
            told = await self._call(lambda it: it.maintenance.Status, rpc_pb2.StatusRequest())
        except StoreError as error:
            return Silent(self._endpoint.address, str(error))
        nothing = rpc_pb2.RangeRequest(key=encode(self._key), serializable=True, count_only=True)
        through = rpc_pb2.RangeRequest(key=encode(self._key), count_only=True)
        return Answering(
            self._endpoint.address,
            format(told.header.member_id, "x"),
            format(told.header.cluster_id, "x"),
            str(told.version),
            format(told.leader, "x") if told.leader else "",
            int(told.raftTerm),
            int(told.header.revision),
            int(told.dbSize),
            await self._timed(lambda: self._call(lambda it: it.kv.Range, nothing)),
            await self._timed(lambda: self._call(lambda it: it.kv.Range, through)),
            await self._timed(lambda: self._call(lambda it: it.kv.Txn, txn_request(witness(self._key)))),
            await asyncio.to_thread(self._numbers),
        )

    async def hashed(self, member: Answering | Silent, revision: int) -> Answering | Silent:
        """The same with the hash of what it holds as of a revision."""
        if isinstance(member, Silent):
            return member
        try:
            told = await self._call(lambda it: it.maintenance.HashKV, rpc_pb2.HashKVRequest(revision=revision))
        except StoreError as error:
            return replace(member, hash=NotTold(str(error)))
        return replace(member, hash=int(told.hash), compacted=max(int(told.compact_revision), 0))

    async def listed(self) -> tuple[Listed, ...] | NotTold:
        try:
            told = await self._call(lambda it: it.cluster.MemberList, rpc_pb2.MemberListRequest())
        except StoreError as error:
            return NotTold(str(error))
        members = ((format(m.ID, "x"), str(m.name), tuple(m.clientURLs), tuple(m.peerURLs)) for m in told.members)
        return tuple(Listed(*member) for member in members)

    async def alarms(self, names: Mapping[str, str]) -> tuple[str, ...] | NotTold:
        try:
            told = await self._call(lambda it: it.maintenance.Alarm, rpc_pb2.AlarmRequest())
        except StoreError as error:
            return NotTold(str(error))
        raised = ((ALARMS.get(int(one.alarm), str(one.alarm)), format(one.memberID, "x")) for one in told.alarms)
        return tuple(sorted(f"{what} {names.get(member) or member}" for what, member in raised))

    async def _call(self, method: Callable[[Member], Any], request: Any) -> Any:
        member = self._members.first
        return await self._members.call(member, method(member), request, now() + self._timeout)

    async def _timed(self, ask: Callable[[], Awaitable[object]]) -> Latency | NotTold:
        taken = []
        for _ in range(_TRIES):
            began = now()
            try:
                await ask()
            except StoreError as error:
                return NotTold(str(error))
            taken.append(now() - began)
        return Latency(statistics.median(taken), max(taken))

    def _numbers(self) -> Numbers | NotTold:
        secure = self._endpoint.secure or (self._endpoint.secure is None and self._tls is not None)
        url = f"{'https' if secure else 'http'}://{self._endpoint.address}/metrics"
        try:
            with direct.opened(url, self._timeout, _context(self._tls)) as reply:
                return numbers(reply.read(_METRICS).decode(errors="replace"))
        except (OSError, ValueError) as error:
            return NotTold(f"{url}: {error}")


def _context(tls: Tls | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(tls.ca) if tls and tls.ca else None)
    if tls and tls.cert and tls.key:
        context.load_cert_chain(tls.cert, tls.key)
    return context


def numbers(text: str) -> Numbers:
    """From a page of etcd's /metrics. Pure. Raises ValueError where it is none."""
    plain: dict[str, float] = {}
    buckets: dict[str, list[tuple[float, float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                buckets.setdefault(family.name, []).append((float(sample.labels["le"]), sample.value))
            elif not sample.labels:
                plain[sample.name] = sample.value
    return Numbers(
        quota=_whole(plain.get("etcd_server_quota_backend_bytes")) or None,
        in_use=_whole(plain.get("etcd_mvcc_db_total_size_in_use_in_bytes")),
        fsync=_at_most(buckets.get("etcd_disk_wal_fsync_duration_seconds", [])),
        commit=_at_most(buckets.get("etcd_disk_backend_commit_duration_seconds", [])),
        elections=_whole(plain.get("etcd_server_leader_changes_seen_total")),
    )


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _at_most(buckets: Sequence[tuple[float, float]], share: float = 0.99) -> float | None:
    """The bound of a histogram below which this share of it lies; None for an empty one."""
    total = max((count for _, count in buckets), default=0.0)
    if not total:
        return None
    return min(bound for bound, count in buckets if count >= share * total)
