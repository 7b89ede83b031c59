"""TLS between agents: contexts made of the files in the settings, and who is at the other end.

All certificates of a cluster are from one CA ([tls] ca), and say whose they are. Nodes are known by their names, not by
their addresses: contexts here check CA and dates, and whoever connects asks `known` who answered. Light imports only:
helpers load this, too.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drover.coordinator.identity import Peer, Role, Stranger, whose

__all__ = ["Files", "Peer", "Role", "Stranger", "client_context", "known", "peer", "server_context"]


@dataclass(frozen=True)
class Files:
    """PEM files. ca: whom to believe. cert, key: who we are."""

    ca: Path
    cert: Path
    key: Path


def server_context(files: Files, *, anyone: bool = False) -> ssl.SSLContext:
    """For whoever accepts connections. anyone: a client needs no certificate; else one of our CA.

    Raises OSError (ssl.SSLError is one) where the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_NONE if anyone else ssl.CERT_REQUIRED
    return _loaded(context, files)


def client_context(files: Files) -> ssl.SSLContext:
    """For whoever connects to another agent; `known` then says whether it is the right one. Raises as above."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _loaded(context, files)


def _loaded(context: ssl.SSLContext, files: Files) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.cert, files.key, password=_no_password)
    return context


def _no_password() -> str:
    """Else OpenSSL asks for one on the terminal."""
    raise OSError("the key has a password: an agent needs one without")


def known(connection: ssl.SSLSocket | ssl.SSLObject) -> Peer:
    """Who is at the other end of an established connection. Raises Stranger."""
    certificate = connection.getpeercert()
    if not certificate:
        raise Stranger("the other end has shown no certificate")
    return peer(certificate)


def peer(certificate: Mapping[str, Any]) -> Peer:
    """Whose a certificate is, as `getpeercert` shows it. Raises Stranger."""
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    return whose(
        [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"],
        [value for kind, value in subject if kind == "commonName"],
        [value for kind, value in subject if kind == "organizationalUnitName"],
    )
