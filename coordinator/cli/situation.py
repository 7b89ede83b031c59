"""What a dataset's records mean for a person: its phase, why, and whether somebody has to do something. Pure.

The holder's own `status` is what counts, as long as the tenure agrees that it is the holder's to write. Where it is not
(the holder is fenced, the epoch has changed, nobody has it yet) the words come from the tenure and the spec.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from drover.coordinator.cli.output import age, listing, seconds
from drover.coordinator.cli.picture import Dataset, Misdeclared, Node, NodeState, Picture, Undeclared
from drover.coordinator.protocol.dataset import Dataset as Seen
from drover.coordinator.protocol.ownership import may_clear
from drover.coordinator.records import Phase, State, Status, Tenure
from drover.coordinator.specs import DatasetSpec
from drover.coordinator.timings import required_wait


@dataclass(frozen=True)
class Settled:
    """All is as the user wants it."""

    who = "nobody"
    what = ""


@dataclass(frozen=True)
class OnItsOwn:
    """Drover goes on without anybody."""

    what: str
    who = "drover"


@dataclass(frozen=True)
class NeedsYou:
    """Nothing happens until a person acts. what: what to do."""

    what: str
    who = "you"


Next = Settled | OnItsOwn | NeedsYou

INVALID = "invalid"
"""Shown as the phase of what cannot be a dataset."""

UNPLACED = "nobody has it yet"
"""Why a new dataset is nowhere."""


@dataclass(frozen=True)
class Situation:
    """phase: a Phase, or `invalid`. node: who has it, "" for nobody. why: one line, "" for nothing to say."""

    phase: str
    node: str
    why: str
    next: Next


def situation(dataset: Dataset, picture: Picture, now: datetime) -> Situation:
    """What to tell about a dataset. now: for ages in words only."""
    seen = _situation(dataset, picture, now)
    if picture.pause is not None and isinstance(seen.next, OnItsOwn):
        return replace(seen, next=OnItsOwn(f"{seen.next.what}, after the pause: {picture.pause.words}"))
    return seen


def _situation(dataset: Dataset, picture: Picture, now: datetime) -> Situation:
    tenure = dataset.tenure
    match dataset.declaration:
        case Misdeclared(reason) if tenure is None or not tenure.held:
            return Situation(INVALID, "", reason, NeedsYou(f"mend the spec ({reason})"))
        case Undeclared() if tenure is None:
            said = "it has no spec, only a desired node" if dataset.desired else "it has no spec"
            return Situation(
                INVALID, "", said, NeedsYou(f"create it, or delete what was typed: drover rm {dataset.name}")
            )
    if tenure is not None and tenure.held:
        fence = picture.fences.get(tenure.incarnation)
        if fence is not None:
            return _orphaned(dataset, tenure, picture)
        return _held(dataset, tenure, picture, now)
    return _free(dataset, tenure, picture)


def _held(dataset: Dataset, tenure: Tenure, picture: Picture, now: datetime) -> Situation:
    status = fresh_status(dataset)
    node = picture.nodes[tenure.node]
    phase = status.phase if status else Phase.STARTING
    said = [status.warning, status.reason] if status else ["its node has not said anything yet"]
    if isinstance(dataset.declaration, Misdeclared) and not (status and status.warning):
        said.insert(0, f"spec ignored: {dataset.declaration.reason}")
    if isinstance(dataset.declaration, Undeclared):
        said.insert(0, "its spec was deleted")
    if node.state is NodeState.SILENT or node.incarnation != tenure.incarnation:
        said.insert(0, f"{tenure.node} is silent")
    why = "; ".join(filter(None, said))
    if not why and tenure.evidence is not None:
        ago = age(tenure.since, now)
        why = tenure.because.partition(" (")[0] + (f" {ago} ago" if ago else "")
    return Situation(phase, tenure.node, why, _next(dataset, tenure, status, node, picture))


def _next(dataset: Dataset, tenure: Tenure, status: Status | None, node: Node, picture: Picture) -> Next:
    if node.state in (NodeState.SILENT, NodeState.LEFT):
        longest = f" in at most {seconds(required_wait(node.heartbeat.writes_for) + 1)}" if node.heartbeat else ""
        return OnItsOwn(f"{tenure.node} comes back, or is fenced{longest}")
    match dataset.declaration:
        case Misdeclared(reason):
            return NeedsYou(f"mend the spec ({reason})")
        case Undeclared() if users := picture.users_of(dataset.name):
            return NeedsYou(f"remove workload {listing(users)}, which uses it")
        case Undeclared():
            return OnItsOwn(f"{tenure.node} {'destroys its data' if tenure.reclaim == 'delete' else 'gives it up'}")
    if stuck := _unproven(dataset, tenure, picture):
        holder = stuck[0]
        return NeedsYou(
            f"{listing(stuck)} may still be able to write; make sure that the machine is off, "
            f"then: drover fence {holder} --confirm"
        )
    phase = status.phase if status else Phase.STARTING
    if phase is Phase.FAILED:
        return NeedsYou(status.reason if status and status.reason else f"look at the log of {tenure.node}'s agent")
    if status and (status.needs or status.warning):
        return NeedsYou(status.needs or status.warning)
    if phase is Phase.WAITING:
        return OnItsOwn("goes on when its reason has gone")
    if phase in (Phase.STARTING, Phase.MOVING):
        return OnItsOwn(f"{tenure.node} is at work on it")
    return Settled()


def _unproven(dataset: Dataset, tenure: Tenure, picture: Picture) -> list[str]:
    """Earlier holders for whose end there is no proof yet, and none will come by itself."""
    seen = Seen(dataset.name, dataset.spec)
    return [
        holder.incarnation
        for holder in tenure.unfenced
        if (fence := picture.fences.get(holder.incarnation)) and not may_clear(holder, seen, fence)
    ]


def _orphaned(dataset: Dataset, tenure: Tenure, picture: Picture) -> Situation:
    """Its holder is dead to the cluster."""
    node, spec = tenure.node, dataset.spec
    status = dataset.status
    told = status.reason if status and status.phase is Phase.WAITING else ""
    if isinstance(dataset.declaration, Undeclared):
        return _doomed(tenure)
    if tenure.copies and not any(name in picture.live for name in tenure.copies):
        _, needs, what = told.partition("needs you: ")
        todo = what if needs else f"bring {listing(tenure.copies)} back: nobody else has the data"
        return Situation(Phase.WAITING, "", told or f"{node} has died", NeedsYou(todo))
    home = dataset.desired.node if dataset.desired else node
    candidates = _candidates(spec, tenure, picture)
    if home in picture.live:
        return Situation(Phase.WAITING, "", told or f"{node} has died", OnItsOwn(f"{home} takes it"))
    if candidates:
        why = told or f"{node} has died"
        return Situation(Phase.WAITING, "", why, OnItsOwn(f"{listing(candidates)} may take it"))
    policy = failover_text(spec) if spec else "none"
    why = told or f"{node} has died; failover: {policy}"
    todo = f"bring {node} back, or say where it should be: {_example(dataset.name, picture)}"
    return Situation(Phase.WAITING, "", why, NeedsYou(todo))


def _doomed(tenure: Tenure) -> Situation:
    why = f"its spec was deleted; {tenure.node}, which had it, has died"
    if tenure.reclaim == "delete":
        return Situation(Phase.WAITING, "", why, OnItsOwn("another node takes it, to destroy its data"))
    return Situation(Phase.STOPPED, "", f"{why}; the data is kept (uid {tenure.uid})", Settled())


def _example(name: str, picture: Picture) -> str:
    """A command that can be copied."""
    return f"drover move {name} {next(iter(picture.live), 'NODE')}"


def _candidates(spec: DatasetSpec | None, tenure: Tenure, picture: Picture) -> list[str]:
    able = [n for n, it in picture.live.items() if it.record and tenure.backend in it.record.backends and not it.cordon]
    if spec is None or spec.failover == "none":
        return []
    return able if spec.failover == "any" else [name for name in able if name in spec.failover]


def _free(dataset: Dataset, tenure: Tenure | None, picture: Picture) -> Situation:
    """Nobody has it: it is new, was released, or destroyed."""
    name = dataset.name
    if isinstance(dataset.declaration, Undeclared) and tenure is not None:
        if tenure.trash:
            return Situation(Phase.STOPPED, "", f"removed; {tenure.because}: drover undelete {name}", Settled())
        if tenure.state is State.DESTROYED:
            return Situation(Phase.DESTROYED, "", "its data was destroyed on request", Settled())
        return Situation(Phase.STOPPED, "", f"its spec was deleted; the data is kept (uid {tenure.uid})", Settled())
    status = dataset.status
    told = status.reason if status and status.phase in (Phase.WAITING, Phase.FAILED, Phase.STOPPED) else ""
    phase = status.phase if status and told else Phase.WAITING
    warning = status.warning if status else ""
    why = "; ".join(filter(None, (warning, told)))
    home = dataset.desired.node if dataset.desired else ""
    if not home:
        return Situation(phase, "", why or UNPLACED, NeedsYou(f"say where it should be: {_example(name, picture)}"))
    if home not in picture.live:
        known = listing(list(picture.live))
        return Situation(
            phase,
            "",
            why or f"waits for {home}, which is not here",
            NeedsYou(f"start {home}, or choose one of: {known}"),
        )
    if phase is Phase.FAILED:
        return Situation(phase, "", why, NeedsYou(told))
    return Situation(phase, "", why, OnItsOwn(f"{home} takes it"))


def fresh_status(dataset: Dataset) -> Status | None:
    """The status, unless it is from an earlier epoch than the tenure's."""
    status, tenure = dataset.status, dataset.tenure
    if status is None or (tenure is not None and tenure.held and status.epoch < tenure.epoch):
        return None
    return status


