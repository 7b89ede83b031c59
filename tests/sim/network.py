"""One etcd member as a machine's client has it: instead of `coordinator.etcd_rpc.Member`, channel and stubs."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from drover.coordinator.etcd_rpc import Endpoint, Tls
from drover.coordinator.etcd_versions import Verdict
from drover.coordinator.txn import Txn
from tests.sim.answers import MembersAnswer, StatusAnswer
from tests.sim.etcd import Sender, WatchCall, _KeepAlive
from tests.sim.machine import here


class _Stub:
    """All services of one member: methods are found by the names that etcd's protocol gives them."""

    def __init__(self, member: SimMember) -> None:
        self._member = member

    async def Txn(self, request: Txn, timeout: float, metadata: Any) -> Any:
        m = self._member
        sender = m.machine.sender()
        return await m.etcd.call(
            m.machine, m.name, lambda: m.etcd.txn(m.name, request, sender), timeout, "txn", request
        )

    async def Range(self, request: Any, timeout: float, metadata: Any) -> Any:
        m = self._member
        machine = m.machine.name
        return await m.etcd.call(m.machine, m.name, lambda: m.etcd.range(m.name, request, machine), timeout, "read")

    async def LeaseGrant(self, request: Any, timeout: float, metadata: Any) -> Any:
        m = self._member
        return await m.etcd.call(
            m.machine, m.name, lambda: m.etcd.grant(m.name, request.TTL, m.machine.name), timeout, "lease"
        )

    async def LeaseRevoke(self, request: Any, timeout: float, metadata: Any) -> Any:
        m = self._member
        return await m.etcd.call(
            m.machine, m.name, lambda: m.etcd.revoke(m.name, request.ID, m.machine.name), timeout, "lease"
        )

    async def Status(self, request: Any, timeout: float, metadata: Any) -> Any:
        m = self._member
        return await m.etcd.call(
            m.machine, m.name, lambda: StatusAnswer(m.etcd.header(m.name, m.machine.name)), timeout, "read"
        )

    async def MemberList(self, request: Any, timeout: float, metadata: Any) -> Any:
        m = self._member
        return await m.etcd.call(
            m.machine, m.name, lambda: MembersAnswer(m.etcd.header(m.name, m.machine.name)), timeout, "read"
        )

    async def Compact(self, request: Any, timeout: float, metadata: Any) -> Any:
        m = self._member

        def compact() -> StatusAnswer:
            m.etcd.truth_of(m.machine.name).compact(request.revision)
            return StatusAnswer(m.etcd.header(m.name, m.machine.name))

        return await m.etcd.call(m.machine, m.name, compact, timeout, "read")

    def LeaseKeepAlive(self, timeout: float, metadata: Any) -> _KeepAlive:
        return _KeepAlive(self._member.etcd, self._member.machine, self._member.name, timeout)

    def Watch(self, metadata: Any) -> WatchCall:
        return WatchCall(self._member.etcd, self._member.machine, self._member.name)


class SimMember:
    """Made by the real client, on the machine whose process runs."""

    def __init__(self, endpoint: Endpoint, tls: Tls | None) -> None:
        self.address = endpoint.address
        self.name = endpoint.address.partition(":")[0]
        self.machine = here()
        self.etcd = self.machine.world.etcd
        self.kv = self.watch = self.lease = self.maintenance = self.auth = self.cluster = _Stub(self)
        self.verdict: Verdict | None = None
        self.retired = False

    async def connect(self, limit: float) -> bool:
        if self.etcd.reaches(self.machine.name, self.name):
            return True
        self.verdict = None
        if self.etcd.members[self.name].down <= self.etcd.loop.now and limit > 0:
            await asyncio.sleep(limit)
        return self.etcd.reaches(self.machine.name, self.name)

    @property
    def stands(self) -> bool:
        return self.etcd.reaches(self.machine.name, self.name)

    def changed(self, seen: grpc.ChannelConnectivity) -> asyncio.Future[None]:
        future: asyncio.Future[None] = self.etcd.loop.create_future()
        return future

    async def close(self) -> None:
        return None


__all__ = ["Sender", "SimMember"]
