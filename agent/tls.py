"""TLS between agents: who a certificate says somebody is, and contexts made of the files in the settings.

Every agent's certificate is from one CA ([tls] ca), and says its node's name and role. Not its address: nodes are known
by their names, so contexts here check the CA and the dates, and whoever connects asks `known` who answered. Standard
library only: helpers load this, too.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import unquote

URI = re.compile(r"drover://(?P<cluster>[^/]*)/(?P<role>[a-z]+)/(?P<name>[^/]+)")
"""What `drover ca` writes into certificates: drover://CLUSTER/node/NAME."""


class Role(StrEnum):
    NODE = "node"
    OPERATOR = "operator"


@dataclass(frozen=True)
class Files:
    """PEM files. ca: whom to believe. cert, key: who we are."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True)
class Peer:
    """Who is at the other end, by its certificate."""

    name: str
    role: Role


class Stranger(Exception):
    """The CA has signed it, but the certificate does not say what was needed. The text says what it says instead."""


def server_context(files: Files, *, anyone: bool = False) -> ssl.SSLContext:
    """For whoever accepts connections. anyone: a client needs no certificate; else one of our CA.

    Raises OSError (ssl.SSLError is one) where the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL if anyone else ssl.CERT_REQUIRED
    return _loaded(context, files)


def client_context(files: Files) -> ssl.SSLContext:
    """For whoever connects to another agent; `known` then says whether it is the right one. Raises as above."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _loaded(context, files)


def _loaded(context: ssl.SSLContext, files: Files) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(files.ca)
    context.load_cert_chain(files.cert, files.key)
    return context


def known(connection: ssl.SSLSocket | ssl.SSLObject) -> Peer:
    """Who is at the other end of an established connection. Raises Stranger."""
    certificate = connection.getpeercert()
    if not certificate:
        raise Stranger("the other end has shown no certificate")
    return peer(certificate)


def peer(certificate: Mapping[str, Any]) -> Peer:
    """Who a certificate (as `getpeercert` has it) names: by its URI drover://CLUSTER/ROLE/NAME; in one of another PKI
    by its common name, with the role as an organizational unit. Raises Stranger."""
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
    names = [value for kind, value in subject if kind == "commonName"]
    units = [value for kind, value in subject if kind == "organizationalUnitName"]
    return said(uris, names, units)


def said(uris: list[str], names: list[str], units: list[str]) -> Peer:
    """What URIs, common names and organizational units of a certificate say together. Raises Stranger."""
    ours = [match for uri in uris if (match := URI.fullmatch(uri)) and match["role"] in set(Role)]
    if len(ours) == 1:
        return Peer(unquote(ours[0]["name"]), Role(ours[0]["role"]))
    roles = [unit for unit in units if unit in set(Role)]
    if not ours and len(names) == 1 and len(roles) == 1:
        return Peer(names[0], Role(roles[0]))
    shown = f"common names {names}, organizational units {units}, URIs {uris}"
    raise Stranger(
        "the certificate does not say whose it is: it needs one URI drover://CLUSTER/node/NAME, or the name as its "
        f"common name and 'node' or 'operator' as an organizational unit; it has {shown}"
    )
