"""`drover ca renew`: the same certificates with new dates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from drover.coordinator.certificates import AUTHORITY_DAYS, LEAF_DAYS, Authority, Certificate, Unusable
from drover.coordinator.cli.ca.place import CA, Place, check_name
from drover.coordinator.cli.ca.show import tell
from drover.coordinator.cli.errors import Failed, NotPossible, Usage


def renew(directory: Path, names: Sequence[str], new_key: bool, days: int | None, as_json: bool) -> None:
    """days: None: as long as it is usual for each."""
    place = Place(directory)
    authority = place.authority()
    if new_key and CA in names:
        raise Usage(
            "the authority's own key stays as long as the authority",
            "Make another authority in another DIR: drover ca init DIR. docs/security.md says how to change over.",
        )
    for name in names:
        check_name(name, "a name")
        if not place.certificate(name).exists():
            raise NotPossible(f"there is no {place.certificate(name)}", f"drover ca issue node {name}")
    now = datetime.now(UTC)
    try:
        chosen = names or [name for name in (CA, *place.issued()) if _ours_and_due(place, authority, name, now)]
        lines = []
        for name in chosen:
            lines.append(_renew(place, authority, name, new_key, days))
            if name == CA:
                authority = place.authority()
        if not chosen:
            lines.append("Nothing is due: every certificate here has more than a third of its life left.")
        tell([place.certificate(name) for name in chosen], lines, as_json)
    except Unusable as error:
        raise Failed(str(error), outcome="") from None


def _ours_and_due(place: Place, authority: Authority, name: str, now: datetime) -> bool:
    path = place.certificate(name)
    return authority.has_issued(path) and Certificate.read(path).due(now)


def _renew(place: Place, authority: Authority, name: str, new_key: bool, days: int | None) -> str:
    """Returns what to do with it."""
    path = place.certificate(name)
    if name == CA:
        place.write(path, authority.renewed(days or AUTHORITY_DAYS), replace=True)
        return f"{path} is good until {Certificate.read(path).expires:%Y-%m-%d}: copy it to everybody. Its key stays."
    old = Certificate.read(path)
    if old.peer is None or not authority.has_issued(path):
        raise NotPossible(f"{path} is not of the authority in {place.directory}", "Have it renewed by whoever made it.")
    key = None if new_key else _key(place, name)
    addresses = [address for address in old.addresses if address != old.peer.name]
    try:
        pair = authority.issue(old.peer, addresses, days or LEAF_DAYS, key)
    except ValueError as error:
        raise Failed(f"{path} cannot be renewed: {error}", f"drover ca renew {name} --new-key") from None
    if new_key:
        place.write(place.key(name), pair.key, replace=True)
    place.write(path, pair.certificate, replace=True)
    files = f"{path} and {place.key(name)}" if new_key else str(path)
    return f"{path} is good until {Certificate.read(path).expires:%Y-%m-%d}: copy {files} to {name}."


def _key(place: Place, name: str) -> bytes:
    try:
        return place.key(name).read_bytes()
    except OSError as error:
        raise Failed(
            f"{place.key(name)} cannot be read: {error.strerror}", f"For a new key: drover ca renew {name} --new-key"
        ) from None
