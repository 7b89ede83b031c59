"""X.509: a small authority for one cluster, and what certificates say, whoever made them.

EC keys on P-256: every TLS library takes them, Go's (etcd) included. Files are replaced whole, and only their owner may
read them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from drover.coordinator.identity import ETCD_CN, Peer, Role, Stranger, uri, whose

AUTHORITY_DAYS, LEAF_DAYS = 3650, 365

_SKEW = timedelta(minutes=5)
"""How far the clock of a machine that checks may be behind the one that issued."""


class Unusable(ValueError):
    """A file is not what it should be. The text names it, and says what is wrong."""


@dataclass(frozen=True)
class Certificate:
    """What one certificate says. peer: whose it is; None: it does not say, or is an authority's. names: common names.
    addresses: what it may be reached at, as a server. expires: the time after which nobody believes it."""

    peer: Peer | None
    authority: bool
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    since: datetime
    expires: datetime
    issuer: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """The first one in a PEM file. Raises Unusable."""
        return cls.of(_loaded(path))

    @classmethod
    def of(cls, found: x509.Certificate) -> Self:
        names, units = (
            [str(attribute.value) for attribute in found.subject.get_attributes_for_oid(oid)]
            for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME)
        )
        uris: list[str] = []
        addresses: list[str] = []
        with contextlib.suppress(x509.ExtensionNotFound):
            said = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = list(said.get_values_for_type(x509.UniformResourceIdentifier))
            addresses = [
                *said.get_values_for_type(x509.DNSName),
                *map(str, said.get_values_for_type(x509.IPAddress)),
            ]
        authority = False
        with contextlib.suppress(x509.ExtensionNotFound):
            authority = found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        try:
            peer = None if authority else whose(uris, names, units)
        except Stranger:
            peer = None
        return cls(
            peer,
            authority,
            tuple(names),
            tuple(addresses),
            found.not_valid_before_utc,
            found.not_valid_after_utc,
            found.issuer.rfc4514_string(),
        )

    def due(self, now: datetime) -> bool:
        """Whether less than a third of its life is left: time for another one."""
        return self.expires - now < (self.expires - self.since) / 3


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


def create_authority(cluster: str, days: int = AUTHORITY_DAYS) -> Pair:
    """A new CA, for a cluster and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Drover CA"),
            x509.NameAttribute(NameOID.COMMON_NAME, cluster),
        ]
    )
    return Pair(_pem(_self_signed(name, key, days)), _key_pem(key))


@dataclass(frozen=True)
class Authority:
    """A CA of which we have the key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, certificate: Path, key: Path) -> Self:
        """Raises Unusable."""
        return cls(_loaded(certificate), _loaded_key(key))

    @property
    def cluster(self) -> str:
        return str(self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)

    def issue(self, peer: Peer, addresses: Sequence[str], days: int = LEAF_DAYS, key: bytes | None = None) -> Pair:
        """addresses: IPv4, IPv6, or names of hosts. key: the one to go on with, as PEM; None: a new one.

        It ends with the authority at the latest. Raises ValueError that names the address which is none.
        """
        private = ec.generate_private_key(ec.SECP256R1()) if key is None else _parsed_key(key)
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, peer.role),
                x509.NameAttribute(NameOID.COMMON_NAME, ETCD_CN if peer.role is Role.ETCD else peer.name),
            ]
        )
        alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri(self.cluster, peer))]
        if peer.role in (Role.NODE, Role.ETCD):
            alternatives += [_general(one) for one in dict.fromkeys([peer.name, *addresses])]
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if peer.role in (Role.NODE, Role.ETCD):
            purposes.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
        usage = _usage(digital_signature=True)
        expires = min(datetime.now(UTC) + timedelta(days=days), self.certificate.not_valid_after_utc)
        unsigned = (
            _builder(subject, self.certificate.subject, private.public_key(), expires)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(_from(self.key.public_key()), critical=False)
        )
        return Pair(_pem(unsigned.sign(self.key, hashes.SHA256())), key or _key_pem(private))

    def renewed(self, days: int = AUTHORITY_DAYS) -> bytes:
        """Our own certificate with new dates and the same key: what we have issued stays good with either."""
        return _pem(_self_signed(self.certificate.subject, self.key, days))

    def has_issued(self, path: Path) -> bool:
        """Raises Unusable."""
        try:
            _loaded(path).verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


def expires(path: Path) -> float:
    """When the certificate in a file does: seconds since 1970. Raises Unusable."""
    return Certificate.read(path).expires.timestamp()


def write(path: Path, content: bytes, *, replace: bool) -> None:
    """Whole, on the disk, and for its owner only. Raises FileExistsError unless `replace`, OSError."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(new, path)
        else:
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)


def _self_signed(name: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.Certificate:
    return (
        _builder(name, name, key.public_key(), datetime.now(UTC) + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, expires: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _SKEW)
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(**used: bool) -> x509.KeyUsage:
    kinds = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{kind: used.get(kind, False) for kind in kinds})


def _from(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _general(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(address.strip("[]")))
    except ValueError:
        pass
    labels = address.split(".")
    if len(address) > 253 or not all(label.isascii() and label.replace("-", "").replace("_", "") for label in labels):
        raise ValueError(f"{address!r} is neither an IP address nor the name of a host")
    if not all(c.isalnum() or c in "-_" for label in labels for c in label):
        raise ValueError(f"{address!r} is neither an IP address nor the name of a host")
    return x509.DNSName(address)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _loaded(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise Unusable(f"{path} is no certificate in PEM") from None


def _loaded_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        return _parsed_key(path.read_bytes())
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise Unusable(f"{path} is no EC key in PEM without a password") from None


def _parsed_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an EC key")
    return key
