"""What goes wrong, and when: each run gets a few kinds of fault, often, rather than all of them, rarely (Groce et al.,
Swarm Testing, ISSTA 2012). Every second run favours one scenario: faults that matter together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from tests.sim import disaster, faults, scripts, wishes
from tests.sim.etcd import Odds
from tests.sim.faults import Fault
from tests.sim.storage import Slowness
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


@dataclass(frozen=True)
class Scenario:
    """faults: by name; twice is twice as often. odds: fields of Odds and Slowness. unarmed: nothing resets machine c.
    one_dies: in the end one machine dies for good, with its lease."""

    faults: tuple[str, ...]
    odds: Mapping[str, float] = field(default_factory=dict)
    unarmed: bool = False
    one_dies: bool = False


SCENARIOS: dict[str, Scenario] = {
    "a handover that is not wanted any more": Scenario(("unwanted_handover", "unwanted_handover", "move")),
    "late words": Scenario(("last_word", "move")),
    "late helpers": Scenario(("late_helper", "late_helper", "move", "cut_off"), {"starts_late": 0.5}),
    "nothing resets it": Scenario(("both_stopped", "storage_hangs", "move", "move"), unarmed=True),
    "what is seen comes late": Scenario(("member_lags", "move"), {"event_late": 0.2}),
    "late words of the dead": Scenario(("late_of_the_dead", "agent_stopped", "move"), {"late_commit": 0.1}),
    "leases end early": Scenario(("late_lease_record", "late_lease_record", "move")),
    "what is killed does not die": Scenario(("hangs_and_is_cut_off", "storage_hangs", "move"), unarmed=True),
    "a session is forgotten": Scenario(("forgets_its_session", "cut_off", "agent_restart", "move")),
    "etcd away for everybody": Scenario(("outage", "move")),
    "specs come and go": Scenario(
        ("spec_deleted", "spec_deleted", "move", "watches_break"), {"event_late": 0.1, "event_lost": 0.05}
    ),
    "pauses": Scenario(("paused", "paused", "cut_off", "agent_restart", "power_cut", "move")),
    "machines are suspended": Scenario(("suspended", "suspended", "move")),
    "groups change": Scenario(("regrouped", "regrouped", "move", "holder_in_trouble", "drained")),
    "in the trash and back": Scenario(("trashed", "trashed", "move", "holder_in_trouble")),
    "etcd goes back": Scenario(("etcd_restored", "move", "move", "agent_restart")),
    "a copy of etcd": Scenario(("etcd_copied", "etcd_copied", "move")),
    "machines shut down": Scenario(("shuts_down", "shuts_down", "move", "agent_restart")),
    "one dies for good": Scenario(("dies_with_its_lease", "move", "cordoned"), one_dies=True),
}


def scenario_of(seed: int) -> str:
    """Which scenario a run favours; "": none."""
    return "" if seed % 2 == 0 else list(SCENARIOS)[seed // 2 % len(SCENARIOS)]


def unleash(world: World) -> None:
    """From now on, until `World.heal`."""
    rng = world.rng
    chosen = [*rng.sample(sorted(FAULTS), rng.randint(2, 7)), "move", "changes_mind"]
    odds = {f.name: rng.uniform(0.005, 0.1) for f in fields(Odds) if rng.random() < 0.35}
    slow = {f.name: rng.uniform(0.01, 0.15) for f in fields(Slowness) if rng.random() < 0.3}
    pace = rng.choice((0.5, 1.0, 2.0, 4.0))
    world.cooperative = rng.random() < 0.2
    world.one_dies = rng.random() < 0.2
    if favoured := scenario_of(world.seed):
        scenario = SCENARIOS[favoured]
        world.say("seed", f"favours: {favoured}")
        chosen = [*scenario.faults, *scenario.faults, *rng.sample(chosen, 1)]
        keep = rng.random() < 0.3
        odds, slow = (odds, slow) if keep else ({}, {})
        for name, value in scenario.odds.items():
            (odds if name in Odds.__dataclass_fields__ else slow)[name] = value
        world.cooperative = world.cooperative and not scenario.unarmed
        world.one_dies = scenario.one_dies
        if scenario.unarmed:
            world.machines["c"].armed = False
    world.etcd.odds, world.storage.slowness = Odds(**odds), Slowness(**slow)

    if {"etcd_copied", "etcd_restored"} & set(chosen):
        world.then(4.0, world.keep_backups)

    def next_one() -> None:
        if not world.trouble:
            return
        FAULTS[rng.choice(chosen)](world, rng.choice(list(world.machines.values())), rng)
        world.after(rng.expovariate(1.0 / pace), next_one)

    world.after(rng.uniform(2.0, 6.0), next_one)
