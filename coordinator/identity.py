"""Whose a certificate is (pure): `drover ca` says it in one way, other PKIs in another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote

_URI = re.compile(r"drover://(?P<cluster>[^/]+)/(?P<role>[a-z]+)/(?P<name>[^/]+)")


ETCD_CN = "etcd"
"""The common name of all members of etcd: by it their peers know them (--peer-cert-allowed-cn)."""


class Role(StrEnum):
    """What somebody with a certificate is to the others."""

    NODE = "node"
    """An agent. Only a node is sent data, or may send some."""
    OPERATOR = "operator"
    """A person or a program that changes what is wanted."""
    OBSERVER = "observer"
    """One that looks."""
    ETCD = "etcd"
    """A member of etcd."""


@dataclass(frozen=True)
class Peer:
    """Who is at the other end, by its certificate."""

    name: str
    role: Role


class Stranger(Exception):
    """The certificate does not say what was needed. The text says what it says instead."""


def uri(cluster: str, peer: Peer) -> str:
    """What `whose` reads first."""
    return f"drover://{quote(cluster, safe='')}/{peer.role}/{quote(peer.name, safe='')}"


def whose(uris: Sequence[str], names: Sequence[str], units: Sequence[str]) -> Peer:
    """By the URI drover://CLUSTER/ROLE/NAME; where there is none, the common name, with the role as an organizational
    unit. Raises Stranger where that leaves any doubt."""
    ours = [uri for uri in uris if uri.startswith("drover:")]
    if len(ours) == 1 and (match := _URI.fullmatch(ours[0])) and match["role"] in set(Role):
        return Peer(unquote(match["name"]), Role(match["role"]))
    roles = [unit for unit in units if unit in set(Role)]
    if not ours and len(names) == 1 and len(roles) == 1:
        return Peer(names[0], Role(roles[0]))
    raise Stranger(
        "the certificate does not say whose it is: it needs one URI drover://CLUSTER/node/NAME, or the name as its "
        f"common name and the role ({', '.join(Role)}) as an organizational unit; it has the URIs {list(uris)}, "
        f"the common names {list(names)}, the units {list(units)}"
    )
