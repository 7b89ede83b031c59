"""What users and operators do while all this goes on, some of it at the worst moment."""

from __future__ import annotations

import random
from datetime import UTC, datetime

from drover.coordinator import trash
from drover.coordinator.records import Evidence, Fence, Pause, State, Tenure, Trashed
from drover.coordinator.specs import DatasetSpec
from drover.coordinator.txn import Delete, Put, Txn
from tests.sim.faults import agent_restart
from tests.sim.machine import Machine
from tests.sim.world import BEGINNING, World


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

    if rng.random() < 0.9 or world.hasty:
        world.then(rng.choice((0.001, rng.uniform(0.0, 1.0), rng.uniform(0.0, 1.0 if world.hasty else 15.0))), again)


def confirmed_off(world: World, machine: Machine, rng: random.Random) -> None:
    """`drover fence --confirm`, of a machine that is off."""
    tenures = [t for t in world.checks.tenures.values() if t.held and not world.machines[t.node].up]
    named = [(h.node, h.incarnation) for t in world.checks.tenures.values() for h in t.unfenced]
    off = [(t.node, t.incarnation) for t in tenures] + [
        (n, i)
        for n, i in named
        if not i.startswith(f"{n}.{world.machines[n].boot_id[:12]}") or not world.machines[n].up
    ]
    off = [(n, i) for n, i in off if not world.checks.fenced(i)]
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


def drained(world: World, machine: Machine, rng: random.Random) -> None:
    """`drover drain`: cordoned, and what it has goes elsewhere."""
    world.fault("drain", machine.name)
    world.put(world.keys.cordon(machine.name), b"{}")
    others = [name for name in world.machines if name != machine.name]
    for name in world.datasets:
        tenure = world.checks.tenures.get(name)
        if tenure is not None and tenure.held and tenure.node == machine.name:
            world.wish(name, rng.choice(others))
    world.after(rng.uniform(1.0, 15.0), lambda: world.erase(world.keys.cordon(machine.name)))


def regrouped(world: World, machine: Machine, rng: random.Random) -> None:
    """A dataset joins a group, or leaves it, wherever it is."""
    name = rng.choice(world.datasets)
    if world.etcd.truth.entry(world.keys.dataset(name)) is None:
        return
    world.fault("group changed", machine.name)
    world.groups[name] = None if world.groups[name] else "g"
    world.say("user", f"{name} is of group {world.groups[name]}")
    world.declare(name, again=True)
    if rng.random() < 0.5:
        world.wish(name)


def paused(world: World, machine: Machine, rng: random.Random) -> None:
    """`drover pause`, and `drover resume`, some time."""
    if world.etcd.truth.entry(world.keys.pause) is not None:
        return
    world.fault("pause", machine.name)
    seconds = rng.uniform(1.0, 8.0) if world.hasty else rng.uniform(5.0, 40.0)
    until = datetime.fromtimestamp(BEGINNING + world.loop.now + seconds, UTC)
    world.put(world.keys.pause, Pause(until=until, by="user").encode())
    world.after(seconds * rng.choice((rng.random(), 1.0)), lambda: world.erase(world.keys.pause))


def trashed(world: World, machine: Machine, rng: random.Random) -> None:
    """`drover rm --trash`; then `drover undelete`, or the time in the trash is over, or neither."""
    name = rng.choice(world.datasets)
    keys, truth = world.keys, world.etcd.truth
    entry, tenure = truth.entry(keys.dataset(name)), world.checks.tenures.get(name)
    if entry is None or tenure is None or not tenure.held or tenure.reclaim == "delete":
        return
    if tenure.created != entry.create_revision:
        return
    world.fault("put in the trash", machine.name)
    world.say("user", f"puts {name} in the trash")
    workload = truth.entry(keys.workload(name))
    spec = DatasetSpec.decode(entry.value)
    until = datetime.fromtimestamp(BEGINNING + world.loop.now + 1e6, UTC)
    record = Trashed(dataset=name, uid=tenure.uid, spec=spec, until=until)
    aside = trash.name_in_trash(tenure.uid)
    gone = (Delete(keys.dataset(name)), Delete(keys.desired(name)), Delete(keys.workload(name)))
    world.commit(Txn((), (*gone, Put(keys.trash(aside), record.encode()))))

    def given_up() -> None:
        there, owner = truth.entry(keys.trash(aside)), truth.entry(keys.owner(name))
        if there is None or owner is None:
            return
        now = Tenure.decode(owner.value)
        if now.uid != tenure.uid:
            return
        if now.state is not State.RELEASED:
            world.then(0.2, given_up)
            return
        world.commit(trash.lay_aside(keys, there, record, owner, now, world.random_id()))
        world.say("user", f"{name} is in the trash")
        fate, wait = rng.random(), rng.uniform(0.0, 1.0 if world.hasty else 10.0)
        if fate < (0.5 if world.hasty else 0.7):
            world.then(wait, undelete)
        elif fate < 0.9 or world.hasty:
            world.then(wait, empty)

    def undelete() -> None:
        there, held, owner = (truth.entry(key) for key in (keys.trash(aside), keys.owner(aside), keys.owner(name)))
        if there is None or held is None or truth.entry(keys.dataset(name)) is not None:
            return
        before = Tenure.decode(owner.value) if owner is not None else None
        if before is not None and before.state is not State.DESTROYED:
            return
        world.fault("undeleted", machine.name)
        back = Tenure.decode(held.value)
        wish = (Put(keys.desired(name), rng.choice(list(world.machines)).encode()),) if rng.random() < 0.6 else ()
        world.commit(trash.take_back(keys, there, record, held, back, name, owner, before, wish, world.random_id()))
        if workload is not None:
            world.put(workload.key, workload.value)

    def empty() -> None:
        there, held = truth.entry(keys.trash(aside)), truth.entry(keys.owner(aside))
        if there is None or held is None:
            return
        world.fault("trash emptied", machine.name)
        world.doomed.add(tenure.uid)
        world.commit(trash.empty(there, held, Tenure.decode(held.value), world.random_id()))
        if world.hasty and truth.entry(keys.dataset(name)) is None:
            world.declare(name)

    world.then(0.1, given_up)
    if rng.random() < 0.3:
        world.then(rng.uniform(0.5, 5.0), lambda: world.declare(name))
