"""Who is at the other end: TLS, names and secrets, before a connection is used. Both relays' side; it blocks for
`Waits.connect` at most. Standard library only.

Before all this the sender's agent has written MAGIC and the ticket's name in the clear, and the receiver's agent has
answered KNOWN: it reads nothing more, as TLS begins with the next byte, and gives the connection to the relay that
waits for that name.
"""

from __future__ import annotations

import hmac
import select
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drover.agent import tls
from drover.agent.transfer.errors import ConnectionCut, NotTrusted, PeerRefused, Unreachable
from drover.agent.transfer.wire import VERSION, Kind, Lost, Wire, parsed, reason

MAGIC = b"drover\x00\x01"
NAME = 16
"""Bytes of a ticket's name."""
KNOWN, UNKNOWN = b"+", b"-"


@dataclass(frozen=True)
class Terms:
    """What both relays know beforehand. stream: as JSON. files: None: the network is trusted. silence, connect:
    seconds."""

    stream: Mapping[str, Any]
    sender: str
    receiver: str
    secret: str
    files: tls.Files | None
    silence: float
    connect: float

    @classmethod
    def read(cls, message: Mapping[str, Any]) -> Terms:
        files = message["files"]
        known = tls.Files(*(Path(files[name]) for name in ("ca", "cert", "key"))) if files else None
        return cls(**{**message, "files": known})


def call(connection: socket.socket, terms: Terms) -> tuple[Wire, dict[str, Any]]:
    """The sender's: the wire, and what the receiver has. Closes the connection where it raises: NotTrusted,
    PeerRefused, ConnectionCut, Unreachable."""
    deadline = time.monotonic() + terms.connect
    try:
        secured = _secured(connection, terms, server=False, name=terms.receiver)
    except BaseException:
        connection.close()
        raise
    wire = Wire(secured, terms.silence)
    try:
        if why := _other(secured, terms.receiver):
            raise NotTrusted(why)
        wire.say(
            Kind.HELLO,
            {"version": VERSION, "stream": terms.stream, "who": terms.sender, "secret": terms.secret},
        )
        kind, answer = _answer(wire, deadline)
        if kind is Kind.REFUSED:
            raise PeerRefused(f"{terms.receiver} refused the stream: {answer.get('why')}")
        if kind is not Kind.WELCOME:
            raise PeerRefused(f"{terms.receiver} answered with {kind.name}: is it another version?")
    except Lost as lost:
        wire.close()
        if isinstance(lost.__cause__, ssl.SSLError) and not isinstance(lost.__cause__, ssl.SSLEOFError):
            raise NotTrusted(f"{terms.receiver} did not take our certificate: {reason(lost.__cause__)}") from lost
        raise ConnectionCut(f"to {terms.receiver}: {lost}") from lost
    except BaseException:
        wire.close()
        raise
    return wire, answer


def answer(connection: socket.socket, terms: Terms) -> Wire:
    """The receiver's: a wire to the right sender, which waits for its WELCOME. Closes the connection where it raises:
    NotTrusted, PeerRefused (which the sender was told), ConnectionCut, Unreachable."""
    deadline = time.monotonic() + terms.connect
    try:
        secured = _secured(connection, terms, server=True, name=terms.sender)
    except BaseException:
        connection.close()
        raise
    wire = Wire(secured, terms.silence)
    try:
        kind, hello = _answer(wire, deadline)
        if why := _other(secured, terms.sender) or _wrong(kind, hello, terms):
            wire.say(Kind.REFUSED, {"why": why})
            wire.flush()
            raise PeerRefused(f"a connection for {terms.stream['dataset']} was refused: {why}")
    except Lost as lost:
        wire.close()
        raise ConnectionCut(f"from {terms.sender}: {lost}") from lost
    except BaseException:
        wire.close()
        raise
    return wire


def _wrong(kind: Kind, hello: Mapping[str, Any], terms: Terms) -> str:
    if kind is not Kind.HELLO or not hmac.compare_digest(
        str(hello.get("secret")).encode(errors="replace"), terms.secret.encode()
    ):
        return "it does not know the secret of this stream"
    if hello.get("version") != VERSION:
        return f"it speaks version {hello.get('version')} of the data path, and this node version {VERSION}"
    if hello.get("who") != terms.sender or hello.get("stream") != terms.stream:
        return (
            f"it is {hello.get('who')} with {hello.get('stream')}, and expected is {terms.sender} with {terms.stream}"
        )
    return ""


def _secured(connection: socket.socket, terms: Terms, server: bool, name: str) -> socket.socket:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if terms.files is None:
        return connection
    connection.settimeout(terms.connect)
    try:
        if server:
            context = tls.server_context(terms.files)
            context.num_tickets = 0  # nothing is resumed: tickets would be data that nobody reads
        else:
            context = tls.client_context(terms.files)
        secured = context.wrap_socket(connection, server_side=server)
    except TimeoutError as error:
        raise Unreachable(f"{name} did not finish the TLS handshake within {terms.connect:g} s") from error
    except ssl.SSLEOFError as error:
        raise ConnectionCut(f"{name} closed the connection during the TLS handshake") from error
    except ssl.SSLError as error:
        raise NotTrusted(f"TLS with {name} failed: {reason(error)}") from error
    except OSError as error:
        raise ConnectionCut(f"to {name}, during the TLS handshake: {reason(error)}") from error
    return secured


def _other(secured: socket.socket, name: str) -> str:
    """Who is at the other end, where it is not that node."""
    if not isinstance(secured, ssl.SSLSocket):
        return ""
    try:
        peer = tls.known(secured)
    except tls.Stranger as stranger:
        return f"expected was node {name}: {stranger}"
    if (peer.name, peer.role) == (name, tls.Role.NODE):
        return ""
    return f"expected was node {name}, and the certificate is that of {peer.role} {peer.name}"


def _answer(wire: Wire, deadline: float) -> tuple[Kind, dict[str, Any]]:
    """The other side's first frame. Raises Lost."""
    while True:
        wire.flush()
        if frame := wire.next():
            return frame[0], parsed(frame[1])
        if (left := deadline - time.monotonic()) <= 0:
            raise Lost("no answer in time")
        select.select([wire], [wire] if wire.pending else [], [], left)
