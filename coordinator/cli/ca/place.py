"""An authority's directory: ca.crt, ca.key, and NAME.crt, NAME.key of everybody that it has issued for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from drover.coordinator.certificates import Authority, Unusable, write
from drover.coordinator.cli.errors import Failed, NotPossible, Usage
from drover.coordinator.keys import name_error

CA = "ca"


@dataclass(frozen=True)
class Place:
    directory: Path

    def certificate(self, name: str = CA) -> Path:
        return self.directory / f"{name}.crt"

    def key(self, name: str = CA) -> Path:
        return self.directory / f"{name}.key"

    def authority(self) -> Authority:
        """Raises NotPossible, Failed."""
        if not self.certificate().exists():
            raise NotPossible(
                f"there is no authority in {self.directory}",
                "Make one with `drover ca init DIR`, or say where it is with --dir.",
            )
        try:
            return Authority.load(self.certificate(), self.key())
        except Unusable as error:
            raise Failed(str(error)) from None

    def issued(self) -> list[str]:
        """All names but the authority's own."""
        return sorted(path.stem for path in self.directory.glob("[!.]*.crt") if path.stem != CA)

    def write(self, path: Path, content: bytes, *, replace: bool = False) -> None:
        """Raises NotPossible where it exists and is not to be replaced, Failed."""
        try:
            write(path, content, replace=replace)
        except FileExistsError:
            raise NotPossible(f"{path} exists already", "Nothing is overwritten: move it away first.") from None
        except OSError as error:
            raise Failed(f"{path} cannot be written: {error.strerror}") from None


def check_name(name: str, what: str) -> None:
    """Raises Usage."""
    if wrong := name_error(name):
        raise Usage(f"{what}: {wrong}")
