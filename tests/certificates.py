"""Certificates for tests: an authority in a directory, and what it has issued."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

from drover.agent.tls import Files
from drover.coordinator.certificates import Authority, Pair, create_authority, write
from drover.coordinator.etcd import Tls
from drover.coordinator.identity import Peer, Role


@dataclass(frozen=True)
class Certificates:
    directory: Path
    authority: Authority

    @classmethod
    def make(cls, directory: Path, cluster: str = "farm") -> Self:
        directory.mkdir(parents=True, exist_ok=True)
        pair = create_authority(cluster)
        write(directory / "ca.key", pair.key, replace=False)
        write(directory / "ca.crt", pair.certificate, replace=False)
        return cls(directory, Authority.load(directory / "ca.crt", directory / "ca.key"))

    def issue(self, name: str, role: Role = Role.NODE, addresses: tuple[str, ...] = ("127.0.0.1", "::1")) -> Files:
        """NAME.crt and NAME.key; those that there are, are replaced."""
        self.put(name, self.authority.issue(Peer(name, role), addresses))
        return self.files(name)

    def put(self, name: str, pair: Pair) -> None:
        write(self.directory / f"{name}.key", pair.key, replace=True)
        write(self.directory / f"{name}.crt", pair.certificate, replace=True)

    def files(self, name: str) -> Files:
        return Files(*(self.directory / file for file in ("ca.crt", f"{name}.crt", f"{name}.key")))

    def to_etcd(self, name: str) -> Tls:
        files = self.files(name)
        return Tls(files.ca, files.cert, files.key)


def credentials(files: Files) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(files.ca.read_bytes(), files.key.read_bytes(), files.cert.read_bytes())
