"""What everything of a playground is called and where it is: all of it follows from its directory.

So a command needs nothing but DIR, and finds what an earlier one left behind by listing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address
from pathlib import Path
from string import ascii_lowercase
from typing import Literal, Self

from drover.coordinator.addresses import joined
from drover.coordinator.cli.errors import NotPossible, Usage

MAX_NODES = len(ascii_lowercase)
NETNS = Path("/run/netns")
CLIENT_PORT, PEER_PORT = 2379, 2380
GRPC_PORT, HTTP_PORT, DATA_PORT = 7470, 7471, 7472

_HIDDEN = ("/run", "/srv", "/proc", "/sys", "/dev")
"""A node has its own of these, so a playground there could not be seen from inside."""

Profile = Literal["fast", "default", "relaxed"]


class Kind(StrEnum):
    NODE = "node"
    ETCD = "etcd"


@dataclass(frozen=True)
class Machine:
    """A node or an etcd member. host: its number in the subnet."""

    name: str
    kind: Kind
    host: int


@dataclass(frozen=True)
class Settings:
    """`playground.json`: what the user asked for. subnet: three bytes with dots. complete: `up` came to its end.
    lived: an `up` ever did, so that there may be data. btrfs, zfs, folders: each node has such a pool, or a folder, of
    its own. docker: an engine runs on every node. tls: all ports and etcd have certificates. ipv6: machines have
    addresses of IPv6 only.

    For tests: environment is added to that of every agent; etcd_port is where agents reach the etcd members, and can be
    that of a proxy in each member's network.
    """

    nodes: int
    etcd: int
    subnet: str
    agents: bool = True
    timings: Profile | None = None
    etcd_fast: bool = False
    reset: bool = False
    docker: bool = False
    complete: bool = False
    lived: bool = True
    btrfs: bool = False
    tls: bool = False
    ipv6: bool = False
    zfs: bool = False
    folders: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    etcd_port: int = CLIENT_PORT

    def machines(self) -> list[Machine]:
        return self.node_machines() + self.etcd_machines()

    def node_machines(self) -> list[Machine]:
        return [Machine(f"node-{letter}", Kind.NODE, 11 + n) for n, letter in enumerate(ascii_lowercase[: self.nodes])]

    def etcd_machines(self) -> list[Machine]:
        return [Machine(f"etcd-{n}", Kind.ETCD, 100 + n) for n in range(1, self.etcd + 1)]

    def machine(self, name: str) -> Machine:
        """Raises Usage with the names that there are."""
        for machine in self.machines():
            if machine.name == name:
                return machine
        known = ", ".join(machine.name for machine in self.machines())
        raise Usage(f"there is no {name!r} in this playground", f"It has: {known}.")

    def address(self, machine: Machine) -> str:
        return self._address(machine.host)

    def _address(self, host: int) -> str:
        """With IPv6 it follows from the subnet, which this machine keeps free for the playground in either case."""
        if not self.ipv6:
            return f"{self.subnet}.{host}"
        return str(IPv6Address(f"fd{':'.join(self.subnet.split('.'))}::{host}"))

    @property
    def prefix(self) -> int:
        """Bits of an address that all machines share."""
        return 64 if self.ipv6 else 24

    @property
    def loopback(self) -> str:
        return "::1" if self.ipv6 else "127.0.0.1"

    @property
    def network(self) -> IPv4Network:
        return IPv4Network(f"{self.subnet}.0/24")

    @property
    def uplink_address(self) -> str:
        """This machine's own address in the subnet."""
        return self._address(1)

    @property
    def scheme(self) -> str:
        """Of etcd's ports, and of the agents' HTTP."""
        return "https" if self.tls else "http"

    @property
    def endpoints(self) -> list[str]:
        """For etcd's clients."""
        return self._endpoints(CLIENT_PORT)

    @property
    def agent_endpoints(self) -> list[str]:
        """For the agents."""
        return self._endpoints(self.etcd_port)

    def _endpoints(self, port: int) -> list[str]:
        return [f"{self.scheme}://{joined(self.address(machine), port)}" for machine in self.etcd_machines()]


