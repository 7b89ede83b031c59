"""What people are told about a dataset: its phase and the reason. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from drover.agent.situation import TRIES, Situation
from drover.agent.storage.base import Attached, Away, Mounted
from drover.agent.workloads.base import Absent, Exited, Running
from drover.agent.workloads.restart import restart_at
from drover.coordinator.protocol import ignored, placement
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.protocol.leaving import Park
from drover.coordinator.protocol.placement import Claim, Dismiss, Give, Keep, Nothing, speaker
from drover.coordinator.record import one_line
from drover.coordinator.records import Holder, Phase, State, Status

Decision = placement.Decision | Park


def explain(s: Situation, decision: Decision) -> dict[str, Status]:
    mine = {d.name for d in s.mine}
    told: dict[str, Status] = {}
    for d in s.unit:
        if d.name in mine:
            told[d.name] = _on_one_line(_holder_status(s, d, decision))
        elif _orphaned(s, d) and speaker(d.name, s.cluster) == s.node:
            told[d.name] = _on_one_line(_orphan_status(s, d, decision))
    return told


def _on_one_line(status: Status) -> Status:
    """Names that users gave may be in it, and these need not be text that can be written anywhere."""
    return status.model_copy(
        update={
            "reason": one_line(status.reason),
            "warning": one_line(status.warning),
            "needs": one_line(status.needs),
        }
    )


def _orphaned(s: Situation, d: Dataset) -> bool:
    return d.tenure is None or not d.tenure.held or d.tenure.incarnation in s.cluster.fences


def _orphan_status(s: Situation, d: Dataset, decision: Decision) -> Status:
    epoch = d.tenure.epoch if d.tenure else 0
    if d.tenure is not None and d.tenure.state is State.DESTROYED and d.spec is None:
        if d.tenure.trash:
            return Status(phase=Phase.STOPPED, epoch=epoch, reason=d.tenure.because)
        return Status(phase=Phase.DESTROYED, epoch=epoch, reason="destroyed, as its spec said")
    match decision:
        case Nothing(reason):
            stopped = d.tenure is not None and d.tenure.state is State.RELEASED and d.spec is None
            phase = Phase.STOPPED if stopped else Phase.WAITING
        case Claim(because=because):
            phase, reason = Phase.STARTING, because
        case _:
            phase, reason = Phase.WAITING, ""
    return Status(phase=phase, reason=reason, epoch=epoch)


def _holder_status(s: Situation, d: Dataset, decision: Decision) -> Status:
    tenure = d.tenure
    assert tenure is not None
    here = s.here.get(d.name, Away())
    status = Status(phase=Phase.STARTING, node=s.node, epoch=tenure.epoch, reason=tenure.because)
    status = _with(status, users=s.users.get(d.name, ()))
    if isinstance(here, Mounted) and tenure.state is State.ACTIVE:
        took: dict[str, object] = {"cutover_ms": s.cutovers.get(d.name), "start_ms": s.starts.get(d.name)}
        status = _with(status, phase=Phase.ACTIVE, path=str(here.path), **took)
    elif isinstance(here, Attached):
        status = _with(status, reason=f"attached as {here.device}")
    match decision:
        case Give(to):
            copying = s.copying.get(d.name)
            words = f"to {to}: {copying.words}" if copying else f"to {to}"
            said = [(name, ready) for name, _ in s.workloads if (ready := s.ready.get(name)) and ready.to == to]
            wrong = [f"{to} cannot run {name} now: {ready.trouble}" for name, ready in said if ready.trouble]
            words = f"{words}, but it stays here as long as {wrong[0]}" if wrong else words
            status = _with(status, phase=Phase.MOVING, reason=words)
        case Dismiss(because=because):
            status = _with(status, phase=Phase.MOVING, reason=because)
        case Park(because):
            status = _with(status, phase=Phase.MOVING if status.path else Phase.WAITING, reason=because)
        case Keep(warning) if warning:
            status = _with(status, warning=warning)
        case _:
            status = _with(status, warning=ignored.warning(s.unit, s.cluster))
    if tenure.state is State.ASSIGNED and (waits := [h for h in tenure.unfenced if not s.clearable(d, h)]):
        status = _with(status, phase=Phase.WAITING, reason=_unfenced_reason(s, waits))
    if s.held:
        words = "etcd is away; it goes on, as all nodes that could take it promise to wait"
        return _with(status, reason=words, warning="")
    if s.trouble is not None:
        failed = s.trouble.tries >= TRIES and not isinstance(here, Mounted)
        phase = Phase.FAILED if failed else status.phase
        return _with(status, phase=phase, reason=s.trouble.reason)
    if status.phase in (Phase.STARTING, Phase.ACTIVE) and (note := _workload_note(s, d))[0]:
        status = _with(status, reason=note[0], needs=note[1])
    if status.phase is Phase.ACTIVE and (stays := placement.stays(s.node, s.unit)):
        status = _with(status, reason=f"{status.reason}; {stays}" if status.reason else stays)
    return status


def _with(status: Status, **changes: object) -> Status:
    return status.model_copy(update=changes)


def _unfenced_reason(s: Situation, holders: Sequence[Holder]) -> str:
    names = ", ".join(h.node for h in holders)
    first = holders[0].incarnation if holders[0].node in s.cluster.nodes else holders[0].node
    return (
        f"{names} may still be writing: it fell silent, and nothing proves that it has stopped."
        f" Needs you: make sure that it is off, then drover fence {first} --confirm"
    )


def _workload_note(s: Situation, d: Dataset) -> tuple[str, str]:
    """What keeps a workload of this dataset from running, if anything, and what a person has to do about it."""
    for name, spec in s.workloads:
        if d.name not in spec.datasets:
            continue
        if spec.kind not in s.allowed:
            note = f"workload {name} is of kind {spec.kind}, which this node does not allow ([workloads] allow)"
            return note, f"allow {spec.kind} in the settings of {s.node}, or move {d.name} to a node that does"
        condition = s.conditions.get(name, Absent())
        if isinstance(condition, Exited):
            again = restart_at(spec, condition, s.failures.get(name, 0))
            how = (
                f"exited with status {condition.status}"
                if condition.status >= 0
                else f"died of signal {-condition.status}"
            )
            if again is not None:
                return f"workload {name} {how}; restarts", ""
            mend = f"look why {name} has ended; to run it again, change its spec" if condition.status else ""
            return f"workload {name} {how}; is not restarted", mend
        if isinstance(condition, Running) and condition.ailing:
            return f"workload {name} {condition.ailing}", ""
        if missing := [n for n in spec.datasets if not isinstance(s.here.get(n), Mounted)]:
            return f"workload {name} waits for dataset {missing[0]}", ""
    return "", ""
