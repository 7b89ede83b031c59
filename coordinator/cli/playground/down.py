"""`down`: nothing is left behind, whatever state the playground was in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from drover.coordinator.cli.errors import CliError, Failed, NotPossible
from drover.coordinator.cli.playground import blockdev, filesystems, namespaces, network
from drover.coordinator.cli.playground.devices import Devices
from drover.coordinator.cli.playground.layout import Layout
from drover.coordinator.cli.playground.lock import locked
from drover.coordinator.cli.playground.machine import base


def down(layout: Layout, delete: bool = False) -> None:
    """Switches everything off and removes it from the kernel. Data and logs stay, unless `delete`. Idempotent; works
    where the directory itself was deleted.

    Raises NotPossible where it is not a playground, Failed with all that is left.
    """
    with ExitStack() as stack:
        if layout.directory.is_dir():
            stack.enter_context(locked(layout.directory))
            if layout.settings_file.exists():
                layout.save(replace(layout.settings(), complete=False))
            elif any(layout.directory.iterdir()) and not remains(layout):
                raise NotPossible(f"{layout.directory} is not a playground")
        take_down(layout)
        if delete and layout.settings_file.exists():
            shutil.rmtree(layout.directory)


def take_down(layout: Layout) -> None:
    """Under the lock. Goes on where a step fails. Raises Failed with all that is left."""
    problems = []
    # Looked for now: when the last process has ended, the kernel forgets whose they are.
    devices = Devices({*_loops(layout), *filesystems.mounted_by(base(layout).pids())})
    steps: list[Callable[[], None]] = [
        lambda: _end_machines(layout),
        devices.detach,
        lambda: Devices(_loops(layout)).detach(),  # of machines that had died before
        lambda: _remove_network(layout),
    ]
    for step in steps:
        try:
            step()
        except (CliError, OSError) as error:
            problems.append(str(error))
    if left := remains(layout):
        problems.append("left: " + ", ".join(left))
    if problems:
        raise Failed("the playground is not wholly down. " + ". ".join(problems), "Try again.", outcome="")


def remains(layout: Layout) -> list[str]:
    """All that there is of it in the kernel, one description each, by listing."""
    group = base(layout)
    found = [f"process {pid}" for pid in group.pids()]
    found += [f"cgroup {group.path}"] if group.path.exists() else []
    found += [f"network namespace {path.name}" for path in layout.namespaces()]
    found += [f"interface {layout.uplink}"] if network.uplink_exists(layout) else []
    found += [f"{loop.device} ({loop.image})" for loop in _loops(layout)]
    return found


def _loops(layout: Layout) -> list[blockdev.Loop]:
    inside = [loop for loop in blockdev.loops() if loop.below(layout.directory)]
    return inside + blockdev.orphans(layout.directory)


def _end_machines(layout: Layout) -> None:
    group = base(layout)
    for machine in group.children():
        if machine.frozen():
            # A file system that is held when its last process dies is held for ever.
            filesystems.release(machine.pids(), {*_loops(layout), *filesystems.mounted_by(machine.pids())})
    group.kill()
    group.remove()


def _remove_network(layout: Layout) -> None:
    network.remove_uplink(layout)
    for namespace in layout.namespaces():
        namespaces.remove(namespace)
