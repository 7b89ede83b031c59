"""Faults around promises: etcd away for everybody, or for all but one, and what happens to those that promise."""

from __future__ import annotations

import random
from functools import partial

from tests.sim.etcd import MEMBERS
from tests.sim.faults import agent_restart, agent_stopped
from tests.sim.machine import Machine
from tests.sim.world import World

NAMES_GO = 18.0
"""Seconds after which the lease of a machine that is off has ended, so that nobody's heartbeat names it."""


QUIET = 7.0
"""Seconds between two such faults: all have joined by then, and watch each other."""


def _begins(world: World, seconds: float) -> bool:
    """Whether a fault that takes so long may begin now: over another one, when all have stopped, it proves nothing."""
    if world.loop.now < max(world.links.free, QUIET):
        return False
    world.links.free = world.loop.now + seconds + QUIET
    return True


def etcd_away_for_long(world: World, machine: Machine, rng: random.Random) -> None:
    """And meanwhile something may happen to one of those that promise, or to the links between them."""
    seconds = rng.uniform(8.0, 45.0)
    if not _begins(world, seconds):
        return
    world.fault("etcd away for everybody, for long", machine.name)
    until = world.loop.now + seconds
    world.etcd.away, world.etcd.back = world.loop.now, until
    for name, state in world.etcd.members.items():
        state.down = max(state.down, until)
        world.etcd.break_watches(member=name)
    for _ in range(rng.randint(0, 2)):
        trouble = rng.choice((one_way_cut, lossy_link, agent_restart, agent_stopped))
        someone = rng.choice(list(world.machines.values()))
        world.then(rng.uniform(2.0, seconds), partial(trouble, world, someone, rng))


def all_but_one_cut_off(world: World, machine: Machine, rng: random.Random) -> None:
    """One machine reaches etcd all the time, or sooner than the others; its agent may just have restarted then."""
    early = rng.choice((0.0, rng.uniform(7.0, 15.0), rng.uniform(7.0, 15.0), rng.uniform(7.0, 15.0)))
    seconds = early + rng.uniform(7.0, 15.0)
    if not _begins(world, seconds):
        return
    world.fault("all but one cut off from etcd", machine.name)
    now = world.loop.now
    for name in world.machines:
        for member in MEMBERS:
            world.etcd.cut[name, member] = now + (early if name == machine.name else seconds)
    last = max(1.0, early - rng.uniform(0.1, 2.0))
    match rng.randrange(3):
        case 0:
            world.then(last, lambda: agent_restart(world, machine, rng, soon=True))
            world.then(last, lambda: unlinked(world, machine, seconds))
        case 1:
            world.then(last - 3.0, lambda: world.links.slow.update({machine.name: now + seconds}))
        case _:
            pass


def unlinked(world: World, machine: Machine, seconds: float) -> None:
    """No machine reaches it."""
    world.fault("no link to a machine", machine.name)
    for name in world.machines:
        world.links.cut[name, machine.name] = world.loop.now + seconds


def comes_unheard_of(world: World, machine: Machine, rng: random.Random) -> None:
    """A machine is off until nobody names it any more; then all others lose etcd, and it comes and reaches it."""
    off, seconds = NAMES_GO + rng.uniform(0.0, 4.0), rng.uniform(12.0, 25.0)
    if not machine.up or not _begins(world, off + seconds):
        return
    world.fault("a machine comes that the others have not heard of", machine.name)
    machine.power_off(off)
    until = world.loop.now + off + seconds

    def lost() -> None:
        for name in world.machines:
            if name != machine.name:
                for member in MEMBERS:
                    world.etcd.cut[name, member] = until

    world.then(off - rng.uniform(0.5, 3.0), lost)


def one_way_cut(world: World, machine: Machine, rng: random.Random) -> None:
    """Of the link to another machine, or both ways."""
    world.fault("link between machines cut", machine.name)
    other = rng.choice([name for name in world.machines if name != machine.name])
    until = world.loop.now + rng.uniform(0.5, 20.0)
    ways = [(machine.name, other), (other, machine.name)]
    for way in rng.choice((ways[:1], ways[1:], ways)):
        world.links.cut[way] = until


def lossy_link(world: World, machine: Machine, rng: random.Random) -> None:
    world.fault("links of a machine lossy or slow", machine.name)
    rng.choice((world.links.lossy, world.links.slow))[machine.name] = world.loop.now + rng.uniform(1.0, 15.0)
