"""What goes wrong, and when: each run gets a few kinds of fault, often, rather than all of them, rarely (Groce et al.,
Swarm Testing, ISSTA 2012). Every second run favours one scenario: faults that matter together."""

from __future__ import annotations

from dataclasses import fields

from tests.sim import alone, disaster, faults, scripts, wishes
from tests.sim.etcd import Odds
from tests.sim.faults import Fault
from tests.sim.scenarios import SCENARIOS, favoured, scenario_of
from tests.sim.storage import BLOCK, LOCAL, Slowness
from tests.sim.transfer import Wire
from tests.sim.world import World

FAULTS: dict[str, Fault] = {
    f.__name__: f
    for f in (
        faults.power_cut,
        faults.agent_restart,
        faults.agent_stopped,
        faults.guard_killed,
        faults.guard_stopped,
        faults.both_stopped,
        faults.storage_hangs,
        faults.cut_off,
        faults.cut_off_from_one,
        faults.slow_answers,
        faults.cut_off_from_another,
        faults.copier_in_trouble,
        faults.lease_revoked_early,
        faults.election,
        faults.member_dies,
        faults.member_freezes,
        faults.member_lags,
        faults.outage,
        faults.compaction,
        faults.watches_break,
        faults.workload_ends,
        faults.shuts_down,
        faults.holder_in_trouble,
        faults.dies_with_its_lease,
        faults.forgets_its_session,
        faults.hangs_and_is_cut_off,
        faults.suspended,
        alone.etcd_away_for_long,
        alone.all_but_one_cut_off,
        alone.comes_unheard_of,
        alone.one_way_cut,
        disaster.etcd_copied,
        disaster.etcd_restored,
        scripts.unwanted_handover,
        scripts.last_word,
        scripts.late_helper,
        scripts.late_lease_record,
        scripts.late_of_the_dead,
        wishes.move,
        wishes.changes_mind,
        wishes.spec_deleted,
        wishes.confirmed_off,
        wishes.cordoned,
        wishes.drained,
        wishes.regrouped,
        wishes.paused,
        wishes.trashed,
    )
}


NOT_COOPERATIVE = ("agent and guard stopped", "storage hangs", "storage hangs, cut off from etcd")
"""Where nobody must take silence for death."""


def unleash(world: World) -> None:
    """From now on, until `World.heal`."""
    rng = world.rng
    chosen = [*rng.sample(sorted(FAULTS), rng.randint(2, 7)), "move", "changes_mind"]
    odds = {f.name: rng.uniform(0.005, 0.1) for f in fields(Odds) if rng.random() < 0.35}
    slow = {f.name: rng.uniform(0.01, 0.15) for f in fields(Slowness) if rng.random() < 0.3}
    pace = rng.choice((0.5, 1.0, 2.0, 4.0))
    world.cooperative = rng.random() < 0.2
    world.deaths = int(rng.random() < 0.2)
    favours = world.favours or scenario_of(world.seed)
    if favours:
        scenario = favoured(world.favours) if world.favours else SCENARIOS[favours]
        world.say("seed", f"favours: {favours}")
        chosen = [*scenario.faults, *scenario.faults, *rng.sample(chosen, 1)]
        keep = rng.random() < (0.05 if scenario.hasty else 0.3)
        odds, slow = (odds, slow) if keep else ({}, {})
        for name, value in scenario.odds.items():
            (odds if name in Odds.__dataclass_fields__ else slow)[name] = value
        world.cooperative = world.cooperative and not scenario.unarmed
        world.deaths = scenario.deaths
        world.hasty, world.reclaim, world.storage.steps = scenario.hasty, scenario.reclaim, scenario.steps
        pace = scenario.pace or pace
        if scenario.unarmed:
            world.machines["c"].armed = False
        if scenario.block:
            world.backends = dict.fromkeys(world.datasets, BLOCK)
        if scenario.local:
            world.backends = dict.fromkeys(world.datasets, LOCAL)
            world.wire = Wire(**{f.name: rng.uniform(0.0, scenario.local) for f in fields(Wire)})
        if any(kind in world.favours for kind in NOT_COOPERATIVE):
            world.cooperative = False
    world.etcd.odds, world.storage.slowness = Odds(**odds), Slowness(**slow)
    if not favours and rng.random() < 0.25:
        world.backends["d"] = LOCAL
        if world.grouped and rng.random() < 0.5:
            world.backends["e"] = world.backends["f"] = LOCAL
        world.wire = Wire(**{f.name: rng.uniform(0.01, 0.15) for f in fields(Wire) if rng.random() < 0.5})

    if {"etcd_copied", "etcd_restored"} & set(chosen):
        world.then(4.0, world.keep_backups)

    def next_one() -> None:
        if not world.trouble:
            return
        FAULTS[rng.choice(chosen)](world, rng.choice(list(world.machines.values())), rng)
        world.after(rng.expovariate(1.0 / pace), next_one)

    world.after(rng.uniform(2.0, 6.0), next_one)
