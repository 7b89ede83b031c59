"""What to do next about a unit of datasets. Pure: records + what is really here → steps, and what people are told.

The table, for a unit (one dataset, or those that belong together), from top to bottom; the first that applies:

    situation                                          steps
    the gate is closed                                 none: the ladder is at work
    etcd answers nobody, all others promise to wait    none, but start again what ended
    something is here of a dataset that is not mine,   stop its workloads, then unpublish it
    or is mine, but not yet to be written
    mine, from before this life of the agent           touch it: nothing sent earlier can commit any more
    this node shuts down                               as the next three, or stop workloads → unpublish
    wanted elsewhere, copies of its own on each node   replicate, while all goes on as if it were not; then as below,
                                                       with the last increment before the hand-over
    wanted elsewhere, a container runs here            ask until the other node is ready for it, then as below
    wanted elsewhere                                   stop workloads → unpublish → hand over
    a workload does not start, and is to go back       as wanted elsewhere
    not wanted any more                                stop workloads → unpublish → release or destroy
    free, and this node is first                       claim
    mine, assigned                                     clear those known to have stopped → activate (or refuse)
    mine, active, not born                             create
    mine, active, not mounted                          publish
    mine, mounted                                      grow, start workloads, keep records up to date
    anything else                                      none, and the reason why
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drover.agent.explain import Decision, explain
from drover.agent.rounds import Again, Copying
from drover.agent.situation import BEING_STARTED, TRIES, Situation
from drover.agent.steps import (
    Activate,
    AskReady,
    Clear,
    Create,
    Destroy,
    Grow,
    Handover,
    LastIncrement,
    Publish,
    Refresh,
    Refuse,
    Release,
    Replicate,
    Reput,
    StartWorkload,
    Step,
    StopReplicating,
    StopWorkload,
    TakeClaim,
    Touch,
    Unpublish,
)
from drover.agent.storage.base import Away, Mounted
from drover.agent.workloads.base import Absent, Exited, Running, fingerprint
from drover.agent.workloads.restart import restart_at
from drover.coordinator.protocol import ownership, placement
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.protocol.leaving import Park, part
from drover.coordinator.protocol.placement import Claim, Dismiss, Give, Keep, Nothing
from drover.coordinator.records import State, Status
from drover.coordinator.specs import DatasetSpec, WorkloadSpec

STARTING_LOOK = 0.5
"""Seconds between two looks which container it is that has just been given a dataset."""
USERS_LOOK = 5.0
"""Seconds between two looks whether containers still use what is wanted elsewhere."""
READY_LOOK = 5.0
"""Seconds before a node is asked again that could not get ready for a workload."""
GATE_LOOK = 1.0
"""Seconds between two looks at a closed gate: that it opens is told, but nothing may hang on that."""


@dataclass(frozen=True)
class Plan:
    """steps: to run now, side by side. statuses: by dataset, for those that this node may report on. wake:
    CLOCK_BOOTTIME at which to look again though nothing has happened; None: only when something happens. leaving: the
    steps lead out of here. parted: this node shuts down, and nothing of the unit is in use here any more."""

    steps: tuple[Step, ...] = ()
    statuses: Mapping[str, Status] = field(default_factory=dict)
    wake: float | None = None
    leaving: bool = False
    parted: bool = False


def plan(s: Situation) -> Plan:
    """The next steps. Called again after they have run, and whenever something has changed."""
    if not s.gate:
        return Plan(wake=s.now + GATE_LOOK)
    if s.held:
        return _held(s)
    if s.trouble is not None and s.trouble.until > s.now and not _abandons(s):
        return Plan((), explain(s, _decide(s)), s.trouble.until)
    decision = _decide(s)
    steps, wake = _steps(s, decision)
    steps = (*(StopReplicating(name) for name in _idle(s, decision)), *steps)
    if any(BEING_STARTED in users for users in s.users.values()):
        wake = min(wake or s.now + STARTING_LOOK, s.now + STARTING_LOOK)
    parted = s.leaving is not None and not steps and isinstance(decision, Park | Nothing)
    return Plan(steps, explain(s, decision), wake, isinstance(decision, Give | Dismiss | Park), parted)


def _held(s: Situation) -> Plan:
    """Nothing is begun that needs etcd for its end; what an earlier life of the agent has sent may still commit."""
    decision, steps = _decide(s), []
    wake = s.now + GATE_LOOK
    if isinstance(decision, Keep) and all(d.tenure_revision > s.life for d in s.mine):
        ended = {name for name, condition in s.conditions.items() if isinstance(condition, Exited)}
        wanted, due = _workloads(s, s.mine)
        steps = [step for step in wanted if isinstance(step, StartWorkload) and step.workload in ended]
        wake = min(wake, due or wake)
    return Plan(tuple(steps), explain(s, decision), wake)


def _decide(s: Situation) -> Decision:
    if s.leaving is not None:
        return part(s.node, s.unit, s.mine, s.cluster, s.leaving)
    decision = placement.decide(s.node, s.incarnation, s.unit, s.cluster)
    if isinstance(decision, Give) and (users := sorted({user for d in s.mine for user in s.users.get(d.name, ())})):
        return Keep(f"in use by {', '.join(users)}; stop it, then it moves to {decision.to}")
    if isinstance(decision, Give) and s.blocked is not None and s.blocked.until > s.now:
        asking = placement.newest_desired(s.unit)
        if asking is not None and asking.desired_revision == s.blocked.asked:
            return Keep(s.blocked.reason)
    if isinstance(decision, Keep) and s.cluster.pause is None:
        return _back(s) or decision
    return decision


def _back(s: Situation) -> Give | None:
    """Where a workload that its spec sends back goes, once for each wish that has brought it here."""
    asking = placement.newest_desired(s.unit)
    if asking is None or asking.desired != s.node or not asking.answered:
        return None
    for name, spec in s.workloads:
        if spec.on_start_failure != "back" or not (why := s.unstartable.get(name)):
            continue
        if (to := placement.successor(s.node, s.mine, s.cluster)) is not None:
            return Give(to, f"workload {name} does not start on {s.node}: {why}")
    return None


def _abandons(s: Situation) -> bool:
    """Whether trouble is no reason to wait: its cause is bringing the unit up here, and it is wanted elsewhere."""
    if s.trouble is not None and s.trouble.leaving:
        return False
    return isinstance(_decide(s), Give | Dismiss | Park) and all(isinstance(h, Away) for h in s.here.values())


def _steps(s: Situation, decision: Decision) -> tuple[tuple[Step, ...], float | None]:
    mine = s.mine
    active = {d.name for d in mine if d.tenure and d.tenure.state is State.ACTIVE}
    strays = [name for name, here in s.here.items() if name not in active and not isinstance(here, Away)]
    if stop := _stop(s, [*strays, *(d.name for d in mine if d.name not in active)]):
        return stop, None
    if strays:
        return tuple(Unpublish(name, leaving=False) for name in strays), None
    if old := [d for d in mine if d.tenure_revision <= s.life]:
        return tuple(Touch(d.name) for d in old), None
    match decision:
        case Give(to, because):
            if (unready := _unready(s, mine, to)) is not None:
                return unready
            if (ahead := _ahead(s, mine, to)) is not None:
                return ahead
            return _leave(s, mine, s.leaving is None) or (Handover(tuple(d.name for d in mine), to, because),), None
        case Dismiss(datasets, destroy, because):
            return _dismiss(s, [d for d in mine if d.name in datasets], destroy, because), None
        case Park():
            return _leave(s, mine, moving=False), None
        case Claim(delay=delay):
            due = (s.claim_since if s.claim_since is not None else s.now) + delay
            if due <= s.now:
                return (TakeClaim(decision),), None
            steps, wake = _hold(s, mine)
            return steps, min(wake or due, due)
        case Keep():
            steps, wake = _hold(s, mine)
            if s.blocked is not None and s.blocked.until > s.now:
                wake = min(wake or s.blocked.until, s.blocked.until)
            if decision.warning and any(s.users.values()):
                wake = min(wake or s.now + USERS_LOOK, s.now + USERS_LOOK)
            return steps, wake
        case Nothing():
            return _stop(s, [d.name for d in s.unit]), None


def _unready(s: Situation, mine: Sequence[Dataset], to: str) -> tuple[tuple[Step, ...], float | None] | None:
    """What is done until the next node is ready for what runs here; None: nothing any more, or there is no time."""
    if s.leaving is not None:
        return None
    asked: list[Step] = []
    later: list[float] = []
    names = {d.name for d in mine}
    for name, spec in s.workloads:
        if not spec.awaited or not isinstance(s.conditions.get(name), Running) or not names & set(spec.datasets):
            continue
        said = s.ready.get(name)
        if said is None or (said.to, said.fingerprint) != (to, fingerprint(spec)):
            asked.append(AskReady(name, to))
        elif said.trouble and said.at + READY_LOOK > s.now:
            later.append(said.at + READY_LOOK)
        elif not said.done:
            asked.append(AskReady(name, to))
    if not asked and not later:
        return None
    steps, wake = _hold(s, mine)
    return (*asked, *steps), min((*later, *([wake] if wake else [])), default=None)


def _local(mine: Sequence[Dataset]) -> list[Dataset]:
    return [d for d in mine if d.tenure and d.tenure.copies]


def _on_its_way(s: Situation, d: Dataset, to: str) -> Copying | None:
    """To there, in this epoch: what another one has sent says nothing."""
    found = s.copying.get(d.name)
    same = found is not None and d.tenure is not None and (found.to, found.epoch) == (to, d.tenure.epoch)
    return found if same else None


def _idle(s: Situation, decision: Decision) -> list[str]:
    """What is being sent and should not be."""
    held = {d.name: d.tenure.epoch for d in s.mine if d.tenure}
    return [
        name
        for name, copying in s.copying.items()
        if not isinstance(decision, Give) or decision.to != copying.to or held.get(name) != copying.epoch
    ]


def _ahead(s: Situation, mine: Sequence[Dataset], to: str) -> tuple[tuple[Step, ...], float | None] | None:
    """What comes before a hand-over of datasets whose data is on this node; None: nothing any more."""
    if not (local := _local(mine)):
        return None
    states = {d.name: _on_its_way(s, d, to) for d in local}
    if any(state is None or isinstance(state.verdict, Again) for state in states.values()):
        steps, wake = _hold(s, mine)
        ready = [d for d in local if d.tenure and d.tenure.state is State.ACTIVE and d.name not in s.copying]
        return (*(Replicate(d.name, to) for d in ready), *steps), wake
    if steps := _leave(s, mine, s.leaving is None):
        return steps, None
    rest = tuple(LastIncrement(name) for name, state in states.items() if state is not None and state.base is None)
    return (rest, None) if rest else None


def _running(s: Situation, datasets: Sequence[str]) -> list[str]:
    """Workloads that are here and use one of these datasets."""
    return sorted(
        name
        for name, condition in s.conditions.items()
        if not isinstance(condition, Absent)
        and (spec := s.cluster.workloads.get(name)) is not None
        and set(spec.datasets) & set(datasets)
    )


def _stop(s: Situation, datasets: Sequence[str], moving: bool = False) -> tuple[Step, ...]:
    return tuple(StopWorkload(name, moving) for name in _running(s, datasets))


def _leave(s: Situation, leaving: Sequence[Dataset], moving: bool = True) -> tuple[Step, ...]:
    """Out of use here: workloads first, then mounts. Nothing when that is done. moving: it can be given up for a while,
    and the dataset used here again."""
    names = [d.name for d in leaving]
    if stop := _stop(s, names, moving):
        return stop
    return tuple(Unpublish(n, leaving=moving) for n in names if not isinstance(s.here.get(n, Away()), Away))


def _dismiss(s: Situation, leaving: Sequence[Dataset], destroy: Sequence[str], because: str) -> tuple[Step, ...]:
    if steps := _leave(s, leaving, moving=False):
        return steps
    doomed = [d for d in leaving if d.name in destroy]
    if bring := tuple(step for d in doomed for step in _assigned(s, d)):
        return bring
    kept = tuple(d.name for d in leaving if d.name not in destroy)
    release: tuple[Step, ...] = (Release(kept, because),) if kept else ()
    # What is not cut off may still write: it is not destroyed under anybody's hands.
    return (*release, *(Destroy(d.name) for d in doomed if d.tenure and d.tenure.state is State.ACTIVE))


def _assigned(s: Situation, d: Dataset) -> tuple[Step, ...]:
    """From assigned to active; nothing when it is, or when somebody may still be writing."""
    tenure = d.tenure
    if tenure is None or tenure.state is not State.ASSIGNED:
        return ()
    stopped = tuple(h for h in tenure.unfenced if s.clearable(d, h))
    if stopped:
        return (Clear(d.name, stopped),)
    if tenure.unfenced:
        return ()
    return (Activate(d.name),)


def _hold(s: Situation, mine: Sequence[Dataset]) -> tuple[tuple[Step, ...], float | None]:
    assigned = [d for d in mine if d.tenure and d.tenure.state is State.ASSIGNED]
    if assigned and s.trouble is not None and s.trouble.tries >= TRIES:
        to = placement.successor(s.node, assigned, s.cluster)
        return (Refuse(tuple(d.name for d in assigned), to, f"{s.node} cannot take it: {s.trouble.reason}"),), None
    steps: list[Step] = []
    asking = placement.newest_desired(s.unit)
    at_home = asking is not None and asking.desired == s.node
    for d in mine:
        steps += _assigned(s, d) or _bring_up(s, d)
        if d.tenure and d.tenure.state is State.ACTIVE:
            if not d.leased:
                steps.append(Reput(d.name))
            if ownership.stale_copy(d, at_home) and isinstance(s.here.get(d.name), Mounted):
                steps.append(Refresh(d.name))
    workloads, wake = _workloads(s, mine)
    return (*steps, *workloads), wake


def _bring_up(s: Situation, d: Dataset) -> tuple[Step, ...]:
    tenure = d.tenure
    if tenure is None or tenure.state is not State.ACTIVE:
        return ()
    if not tenure.born:
        return (Create(d.name),)
    here = s.here.get(d.name, Away())
    if not isinstance(here, Mounted):
        return (Publish(d.name),)
    if isinstance(d.spec, DatasetSpec) and not d.replaced and d.spec.size != here.size:
        return (Grow(d.name),)
    return ()


def _workloads(s: Situation, mine: Sequence[Dataset]) -> tuple[list[Step], float | None]:
    steps: list[Step] = []
    wakes: list[float] = []
    for name, spec in s.workloads:
        ready = _ready(s, spec, mine)
        match s.conditions.get(name, Absent()):
            case Running(fingerprint=started) if not ready or started != fingerprint(spec):
                steps.append(StopWorkload(name))
            case Exited(fingerprint=started) as exited if ready and spec.kind in s.allowed:
                due = restart_at(spec, exited, s.failures.get(name, 0)) if started == fingerprint(spec) else s.now
                if due is not None and due <= s.now:
                    steps.append(StartWorkload(name))
                elif due is not None:
                    wakes.append(due)
            case Absent() if ready and spec.kind in s.allowed:
                steps.append(StartWorkload(name))
    return steps, min(wakes, default=None)


def _ready(s: Situation, spec: WorkloadSpec, mine: Sequence[Dataset]) -> bool:
    """All its datasets are active and mounted here."""
    active = {d.name for d in mine if d.tenure and d.tenure.state is State.ACTIVE}
    return all(n in active and isinstance(s.here.get(n), Mounted) for n in spec.datasets)
