"""One member of etcd: where it is, the channel to it, and what its answers and refusals mean.

The generated stubs (`etcd3.etcdrpc`) are untyped: what comes from them is `Any` here and typed from here on.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
from etcd3.etcdrpc import kv_pb2, rpc_pb2, rpc_pb2_grpc

from drover.coordinator.etcd_versions import Verdict
from drover.coordinator.store import Compacted, Denied, LeaseGone, NoSpace, StoreError, Unavailable
from drover.coordinator.txn import Compare, CreateRevision, Delete, Entry, ModRevision, OnLease, Put, Txn

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    # Repeating is decided here, by whether it is harmless.
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    # etcd does not split what a watch or a range answers.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # In spite of its name also how long one attempt to connect may last.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # etcd cuts off clients that ping more often than every 5 s (--grpc-keepalive-min-time), or without a call.
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
)

_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
}


_UNDER_WAY = {grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING}

TOKEN_REFUSED = ("invalid auth token", "revision in auth store is old", "user name is empty")
"""What etcd says of a token that is unknown, too old or missing."""


@dataclass(frozen=True)
class Tls:
    """PEM files. ca: whom to believe; None: gRPC's own list. cert, key: who we are, both or neither."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.ca, self.cert, self.key) if path)

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError (ssl.SSLError is one) where a file cannot be read or used, ValueError where only one of cert
        and key is given."""
        if (self.cert is None) != (self.key is None):
            raise ValueError("a TLS client certificate needs both files, cert and key")
        ca, key, cert = (path.read_bytes() if path else None for path in (self.ca, self.key, self.cert))
        # gRPC would say nothing of files that do not fit, and never connect.
        trial = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca:
            trial.load_verify_locations(self.ca)
        if self.cert:
            trial.load_cert_chain(self.cert, self.key, password="")
        return grpc.ssl_channel_credentials(ca, key, cert)


@dataclass(frozen=True)
class Credentials:
    """A user of etcd's own authentication."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Endpoint:
    """`host:port`, IPv6 in brackets; `secure` is None where the scheme was not given."""

    address: str
    secure: bool | None


class Unauthenticated(StoreError):
    """The token is missing, unknown or too old: get another one. Nothing was done."""


class Future(StoreError):
    """The member has not heard of a revision that was asked for."""