def desired_words(dataset: Dataset, picture: Picture) -> str:
    """What `desired` says, and why the dataset is not there."""
    desired, tenure = dataset.desired, dataset.tenure
    if desired is None:
        return "none"
    unit = [picture.datasets.get(name) for name in (dataset.name, *picture.together(dataset.name))]
    newest, asking = max((it.desired.entry.mod_revision, it.name) for it in unit if it and it.desired)
    if newest > desired.entry.mod_revision:
        return f"{desired.node} (the newer wish for {asking}, which it moves with, counts)"
    if dataset.answered and tenure and tenure.held and tenure.node != desired.node:
        again = f"drover move {dataset.name} {desired.node}"
        return f"{desired.node} (answered; it stays on {tenure.node} until it is moved, for example back: {again})"
    return desired.node


def failover_text(spec: DatasetSpec) -> str:
    """The policy as it is typed: `none`, `any` or `node-a,node-b`."""
    return spec.failover if isinstance(spec.failover, str) else ",".join(spec.failover)


def failover_words(name: str, spec: DatasetSpec) -> str:
    """What the failover policy means for this dataset."""
    match spec.failover:
        case "none":
            return f"none — if its node dies, {name} waits for it; nobody else takes it"
        case "any":
            return f"any — if its node dies, another node takes {name}, whichever can"
        case nodes:
            others = listing(nodes).replace(" and ", " or ")
            return f"{failover_text(spec)} — if its node dies, {name} goes to {others}, to nobody else"


def fencing_words(spec: DatasetSpec) -> str:
    """What the fencing policy means."""
    if spec.fencing == "hard":
        return "hard — nobody else writes before there is proof that the old node has stopped"
    return "cooperative — a node that is silent long enough counts as stopped"


def replicas_words(name: str, spec: DatasetSpec) -> str:
    """What the standbys that it asks for mean; "" where it asks for none."""
    if spec.replicas == 0:
        return ""
    most = f"they go on if at most {spec.max_data_loss:g} s of writing are lost"
    decides = most if spec.max_data_loss else f"a person decides (drover resolve {name})"
    return f"{spec.replicas}, sent every {spec.replicate_every:g} s — if its node dies, {decides}"


def reclaim_words(spec: DatasetSpec) -> str:
    if spec.reclaim == "trash":
        return "trash — drover rm keeps the data for some days, then it is destroyed"
    if spec.reclaim == "retain":
        return "retain — drover rm keeps the data"
    return "delete — drover rm destroys the data"
