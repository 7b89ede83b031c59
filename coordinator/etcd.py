"""etcd, as `store.Store` promises it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from functools import partial, wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc
import grpc.aio
from etcd3.etcdrpc import rpc_pb2

from drover.coordinator.etcd_auth import Auth
from drover.coordinator.etcd_members import Members, now
from drover.coordinator.etcd_rpc import (
    Credentials,
    Future,
    Tls,
    encode,
    entry,
    parse_endpoint,
    txn_request,
)
from drover.coordinator.etcd_watch import watch
from drover.coordinator.rotation import Current
from drover.coordinator.store import (
    Changes,
    Compacted,
    Denied,
    LeaseGone,
    Range,
    StoreStatus,
    Unanswered,
    Unavailable,
    WatchBroken,
)
from drover.coordinator.txn import Entry, Txn, TxnResult

__all__ = ["Credentials", "Etcd", "Tls"]

log = logging.getLogger(__name__)

Observe = Callable[[str], contextlib.AbstractContextManager[object]]
"""Given the name of a verb. Calls overlap."""


def unobserved(_: str) -> contextlib.AbstractContextManager[object]:
    """Nobody is told."""
    return contextlib.nullcontext()


P = ParamSpec("P")
R = TypeVar("R")
_Verb = Callable[Concatenate["Etcd", P], Coroutine[Any, Any, R]]


def _observed(verb: _Verb[P, R]) -> _Verb[P, R]:
    @wraps(verb)
    async def call(self: Etcd, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self.observe(verb.__name__):
            return await verb(self, *args, **kwargs)

    return call


_PAGE = 1000
"""Keys in one answer of a range."""

_NOTHING = b"\0"
"""The least key there is: asked for where only the answer's header matters."""


