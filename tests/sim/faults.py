"""What goes wrong with machines, agents and etcd."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from drover.coordinator.protocol.leaving import OnShutdown
from drover.coordinator.protocol.session import GAP
from drover.coordinator.records import State
from tests.sim.etcd import MEMBERS
from tests.sim.machine import Machine
from tests.sim.world import World

Fault = Callable[[World, Machine, random.Random], None]
"""Does it, to this machine or another, where it is possible now."""


def power_cut(world: World, machine: Machine, rng: random.Random) -> None:
    if not machine.up:
        return
    world.fault("power cut", machine.name)
    machine.power_off(world.lasts(0.5, 20.0))


def agent_restart(world: World, machine: Machine, rng: random.Random, soon: bool = False) -> None:
    if machine.agent_process is None or not machine.up:
        return
    world.fault("agent killed", machine.name)
    machine.end_agent()
    boot = machine.boot

    def back() -> None:
        if machine.boot == boot:
            machine.start_agent()

    world.after(rng.choice((rng.uniform(0.05, 0.5), rng.uniform(0.05, 0.5) if soon else world.lasts(0.5, 15.0))), back)


def agent_stopped(world: World, machine: Machine, rng: random.Random) -> None:
    if machine.agent_process is None or machine.agent_process.stopped:
        return
    world.fault("agent stopped", machine.name)
    machine.stop(machine.agent_process, rng.choice((rng.uniform(0.1, 4.5), world.lasts(3.0, 20.0))))


def guard_killed(world: World, machine: Machine, rng: random.Random) -> None:
    if machine.guard is None or not machine.up:
        return
    world.fault("guard killed", machine.name)
    machine.guard.kill()


def guard_stopped(world: World, machine: Machine, rng: random.Random) -> None:
    if machine.guard is None or not machine.guard.looks:
        return
    world.fault("guard stopped", machine.name)
    machine.guard.stop(world.lasts(0.2, 8.0))


def both_stopped(world: World, machine: Machine, rng: random.Random) -> None:
    """Only a watchdog ends this, and where there is none nobody may take silence for death."""
    if world.cooperative or machine.guard is None or not machine.guard.looks or machine.agent_process is None:
        return
    world.fault("agent and guard stopped", machine.name)
    seconds = world.lasts(1.0, 20.0)
    machine.guard.stop(seconds)
    if not machine.agent_process.stopped:
        machine.stop(machine.agent_process, seconds)


def storage_hangs(world: World, machine: Machine, rng: random.Random) -> None:
    """What is killed under it is not gone, and what was written lands when it goes on."""
    if world.cooperative or machine.unkillable > world.loop.now:
        return
    world.fault("storage hangs", machine.name)
    machine.unkillable = world.loop.now + world.lasts(0.5, 15.0)


def cut_off(world: World, machine: Machine, rng: random.Random) -> None:
    world.fault("cut off from etcd", machine.name)
    until = world.loop.now + rng.choice((rng.uniform(0.5, 6.0), rng.uniform(4.0, 20.0)))
    for member in MEMBERS:
        world.etcd.cut[machine.name, member] = until


def cut_off_from_one(world: World, machine: Machine, rng: random.Random) -> None:
    world.fault("cut off from one member", machine.name)
    world.etcd.cut[machine.name, rng.choice(MEMBERS)] = world.loop.now + rng.uniform(0.5, 15.0)


def cut_off_from_another(world: World, machine: Machine, rng: random.Random) -> None:
    """Two machines do not reach each other; both reach etcd."""
    other = rng.choice([name for name in world.machines if name != machine.name])
    world.fault("cut off from another node", machine.name)
    world.unlinked[frozenset((machine.name, other))] = world.loop.now + world.lasts(0.5, 15.0)


def copier_in_trouble(world: World, machine: Machine, rng: random.Random) -> None:
    """Either end of a copy that is under way is hit."""
    if not world.under_way:
        return
    incoming = rng.choice(list(world.under_way.values()))
    victim = rng.choice((incoming.machine, world.machines[incoming.sender]))
    world.fault("hit while a copy is under way", victim.name)
    rng.choice((power_cut, agent_restart, agent_stopped, cut_off, cut_off_from_another))(world, victim, rng)


def slow_answers(world: World, machine: Machine, rng: random.Random) -> None:
    """Answers are under way for long; then nothing gets through any more."""
    world.fault("slow answers", machine.name)
    seconds = rng.uniform(1.0, 5.0)
    world.etcd.slow[machine.name] = world.loop.now + seconds
    if rng.random() < 0.5:
        world.then(seconds, lambda: cut_off(world, machine, rng))


def lease_revoked_early(world: World, machine: Machine, rng: random.Random) -> None:
    if not machine.lease:
        return
    world.fault("lease revoked early", machine.name)
    world.etcd.expire(machine.lease)


def election(world: World, machine: Machine, rng: random.Random) -> None:
    world.fault("leases armed anew", machine.name)
    world.etcd.elect()
    pause = world.loop.now + rng.uniform(0.2, 1.5)
    for state in world.etcd.members.values():
        state.frozen = max(state.frozen, pause)


def member_dies(world: World, machine: Machine, rng: random.Random) -> None:
    name = rng.choice(MEMBERS)
    if sum(state.down > world.loop.now for state in world.etcd.members.values()) >= 1:
        return
    world.fault("etcd member dies", machine.name)
    world.etcd.members[name].down = world.loop.now + world.lasts(1.0, 10.0)
    world.etcd.break_watches(member=name)


def member_freezes(world: World, machine: Machine, rng: random.Random) -> None:
    """For 8 s, as was seen: it answers what it was asked when it goes on, and a frozen leader revokes leases."""
    world.fault("etcd member freezes", machine.name)
    world.etcd.members[rng.choice(MEMBERS)].frozen = world.loop.now + 8.0
    for other in world.machines.values():
        if rng.random() < 0.4:
            world.then(8.0, partial(lease_revoked_early, world, other, rng))


def member_lags(world: World, machine: Machine, rng: random.Random) -> None:
    world.fault("etcd member is behind", machine.name)
    state = world.etcd.members[rng.choice(MEMBERS)]
    state.behind, state.old_term = rng.uniform(0.2, 4.0), rng.random() < 0.5

    def caught_up() -> None:
        state.behind, state.old_term = 0.0, False

    world.after(rng.uniform(2.0, 15.0), caught_up)


def outage(world: World, machine: Machine, rng: random.Random) -> None:
    world.fault("etcd away for everybody", machine.name)
    until = world.loop.now + rng.choice((3.0, 10.0, rng.uniform(1.0, 20.0)))
    if until - world.loop.now > GAP * world.timings.heartbeat:
        world.etcd.away, world.etcd.back = world.loop.now, until
    for name, state in world.etcd.members.items():
        state.down = max(state.down, until)
        world.etcd.break_watches(member=name)


def compaction(world: World, machine: Machine, rng: random.Random) -> None:
    """Under watches that have to resume."""
    world.fault("compaction", machine.name)
    truth = world.etcd.truth
    truth.compact(max(1, truth.revision - rng.randint(0, 3)))
    world.etcd.break_watches(machine.name)


def watches_break(world: World, machine: Machine, rng: random.Random) -> None:
    world.fault("watches break", machine.name)
    world.etcd.break_watches(machine.name)


def workload_ends(world: World, machine: Machine, rng: random.Random) -> None:
    alive = [name for name, writer in machine.workloads.items() if writer.alive]
    if not alive:
        return
    world.fault("workload ends", machine.name)
    name = rng.choice(alive)
    machine.workloads[name].end(rng.choice((0, 1, -11)))
    if machine.agent is not None:
        machine.agent.workload_ended(name)


def shuts_down(world: World, machine: Machine, rng: random.Random) -> None:
    """Its machine goes off afterwards, or too early; or its agent is started again instead."""
    agent, process = machine.agent, machine.agent_process
    if agent is None or process is None or process.stopped or not machine.up:
        return
    policy: OnShutdown = rng.choice(("move", "release", "keep"))
    grace, lasts = rng.choice((0.0, 5.0, 30.0)), rng.choice((rng.uniform(0.2, 2.0), world.lasts(1.0, 12.0)))
    world.fault(f"shuts down ({policy})", machine.name)
    agent.shut_down(policy, rng.uniform(0.3, 6.0), grace)
    boot, reboots = machine.boot, rng.random() < 0.7

    def goes_off() -> None:
        if machine.boot != boot or not machine.up:
            return
        if reboots:
            machine.power_off(world.lasts(0.5, 20.0))
        elif machine.agent is agent:
            machine.end_agent()
            machine.start_agent()

    world.then(lasts, goes_off)


def holder_in_trouble(world: World, machine: Machine, rng: random.Random) -> None:
    """Whoever is on its way with a dataset is hit."""
    midway = [t for t in world.checks.tenures.values() if t.state is State.ASSIGNED or t.unfenced or not t.born]
    if not midway:
        return
    victim = world.machines[rng.choice(midway).node]
    rng.choice((power_cut, agent_restart, agent_stopped, cut_off))(world, victim, rng)


def dies_with_its_lease(world: World, machine: Machine, rng: random.Random) -> None:
    """Nobody sees it in `nodes/` any more, and what it held is still its own."""
    if not machine.up or not machine.lease:
        return
    world.fault("power cut, and its lease ends", machine.name)
    world.etcd.expire(machine.lease)
    machine.power_off(world.lasts(5.0, 30.0))


def forgets_its_session(world: World, machine: Machine, rng: random.Random) -> None:
    """The agent restarts, and what it left for its successor is gone or damaged."""
    if machine.agent_process is None or not machine.up:
        return
    world.fault("agent killed, its saved session lost", machine.name)
    machine.end_agent()
    if rng.random() < 0.5:
        machine.files.session.unlink(missing_ok=True)
    else:
        machine.files.session.write_text('{"incarnation": "')
    boot = machine.boot
    world.after(world.lasts(0.05, 4.0), lambda: machine.start_agent() if machine.boot == boot else None)


def hangs_and_is_cut_off(world: World, machine: Machine, rng: random.Random) -> None:
    """The ladder cannot succeed, and where no reset is armed the machine goes on to the end of it."""
    if world.cooperative or machine.unkillable > world.loop.now:
        return
    world.fault("storage hangs, cut off from etcd", machine.name)
    away = rng.uniform(6.0, 12.0)
    machine.unkillable = world.loop.now + away + world.lasts(2.0, 12.0)
    for member in MEMBERS:
        world.etcd.cut[machine.name, member] = world.loop.now + away


def suspended(world: World, machine: Machine, rng: random.Random) -> None:
    """The machine as a whole, within the promise, or for longer than that: then it must stop as soon as it goes on, and
    what it does until then does not count."""
    if not machine.up or machine.asleep > world.loop.now or machine.adrift:
        return
    timings = world.timings
    within = rng.random() < 0.5
    seconds = rng.uniform(0.1, timings.wait - timings.d_io - 0.1) if within else world.lasts(2.0, 20.0)
    world.fault("suspended" if within else "suspended for too long", machine.name)
    machine.suspend(seconds, adrift=not within)