def parse_endpoint(text: str) -> Endpoint:
    """Raises ValueError that names `text`."""
    scheme, mark, rest = text.strip().rpartition("://")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
        if mark and scheme not in ("http", "https"):
            raise ValueError(f"the scheme is {scheme!r}")
        if not host or any(c.isspace() for c in host):
            raise ValueError("there is no host")
        if not port:
            raise ValueError("there is no port")
        if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("there is more than host and port")
    except ValueError as error:
        raise ValueError(
            f"etcd endpoint {text!r} must look like http://host:2379, https://host:2379, host:2379 or "
            f"http://[::1]:2379: {error}"
        ) from None
    return Endpoint(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", scheme == "https" if mark else None)


class Member:
    """The channel to one member, and its stubs. Make it where an event loop runs."""

    def __init__(self, endpoint: Endpoint, tls: Tls | None) -> None:
        """Raises ValueError where the endpoint says http though TLS is wanted; what `Tls.credentials` raises."""
        if tls is not None and endpoint.secure is False:
            raise ValueError(f"etcd endpoint http://{endpoint.address} is without TLS, but TLS is set: write https://")
        self.address = endpoint.address
        target = f"dns:///{endpoint.address}"
        if tls is not None or endpoint.secure:
            self.channel = grpc.aio.secure_channel(target, (tls or Tls()).credentials(), options=_OPTIONS)
        else:
            self.channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self.kv: Any = rpc_pb2_grpc.KVStub(self.channel)
        self.watch: Any = rpc_pb2_grpc.WatchStub(self.channel)
        self.lease: Any = rpc_pb2_grpc.LeaseStub(self.channel)
        self.maintenance: Any = rpc_pb2_grpc.MaintenanceStub(self.channel)
        self.auth: Any = rpc_pb2_grpc.AuthStub(self.channel)
        self.cluster: Any = rpc_pb2_grpc.ClusterStub(self.channel)
        self.verdict: Verdict | None = None
        """On the release that it runs; None: to be asked for, as after each new connection."""
        self.retired = False
        """Others have taken its place: only watches that stand still use it, and they stand anew at their next sign of
        life."""
        self._change: asyncio.Task[None] | None = None

    async def connect(self, limit: float) -> bool:
        """Whether the connection stands, waiting at most `limit` seconds; False at once after a failed attempt.

        A frozen member accepts TCP, but is not connected: gRPC waits for its first HTTP/2 frame.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + limit
        while (state := self.channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            self.verdict = None
            left = until - loop.time()
            if state not in _UNDER_WAY or left <= 0:
                return False
            await asyncio.wait({self.changed(state)}, timeout=left)
        return True

    @property
    def stands(self) -> bool:
        return self.channel.get_state() is grpc.ChannelConnectivity.READY

    def changed(self, seen: grpc.ChannelConnectivity) -> asyncio.Task[None]:
        """Done when the connection's state is not `seen` any more, maybe at once. Shared: gRPC keeps each such wait
        until the state changes. A wait for the end of another state than `seen` is as good: that state has ended.
        """
        if self._change is None or self._change.done():
            self._change = asyncio.create_task(self.channel.wait_for_state_change(seen))
        return self._change

    async def close(self) -> None:
        await self.channel.close()
        if self._change is not None:
            # Ended by the closing.
            await asyncio.wait({self._change}, timeout=1.0)
            self._change.cancel()


def refusal(error: grpc.aio.AioRpcError, address: str) -> StoreError:
    """What a failed call means. Unavailable stands for everything whose outcome is not known."""
    details, code = error.details() or "", error.code()
    said = f"etcd at {address}: {details.removeprefix('etcdserver: ') or code.name.lower()}"
    if "requested lease not found" in details:
        return LeaseGone(said)
    if "database space exceeded" in details:
        return NoSpace(f"{said}; compact and defragment it, then `etcdctl alarm disarm`")
    if "has been compacted" in details:
        return Compacted(0)
    if "future revision" in details:
        return Future(said)
    if any(words in details for words in TOKEN_REFUSED):
        return Unauthenticated(said)
    if code is grpc.StatusCode.PERMISSION_DENIED or "authentication failed" in details:
        return Denied(said)
    if code in _REFUSALS or "larger than max" in details:
        return StoreError(said)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(f"etcd at {address} did not answer in time")
    # Also UNKNOWN: "not a primary lessor" comes as that (etcd issue 21671).
    return Unavailable(said)


def metadata(token: str | None) -> tuple[tuple[str, str], ...]:
    return () if token is None else (("token", token),)


def encode(key: str) -> bytes:
    """A key as etcd has it; whatever bytes others put there survive the way there and back."""
    return key.encode("utf-8", "surrogateescape")


def decode(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def entry(kv: Any) -> Entry:
    return Entry(decode(kv.key), kv.value, kv.create_revision, kv.mod_revision, kv.lease)


def _compare(compare: Compare) -> Any:
    pb = rpc_pb2.Compare
    match compare:
        case ModRevision(key, revision):
            return pb(result=pb.EQUAL, target=pb.MOD, key=encode(key), mod_revision=revision)
        case CreateRevision(key, revision):
            return pb(result=pb.EQUAL, target=pb.CREATE, key=encode(key), create_revision=revision)
        case OnLease(key, lease):
            return pb(result=pb.EQUAL, target=pb.LEASE, key=encode(key), lease=lease)


def _operation(operation: Put | Delete) -> Any:
    match operation:
        case Put(key, value, lease):
            return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=encode(key), value=value, lease=lease))
        case Delete(key, end):
            deleted = rpc_pb2.DeleteRangeRequest(key=encode(key), range_end=encode(end))
            return rpc_pb2.RequestOp(request_delete_range=deleted)


def txn_request(txn: Txn) -> Any:
    reads = [rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=encode(key))) for key in txn.read]
    return rpc_pb2.TxnRequest(
        compare=[_compare(compare) for compare in txn.compare],
        success=[_operation(operation) for operation in txn.then] + reads,
        failure=reads,
    )


def is_delete(event: Any) -> bool:
    return bool(event.type == kv_pb2.Event.DELETE)