class Etcd:
    """A client of etcd. Any number of tasks of one event loop may use it at the same time."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout: float = 2.0,
        tls: Tls | None = None,
        credentials: Credentials | None = None,
        own_key: str = "",
        observe: Observe = unobserved,
    ) -> None:
        """endpoints: `http://host:port`, `https://host:port` or `host:port`. timeout: seconds for one call, all its
        repetitions included; a watch is given up after one and a half times as long without a sign of life. own_key: a
        key that we may write (nobody does): with it, a member whose connection is new is first asked whether etcd went
        back, where it lags behind what was seen. observe: what it returns is around each call but watches.

        Raises ValueError that names the endpoint which is none, OSError where a certificate cannot be used.
        """
        if not endpoints:
            raise ValueError("there must be at least one etcd endpoint, like http://127.0.0.1:2379")
        parsed = [parse_endpoint(text) for text in endpoints]
        self.endpoints = tuple(endpoint.address for endpoint in parsed)
        self.observe = observe
        self._members = Members(parsed, timeout, tls, credentials, own_key)
        self._tls = tls
        self._files = Current(tls.files, tls.credentials) if tls and tls.files else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._members.close()
        # gRPC has one queue for all event loops of a process. What it still has to say about cancelled calls must come
        # while this loop runs, else it drops what it has in hand for others; there is nothing to wait for.
        await asyncio.sleep(0.01)

    @property
    def auth(self) -> Auth:
        """etcd's users and roles."""
        return Auth(self._members)

    async def follow_files(self, every: float = 10.0) -> None:
        """Until cancelled: takes new certificates up, over new connections, while all that goes on goes on. every:
        seconds between two looks at the files."""
        if self._tls is None or self._files is None:
            return
        used = self._files.first
        while True:
            await asyncio.sleep(every)
            newest = await asyncio.to_thread(self._files.get)
            if newest is used:
                continue
            try:
                await self._members.replace(self._tls)
            except (OSError, ValueError, Unavailable) as error:
                log.warning("new certificates are not used towards etcd yet, the old ones go on: %s", error)
                continue
            used = newest
            await asyncio.sleep(4 * self._members.timeout)
            await self._members.close_retired()

    @property
    def cluster_id(self) -> str | None:
        """etcd's own cluster id, in hex, of all answers; None before the first one."""
        return self._members.known.cluster_id

    @property
    def revision(self) -> int:
        """The highest revision in a linearizable answer so far."""
        return self._members.known.revision

    @property
    def member(self) -> str:
        """`host:port` of the member to which the next call goes first."""
        return self._members.first.address

    @_observed
    async def txn(self, txn: Txn, timeout: float | None = None) -> TxnResult:
        limit = self._members.timeout if timeout is None else timeout
        deadline = now() + limit
        request = txn_request(txn)
        try:
            member = await self._members.connected(deadline, limit)
            seen = self.revision
            try:
                answer = await self._members.call(member, member.kv.Txn, request, deadline)
            except Unavailable:
                self._members.demote(member)
                member.verdict = None
                raise
        except Unavailable as error:
            raise Unanswered(str(error)) from error
        self._members.known.not_before(seen, member.address, answer.header)
        self._members.learn(member, answer.header, linearizable=True)
        reads = answer.responses[len(answer.responses) - len(txn.read) :]
        found = (response.response_range.kvs for response in reads)
        read = {key: entry(kvs[0]) if kvs else None for key, kvs in zip(txn.read, found, strict=True)}
        return TxnResult(answer.succeeded, answer.header.revision, read)

    @_observed
    async def get(self, key: str) -> Entry | None:
        answer = await self._range(rpc_pb2.RangeRequest(key=encode(key)))
        return entry(answer.kvs[0]) if answer.kvs else None

    @_observed
    async def range(self, start: str, end: str) -> Range:
        deadline = now() + 5 * self._members.timeout
        while True:
            try:
                return await self._pages(encode(start), encode(end))
            except (Compacted, Future) as error:
                # Compacted between two pages, or a member that lags behind the first page's: begin again.
                if now() > deadline:
                    raise Unavailable(f"the range from {start!r} was compacted while it was read: {error}") from error

    async def watch(self, start: str, end: str, revision: int) -> AsyncGenerator[Changes, None]:
        try:
            member = await self._members.connected(now() + self._members.timeout, self._members.timeout)
            token = await self._members.authenticate(member)
        except Unavailable as error:
            raise WatchBroken(str(error)) from error
        try:
            up_to_date = partial(self._members.up_to_date, member)
            heard = watch(member, token, start, end, revision, self._members.timeout, up_to_date)
            async with contextlib.aclosing(heard) as answers:
                async for changes in answers:
                    yield changes
        except WatchBroken:
            self._members.demote(member)
            raise
        except Denied as error:
            # Said of an old token, too (etcd's isWatchPermitted). A read gets another one, or says that we may not.
            request = rpc_pb2.RangeRequest(key=encode(start), range_end=encode(end), count_only=True)
            with contextlib.suppress(Unavailable):
                await self._range(request)
            raise WatchBroken(str(error)) from error

    @_observed
    async def grant(self, ttl: int) -> int:
        # A repetition may leave a lease that nobody knows behind: it ends by itself.
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl)
        answer = await self._members.ask(lambda member: member.lease.LeaseGrant, request)
        return int(answer.ID)

    @_observed
    async def keep_alive(self, lease: int) -> int:
        request = rpc_pb2.LeaseKeepAliveRequest(ID=lease)
        answer = await self._members.ask(lambda member: _first_of(member.lease.LeaseKeepAlive), request)
        if answer.TTL <= 0:
            raise LeaseGone(f"lease {lease:x} has ended or was revoked")
        return int(answer.TTL)

    @_observed
    async def revoke(self, lease: int) -> None:
        request = rpc_pb2.LeaseRevokeRequest(ID=lease)
        try:
            await self._members.ask(lambda member: member.lease.LeaseRevoke, request)
        except LeaseGone:
            return

    @_observed
    async def compact(self, revision: int) -> None:
        request = rpc_pb2.CompactionRequest(revision=revision)
        try:
            await self._members.ask(lambda member: member.kv.Compact, request)
        except Compacted:
            return

    @_observed
    async def status(self) -> StoreStatus:
        """Its revision is the highest seen so far where etcd denies us the key `\\0`."""
        request = rpc_pb2.StatusRequest()
        answer = await self._members.ask(lambda member: member.maintenance.Status, request)
        try:
            revision = int((await self._range(rpc_pb2.RangeRequest(key=_NOTHING))).header.revision)
        except Denied:
            revision = self.revision
        unlisted = await self._unlisted()
        return StoreStatus(format(answer.header.cluster_id, "x"), answer.version, revision, answer.dbSize, unlisted)

    async def _unlisted(self) -> tuple[str, ...]:
        """Members that no endpoint can stand for, as there are more of them: only a hint, as an endpoint may have
        another address than the one that its member advertises."""
        request = rpc_pb2.MemberListRequest()
        try:
            answer = await self._members.ask(lambda member: member.cluster.MemberList, request)
        except Denied:
            return ()
        if len(answer.members) <= len(self.endpoints):
            return ()
        known = set(self.endpoints)
        apart = (m for m in answer.members if not any(url.partition("://")[2] in known for url in m.clientURLs))
        return tuple(sorted(next(iter(m.clientURLs), "") or m.name or format(m.ID, "x") for m in apart))

    async def _range(self, request: Any) -> Any:
        return await self._members.ask(lambda member: member.kv.Range, request, linearizable=True)

    async def _pages(self, start: bytes, end: bytes) -> Range:
        entries: list[Entry] = []
        revision = 0
        while True:
            answer = await self._range(rpc_pb2.RangeRequest(key=start, range_end=end, limit=_PAGE, revision=revision))
            revision = revision or answer.header.revision
            entries.extend(map(entry, answer.kvs))
            if not answer.more:
                return Range(tuple(entries), revision)
            start = answer.kvs[-1].key + b"\0"


def _first_of(method: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """The first answer of a stream to one request."""

    async def once(request: Any, timeout: float, metadata: Any) -> Any:
        call = method(timeout=timeout, metadata=metadata)
        try:
            await call.write(request)
            answer = await call.read()
            if answer is grpc.aio.EOF:
                raise Unavailable("etcd ended the call without an answer")
        finally:
            call.cancel()
        return answer

    return once
