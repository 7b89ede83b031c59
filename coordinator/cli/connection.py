"""From the user's options to a store: which members, which prefix, and what to say when etcd does not answer."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from drover.coordinator.cli.errors import Failed, NoEtcd, NotPossible, Usage
from drover.coordinator.keys import Keys
from drover.coordinator.store import Denied, NoSpace, Store, StoreError, Unanswered, Unavailable, Unfit
from drover.coordinator.txn import Txn, TxnResult

if TYPE_CHECKING:  # the client is imported when it is needed
    from drover.coordinator.etcd import Etcd
    from drover.coordinator.etcd_rpc import Credentials, Tls

T = TypeVar("T")

_ENDPOINT = re.compile(r"(?:https?://)?(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.-]+):\d{1,5}/?")


@dataclass(frozen=True)
class Access:
    """How etcd knows us."""

    tls: Tls | None
    credentials: Credentials | None


@dataclass(frozen=True)
class Connection:
    """Where a cluster is. endpoints: `host:port`, with or without http:// or https://. access: None: as the environment
    says."""

    endpoints: tuple[str, ...]
    keys: Keys
    access: Access | None = None


def connection(endpoints: str, prefix: str) -> Connection:
    """Checks what the user typed. Raises Usage."""
    members: list[str] = []
    for text in filter(None, re.split(r"[,\s]+", endpoints)):
        if not _ENDPOINT.fullmatch(text):
            raise Usage(f"endpoint {text!r} is not HOST:PORT", "Example: --endpoints 10.0.0.1:2379,10.0.0.2:2379")
        members.append(text)
    if not members:
        raise Usage("no etcd endpoint is given", "Example: --endpoints 127.0.0.1:2379")
    try:
        return Connection(tuple(members), Keys(prefix))
    except ValueError as error:
        raise Usage(str(error)) from None


def run(where: Connection, work: Callable[[Store, Keys], Awaitable[T]]) -> T:
    """Runs one verb's work against the cluster. Raises CliError; what stores raise becomes one."""

    async def connected() -> T:
        async with open_store(where) as store:
            return await work(store, where.keys)

    return run_with(where, connected)


def run_with(where: Connection, work: Callable[[], Awaitable[T]]) -> T:
    """As `run`, for work that opens its own connection."""

    async def worked() -> T:
        return await work()

    try:
        return asyncio.run(worked())
    except Unfit as error:
        raise Failed(str(error)) from error
    except Unavailable as error:
        raise NoEtcd(f"etcd does not answer at {', '.join(where.endpoints)} ({error})", _CHECK) from error
    except Unanswered as error:
        raise NoEtcd(
            f"etcd did not answer at {', '.join(where.endpoints)} whether it took the change ({error})",
            "Look with `drover show`, and give the command again where it did not happen.",
            outcome="It may still happen.",
        ) from error
    except NoSpace as error:
        raise Failed(
            f"etcd is full and takes no writes ({error})", "Compact and defragment it, then `etcdctl alarm disarm`."
        ) from error
    except Denied as error:
        raise Failed(
            f"etcd denies access ({error})", f"The user needs read and write on the prefix {where.keys.root}"
        ) from error
    except StoreError as error:
        raise Failed(f"etcd: {error}") from error


_CHECK = (
    "Check that etcd runs and can be reached from here (etcdctl endpoint status), and what --endpoints,\n"
    "DROVER_ENDPOINTS or ETCDCTL_ENDPOINTS say."
)


def from_environment() -> Access:
    """Certificates and a user, from the variables that etcdctl reads too."""
    from drover.coordinator.etcd import Credentials, Tls

    files = [os.environ.get(name) for name in ("ETCDCTL_CACERT", "ETCDCTL_CERT", "ETCDCTL_KEY")]
    tls = Tls(*(Path(file) if file else None for file in files)) if any(files) else None
    user, _, password = os.environ.get("ETCDCTL_USER", "").partition(":")
    password = os.environ.get("ETCDCTL_PASSWORD", password)
    return Access(tls, Credentials(user, password) if user else None)


@asynccontextmanager
async def open_store(where: Connection) -> AsyncIterator[Store]:
    """A client for one verb, as `open_etcd` makes it. Raises Usage."""
    async with open_etcd(where) as store:
        yield store


@asynccontextmanager
async def open_etcd(where: Connection, timeout: float = 2.0) -> AsyncIterator[Etcd]:
    """A client for one verb; timeout: seconds, of one request. Raises Usage."""
    from drover.coordinator.etcd import Etcd

    access = where.access or from_environment()
    try:
        store = Etcd(where.endpoints, timeout=timeout, tls=access.tls, credentials=access.credentials)
    except (OSError, ValueError) as error:
        raise Usage(
            f"cannot connect: {error}", "Check --endpoints, ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY."
        ) from error
    async with store:
        yield store


async def commit(store: Store, txn: Txn, conflict: str) -> TxnResult:
    """Runs a transaction that must hold. Raises NotPossible with `conflict` where what it compares has changed."""
    result = await store.txn(txn)
    if not result.succeeded:
        raise NotPossible(conflict, "Somebody else was at it at the same time; look, and give the command again.")
    return result
