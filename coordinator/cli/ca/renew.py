"""`drover ca renew`: the same certificates with new dates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from drover.coordinator.certificates import AUTHORITY_DAYS, Authority, Certificate, Unusable
from drover.coordinator.cli.ca.place import CA, Place, check_name
from drover.coordinator.cli.errors import Failed, NotPossible, Usage
from drover.coordinator.cli.output import say


def renew(directory: Path, names: Sequence[str], new_key: bool, days: int) -> None:
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
        for name in chosen:
            _renew(place, authority, name, new_key, days)
            if name == CA:
                authority = place.authority()
    except Unusable as error:
        raise Failed(str(error), outcome="") from None
    if not chosen:
        say("Nothing is due: every certificate here has more than a third of its life left.")


def _ours_and_due(place: Place, authority: Authority, name: str, now: datetime) -> bool:
    path = place.certificate(name)
    return authority.has_issued(path) and Certificate.read(path).due(now)


def _renew(place: Place, authority: Authority, name: str, new_key: bool, days: int) -> None:
    path = place.certificate(name)
    if name == CA:
        place.write(path, authority.renewed(AUTHORITY_DAYS), replace=True)
        say(f"{path} is good until {Certificate.read(path).expires:%Y-%m-%d}: copy it to everybody. Its key stays.")
        return
    old = Certificate.read(path)
    if old.peer is None or not authority.has_issued(path):
        raise NotPossible(f"{path} is not of the authority in {place.directory}", "Have it renewed by whoever made it.")
    key = None if new_key else _key(place, name)
    addresses = [address for address in old.addresses if address != old.peer.name]
    try:
        pair = authority.issue(old.peer, addresses, days, key)
    except ValueError as error:
        raise Failed(f"{path} cannot be renewed: {error}", f"drover ca renew {name} --new-key") from None
    if new_key:
        place.write(place.key(name), pair.key, replace=True)
    place.write(path, pair.certificate, replace=True)
    files = f"{path} and {place.key(name)}" if new_key else str(path)
    say(f"{path} is good until {Certificate.read(path).expires:%Y-%m-%d}: copy {files} to {name}.")


def _key(place: Place, name: str) -> bytes:
    try:
        return place.key(name).read_bytes()
    except OSError as error:
        raise Failed(
            f"{place.key(name)} cannot be read: {error.strerror}", f"For a new key: drover ca renew {name} --new-key"
        ) from None
