"""`drover show`: one dataset, with all that is known about it."""

from __future__ import annotations

from drover.coordinator.cli import copies, options, output
from drover.coordinator.cli.connection import connection, run
from drover.coordinator.cli.describe import dataset_json, now, the_dataset
from drover.coordinator.cli.ls import paint
from drover.coordinator.cli.output import age, listing, plain
from drover.coordinator.cli.picture import Dataset, Picture, take
from drover.coordinator.cli.situation import (
    NeedsYou,
    OnItsOwn,
    Situation,
    desired_words,
    failover_words,
    fencing_words,
    fresh_status,
    reclaim_words,
    replicas_words,
    situation,
)
from drover.coordinator.keys import DEFAULT_PREFIX
from drover.coordinator.records import HistoryEntry, Phase
from drover.coordinator.sizes import format_size

EPOCHS = 5
"""Epochs of the history that are shown; --json has all."""


def headline(dataset: Dataset, seen: Situation) -> str:
    """`notes  active on node-b, epoch 4, since 3 h`"""
    status, tenure = fresh_status(dataset), dataset.tenure
    since = status.since if status and status.phase == seen.phase else tenure.since if tenure else ""
    parts = [f"{paint(seen.phase)}{f' on {plain(seen.node)}' if seen.node else ''}"]
    if tenure:
        parts.append(f"epoch {tenure.epoch}")
    if ago := age(since, now()):
        parts.append(f"since {ago}")
    return f"{plain(dataset.name)}  {', '.join(parts)}"


def facts(dataset: Dataset, seen: Situation, picture: Picture) -> list[tuple[str, str]]:
    """What is known, name by name; values may be empty."""
    status, tenure, spec = fresh_status(dataset), dataset.tenure, dataset.spec
    match seen.next:
        case NeedsYou(what):
            following = ("needs you", what)
        case OnItsOwn(what):
            following = ("on its own", what)
        case _:
            following = ("", "")
    unfenced = [f"{holder.node} ({holder.incarnation})" for holder in tenure.unfenced] if tenure else []
    lines = [
        ("why", seen.why),
        following,
        ("path", status.path if status and seen.phase == Phase.ACTIVE else ""),
        ("owner", f"{tenure.state.value}: {tenure.because}" if tenure and tenure.because else ""),
        ("asked by", tenure.asked if tenure else ""),
        ("holder", f"{tenure.node}, incarnation {tenure.incarnation}" if tenure and tenure.held else ""),
        ("may still write", listing(unfenced) if unfenced else ""),
        ("desired", desired_words(dataset, picture)),
        ("cut-over", f"{status.cutover_ms} ms" if status and status.cutover_ms is not None else ""),
    ]
    if spec:
        lines += [
            ("spec", f"{format_size(spec.size)}, back end {spec.backend}" + (f", {spec.fs}" if spec.fs else "")),
            ("failover", failover_words(dataset.name, spec)),
            ("replicas", replicas_words(dataset.name, spec)),
            ("fencing", fencing_words(spec)),
            ("reclaim", reclaim_words(spec)),
            ("group", spec.group or ""),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(spec.labels.items()))),
        ]
    together, users = picture.together(dataset.name), picture.users_of(dataset.name)
    lines += [
        ("moves with", listing(together) if together else ""),
        ("used by", f"workload {listing(users)}" if users else ""),
        *(("ignored", f"workload {user}: {wrong}") for user in users if (wrong := picture.workloads[user].invalid)),
        ("in use by", f"container {listing(status.users)}" if status and status.users else ""),
        ("data", _data(dataset)),
        *copies.lines(dataset, now()),
        *_diverged(dataset),
    ]
    return [*lines, *(("unreadable", reason) for reason in dataset.unreadable)]


def _data(dataset: Dataset) -> str:
    tenure = dataset.tenure
    if tenure is None:
        return ""
    return f"uid {tenure.uid}" + (f", object {tenure.object}" if tenure.object else "")


def _diverged(dataset: Dataset) -> list[tuple[str, str]]:
    """What an epoch has written that no later one went on from, and what to do about it."""
    lines = [
        ("diverged", f"{node}: epoch {one.epoch}{size}, kept in {one.path}{'; it goes' if one.discard else ''}")
        for node, told in dataset.diverged.items()
        for one in told.copies
        for size in (f", {format_size(one.size)} of its own" if one.size is not None else "",)
    ]
    where = " ".join(f"--discard {node}" for node in dataset.diverged)
    return [*lines, ("to decide", f"drover resolve {dataset.name} {where}")] if lines else []


def history(entries: tuple[HistoryEntry, ...]) -> str:
    """The newest epochs, newest first."""
    rows = [
        [
            str(entry.epoch),
            entry.node,
            entry.before or "-",
            output.milliseconds(entry.gap_ms) if entry.gap_ms is not None else "-",
            f"{ago} ago" if (ago := age(entry.at, now())) else "-",
            entry.asked or "-",
            entry.evidence.value if entry.evidence else "-",
            entry.because,
        ]
        for entry in reversed(entries[-EPOCHS:])
    ]
    return output.table(("EPOCH", "NODE", "BEFORE", "GAP", "WHEN", "ASKED BY", "EVIDENCE", "BECAUSE"), rows, indent=2)


def show(
    name: options.DatasetName,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Show one dataset: where it is and why, what its spec means, what comes next, its last epochs."""
    picture = run(connection(endpoints, prefix), take)
    dataset = the_dataset(name, picture)
    if as_json:
        output.say_json(dataset_json(dataset, picture, history=True))
        return
    seen = situation(dataset, picture, now())
    output.say(headline(dataset, seen))
    output.say(output.facts(facts(dataset, seen, picture)))
    if dataset.history:
        output.say("\n" + history(dataset.history))
