"""Faults that happen at one moment of the protocol: what chance alone would bring about once in thousands of runs."""

from __future__ import annotations

import random

from drover.coordinator.records import State, Tenure
from drover.coordinator.txn import Put, Txn
from tests.sim.etcd import MEMBERS, Fate
from tests.sim.faults import agent_restart, agent_stopped, cut_off, lease_revoked_early
from tests.sim.machine import Machine
from tests.sim.world import World


def _tenures(world: World, txn: Txn) -> dict[str, Tenure]:
    """Those that this transaction puts."""
    under = world.keys.owner("")
    return {
        put.key.removeprefix(under): Tenure.decode(put.value)
        for put in txn.then
        if isinstance(put, Put) and put.key.startswith(under)
    }


def unwanted_handover(world: World, machine: Machine, rng: random.Random) -> None:
    """A handover is not answered and commits late; until then it is not wanted any more, which no tenure notes, and
    sometimes its sender's agent restarts in between."""
    held = [n for n, t in world.checks.tenures.items() if t.state is State.ACTIVE and n in world.datasets]
    if not held:
        return
    name = rng.choice(held)
    tenure = world.checks.tenures[name]
    holder, others = world.machines[tenure.node], [n for n in world.machines if n != tenure.node]
    world.wish(name, rng.choice(others))

    def not_any_more() -> None:
        if rng.random() < 0.5:
            world.wish(name, "nod-b")
        else:
            world.say("user", f"wants {name} nowhere")
            world.erase(world.keys.desired(name))

    def sent(sender: Machine, txn: Txn) -> Fate | None:
        put = _tenures(world, txn).get(name)
        if sender is not holder or put is None or put.node == holder.name:
            return None
        world.fault("unwanted handover commits late", holder.name)
        world.then(rng.uniform(0.0, 0.4), not_any_more)
        if rng.random() < 0.5:
            world.then(rng.uniform(0.01, 0.3), lambda: agent_restart(world, holder, rng, soon=True))
        return Fate(late=rng.uniform(1.5, 7.0))

    world.etcd.expected.append(sent)


def last_word(world: World, machine: Machine, rng: random.Random) -> None:
    """A heartbeat commits and is not answered. Its sender is cut off, but for one moment, in which it hears of it."""

    def sent(sender: Machine, txn: Txn) -> Fate | None:
        if sender is not machine or not any(op.key == world.keys.heartbeat(machine.name) for op in txn.then):
            return None
        world.fault("heard of its heartbeat late", machine.name)
        silent, heard = rng.uniform(2.2, 3.3), rng.uniform(0.1, 0.9)
        world.then(0.006, lambda: cut(silent))
        world.then(silent + heard, lambda: cut(rng.uniform(6.0, 14.0)))
        return Fate(answered=False)

    def cut(seconds: float) -> None:
        for member in MEMBERS:
            world.etcd.cut[machine.name, member] = world.loop.now + seconds

    world.etcd.expected.append(sent)


def late_helper(world: World, machine: Machine, rng: random.Random) -> None:
    """An agent hangs, or is cut off, while a helper has its job and has not begun."""
    for each in world.machines.values():
        if any(job not in each.jobs for job in each.helpers):
            rng.choice((agent_stopped, cut_off))(world, each, rng)
            return


def late_lease_record(world: World, machine: Machine, rng: random.Random) -> None:
    """A lease is revoked early; what puts its records back commits late, when they are others'."""
    if not machine.lease:
        return
    lease_revoked_early(world, machine, rng)

    def sent(sender: Machine, txn: Txn) -> Fate | None:
        again = [op.key for op in txn.then if op.key.startswith(world.keys.lease(""))]
        if sender is not machine or not again or _tenures(world, txn):
            return None
        world.fault("lease record put back late", machine.name)
        name = again[0].removeprefix(world.keys.lease(""))
        world.then(rng.uniform(0.0, 2.0), lambda: world.wish(name) if name in world.datasets else None)
        return Fate(late=rng.uniform(2.0, 8.0))

    world.etcd.expected.append(sent)


def late_of_the_dead(world: World, machine: Machine, rng: random.Random) -> None:
    """Something of an agent commits after that agent has hung and been fenced."""

    def sent(sender: Machine, txn: Txn) -> Fate | None:
        if sender is not machine or any("/heartbeats/" in op.key for op in txn.then):
            return None
        world.fault("commits after its sender hangs", machine.name)
        world.then(0.001, lambda: agent_stopped(world, machine, rng))
        return Fate(late=rng.uniform(2.0, 9.0))

    world.etcd.expected.append(sent)
