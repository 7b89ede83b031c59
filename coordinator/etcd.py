"""etcd, as `store.Store` promises it: one channel to each member, and our own going round between them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from etcd3.etcdrpc import rpc_pb2

from drover.coordinator.etcd_known import Known
from drover.coordinator.etcd_rpc import (
    Credentials,
    Future,
    Member,
    Tls,
    Unauthenticated,
    encode,
    entry,
    metadata,
    parse_endpoint,
    refusal,
    txn_request,
)
from drover.coordinator.etcd_versions import Corrupting, Unknown, judge
from drover.coordinator.etcd_watch import watch
from drover.coordinator.protocol.history import witness
from drover.coordinator.store import (
    Changes,
    Compacted,
    Denied,
    LeaseGone,
    NoSpace,
    Range,
    StoreError,
    StoreStatus,
    Unanswered,
    Unavailable,
    Unfit,
    WatchBroken,
)
from drover.coordinator.txn import Entry, Txn, TxnResult

__all__ = ["Credentials", "Etcd", "Tls"]

_PAGE = 1000
"""Keys in one answer of a range."""

_NOTHING = b"\0"
"""The least key there is: asked for where only the answer's header matters."""

T = TypeVar("T")


class Etcd:
    """A client of etcd. Any number of tasks of one event loop may use it at the same time.

    The member that answered last is used until it fails or turns out to be behind; then the next one's turn comes.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        timeout: float = 2.0,
        tls: Tls | None = None,
        credentials: Credentials | None = None,
        own_key: str = "",
    ) -> None:
        """endpoints: `http://host:port`, `https://host:port` or `host:port`. timeout: seconds for one call, all its
        repetitions included; a watch is given up after one and a half times as long without a sign of life. own_key: a
        key that we may write (nobody does): with it, a member whose connection is new is first asked whether etcd went
        back, where it lags behind what was seen.

        Raises ValueError that names the endpoint which is none.
        """
        if not endpoints:
            raise ValueError("there must be at least one etcd endpoint, like http://127.0.0.1:2379")
        parsed = [parse_endpoint(text) for text in endpoints]
        self.endpoints = tuple(endpoint.address for endpoint in parsed)
        self._known = Known()
        self._own_key = own_key
        self._timeout = timeout
        self._credentials = credentials
        self._token: str | None = None
        self._authenticating = asyncio.Lock()
        self._members = [Member(endpoint, tls) for endpoint in parsed]
        self._order = list(self._members)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        for member in self._members:
            await member.close()
        # gRPC has one queue for all event loops of a process. What it still has to say about cancelled calls must come
        # while this loop runs, else it drops what it has in hand for others; there is nothing to wait for.
        await asyncio.sleep(0.01)

    @property
    def cluster_id(self) -> str | None:
        """etcd's own cluster id, in hex, of all answers; None before the first one."""
        return self._known.cluster_id

    @property
    def revision(self) -> int:
        """The highest revision in a linearizable answer so far."""
        return self._known.revision

    @property
    def member(self) -> str:
        """`host:port` of the member to which the next call goes first."""
        return self._order[0].address

    # -- the verbs --------------------------------------------------------------------------------------------------

    async def txn(self, txn: Txn, timeout: float | None = None) -> TxnResult:
        limit = self._timeout if timeout is None else timeout
        deadline = _now() + limit
        request = txn_request(txn)
        try:
            member = await self._connected(deadline, limit)
            seen = self.revision
            try:
                answer = await self._call(member, member.kv.Txn, request, deadline)
            except Unavailable:
                self._demote(member)
                member.verdict = None
                raise
        except Unavailable as error:
            raise Unanswered(str(error)) from error
        self._known.not_before(seen, answer.header)
        self._learn(member, answer.header, linearizable=True)
        reads = answer.responses[len(answer.responses) - len(txn.read) :]
        found = (response.response_range.kvs for response in reads)
        read = {key: entry(kvs[0]) if kvs else None for key, kvs in zip(txn.read, found, strict=True)}
        return TxnResult(answer.succeeded, answer.header.revision, read)

    async def get(self, key: str) -> Entry | None:
        answer = await self._range(rpc_pb2.RangeRequest(key=encode(key)))
        return entry(answer.kvs[0]) if answer.kvs else None

    async def range(self, start: str, end: str) -> Range:
        deadline = _now() + 5 * self._timeout
        while True:
            try:
                return await self._pages(encode(start), encode(end))
            except (Compacted, Future) as error:
                # Compacted between two pages, or a member that lags behind the first page's: begin again.
                if _now() > deadline:
                    raise Unavailable(f"the range from {start!r} was compacted while it was read: {error}") from error

    async def watch(self, start: str, end: str, revision: int) -> AsyncGenerator[Changes, None]:
        try:
            member = await self._connected(_now() + self._timeout, self._timeout)
            token = self._token or await self._authenticate(member)
        except Unavailable as error:
            raise WatchBroken(str(error)) from error
        try:
            heard = watch(
                member, token, start, end, revision, self._timeout, lambda header: self._up_to_date(member, header)
            )
            async with contextlib.aclosing(heard) as answers:
                async for changes in answers:
                    yield changes
        except WatchBroken:
            self._demote(member)
            raise
        except Denied as error:
            # Said of an old token, too (etcd's isWatchPermitted). A read gets another one, or says that we may not.
            request = rpc_pb2.RangeRequest(key=encode(start), range_end=encode(end), count_only=True)
            with contextlib.suppress(Unavailable):
                await self._range(request)
            raise WatchBroken(str(error)) from error

    async def grant(self, ttl: int) -> int:
        # A repetition may leave a lease that nobody knows behind: it ends by itself.
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl)
        answer = await self._repeat(lambda member, until: self._call(member, member.lease.LeaseGrant, request, until))
        return int(answer.ID)

    async def keep_alive(self, lease: int) -> int:
        async def once(member: Member, until: float) -> Any:
            return await self._call(member, _first_of(member.lease.LeaseKeepAlive), request, until)

        request = rpc_pb2.LeaseKeepAliveRequest(ID=lease)
        answer = await self._repeat(once)
        if answer.TTL <= 0:
            raise LeaseGone(f"lease {lease:x} has ended or was revoked")
        return int(answer.TTL)

    async def revoke(self, lease: int) -> None:
        request = rpc_pb2.LeaseRevokeRequest(ID=lease)
        try:
            await self._repeat(lambda member, until: self._call(member, member.lease.LeaseRevoke, request, until))
        except LeaseGone:
            return

    async def compact(self, revision: int) -> None:
        request = rpc_pb2.CompactionRequest(revision=revision)
        try:
            await self._repeat(lambda member, until: self._call(member, member.kv.Compact, request, until))
        except Compacted:
            return

    async def status(self) -> StoreStatus:
        """Its revision is the highest seen so far where etcd denies us the key `\\0`."""
        request = rpc_pb2.StatusRequest()
        answer = await self._repeat(lambda member, until: self._call(member, member.maintenance.Status, request, until))
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
            answer = await self._repeat(
                lambda member, until: self._call(member, member.cluster.MemberList, request, until)
            )
        except Denied:
            return ()
        if len(answer.members) <= len(self.endpoints):
            return ()
        known = set(self.endpoints)
        apart = (m for m in answer.members if not any(url.partition("://")[2] in known for url in m.clientURLs))
        return tuple(sorted(next(iter(m.clientURLs), "") or m.name or format(m.ID, "x") for m in apart))

    # -- one call, one member ---------------------------------------------------------------------------------------

    async def _call(self, member: Member, method: Callable[..., Any], request: Any, deadline: float) -> Any:
        """One request to one member; sent again only where it was turned down for its token.

        Raises Unavailable where its outcome is not known, WentBack, and what `refusal` makes of plain refusals.
        """
        self._known.check()
        token = self._token
        if token is None and self._credentials is not None:
            token = await self._authenticate(member)
        try:
            return await _send(member, method, request, deadline, token)
        except Unauthenticated as error:
            if self._credentials is None:
                raise Denied(f"{error}; set the user and password for etcd") from error
            if token == self._token:
                self._token = None
            return await _send(member, method, request, deadline, await self._authenticate(member))

    async def _authenticate(self, member: Member) -> str | None:
        """A token for our user; None where there is none to authenticate or etcd does not authenticate."""
        if self._credentials is None:
            return None
        async with self._authenticating:
            if self._token is None:
                request = rpc_pb2.AuthenticateRequest(name=self._credentials.user, password=self._credentials.password)
                try:
                    answer = await _send(member, member.auth.Authenticate, request, _now() + self._timeout, None)
                except (Unavailable, Denied):
                    raise
                except StoreError as error:
                    if "authentication is not enabled" in str(error):
                        return None
                    raise Denied(str(error)) from error
                self._token = str(answer.token)
            return self._token

    def _learn(self, member: Member, header: Any, *, linearizable: bool) -> None:
        self._known.same(member.address, header)
        if not self._known.learn(header, linearizable=linearizable):
            self._demote(member)

    def _up_to_date(self, member: Member, header: Any) -> None:
        """Raises WatchBroken where a member does not know of the newest election, WentBack."""
        self._known.same(member.address, header)
        if header.raft_term < self._known.term:
            raise WatchBroken(f"etcd at {member.address} is cut off from the others: it has missed an election")

    # -- going round ------------------------------------------------------------------------------------------------

    def _demote(self, member: Member) -> None:
        """To the end of the queue; nothing changes where another task was faster."""
        self._order.remove(member)
        self._order.append(member)

    async def _connected(self, deadline: float, limit: float) -> Member:
        """The first member whose connection stands and whose release may be used. Nothing that changes anything is sent
        before this returns: going round is harmless.

        Raises Unavailable at the deadline; Unfit, then or as soon as nobody else is left.
        """
        share = limit / min(3, len(self._members))
        while True:
            for member in tuple(self._order):
                if await member.connect(min(share, max(0.0, deadline - _now()))) and await self._fit(
                    member, min(deadline, _now() + share)
                ):
                    return member
                self._demote(member)
            if (left := deadline - _now()) <= 0 or self._all_unfit():
                everyone = ", ".join(self.endpoints)
                if unfit := [m for m in self._members if isinstance(m.verdict, Corrupting)]:
                    raise Unfit(f"{unfit[0].verdict}; it runs at {', '.join(member.address for member in unfit)}")
                raise Unavailable(f"no etcd member could be reached within {limit:.1f} s, nothing was sent: {everyone}")
            # Each was seen failing last, so whatever comes of its next attempt is a change; but for those that stand.
            apart = [member for member in self._members if not member.stands]
            changes = {member.changed(grpc.ChannelConnectivity.TRANSIENT_FAILURE) for member in apart}
            pause = asyncio.create_task(asyncio.sleep(min(left, 0.2)))
            await asyncio.wait({pause, *changes}, return_when=asyncio.FIRST_COMPLETED)
            pause.cancel()

    async def _fit(self, member: Member, deadline: float) -> bool:
        """Whether this member may be used; asked of it once a connection, before all else. Raises WentBack."""
        if member.verdict is None:
            try:
                answer = await self._call(member, member.maintenance.Status, rpc_pb2.StatusRequest(), deadline)
                self._known.same(member.address, answer.header)
                if self._own_key and answer.header.revision < self.revision:
                    await self._not_restored(member, deadline)
            except Denied:
                member.verdict = Unknown("of a version that this user is not told")
            except Unavailable:
                return False
            else:
                member.verdict = judge(str(answer.version))
        return not isinstance(member.verdict, Corrupting)

    async def _not_restored(self, member: Member, deadline: float) -> None:
        """A member that does not know what was seen lags, or was restored: told before anything is sent that relies on
        what was seen. Raises WentBack, Unavailable, Denied."""
        seen, asked = self.revision, txn_request(witness(self._own_key))
        # A full etcd answers no such question; the next transaction's answer tells.
        with contextlib.suppress(NoSpace):
            self._known.not_before(seen, (await self._call(member, member.kv.Txn, asked, deadline)).header)

    def _all_unfit(self) -> bool:
        return all(isinstance(member.verdict, Corrupting) for member in self._members)

    async def _repeat(self, once: Callable[[Member, float], Awaitable[T]], *, linearizable: bool = False) -> T:
        """Call until a member answers or the time limit has passed. Only for what may happen more than once."""
        deadline = _now() + self._timeout
        share = self._timeout / min(3, len(self._members))
        failures = 0
        while True:
            member = await self._connected(deadline, self._timeout)
            seen = self.revision
            try:
                answer: Any = await once(member, min(deadline, _now() + share))
                if linearizable and answer.header.revision < seen:
                    raise Unavailable(
                        f"etcd at {member.address} answered from the past, as of {answer.header.revision}"
                    )
            except Unavailable as error:
                self._demote(member)
                member.verdict = None
                failures += 1
                if (left := deadline - _now()) <= 0:
                    raise Unavailable(f"no answer from etcd at {', '.join(self.endpoints)}; last: {error}") from error
                if failures % len(self._members) == 0:
                    await asyncio.sleep(min(left, random.uniform(0.05, 0.15)))
                continue
            self._learn(member, answer.header, linearizable=linearizable)
            return answer  # type: ignore[no-any-return]

    async def _range(self, request: Any) -> Any:
        return await self._repeat(
            lambda member, until: self._call(member, member.kv.Range, request, until), linearizable=True
        )

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


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _send(member: Member, method: Callable[..., Any], request: Any, deadline: float, token: str | None) -> Any:
    try:
        return await method(request, timeout=max(0.0, deadline - _now()), metadata=metadata(token))
    except grpc.aio.AioRpcError as error:
        raise refusal(error, member.address) from error


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
