"""Who has called, by the certificate that a gRPC call came with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cryptography import x509

from drover.coordinator.certificates import Certificate
from drover.coordinator.identity import Peer, Stranger


def caller(auth_context: Mapping[str, Iterable[bytes]]) -> Peer:
    """auth_context: as `ServicerContext.auth_context()` has it. Raises Stranger."""
    shown = list(auth_context.get("x509_pem_cert", ()))
    if not shown:
        raise Stranger("the call came without a certificate")
    peer = Certificate.of(x509.load_pem_x509_certificate(shown[0])).peer
    if peer is None:
        raise Stranger("the certificate of the call does not say whose it is")
    return peer
