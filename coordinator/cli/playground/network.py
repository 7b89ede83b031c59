"""The playground's network: a switch in a namespace of its own, a port for each machine, an uplink to this machine.

Nothing of the host's firewall or bridges takes part. Cuts are pairs of ports in one nft set, so they hold for whatever
addresses a machine has, those that move included, and drop silently, established connections too.
"""

from __future__ import annotations

import errno
import fcntl
import json
import socket
import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network
from pathlib import Path

from drover.coordinator.cli.playground import namespaces, syscalls, tools
from drover.coordinator.cli.playground.layout import Layout, Machine, Settings, taken_networks

UPLINK_PORT = "uplink"

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_CUTS = """\
table bridge playground {
    set cut {
        type ifname . ifname
    }
    chain forward {
        type filter hook forward priority 0
        iifname . oifname @cut drop
    }
}
"""

Cut = tuple[str, str]
"""Frames that come in by the first port do not go out by the second."""


def make_switch(layout: Layout, settings: Settings) -> None:
    """The switch and the uplink. Raises Failed."""
    namespaces.add(layout.switch)
    _ip(
        [
            f"link add {layout.uplink} address {layout.mac(1)} type veth"
            f" peer name {UPLINK_PORT} netns {layout.switch.name}",
            f"addr add {settings.network[1]}/24 dev {layout.uplink}",
            *([f"addr add {settings.uplink_address}/64 dev {layout.uplink} nodad"] if settings.ipv6 else []),
            f"link set dev {layout.uplink} up",
        ]
    )
    _ip(
        [
            "link add br0 type bridge forward_delay 0",
            "link set dev br0 up",
            f"link set dev {UPLINK_PORT} master br0 up",
        ],
        layout.switch,
    )
    _nft(layout, ["-f", "-"], _CUTS)


def plug_in(layout: Layout, machines: Sequence[Machine]) -> None:
    """A namespace and a port for each machine; the machine sets its own address. Raises Failed."""
    for machine in machines:
        namespaces.add(layout.netns(machine))
    _ip(
        [
            f"link add {layout.port(machine)} netns {layout.switch.name} type veth"
            f" peer name eth0 address {layout.mac(machine.host)} netns {layout.netns(machine).name}"
            for machine in machines
        ]
    )
    _ip([f"link set dev {layout.port(machine)} master br0 up" for machine in machines], layout.switch)


def unplug(layout: Layout, machine: Machine) -> None:
    """Without port and namespace. Idempotent. Raises Failed."""
    if port_state(layout, machine) is not None:
        # The port would go with the namespace, but only some time after.
        _ip([f"link del dev {layout.port(machine)}"], layout.switch)
    namespaces.remove(layout.netns(machine))


def remove_uplink(layout: Layout) -> None:
    """Idempotent. Raises Failed."""
    if uplink_exists(layout):
        _ip([f"link del dev {layout.uplink}"])


def uplink_exists(layout: Layout) -> bool:
    return Path("/sys/class/net", layout.uplink).exists()


def set_port(layout: Layout, machine: Machine, up: bool) -> None:
    """The machine's cable: 0.1 ms. Raises OSError."""
    syscalls.in_network(layout.switch, lambda: _flags(layout.port(machine), up))


def port_state(layout: Layout, machine: Machine) -> bool | None:
    """Whether the port is up; None: there is none."""
    try:
        return bool(syscalls.in_network(layout.switch, lambda: _flags(layout.port(machine), None)) & _IFF_UP)
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENOENT, errno.EINVAL):
            return None
        raise


def cuts(layout: Layout) -> set[Cut]:
    """Those in force. Raises Failed."""
    answer = json.loads(_nft(layout, ["-j", "list", "set", "bridge", "playground", "cut"]))
    elements = [one for item in answer["nftables"] if "set" in item for one in item["set"].get("elem", [])]
    return {(element["concat"][0], element["concat"][1]) for element in elements}


def cut(layout: Layout, pairs: Iterable[Cut]) -> None:
    """Idempotent. Raises Failed."""
    _nft(layout, ["-f", "-"], f"add element bridge playground cut {{ {_elements(pairs)} }}\n")


def heal(layout: Layout, machine: Machine) -> None:
    """Ends all cuts that have to do with this machine. Idempotent. Raises Failed."""
    if mine := {pair for pair in cuts(layout) if layout.port(machine) in pair}:
        _nft(layout, ["-f", "-"], f"delete element bridge playground cut {{ {_elements(mine)} }}\n")


def taken() -> list[IPv4Network]:
    """Subnets that this machine has routes or addresses in. Raises Failed."""
    return taken_networks(json.loads(tools.run(["ip", "-4", "-json", "route", "show", "table", "all"]) or "[]"))


def _elements(pairs: Iterable[Cut]) -> str:
    return ", ".join(f'"{source}" . "{target}"' for source, target in sorted(pairs))


def _ip(commands: Sequence[str], namespace: Path | None = None) -> None:
    inside = ["-n", namespace.name] if namespace else []
    tools.run(["ip", *inside, "-batch", "-"], "\n".join(commands) + "\n")


def _nft(layout: Layout, arguments: Sequence[str], script: str = "") -> str:
    return syscalls.in_network(layout.switch, lambda: tools.run(["nft", *arguments], script))


def _flags(interface: str, up: bool | None) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        request = struct.pack("16sH14x", interface.encode(), 0)
        (flags,) = struct.unpack("16xH14x", fcntl.ioctl(handle, _SIOCGIFFLAGS, request))
        if up is not None:
            flags = flags | _IFF_UP if up else flags & ~_IFF_UP
            fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sH14x", interface.encode(), flags))
        return int(flags)
