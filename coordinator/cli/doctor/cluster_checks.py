"""What is wrong with the cluster, as etcd shows it. Pure: one look and the time in, findings out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from drover.coordinator.cli.doctor.findings import Finding, failing, note, ok, warning
from drover.coordinator.cli.ls import orphans
from drover.coordinator.cli.output import age, listing, seconds
from drover.coordinator.cli.picture import NodeState, Picture, Undeclared
from drover.coordinator.cli.situation import NeedsYou, OnItsOwn, situation
from drover.coordinator.records import Evidence, Phase
from drover.coordinator.timings import MAX_D_HARD

LONG = timedelta(hours=8)
"""After which a cordon, or a silent node, may have been forgotten."""
AHEAD = timedelta(seconds=10)
"""By which a time that was written may lie in the future, before clocks count as wrong."""


def nodes(picture: Picture, now: datetime) -> list[Finding]:
    found: list[Finding] = []
    for node in picture.nodes.values():
        has = listing(picture.held_by(node.name)) if picture.held_by(node.name) else "no dataset"
        if node.state is NodeState.SILENT:
            todo = "Look at the machine and at its agent (systemctl status drover-agent)."
            found.append(failing("nodes", f"{node.name} is silent: its session has ended; it has {has}", todo))
        elif node.state is NodeState.FENCED:
            why = node.fence.evidence.value if node.fence else ""
            todo = "Start the machine, or its agent; if it is gone for good, nothing has to be done."
            found.append(warning("nodes", f"{node.name} is fenced ({why}); it has {has}", todo))
        if node.cordon and (since := _since(node.cordon.at, now)) and since > LONG:
            todo = f"If that is over: drover uncordon {node.name}"
            found.append(warning("nodes", f"{node.name} has been cordoned for {seconds(since.total_seconds())}", todo))
    if not picture.live:
        found.append(failing("nodes", "no node is here", "Start an agent; look at its log."))
    return found or [ok("nodes", f"{len(picture.live)} are here: {listing(list(picture.live))}")]


def fences(picture: Picture, now: datetime) -> list[Finding]:
    """Incarnations for whose end there is no proof, and that datasets wait for."""
    waiting: dict[str, list[str]] = {}
    for name, dataset in picture.datasets.items():
        for holder in dataset.tenure.unfenced if dataset.tenure else ():
            waiting.setdefault(holder.incarnation, []).append(name)
    found = []
    for incarnation, names in waiting.items():
        fence = picture.fences.get(incarnation)
        if fence is not None and fence.evidence is Evidence.SILENCE:
            todo = f"Make sure that the machine is off, then: drover fence {incarnation} --confirm"
            what = f"{listing(names)} may wait for {fence.node}: nothing but silence says that it has stopped"
            found.append(warning("fences", what, todo))
    return found


def datasets(picture: Picture, now: datetime) -> list[Finding]:
    """Those that are not as they should be, and whom they wait for."""
    found: list[Finding] = []
    content = 0
    for name, dataset in picture.datasets.items():
        gone = isinstance(dataset.declaration, Undeclared) and not (dataset.tenure and dataset.tenure.held)
        if gone or name in picture.trash:
            continue
        seen = situation(dataset, picture, now)
        where, why = f" on {seen.node}" if seen.node else "", f": {seen.why}" if seen.why else ""
        what = f"{name} is {seen.phase}{where}{why}"
        match seen.next:
            case NeedsYou(todo):
                found.append((warning if seen.phase == Phase.ACTIVE else failing)("datasets", what, todo))
            case OnItsOwn(following):
                found.append(note("datasets", what, f"On its own: {following}"))
            case _:
                content += 1
    return [*found, ok("datasets", f"as they should be: {content}")]


def unproven(picture: Picture, now: datetime) -> list[Finding]:
    """Datasets that would wait for a person when their node falls silent."""
    armed = {name for name, it in picture.nodes.items() if it.heartbeat and it.heartbeat.armed}
    stuck = [
        name
        for name, it in picture.datasets.items()
        if it.spec and it.spec.fencing == "hard" and it.spec.failover != "none"
        if it.tenure and it.tenure.held and it.tenure.node in picture.live and it.tenure.node not in armed
    ]
    if not stuck:
        return []
    todo = 'Arm its node ([guard] reset = "/dev/watchdog"), or say that silence is enough: --fencing cooperative'
    what = f"{listing(stuck)} would wait for a person when their node falls silent: nothing resets it, fencing is hard"
    return [warning("fail-over", what, todo)]


def nowhere_to_go(picture: Picture, now: datetime) -> list[Finding]:
    """Fail-over policies that nobody can fulfil."""
    found = []
    for name, it in picture.datasets.items():
        if it.spec is None or it.spec.failover == "none" or not (it.tenure and it.tenure.held):
            continue
        able = [
            n for n, o in picture.live.items() if o.record and it.tenure.backend in o.record.backends and not o.cordon
        ]
        others = [n for n in able if n != it.tenure.node and (it.spec.failover == "any" or n in it.spec.failover)]
        if not others:
            todo = f"Start or uncordon a node that offers {it.tenure.backend}, or: drover set {name} --failover"
            found.append(warning("fail-over", f"{name} has no other node to fail over to", todo))
    return found


def alike(picture: Picture, now: datetime) -> list[Finding]:
    """Nodes that differ in deadlines or version."""
    found = []
    beats = {name: it.heartbeat for name, it in picture.live.items() if it.heartbeat and not it.heartbeat.placeholder}
    deadlines = {name: beat.d_hard for name, beat in beats.items()}
    if len(set(deadlines.values())) > 1:
        told = listing([f"{name} {d_hard:g} s" for name, d_hard in sorted(deadlines.items())])
        todo = "It is safe, and makes fail-overs differ: set the same timings on all nodes."
        found.append(note("timings", f"deadlines (D_hard) differ: {told}", todo))
    versions = {name: it.record.version for name, it in picture.live.items() if it.record}
    if len(set(versions.values())) > 1:
        told = listing([f"{name} {version}" for name, version in sorted(versions.items())])
        found.append(note("versions", f"agents differ: {told}", "Fine while they are updated; finish it."))
    if slow := [name for name, d_hard in deadlines.items() if d_hard >= MAX_D_HARD]:
        found.append(note("timings", f"{listing(slow)} may write for {MAX_D_HARD:g} s after it was last heard"))
    return found


def pause(picture: Picture, now: datetime) -> list[Finding]:
    if picture.pause is None:
        return []
    todo = "While it lasts nothing fails over. To go on: drover resume"
    if picture.pause.until <= now:
        what = f"{picture.pause.words}: it is over, and nobody has taken it away"
        return [warning("pause", what, "drover resume; look whether any node is here")]
    return [warning("pause", picture.pause.words, todo)]


def clocks(picture: Picture, now: datetime) -> list[Finding]:
    """By the times that were written: safety does not rest on them, but pauses and the trash do."""
    stamps = [(entry.node, entry.at) for it in picture.datasets.values() for entry in it.history]
    stamps += [(fence.by, fence.at) for fence in picture.fences.values()]
    stamps += [(name, it.record.joined) for name, it in picture.live.items() if it.record]
    ahead = sorted({who for who, at in stamps if (since := _since(at, now)) is not None and since < -AHEAD})
    if not ahead:
        return [ok("clocks", "no node has written a time that lies in the future")]
    todo = "Keep the time by chrony or systemd-timesyncd, on the nodes and here. No data is at risk."
    return [warning("clocks", f"times written about {listing(ahead)} lie in the future of this machine's clock", todo)]


def kept(picture: Picture, now: datetime) -> list[Finding]:
    """Data that no dataset uses: orphans, and what is in the trash."""
    found = []
    if left := orphans(picture):
        todo = "To have one again, put its spec; to be rid of it, put the spec with reclaim: delete, then drover rm."
        found.append(note("orphans", f"removed, data kept: {listing(left)}", todo))
    late = sorted({it.dataset for it in picture.trash.values() if it.until <= now})
    if late:
        todo = "The node that ranks first does it within a minute; if not, look at its log."
        found.append(note("trash", f"due to be destroyed: {listing(late)}", todo))
    soon = [it for it in picture.trash.values() if now < it.until <= now + timedelta(days=1)]
    if soon:
        names = listing(sorted({it.dataset for it in soon}))
        found.append(note("trash", f"destroyed within a day: {names}", "To have it again: drover undelete NAME"))
    return found


def unusable(picture: Picture, now: datetime) -> list[Finding]:
    """Keys that nobody acts on. Their values are not told: anything may be in them."""
    keys = sorted({*picture.ignored, *(k.partition(":")[0] for d in picture.datasets.values() for k in d.unreadable)})
    todo = "drover ls says why; mend or delete them."
    return [warning("keys", f"cannot be used: {listing(keys)}", todo)] if keys else []


def _since(stamp: str, now: datetime) -> timedelta | None:
    """How long ago; None where it says no time."""
    if not age(stamp, now):
        return None
    then = datetime.fromisoformat(stamp)
    return now - (then if then.tzinfo else then.replace(tzinfo=now.tzinfo))


CHECKS: tuple[Callable[[Picture, datetime], list[Finding]], ...] = (
    nodes,
    fences,
    datasets,
    unproven,
    nowhere_to_go,
    alike,
    pause,
    clocks,
    kept,
    unusable,
)
