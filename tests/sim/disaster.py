"""etcd is restored from a backup, and a person recovers (`drover recover`); or a machine talks to a copy of it."""

from __future__ import annotations

import asyncio
import random

from drover.agent import tokens
from drover.coordinator.cli.errors import CliError
from drover.coordinator.cli.recover import Recovery, expected, look
from drover.coordinator.etcd import Etcd
from drover.coordinator.protocol import recovery
from drover.coordinator.records import State, Tenure
from drover.coordinator.reports import NodeReport
from drover.coordinator.store import StoreError
from tests.sim.etcd import MEMBERS
from tests.sim.machine import Machine, MachineProcess
from tests.sim.world import World

LOOK = 0.5
"""Seconds between two looks of the operator."""


def etcd_copied(world: World, machine: Machine, rng: random.Random) -> None:
    """A machine is led to an etcd that was restored elsewhere from a backup of this one, and back."""
    if not world.backups or machine.name in world.etcd.elsewhere or world.etcd.lost:
        return
    world.fault("led to a copy of etcd", machine.name)
    world.etcd.copy(machine.name, rng.choice(world.backups), world.other_id())
    world.after(world.lasts(1.0, 15.0), lambda: world.etcd.right_one(machine.name))


def etcd_restored(world: World, machine: Machine, rng: random.Random) -> None:
    """From a backup, under a new cluster id or (a disk that was set back) the old one."""
    if not world.backups or world.etcd.lost or world.etcd.elsewhere:
        return
    truth = world.etcd.truth
    backup = rng.choice(world.backups)
    same = rng.random() < (0.5 if world.hasty else 0.3)
    ahead = 100_000 if rng.random() < 0.2 else 0
    world.fault("etcd restored, with its cluster id" if same else "etcd restored", machine.name)
    world.say("etcd", f"goes back from revision {truth.revision} to {backup.revision}")
    world.etcd.lost = True
    world.backups.clear()
    truth.restore(backup, truth.cluster_id if same else world.other_id(), ahead)
    world.checks.restored()
    back = world.loop.now + rng.uniform(0.5, 3.0)
    for name in MEMBERS:
        world.etcd.members[name].down = back
    world.etcd.break_watches()
    world.etcd.elect()
    world.after(rng.uniform(0.5, 4.0) if world.hasty else rng.uniform(4.0, 20.0), lambda: recover(world))


def recover(world: World) -> None:
    """A person at a machine of their own."""
    operator = Machine(world, "operator", False, (1.0, 1.0), (0.0, 0.0), world.directory)
    operator.up = True
    world.fault("drover recover", "operator")
    world.spawn(MachineProcess(operator, "recover"), _recover(world))


async def _recover(world: World) -> None:
    stopped: set[str] = set()
    while True:
        for name in stopped:
            world.machines[name].end_agent()
        try:
            async with Etcd(world.endpoints, timeout=2.0) as store:
                seen = await look(store, world.keys)
                reports = [await _report(machine) for machine in world.machines.values() if machine.up]
                life = f"{world.rng.getrandbits(32):08x}"
                plan = recovery.plan(
                    seen.datasets, reports, seen.cluster.id, expected(seen), _chosen(reports), life, "now"
                )
                if not plan.problems:
                    await Recovery(store, world.keys, seen, reports).run(plan, life)
                    break
                world.say("operator", f"cannot recover yet: {'; '.join(plan.problems)}")
                stopped |= {n for n, m in world.machines.items() if any(f"{n} still has" in p for p in plan.problems)}
        except (CliError, StoreError) as error:
            world.say("operator", f"cannot recover yet: {error}")
            # Somebody lives: one that has not seen etcd go back.
            stopped |= set(world.machines)
        for name in stopped:
            world.machines[name].end_agent()
        await asyncio.sleep(LOOK)
    world.say("operator", "has recovered")
    world.etcd.lost = False
    for name in stopped:
        world.machines[name].start_agent()
    _declare_lost(world)


async def _report(machine: Machine) -> NodeReport:
    """What `drover-agent tokens` prints there."""
    from tests.sim.copies import SimCopies
    from tests.sim.guard import SimGuard
    from tests.sim.storage import BLOCK, LOCAL, SHARED, SimBackend

    volumes = []
    for name in (SHARED, BLOCK):
        volumes += await tokens.volumes(name, SimBackend(name, machine, SimGuard(machine)))
    volumes += await tokens.volumes(LOCAL, SimCopies(machine, SimGuard(machine)))
    return NodeReport(node=machine.name, volumes=tuple(volumes))


def _chosen(reports: list[NodeReport]) -> dict[str, str]:
    """Of several volumes of one name, the one that was used last."""
    chosen: dict[str, tuple[int, str]] = {}
    for report in reports:
        for volume in report.volumes:
            chosen[volume.dataset] = max(chosen.get(volume.dataset, (0, "")), (volume.epoch, volume.uid))
    return {name: uid for name, (_, uid) in chosen.items()}


def _declare_lost(world: World) -> None:
    """What was destroyed after the backup is declared anew."""
    for name in world.datasets:
        entry = world.etcd.truth.entry(world.keys.owner(name))
        if entry is None:
            continue
        tenure = Tenure.decode(entry.value)
        there = any(image.token.uid == tenure.uid for image in world.storage.images.values())
        there = there or any(world.storage.copies.get(machine, tenure.uid) for machine in world.machines)
        if tenure.born and not there and tenure.state is not State.DESTROYED:
            world.say("user", f"{name} is gone, and declared anew")
            world.doomed.add(tenure.uid)
            world.erase(world.keys.dataset(name))
            world.declare(name)
