"""Who has called, by the certificate that a gRPC call came with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cryptography import x509

from drover.coordinator.certificates import Certificate
from drover.coordinator.identity import Peer, Role, Stranger


def caller(auth_context: Mapping[str, Iterable[bytes]]) -> Peer:
    """auth_context: as `ServicerContext.auth_context()` has it. Raises Stranger."""
    shown = list(auth_context.get("x509_pem_cert", ()))
    if not shown:
        raise Stranger("the call came without a certificate")
    peer = Certificate.of(x509.load_pem_x509_certificate(shown[0])).peer
    if peer is None:
        raise Stranger("the certificate of the call does not say whose it is")
    return peer


def check_node(auth_context: Mapping[str, Iterable[bytes]], name: str | None = None) -> None:
    """That the caller is a node, and this one. Raises Stranger."""
    peer = caller(auth_context)
    if peer.role is not Role.NODE or name not in (None, peer.name):
        raise Stranger(
            f"the certificate of the call is that of {peer.role} {peer.name}, not of node {name}"
            if name is not None
            else f"the certificate of the call is that of {peer.role} {peer.name}, not of a node"
        )
