"""What goes wrong, and when: each run gets a few kinds of fault, often, rather than all of them, rarely (Groce et al.,
Swarm Testing, ISSTA 2012)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial

from drover.coordinator.protocol.session import GAP
from drover.coordinator.records import Evidence, Fence, State
from tests.sim.etcd import MEMBERS, Odds
from tests.sim.machine import Machine
from tests.sim.storage import Slowness
from tests.sim.world import World

Fault = Callable[[World, Machine, random.Random], None]
"""Does it, to this machine or another, where it is possible now."""


def power_cut(world: World, machine: Machine, rng: random.Random) -> None:
    if not machine.up:
        return
    world.fault("power cut", machine.name)
    machine.power_off(rng.uniform(0.5, 20.0))


def agent_restart(world: World, machine: Machine, rng: random.Random) -> None:
    if machine.agent_process is None or not machine.up:
        return
    world.fault("agent killed", machine.name)
    machine.end_agent()
    boot = machine.boot

    def back() -> None:
        if machine.boot == boot:
            machine.start_agent()

    world.after(rng.choice((rng.uniform(0.05, 0.5), rng.uniform(0.5, 15.0))), back)


def agent_stopped(world: World, machine: Machine, rng: random.Random) -> None:
    if machine.agent_process is None or machine.agent_process.stopped:
        return
    world.fault("agent stopped", machine.name)
    machine.stop(machine.agent_process, rng.choice((rng.uniform(0.1, 4.5), rng.uniform(3.0, 20.0))))


def guard_killed(world: World, machine: Machine, rng: random.Random) -> None:
    if machine.guard is None or not machine.up:
        return
    world.fault("guard killed", machine.name)
    machine.guard.kill()


def guard_stopped(world: World, machine: Machine, rng: random.Random) -> None:
    if machine.guard is None or not machine.guard.looks:
        return
    world.fault("guard stopped", machine.name)
    machine.guard.stop(rng.uniform(0.2, 8.0))


def both_stopped(world: World, machine: Machine, rng: random.Random) -> None:
    """Only a watchdog ends this, and where there is none nobody may take silence for death."""
    if world.cooperative or machine.guard is None or not machine.guard.looks or machine.agent_process is None:
        return
    world.fault("agent and guard stopped", machine.name)
    seconds = rng.uniform(1.0, 20.0)
    machine.guard.stop(seconds)
    if not machine.agent_process.stopped:
        machine.stop(machine.agent_process, seconds)


def storage_hangs(world: World, machine: Machine, rng: random.Random) -> None:
    """What is killed under it is not gone, and what was written lands when it goes on."""
    if world.cooperative or machine.unkillable > world.loop.now:
        return
    world.fault("storage hangs", machine.name)
    machine.unkillable = world.loop.now + rng.uniform(0.5, 15.0)


def cut_off(world: World, machine: Machine, rng: random.Random) -> None:
    world.fault("cut off from etcd", machine.name)
    until = world.loop.now + rng.choice((rng.uniform(0.5, 6.0), rng.uniform(4.0, 20.0)))
    for member in MEMBERS:
        world.etcd.cut[machine.name, member] = until


def cut_off_from_one(world: World, machine: Machine, rng: random.Random) -> None:
    world.fault("cut off from one member", machine.name)
    world.etcd.cut[machine.name, rng.choice(MEMBERS)] = world.loop.now + rng.uniform(0.5, 15.0)


def slow_answers(world: World, machine: Machine, rng: random.Random) -> None:
    """Answers are under way for long; then nothing gets through any more."""
    world.fault("slow answers", machine.name)
    seconds = rng.uniform(1.0, 5.0)
    world.etcd.slow[machine.name] = world.loop.now + seconds
    if rng.random() < 0.5:
        world.then(seconds, lambda: cut_off(world, machine, rng))


def lease_revoked_early(world: World, machine: Machine, rng: random.Random) -> None:
    member = machine.agent._member if machine.agent is not None else None
    if member is None or not member.lease:
        return
    world.fault("lease revoked early", machine.name)
    world.etcd.expire(member.lease)


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
    world.etcd.members[name].down = world.loop.now + rng.uniform(1.0, 10.0)
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
        world.etcd.back = until
    for name, state in world.etcd.members.items():
        state.down = until
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


def holder_in_trouble(world: World, machine: Machine, rng: random.Random) -> None:
    """Whoever is on its way with a dataset is hit."""
    midway = [t for t in world.checks.tenures.values() if t.state is State.ASSIGNED or t.unfenced or not t.born]
    if not midway:
        return
    victim = world.machines[rng.choice(midway).node]
    rng.choice((power_cut, agent_restart, agent_stopped, cut_off))(world, victim, rng)


FAULTS: dict[str, Fault] = {
    f.__name__: f
    for f in (
        power_cut,
        agent_restart,
        agent_stopped,
        guard_killed,
        guard_stopped,
        both_stopped,
        storage_hangs,
        cut_off,
        cut_off_from_one,
        slow_answers,
        lease_revoked_early,
        election,
        member_dies,
        member_freezes,
        member_lags,
        outage,
        compaction,
        watches_break,
        workload_ends,
        move,
        changes_mind,
        spec_deleted,
        confirmed_off,
        cordoned,
        holder_in_trouble,
    )
}


@dataclass(frozen=True)
class Focus:
    """What a run is to be about, rather than a few kinds of fault by chance. odds: fields of Odds and Slowness."""

    faults: tuple[str, ...] = ()
    odds: Mapping[str, float] = field(default_factory=dict)


BY_CHANCE = Focus()


def unleash(world: World, focus: Focus = BY_CHANCE) -> None:
    """From now on, until `World.heal`."""
    rng = world.rng
    chosen = [*rng.sample(sorted(FAULTS), rng.randint(2, 7)), "move", "changes_mind"]
    if focus.faults:
        chosen = list(focus.faults)
    pace = rng.choice((1.0, 2.0, 4.0))
    world.cooperative = rng.random() < 0.2
    odds = {f.name: rng.uniform(0.005, 0.1) for f in fields(Odds) if rng.random() < 0.35}
    slow = {f.name: rng.uniform(0.01, 0.15) for f in fields(Slowness) if rng.random() < 0.3}
    for name, value in focus.odds.items():
        (odds if name in Odds.__dataclass_fields__ else slow)[name] = value
    world.etcd.odds, world.storage.slowness = Odds(**odds), Slowness(**slow)

    def next_one() -> None:
        if not world.trouble:
            return
        fault = FAULTS[rng.choice(chosen)]
        fault(world, rng.choice(list(world.machines.values())), rng)
        world.after(rng.expovariate(1.0 / pace), next_one)

    world.after(rng.uniform(2.0, 6.0), next_one)
