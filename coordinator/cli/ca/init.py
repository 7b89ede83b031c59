"""`drover ca init`: an authority for one cluster."""

from __future__ import annotations

from pathlib import Path

from drover.coordinator.certificates import create_authority
from drover.coordinator.cli.ca.place import Place, check_name
from drover.coordinator.cli.ca.show import tell
from drover.coordinator.cli.errors import Failed, NotPossible


def init(directory: Path, cluster: str, days: int, as_json: bool = False, quiet: bool = False) -> None:
    check_name(cluster, "the cluster")
    place = Place(directory)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Failed(f"{directory} cannot be made: {error.strerror}") from None
    for path in (place.certificate(), place.key()):
        if path.exists():
            raise NotPossible(f"{path} exists already", "Nothing is overwritten: move it away, or choose another DIR.")
    pair = create_authority(cluster, days)
    place.write(place.key(), pair.key)
    place.write(place.certificate(), pair.certificate)
    if quiet:
        return
    lines = (
        f"{place.certificate()} is the authority of {cluster}: every node, member and user needs a copy.",
        f"{place.key()} is its key: whoever has it can be any node or user. Keep it here.",
    )
    tell([place.certificate()], lines, as_json)
