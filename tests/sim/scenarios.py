"""Faults that matter together, and what else of a run makes them matter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Scenario:
    """faults: by name; twice is twice as often. odds: fields of Odds and Slowness. unarmed: nothing resets machine c.
    deaths: how often one machine dies for good in the end, with its lease. pace: seconds between two faults; 0: any.
    steps: of the storage, which alone its odds are for; (): all. block: all volumes are attached to one machine at a
    time. local: all are copies of each node's own, and how much happens to them on the wire, at most; 0: not. reclaim:
    what specs say; "": any. hasty: what people do takes them a second, and most trouble is short. datasets: how many.
    seconds: virtual, in which things go wrong."""

    faults: tuple[str, ...]
    odds: Mapping[str, float] = field(default_factory=dict)
    unarmed: bool = False
    deaths: int = 0
    pace: float = 0.0
    steps: tuple[str, ...] = ()
    block: bool = False
    local: float = 0.0
    reclaim: str = ""
    hasty: bool = False
    datasets: int = 3
    seconds: float = 60.0


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
    "others promise": Scenario(
        ("etcd_away_for_long", "all_but_one_cut_off", "all_but_one_cut_off", "all_but_one_cut_off")
    ),
    "unheard of": Scenario(("comes_unheard_of", "comes_unheard_of", "move")),
    "one dies for good": Scenario(("dies_with_its_lease", "move", "cordoned"), deaths=1),
    "copies on each node": Scenario(
        ("move", "move", "copier_in_trouble", "holder_in_trouble", "power_cut"), local=0.2, deaths=1
    ),
}


def scenario_of(seed: int) -> str:
    """Which scenario a run favours that favours no kind of fault; "": none."""
    return "" if seed % 2 == 0 else list(SCENARIOS)[seed // 2 % len(SCENARIOS)]


_COPIES = ("copy's step", "transfer", "check of a copy")


def _often(fault: str) -> Scenario:
    return Scenario((fault,) * 5 + ("move",), pace=0.15, hasty=True)


def _storage(steps: tuple[str, ...], how: str) -> Scenario:
    """Every second time that one of these steps is taken."""
    made = bool({"create", "mkfs", "destroy"} & set(steps))
    return Scenario(
        (*(("spec_deleted",) * 5 if made else ("move",) * 8), "move", "agent_restart"),
        {how: 0.45},
        pace=0.25,
        steps=steps,
        block=bool({"attach", "detach"} & set(steps)),
        local=0.02 if set(_COPIES) & set(steps) else 0.0,
        reclaim="delete" if "destroy" in steps else "",
        hasty=True,
        datasets=6,
    )


_SIMPLE = {
    "power cut": "power_cut",
    "agent killed": "agent_restart",
    "agent stopped": "agent_stopped",
    "guard killed": "guard_killed",
    "guard stopped": "guard_stopped",
    "agent and guard stopped": "both_stopped",
    "storage hangs": "storage_hangs",
    "cut off from etcd": "cut_off",
    "cut off from one member": "cut_off_from_one",
    "slow answers": "slow_answers",
    "lease revoked early": "lease_revoked_early",
    "leases armed anew": "election",
    "etcd member dies": "member_dies",
    "etcd member freezes": "member_freezes",
    "etcd member is behind": "member_lags",
    "etcd away for everybody": "outage",
    "compaction": "compaction",
    "watches break": "watches_break",
    "workload ends": "workload_ends",
    "cut off from another node": "cut_off_from_another",
    "power cut, and its lease ends": "dies_with_its_lease",
    "agent killed, its saved session lost": "forgets_its_session",
    "storage hangs, cut off from etcd": "hangs_and_is_cut_off",
    "suspended": "suspended",
    "suspended for too long": "suspended",
    "shuts down (move)": "shuts_down",
    "shuts down (release)": "shuts_down",
    "shuts down (keep)": "shuts_down",
    "led to a copy of etcd": "etcd_copied",
    "unwanted handover commits late": "unwanted_handover",
    "heard of its heartbeat late": "last_word",
    "lease record put back late": "late_lease_record",
    "commits after its sender hangs": "late_of_the_dead",
    "desired changed": "move",
    "desired changed and changed back": "changes_mind",
    "spec deleted": "spec_deleted",
    "cordon": "cordoned",
    "drain": "drained",
    "group changed": "regrouped",
}
_ODDS = {
    "committed, not answered": "reply_lost",
    "commits late": "late_commit",
    "request lost": "request_lost",
    "stale read": "stale_read",
    "watch event lost": "event_lost",
    "watch event late": "event_late",
    "watch event twice": "event_twice",
    "watch broken": "watch_broken",
}
_STEPS = (("create", "mkfs"), ("publish", "mount"), ("unmount",), ("destroy",))
_RESTORED = ("etcd restored", "etcd restored, with its cluster id", "drover recover")
_ON_THE_WIRE = (
    "transfer cut",
    "copy damaged on its way",
    "receiver killed at the end",
    "answer of a receiver lost",
)
_TRASH = ("put in the trash", "undeleted", "trash emptied")

AT_STORAGE: dict[str, Scenario] = {
    **{
        f"{step} {how}": _storage(steps, how)
        for steps in _STEPS
        for step in steps
        for how in ("fails", "hangs", "late")
    },
    **{f"{step} {how}": _storage((step,), how) for step in ("attach", "detach") for how in ("fails", "late")},
    **{f"{step} {how}": _storage((step,), how) for step in _COPIES for how in ("fails", "hangs", "late")},
}
"""Those that happen to steps at the storage. They go well together with others."""

KINDS: dict[str, Scenario] = {
    **{kind: _often(fault) for kind, fault in _SIMPLE.items()},
    **{kind: Scenario(("move", "agent_restart"), {odds: 0.15}) for kind, odds in _ODDS.items()},
    **AT_STORAGE,
    **{
        kind: Scenario(("trashed",) * 8 + ("move",), pace=0.2, reclaim="retain", hasty=True, datasets=6)
        for kind in _TRASH
    },
    "pause": Scenario(("paused",) * 4 + ("move", "cut_off", "power_cut"), pace=0.4, hasty=True),
    "helper starts late": Scenario(("move", "late_helper"), {"starts_late": 0.5}, pace=0.4),
    **{kind: Scenario(("etcd_restored",) * 8 + ("move",), pace=0.3, hasty=True, seconds=180.0) for kind in _RESTORED},
    "operator confirms": Scenario(("confirmed_off",) * 4 + ("power_cut", "dies_with_its_lease", "move"), pace=0.3),
    "hit while a copy is under way": Scenario(
        ("move",) * 3 + ("copier_in_trouble",) * 2, pace=0.15, hasty=True, local=0.05
    ),
    **{
        kind: Scenario(("move",) * 8 + ("agent_restart",), pace=0.2, hasty=True, local=0.5, datasets=6)
        for kind in _ON_THE_WIRE
    },
    "dies for good": Scenario(("move", "cordoned"), deaths=12, seconds=10.0),
}
"""Every kind of fault that a run counts, and what brings it about often."""


def favoured(kinds: str) -> Scenario:
    """kinds: one, or two with " + " between them, of which one is at the storage."""
    one, _, other = kinds.partition(" + ")
    a, b = KINDS[one], KINDS[other or one]
    return replace(
        a,
        faults=(*a.faults, *b.faults),
        odds={**a.odds, **b.odds},
        pace=min(filter(None, (a.pace, b.pace)), default=0.0),
        steps=a.steps or b.steps,
        block=a.block or b.block,
        local=max(a.local, b.local),
        reclaim=a.reclaim or b.reclaim,
        hasty=a.hasty or b.hasty,
        datasets=max(a.datasets, b.datasets),
    )