@dataclass(frozen=True)
class Layout:
    """Names and paths. directory: absolute, without symbolic links."""

    directory: Path

    @classmethod
    def of(cls, directory: Path) -> Self:
        return cls(Path(os.path.realpath(directory)))

    @property
    def id(self) -> str:
        return hashlib.sha256(os.fsencode(self.directory)).hexdigest()[:6]

    def refuse(self) -> str | None:
        """Why there can be no playground in this directory; None where there can."""
        for hidden in _HIDDEN:
            if self.directory.is_relative_to(hidden):
                return f"{self.directory} is below {hidden}, which every node has its own of"
        if any(character in str(self.directory) for character in "\n\"'\\"):
            return f"the name of {str(self.directory)!r} has quotes, backslashes or line ends"
        return None

    # In the kernel.

    @property
    def uplink(self) -> str:
        """This machine's interface to the playground: at most 15 characters."""
        return f"dp{self.id}"

    @property
    def switch(self) -> Path:
        return NETNS / f"dp-{self.id}-sw"

    def netns(self, machine: Machine) -> Path:
        return NETNS / f"dp-{self.id}-{machine.name}"

    def namespaces(self) -> list[Path]:
        """Those that there are, by listing."""
        return sorted(NETNS.glob(f"dp-{self.id}-*"))

    @staticmethod
    def port(machine: Machine) -> str:
        """The machine's interface on the switch."""
        return f"v-{machine.name}"

    def mac(self, host: int) -> str:
        """Fixed, so that others' ARP entries stay right when a machine is built again."""
        return ":".join(["02", *(self.id[i : i + 2] for i in (0, 2, 4)), "00", f"{host:02x}"])

    @property
    def cgroup(self) -> str:
        return f"drover-{self.id}"

    # On disk.

    @property
    def settings_file(self) -> Path:
        return self.directory / "playground.json"

    @property
    def shared(self) -> Path:
        """Images that every node can open."""
        return self.directory / "shared"

    @property
    def certificates(self) -> Path:
        """The authority of a playground with TLS, and all that it has issued."""
        return self.directory / "certificates"

    def home(self, machine: Machine) -> Path:
        return self.directory / ("nodes" if machine.kind is Kind.NODE else "etcd") / machine.name

    def pool(self, machine: Machine) -> Path:
        """Where a node's own btrfs is mounted."""
        return self.home(machine) / "pool"

    def log(self, machine: Machine) -> Path:
        return self.home(machine) / ("agent.log" if machine.kind is Kind.NODE else "etcd.log")

    def engine_log(self, machine: Machine) -> Path:
        return self.home(machine) / "dockerd.log"

    def settings(self) -> Settings:
        """Raises NotPossible where there is no playground."""
        try:
            return Settings(**json.loads(self.settings_file.read_text()))
        except FileNotFoundError:
            raise NotPossible(
                f"{self.directory} is not a playground", f"Make one: drover playground up {self.directory}"
            ) from None
        except (TypeError, ValueError) as error:
            raise NotPossible(f"{self.settings_file} cannot be read: {error}") from None

    def save(self, settings: Settings) -> None:
        """Whole or not at all."""
        new = self.settings_file.with_suffix(".new")
        new.write_text(json.dumps(asdict(settings), indent=2) + "\n")
        new.rename(self.settings_file)


def free_subnet(layout: Layout, taken: list[IPv4Network]) -> str:
    """Three bytes of a /24 in 10.89.0.0/16 that overlaps none of `taken`; the first choice follows from DIR.

    Raises NotPossible.
    """
    first = int(layout.id[:2], 16)
    for offset in range(256):
        subnet = f"10.89.{(first + offset) % 256}"
        if not any(IPv4Network(f"{subnet}.0/24").overlaps(other) for other in taken):
            return subnet
    raise NotPossible("all of 10.89.0.0/16 is in use on this machine (ip route)", "End another playground first.")


def taken_networks(routes: list[dict[str, object]]) -> list[IPv4Network]:
    """From `ip -json route show table all`: what is not free. Default routes take nothing."""
    taken = []
    for route in routes:
        destination = str(route.get("dst", ""))
        try:
            network = IPv4Network(destination, strict=False)
        except ValueError:
            continue
        if network.prefixlen:
            taken.append(network)
    return taken
