"""`up`: from an empty directory, or a playground that is down, to a cluster that answers."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from drover.coordinator.cli.errors import NotPossible, Usage
from drover.coordinator.cli.playground import cgroup, engine, etcd, machine, network, secrets, tools
from drover.coordinator.cli.playground import zfs as pools
from drover.coordinator.cli.playground.down import take_down
from drover.coordinator.cli.playground.layout import MAX_NODES, Kind, Layout, Machine, Profile, Settings, free_subnet
from drover.coordinator.cli.playground.lock import locked

_TAIL = 15
"""Lines of a log that are shown when its machine did not come up."""


def up(
    layout: Layout,
    nodes: int = 3,
    members: int = 1,
    agents: bool = True,
    timings: Profile | None = None,
    etcd_fast: bool = False,
    reset: bool = False,
    timeout: float = 60.0,
    btrfs: bool = False,
    docker: bool = False,
    tls: bool = False,
    ipv6: bool = False,
    zfs: bool = False,
    folders: bool = False,
) -> Settings:
    """Starts a playground and waits, at most `timeout` seconds, until etcd and every agent answer. What is left of an
    earlier life is removed first, data and logs stay; a failure leaves nothing running.

    Raises Usage, NotPossible, Failed.
    """
    deadline = time.monotonic() + timeout
    if not 1 <= nodes <= MAX_NODES:
        raise Usage(f"a playground has 1 to {MAX_NODES} nodes, not {nodes}")
    if members not in (1, 3):
        raise Usage(f"a playground has 1 or 3 etcd members, not {members}")
    _check_machine(layout, {"mkfs.btrfs": btrfs, "rsync": folders})
    if docker:
        engine.check()
    if zfs:
        pools.check()
    layout.directory.mkdir(parents=True, exist_ok=True)
    with locked(layout.directory):
        asked = Settings(
            nodes,
            members,
            "",
            agents,
            timings,
            etcd_fast,
            reset,
            docker,
            lived=False,
            btrfs=btrfs,
            tls=tls,
            ipv6=ipv6,
            zfs=zfs,
            folders=folders,
        )
        settings = _settings(layout, asked)
        layout.save(settings)
        try:
            take_down(layout)
            if not settings.lived:
                _forget_etcd(layout, settings)
            settings = _subnet_and_switch(layout, settings)
            if tls:
                secrets.issue(layout, settings)
            _machines(layout, settings, deadline)
        except BaseException:
            take_down(layout)
            raise
        settings = replace(settings, complete=True, lived=True)
        layout.save(settings)
    return settings


def _forget_etcd(layout: Layout, settings: Settings) -> None:
    """A member that was killed right after its first start may have a log without itself, and never answers again."""
    for member in settings.etcd_machines():
        shutil.rmtree(layout.home(member), ignore_errors=True)


def is_up(layout: Layout, settings: Settings) -> bool:
    """Whether an `up` came to its end and nothing has taken it down since, a reboot of this computer included."""
    return settings.complete and layout.switch.exists()


def _check_machine(layout: Layout, wanted: Mapping[str, bool]) -> None:
    if os.geteuid() != 0:
        raise NotPossible("a playground makes namespaces, mounts and cgroups: only root can", "Try it with sudo.")
    if reason := layout.refuse():
        raise Usage(reason, "Choose another directory.")
    cgroup.mount_point()
    for tool in ("ip", "nft", "etcd", *(tool for tool, used in wanted.items() if used)):
        tools.find(tool)


def _settings(layout: Layout, asked: Settings) -> Settings:
    if layout.settings_file.exists():
        old = layout.settings()
        if is_up(layout, old):
            raise NotPossible(
                f"the playground in {layout.directory} is up",
                f"To start it anew: drover playground down {layout.directory}",
            )
        if old.etcd != asked.etcd and any(layout.home(member).exists() for member in old.etcd_machines()):
            raise NotPossible(
                f"the playground in {layout.directory} has data of {old.etcd} etcd members, not {asked.etcd}",
                f"Give --etcd {old.etcd}, or delete it: drover playground down --delete {layout.directory}",
            )
        return replace(asked, subnet=old.subnet, environment=old.environment, etcd_port=old.etcd_port, lived=old.lived)
    if any(layout.directory.iterdir()):
        raise NotPossible(
            f"{layout.directory} is not empty and not a playground", "Choose a directory that is empty or not there."
        )
    return asked


def _subnet_and_switch(layout: Layout, settings: Settings) -> Settings:
    with locked(Path("/run"), inherited=False):  # so that two playgrounds do not choose one subnet
        taken = network.taken()
        if not settings.subnet:
            settings = replace(settings, subnet=free_subnet(layout, taken))
            layout.save(settings)
        elif any(settings.network.overlaps(other) for other in taken):
            raise NotPossible(
                f"{settings.network}, which this playground's etcd members have, is in use on this machine (ip route)",
                f"End what uses it, or start anew: drover playground down --delete {layout.directory}",
            )
        network.make_switch(layout, settings)
    return settings


def _machines(layout: Layout, settings: Settings, deadline: float) -> None:
    places = [machine.Place(layout, settings, one) for one in settings.etcd_machines() + settings.node_machines()]
    machine.start(places)
    etcd.wait_until(
        lambda: etcd.answers(layout, settings),
        deadline,
        lambda: "etcd does not answer" + _tails(layout, settings.etcd_machines()),
    )
    if settings.agents:
        everybody = {one.name for one in settings.node_machines()}

        def missing() -> list[Machine]:
            present = etcd.nodes_present(layout, settings)
            return [one for one in settings.node_machines() if one.name not in present]

        etcd.wait_until(
            lambda: everybody <= etcd.nodes_present(layout, settings),
            deadline,
            lambda: "not all agents have joined" + _tails(layout, missing()),
        )

    if settings.docker:
        for place in places:
            if place.machine.kind is Kind.NODE:
                engine.ready(place.machine.name, place.running(), layout.engine_log(place.machine), deadline)


def _tails(layout: Layout, machines: list[Machine]) -> str:
    shown = ""
    for one in machines:
        log = layout.log(one)
        lines = log.read_text(errors="replace").splitlines()[-_TAIL:] if log.exists() else []
        shown += f"\n{one.name}: the end of {log}:\n  " + "\n  ".join(lines or ["(nothing)"])
    return shown
