"""`drover etcd-unit`: the flags that a small etcd should run with, as a systemd unit."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from drover.coordinator.addresses import joined
from drover.coordinator.cli import options, output
from drover.coordinator.cli.errors import Usage
from drover.coordinator.cli.shapes import UnitJson
from drover.coordinator.identity import ETCD_CN
from drover.coordinator.keys import name_error

CLIENT_PORT, PEER_PORT = 2379, 2380


@dataclass(frozen=True)
class Flags:
    """peers: the others' names, and where their peers reach them: host:port. pki: where ca.crt, NAME.crt and NAME.key
    are; None: without TLS."""

    name: str
    address: str
    peers: Mapping[str, str]
    data: Path
    pki: Path | None
    token: str
    existing: bool = False
    client_port: int = CLIENT_PORT
    peer_port: int = PEER_PORT

    def lines(self) -> Iterator[tuple[str, str]]:
        """Flag and value; each is one of etcd's, from 3.4 to 3.6."""
        scheme = "https" if self.pki else "http"
        client = f"{scheme}://{joined(self.address, self.client_port)}"
        peer = f"{scheme}://{joined(self.address, self.peer_port)}"
        members = {self.name: peer} | {name: f"{scheme}://{where}" for name, where in self.peers.items()}
        yield "--name", self.name
        yield "--data-dir", str(self.data)
        yield "--listen-client-urls", client
        yield "--advertise-client-urls", client
        yield "--listen-peer-urls", peer
        yield "--initial-advertise-peer-urls", peer
        yield "--initial-cluster", ",".join(f"{name}={url}" for name, url in sorted(members.items()))
        yield "--initial-cluster-token", self.token
        yield "--initial-cluster-state", "existing" if self.existing else "new"
        # Heartbeats make history: without compaction it fills the quota, and a full etcd takes no writes.
        yield "--quota-backend-bytes", str(2 << 30)
        yield "--auto-compaction-mode", "periodic"
        yield "--auto-compaction-retention", "10m"
        yield "--snapshot-count", "10000"
        # An election must be over well before an agent's D_soft: 4.5 s by default.
        yield "--heartbeat-interval", "100"
        yield "--election-timeout", "1000"
        if self.pki:
            yield from self._tls(self.pki)

    def _tls(self, pki: Path) -> Iterator[tuple[str, str]]:
        for whom in ("", "peer-"):
            yield f"--{whom}cert-file", str(pki / f"{self.name}.crt")
            yield f"--{whom}key-file", str(pki / f"{self.name}.key")
            yield f"--{whom}trusted-ca-file", str(pki / "ca.crt")
            yield f"--{whom}client-cert-auth", ""
        # The same authority signs nodes and users: none of those may be a peer.
        yield "--peer-cert-allowed-cn", ETCD_CN


def unit(flags: Flags, program: Path, user: str) -> str:
    command = " \\\n  ".join(
        [str(program), *(f"{flag}={shlex.quote(value)}" if value else flag for flag, value in flags.lines())]
    )
    return f"""\
# Made by `drover etcd-unit`.
[Unit]
Description=etcd member {flags.name}
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
# It is ready when it has a leader: the first member waits for a second one.
TimeoutStartSec=infinity
User={user}
ExecStart={command}
Restart=always
RestartSec=1
LimitNOFILE=65536
# Its disk and its share of the processor decide whether heartbeats come in time.
CPUWeight=1000
IOWeight=1000
OOMScoreAdjust=-900
NoNewPrivileges=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectHome=yes
ProtectSystem=strict
ReadWritePaths={flags.data}
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX

[Install]
WantedBy=multi-user.target
"""


def etcd_unit(
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False, help="The member's name.")],
    address: Annotated[
        str, typer.Option(metavar="ADDRESS", show_default=False, help="Where clients and peers reach it: IPv4 or IPv6.")
    ],
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=ADDRESS",
            show_default=False,
            help="Each of the other members, with its port where that is not 2380; may be given several times.",
        ),
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Its data: on a disk that syncs fast. The user owns it, mode 0700.")
    ] = Path("/var/lib/etcd/drover"),
    pki: Annotated[
        Path, typer.Option(metavar="DIR", help="Where ca.crt, NAME.crt and NAME.key are: drover ca issue etcd NAME.")
    ] = Path("/etc/etcd/pki"),
    plain: Annotated[
        bool, typer.Option("--plain", help="Without TLS: whoever reaches it can do anything. To try things only.")
    ] = False,
    token: Annotated[str, typer.Option(metavar="TEXT", help="The same for all members of one cluster.")] = "drover",
    existing: Annotated[
        bool, typer.Option("--existing", help="It joins a cluster that runs: after etcdctl member add.")
    ] = False,
    client_port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65535, help="For clients.")] = CLIENT_PORT,
    peer_port: Annotated[int, typer.Option(metavar="PORT", min=1, max=65535, help="For peers.")] = PEER_PORT,
    program: Annotated[Path, typer.Option(metavar="FILE", help="etcd itself.")] = Path("/usr/bin/etcd"),
    user: Annotated[str, typer.Option(metavar="USER", help="Whose process it is.")] = "etcd",
    as_json: options.Json = False,
) -> None:
    """Print a systemd unit for one member of etcd, with the flags that a small one should run with.

    Three members, each with its own disk, bear the loss of one. Write the unit to /etc/systemd/system/etcd.service.
    """
    peers: dict[str, str] = {}
    for text in peer or []:
        other, equals, where = text.partition("=")
        if not equals or name_error(other):
            raise Usage(f"peer {output.plain(text)!r} is not NAME=ADDRESS", "Example: --peer etcd-2=10.0.0.2")
        peers[other] = _peer(where)
    for what in (name, token, user):
        if wrong := name_error(what):
            raise Usage(f"{output.plain(what)!r}: {wrong}")
    for path in (data_dir, pki, program):
        if not path.is_absolute() or any(not c.isprintable() or c in " %\\\"'" for c in str(path)):
            raise Usage(f"{output.plain(str(path))!r} must be an absolute path without spaces, quotes or %")
    if name in peers:
        raise Usage(f"{name} cannot be its own peer", "Name the others only.")
    flags = Flags(
        name, _host(address), peers, data_dir, None if plain else pki, token, existing, client_port, peer_port
    )
    text = unit(flags, program, user).rstrip("\n")
    if as_json:
        output.say_json(UnitJson(unit=text))
    else:
        output.say(text)


def _host(text: str) -> str:
    """etcd listens on addresses, not on names. Raises Usage."""
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise Usage(f"{output.plain(text)!r} is not an IP address", "Example: --address 10.0.0.1") from None


def _peer(text: str) -> str:
    """Raises Usage."""
    bracket, _, port = text.rpartition("]:") if text.startswith("[") else ("", "", "")
    host, colon, last = (
        (bracket, ":", port) if bracket else text.partition(":") if text.count(":") == 1 else (text, "", "")
    )
    if colon and not (last.isascii() and last.isdigit() and 0 < int(last) < 65536):
        raise Usage(f"{output.plain(text)!r} has no port between 1 and 65535 behind its colon")
    return joined(_host(host), int(last) if colon else PEER_PORT)
