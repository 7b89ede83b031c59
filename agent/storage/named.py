"""Snapshots for users: what a back end has besides, where it can take them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from drover.agent.storage.base import Backend, Token, Volume


@dataclass(frozen=True)
class Named:
    """A snapshot that a user has asked for, under the user's name. taken: seconds of its node's clock. size: bytes that
    only it takes; None: not known."""

    name: str
    guid: str
    taken: float
    size: int | None = None


@runtime_checkable
class NamedSnapshots(Backend, Protocol):
    """What a back end has besides that can take snapshots for users. They are of one volume on one node, and stay there
    until they are removed by name, or the volume is destroyed."""

    async def take(self, volume: Volume, token: Token, name: str) -> Named:
        """Of the working copy, of one moment, in use or not. Idempotent by name. The caller is active.

        Raises NotFound, Foreign, Superseded, NoRoom, GateClosed.
        """
        ...

    async def named(self, volume: Volume) -> Sequence[Named]:
        """Those here, oldest first."""
        ...

    async def remove(self, volume: Volume, token: Token, name: str) -> None:
        """Idempotent. Raises Foreign, Superseded."""
        ...

    async def clone(self, volume: Volume, name: str, new: Volume, token: Token) -> str:
        """Another volume that begins with what is in it, as `create` makes an empty one; token: the new one's.

        Raises NotFound, NotBlank, Foreign, Superseded, NoRoom, GateClosed.
        """
        ...

    async def restore(self, volume: Volume, token: Token, name: str, kept: str) -> None:
        """The working copy becomes what is in it. What it was becomes the snapshot `kept`: nothing is lost. Idempotent.

        Raises NotFound, Foreign, Superseded, Busy while it is mounted, NoRoom, GateClosed.
        """
        ...
