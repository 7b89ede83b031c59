"""What users and operators do while all this goes on, some of it at the worst moment."""

from __future__ import annotations

import random

from drover.coordinator.records import Evidence, Fence
from tests.sim.faults import agent_restart
from tests.sim.machine import Machine
from tests.sim.world import World


def move(world: World, machine: Machine, rng: random.Random) -> None:
    name = rng.choice(world.datasets)
    world.fault("desired changed", machine.name)
    world.wish(name)


def changes_mind(world: World, machine: Machine, rng: random.Random) -> None:
    """Off it shall go; no, it shall stay. Sometimes its agent restarts in between."""
    name = rng.choice(world.datasets)
    tenure = world.checks.tenures.get(name)
    if tenure is None:
        return
    world.fault("desired changed and changed back", tenure.node)
    world.wish(name)
    back = rng.uniform(0.05, 3.5)
    world.then(back, lambda: world.wish(name, tenure.node))
    if rng.random() < 0.4:
        holder = world.machines[tenure.node]
        world.then(max(0.0, back + rng.uniform(-0.05, 0.2)), lambda: agent_restart(world, holder, rng))


def spec_deleted(world: World, machine: Machine, rng: random.Random) -> None:
    name = rng.choice(world.datasets)
    if world.etcd.truth.entry(world.keys.dataset(name)) is None:
        return
    world.fault("spec deleted", machine.name)
    workload = world.keys.workload(name)
    spec = world.etcd.truth.entry(workload)
    if spec is not None and rng.random() < 0.8:
        world.erase(workload)
    world.delete(name)

    def again() -> None:
        world.say("user", f"puts the spec of {name} again")
        world.declare(name)
        if spec is not None:
            world.put(workload, spec.value)

    if rng.random() < 0.9:
        world.then(rng.choice((0.001, rng.uniform(0.0, 1.0), rng.uniform(0.0, 15.0))), again)


def confirmed_off(world: World, machine: Machine, rng: random.Random) -> None:
    """`drover fence --confirm`, of a machine that is off."""
    tenures = [t for t in world.checks.tenures.values() if t.held and not world.machines[t.node].up]
    named = [(h.node, h.incarnation) for t in world.checks.tenures.values() for h in t.unfenced]
    off = [(t.node, t.incarnation) for t in tenures] + [
        (n, i)
        for n, i in named
        if not i.startswith(f"{n}.{world.machines[n].boot_id[:12]}") or not world.machines[n].up
    ]
    if not off:
        return
    node, incarnation = rng.choice(off)
    world.fault("operator confirms", node)
    fence = Fence(node=node, by="operator", evidence=Evidence.OPERATOR)
    world.put(world.keys.fence(incarnation), fence.encode())
    world.checks.operator(incarnation)


def cordoned(world: World, machine: Machine, rng: random.Random) -> None:
    world.fault("cordon", machine.name)
    world.put(world.keys.cordon(machine.name), b"{}")
    world.after(rng.uniform(1.0, 15.0), lambda: world.erase(world.keys.cordon(machine.name)))
