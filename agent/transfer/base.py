"""The data path as back ends and the mover see it.

At the target, for each stream that is agreed on over gRPC:

    async with data_path.expect(stream, sender="node-a") as incoming:
        ...                                  # tell the sender incoming.ticket, over gRPC
        async for round_ in incoming:        # the sender has begun one; round_.about is what it says of it
            try:
                await round_.receive(["btrfs", "receive", ...], Check("package.module:function", {...}))
            except StorageError:
                ...                          # nothing arrived: take away what the command left

and at the source:

    async with data_path.connect(stream, ticket) as outgoing:
        sent = await outgoing.send(["btrfs", "send", ...], about={...}, deterministic=True)
        sent.answer                          # what the receiver's check returned

Commands and checks run in helpers, inside the dataset's cgroup and behind the gate. `send` returns only after the
receiver's command has ended with status 0, length and checksum agree, and its check has returned, so a check that syncs
makes that a promise that it is durable. The round fails on both sides or on none, but for one case: a receiver that
could not tell the sender that all is well keeps what it has, and the sender sees a ConnectionCut or PeerSilent.

One round after the other, on one connection. A failed round leaves the connection usable for the next. A cut
connection is taken up again by itself: the sender goes on from what the receiver has, for `Waits.keep` seconds.
Cancelling any of these, or leaving the `async with`, kills what runs for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Stream:
    """What a connection is for; both ends must mean the same. purpose: `move`, `copy`…"""

    dataset: str
    uid: str
    epoch: int
    purpose: str


@dataclass(frozen=True)
class Ticket:
    """What the sender needs to know, and nobody else may. node: the receiver. address: `host:port`, `[::1]:port`.
    name: says which stream a connection is for, before anything is encrypted. secret: proves that it is that sender."""

    node: str
    address: str
    name: str
    secret: str


@dataclass(frozen=True)
class Check:
    """A function `package.module:function` that the receiving helper calls with these arguments (JSON) after the
    command has ended well: it looks whether all is there, makes it durable, and returns JSON. It raises StorageError
    where the round has not arrived after all."""

    function: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Sent:
    """bytes: of the stream. seconds: from `send` to the receiver's answer. answer: what its check returned."""

    bytes: int
    seconds: float
    answer: Any


@dataclass(frozen=True)
class Received:
    """bytes: of the stream. answer: what the check returned."""

    bytes: int
    answer: Any


@dataclass(frozen=True)
class Waits:
    """Time limits, seconds. silence: without a sign of life, each side sending one every fifth of it. keep: how long a
    cut connection may take to come back; the commands wait meanwhile. connect: to connect and agree on who is who."""

    silence: float = 15.0
    keep: float = 60.0
    connect: float = 10.0


class Outgoing(Protocol):
    """The sender's end of a connection."""

    async def send(
        self,
        argv: Sequence[str],
        about: Mapping[str, Any] | None = None,
        *,
        deterministic: bool = False,
        both: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Sent:
        """One round: what `argv` writes to its standard output.

        both: the two commands talk: what the receiver's writes to its standard output goes to this one's standard
        input, so a connection that is cut ends the round. The receiver must be told the same; its command's input ends
        when this one has ended, not before.

        about: JSON for the receiver, under 32 KiB. deterministic: run again it makes the same bytes, so that a new
        helper can go on where one that died had been; and they have checksums of their own, as those of btrfs and ZFS.
        progress: called now and then with the bytes that the receiver has taken. Raises StorageError
        (transfer/errors.py; NoRoom: the receiver is full); GateClosed, HelperDied.
        """
        ...

    def limit(self, rate: int | None) -> None:
        """Bytes a second on the wire from now on, in the middle of a round as well; None: no limit."""
        ...


class IncomingRound(Protocol):
    """A round that the sender has begun. number: grows. about: what it says of it."""

    number: int
    about: Mapping[str, Any]

    async def receive(
        self, argv: Sequence[str], check: Check, *, both: bool = False, progress: Callable[[int], None] | None = None
    ) -> Received:
        """Feed `argv`'s standard input, then `check`. both: as in `send`. Raises StorageError, also where the sender's
        end failed."""
        ...

    async def refuse(self, error: Exception) -> None:
        """Its text is what the sender raises."""
        ...


class Incoming(Protocol):
    """The receiver's end. Iterate over it once: it ends when the sender has finished, and raises TransferError when the
    sender is gone for good. A round that is neither received nor refused before the next is asked for is refused."""

    ticket: Ticket

    def __aiter__(self) -> AsyncIterator[IncomingRound]: ...


class DataPath(Protocol):
    """One for an agent: its data port and the streams that are expected there."""

    def expect(self, stream: Stream, sender: str) -> AbstractAsyncContextManager[Incoming]:
        """sender: the node that owns the epoch; nobody else is heard. Raises StorageError where no helper is free."""
        ...

    def connect(self, stream: Stream, ticket: Ticket) -> AbstractAsyncContextManager[Outgoing]:
        """Connected on entry. Raises Unreachable, NotTrusted, PeerRefused; GateClosed, HelperDied."""
        ...
