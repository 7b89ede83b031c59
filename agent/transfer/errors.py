"""How a transfer can fail. All are StorageErrors, so they leave a helper as themselves; `from_peer` and `to_peer` carry
them to the other node. Standard library only: helpers import this.

After any of them the round has not arrived: whatever the receiving command has left is for the receiver to take away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drover.agent.storage.base import NoRoom, StorageError


class TransferError(StorageError):
    """Base. The text says what is wrong and what to do."""


class Unreachable(TransferError):
    """No connection to the other node's data port: refused, no route, or no answer in time."""


class NotTrusted(TransferError):
    """TLS failed, the certificate names another node, or there are no certificates and the network is not said to be
    trusted."""


class PeerRefused(TransferError):
    """The other node does not expect this stream, or does not want this round; the text says why."""


class PeerSilent(TransferError):
    """The connection stands, but nothing was heard of the other node for too long, or it was cut and did not come back
    in time."""


class ConnectionCut(TransferError):
    """The connection was cut and this round cannot be continued: begin it again."""


class CommandFailed(TransferError):
    """The command that makes or takes the stream failed; the text has its status and the last lines it said."""


class StreamDamaged(TransferError):
    """Length or checksum of what arrived is not what was sent, or what was sent again differs from what was sent."""


class VerificationFailed(TransferError):
    """Everything arrived, and the receiver's own check of the result failed."""


LONGEST = 8000
"""Characters of a text that travels."""

_TRAVELS: Mapping[str, type[StorageError]] = {
    kind.__name__: kind
    for kind in (NoRoom, NotTrusted, PeerRefused, PeerSilent, ConnectionCut, CommandFailed, StreamDamaged)
}


def to_peer(error: Exception) -> dict[str, str]:
    """As JSON. What is no class that both sides act on travels as VerificationFailed: its text says what it was."""
    kind = type(error).__name__ if type(error) in _TRAVELS.values() else VerificationFailed.__name__
    return {"kind": kind, "text": (str(error) or type(error).__name__)[:LONGEST]}


def from_peer(message: Mapping[str, Any], node: str) -> StorageError:
    """What `to_peer` made there. Only the classes named here: the other node does not choose what is imported."""
    kind = _TRAVELS.get(str(message.get("kind")), VerificationFailed)
    return kind(f"{node}: {message.get('text')}")
