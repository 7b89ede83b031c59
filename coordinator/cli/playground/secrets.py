"""Certificates of a playground with --tls: what `drover ca` makes, for all its machines and for whoever uses it."""

from __future__ import annotations

import ssl

from drover.coordinator.cli.playground.layout import Kind, Layout, Settings

USER = "operator"


def issue(layout: Layout, settings: Settings) -> None:
    """Those that are missing. Raises CliError."""
    from drover.coordinator.certificates import AUTHORITY_DAYS, LEAF_DAYS
    from drover.coordinator.cli.ca.init import init
    from drover.coordinator.cli.ca.issue import issue
    from drover.coordinator.cli.ca.place import Place
    from drover.coordinator.identity import Role

    place = Place(layout.certificates)
    if not place.certificate().exists():
        init(place.directory, f"playground-{layout.id}", AUTHORITY_DAYS, quiet=True)
    wanted = [
        (
            machine.name,
            Role.NODE if machine.kind is Kind.NODE else Role.ETCD,
            (settings.address(machine), settings.loopback),
        )
        for machine in settings.machines()
    ]
    for name, role, addresses in (*wanted, (USER, Role.OPERATOR, ())):
        if not place.certificate(name).exists():
            issue(place.directory, role, name, addresses, LEAF_DAYS, quiet=True)


def environment(layout: Layout, settings: Settings) -> dict[str, str]:
    """What shows etcdctl and drover to etcd; empty where nothing is encrypted."""
    if not settings.tls:
        return {}
    names = {"CACERT": "ca.crt", "CERT": f"{USER}.crt", "KEY": f"{USER}.key"}
    return {f"ETCDCTL_{name}": str(layout.certificates / file) for name, file in names.items()}


def context(layout: Layout, settings: Settings) -> ssl.SSLContext | None:
    """For calls from this computer; None: plain text."""
    if not settings.tls:
        return None
    made = ssl.create_default_context(cafile=str(layout.certificates / "ca.crt"))
    made.load_cert_chain(layout.certificates / f"{USER}.crt", layout.certificates / f"{USER}.key")
    return made
