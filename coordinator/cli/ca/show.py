"""`drover ca show`: what certificates say."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from drover.coordinator.certificates import Certificate, Unusable
from drover.coordinator.cli import output
from drover.coordinator.cli.ca.place import CA, Place
from drover.coordinator.cli.errors import Failed, NotPossible
from drover.coordinator.cli.shapes import CertificateJson, CertificatesJson

HEAD = ("FILE", "ROLE", "NAME", "ADDRESSES", "EXPIRES", "IN", "WHY")


def show(directory: Path, files: Sequence[Path], as_json: bool) -> None:
    place = Place(directory)
    if not files and not place.certificate().exists():
        raise NotPossible(f"there is no authority in {directory}", "Say where it is with --dir, or name a certificate.")
    now = datetime.now(UTC)
    try:
        found = [
            (path, Certificate.read(path)) for path in files or [place.certificate(n) for n in (CA, *place.issued())]
        ]
    except Unusable as error:
        raise Failed(str(error)) from None
    if as_json:
        output.say_json(CertificatesJson(certificates=[_json(path, it, now) for path, it in found]))
    else:
        output.say(output.table(HEAD, [_row(_json(path, it, now), it, now) for path, it in found]))


def tell(paths: Sequence[Path], lines: Sequence[str], as_json: bool) -> None:
    """What was made: the certificates as JSON, or what to do with them. Raises Unusable."""
    if as_json:
        now = datetime.now(UTC)
        output.say_json(CertificatesJson(certificates=[_json(path, Certificate.read(path), now) for path in paths]))
        return
    for line in lines:
        output.say(line)


def _json(path: Path, it: Certificate, now: datetime) -> CertificateJson:
    return CertificateJson(
        file=str(path),
        role=it.peer.role.value if it.peer else "ca" if it.authority else None,
        name=it.peer.name if it.peer else next(iter(it.names), ""),
        addresses=list(it.addresses),
        issuer=it.issuer,
        since=it.since.isoformat(),
        expires=it.expires.isoformat(),
        due=it.due(now),
    )


def _row(it: CertificateJson, certificate: Certificate, now: datetime) -> list[str]:
    left = (certificate.expires - now).total_seconds()
    why = "expired" if left <= 0 else "renew it: less than a third of its life is left" if it["due"] else ""
    return [
        it["file"],
        it["role"] or "",
        it["name"],
        ", ".join(it["addresses"]),
        f"{certificate.expires:%Y-%m-%d}",
        output.seconds(max(0.0, left)),
        why or ("" if it["role"] else "does not say whose it is: no agent believes it"),
    ]
