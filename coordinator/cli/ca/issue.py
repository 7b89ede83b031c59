"""`drover ca issue`: a certificate for a node, a user or a member of etcd."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drover.coordinator.access import ROOT
from drover.coordinator.cli.ca.place import CA, Place, check_name
from drover.coordinator.cli.ca.show import tell
from drover.coordinator.cli.errors import NotPossible, Usage
from drover.coordinator.identity import ETCD_CN, Peer, Role


def issue(
    directory: Path,
    role: Role,
    name: str,
    addresses: Sequence[str],
    days: int,
    as_json: bool = False,
    quiet: bool = False,
) -> None:
    check_name(name, f"the {role}")
    if name == CA:
        raise Usage(f"{CA!r} is the authority itself", "Choose another name.")
    if (name == ETCD_CN and role is not Role.ETCD) or (name == ROOT and role is not Role.OPERATOR):
        raise Usage(f"a certificate for {name} would pass for etcd's own", "Choose another name.")
    if addresses and role not in (Role.NODE, Role.ETCD):
        raise Usage("a user is not reached at an address", "Leave --address away.")
    place = Place(directory)
    authority = place.authority()
    for path in (place.certificate(name), place.key(name)):
        if path.exists():
            raise NotPossible(
                f"{path} exists already", f"For new dates: drover ca renew {name}. Else move it away first."
            )
    try:
        pair = authority.issue(Peer(name, role), addresses, days)
    except ValueError as error:
        raise Usage(str(error), "Example: --address 10.0.0.11 --address fd00::11") from None
    place.write(place.key(name), pair.key)
    place.write(place.certificate(name), pair.certificate)
    if quiet:
        return
    lines = [f"{place.certificate(name)} and {place.key(name)} are those of {role} {name}."]
    if role is Role.NODE:
        lines.append(
            f"Copy both and {place.certificate()} to {name}, and name them in its settings: [tls], [etcd.tls]."
        )
    tell([place.certificate(name)], lines, as_json)
