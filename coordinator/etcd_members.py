"""Which member of etcd is asked, and what its answer is worth: one channel to each, and our own going round."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from etcd3.etcdrpc import rpc_pb2

from drover.coordinator.etcd_known import Known
from drover.coordinator.etcd_rpc import (
    Credentials,
    Endpoint,
    Member,
    Tls,
    Unauthenticated,
    metadata,
    refusal,
    txn_request,
)
from drover.coordinator.etcd_versions import Corrupting, Unknown, judge
from drover.coordinator.protocol.history import witness
from drover.coordinator.store import Denied, NoSpace, StoreError, Unavailable, Unfit, WatchBroken


class Members:
    """The one that answered last is used until it fails or turns out to be behind; then the next one's turn comes.

    known: what their answers have told. timeout: seconds for one call, all its repetitions included.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        timeout: float,
        tls: Tls | None,
        credentials: Credentials | None,
        own_key: str,
    ) -> None:
        """own_key: see `Etcd`. Raises ValueError, and what `Tls.credentials` raises."""
        self.known = Known()
        self.timeout = timeout
        self._own_key = own_key
        self._credentials = credentials
        self._token: str | None = None
        self._authenticating = asyncio.Lock()
        self._endpoints = tuple(endpoints)
        self._members = [Member(endpoint, tls) for endpoint in endpoints]
        self._order = list(self._members)
        self._retired: list[Member] = []

    async def close(self) -> None:
        for member in (*self._members, *self._retired):
            await member.close()

    async def replace(self, tls: Tls) -> None:
        """Goes on over new connections, with what the files hold now, once one of them has answered. Calls and watches
        on the old ones go on; `close_retired` later.

        Raises Unavailable and what `Tls.credentials` raises: then nothing has changed.
        """
        fresh = [Member(endpoint, tls) for endpoint in self._endpoints]
        if not await self._answers(fresh):
            for member in fresh:
                await member.close()
            raise Unavailable(f"no answer from etcd at {self._addresses} with the new files")
        rank = {member.address: number for number, member in enumerate(self._order)}
        self._retired += self._members
        for member in self._members:
            member.retired = True
        self._members = fresh
        self._order = sorted(fresh, key=lambda member: rank[member.address])

    async def _answers(self, members: Sequence[Member]) -> bool:
        """Whether any of them does; a refusal is an answer."""
        for member in members:
            if await member.connect(self.timeout):
                try:
                    await self.call(member, member.maintenance.Status, rpc_pb2.StatusRequest(), now() + self.timeout)
                except Unavailable:
                    continue
                except Denied:
                    return True
                return True
        return False

    async def close_retired(self) -> None:
        """When calls and watches on them have had the time to end."""
        retired, self._retired = self._retired, []
        for member in retired:
            await member.close()

    @property
    def first(self) -> Member:
        """To which the next call goes first."""
        return self._order[0]

    @property
    def _addresses(self) -> str:
        return ", ".join(member.address for member in self._members)

    async def call(self, member: Member, method: Callable[..., Any], request: Any, deadline: float) -> Any:
        """One request to one member; sent again only where it was turned down for its token.

        Raises Unavailable where its outcome is not known, WentBack, and what `refusal` makes of plain refusals.
        """
        self.known.check()
        token = self._token
        if token is None and self._credentials is not None:
            token = await self.authenticate(member)
        try:
            return await _send(member, method, request, deadline, token)
        except Unauthenticated as error:
            if self._credentials is None:
                raise Denied(f"{error}; set the user and password for etcd") from error
            if token == self._token:
                self._token = None
            return await _send(member, method, request, deadline, await self.authenticate(member))

    async def authenticate(self, member: Member) -> str | None:
        """A token for our user; None where there is none to authenticate or etcd does not authenticate."""
        if self._credentials is None:
            return None
        async with self._authenticating:
            if self._token is None:
                request = rpc_pb2.AuthenticateRequest(name=self._credentials.user, password=self._credentials.password)
                try:
                    answer = await _send(member, member.auth.Authenticate, request, now() + self.timeout, None)
                except (Unavailable, Denied):
                    raise
                except StoreError as error:
                    if "authentication is not enabled" in str(error):
                        return None
                    raise Denied(str(error)) from error
                self._token = str(answer.token)
            return self._token

    def learn(self, member: Member, header: Any, *, linearizable: bool) -> None:
        self.known.same(member.address, header)
        if not self.known.learn(header, linearizable=linearizable):
            self.demote(member)

    def up_to_date(self, member: Member, header: Any) -> None:
        """Raises WatchBroken where a member does not know of the newest election or others have taken its place,
        WentBack."""
        self.known.same(member.address, header)
        if header.raft_term < self.known.term:
            raise WatchBroken(f"etcd at {member.address} is cut off from the others: it has missed an election")
        if member.retired:
            raise WatchBroken(f"etcd at {member.address} is reached over a new connection from now on")

    def demote(self, member: Member) -> None:
        """To the end of the queue; nothing changes where another task was faster, or it is not used any more."""
        if member in self._order:
            self._order.remove(member)
            self._order.append(member)

    async def connected(self, deadline: float, limit: float) -> Member:
        """The first member whose connection stands and whose release may be used. Nothing that changes anything is sent
        before this returns: going round is harmless.

        Raises Unavailable at the deadline; Unfit, then or as soon as nobody else is left.
        """
        share = limit / min(3, len(self._members))
        while True:
            for member in tuple(self._order):
                if await member.connect(min(share, max(0.0, deadline - now()))) and await self._fit(
                    member, min(deadline, now() + share)
                ):
                    return member
                self.demote(member)
            if (left := deadline - now()) <= 0 or self._all_unfit():
                if unfit := [m for m in self._members if isinstance(m.verdict, Corrupting)]:
                    raise Unfit(f"{unfit[0].verdict}; it runs at {', '.join(member.address for member in unfit)}")
                raise Unavailable(
                    f"no etcd member could be reached within {limit:.1f} s, nothing was sent: {self._addresses}"
                )
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
                answer = await self.call(member, member.maintenance.Status, rpc_pb2.StatusRequest(), deadline)
                self.known.same(member.address, answer.header)
                if self._own_key and answer.header.revision < self.known.revision:
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
        seen, asked = self.known.revision, txn_request(witness(self._own_key))
        # A full etcd answers no such question; the next transaction's answer tells.
        with contextlib.suppress(NoSpace):
            answer = await self.call(member, member.kv.Txn, asked, deadline)
            self.known.not_before(seen, member.address, answer.header)

    def _all_unfit(self) -> bool:
        return all(isinstance(member.verdict, Corrupting) for member in self._members)

    async def ask(
        self, method: Callable[[Member], Callable[..., Any]], request: Any, *, linearizable: bool = False
    ) -> Any:
        """Call until a member answers or the time limit has passed. Only for what may happen more than once."""
        deadline = now() + self.timeout
        share = self.timeout / min(3, len(self._members))
        failures = 0
        while True:
            member = await self.connected(deadline, self.timeout)
            seen = self.known.revision
            try:
                answer = await self.call(member, method(member), request, min(deadline, now() + share))
                if linearizable and answer.header.revision < seen:
                    raise Unavailable(
                        f"etcd at {member.address} answered from the past, as of {answer.header.revision}"
                    )
            except Unavailable as error:
                self.demote(member)
                member.verdict = None
                failures += 1
                if (left := deadline - now()) <= 0:
                    raise Unavailable(f"no answer from etcd at {self._addresses}; last: {error}") from error
                if failures % len(self._members) == 0:
                    await asyncio.sleep(min(left, random.uniform(0.05, 0.15)))
                continue
            self.learn(member, answer.header, linearizable=linearizable)
            return answer


def now() -> float:
    """Seconds, by the event loop's clock: deadlines are in it."""
    return asyncio.get_running_loop().time()


async def _send(member: Member, method: Callable[..., Any], request: Any, deadline: float, token: str | None) -> Any:
    try:
        return await method(request, timeout=max(0.0, deadline - now()), metadata=metadata(token))
    except grpc.aio.AioRpcError as error:
        raise refusal(error, member.address) from error
