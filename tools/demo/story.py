"""The story: a database moves three times, its node loses power, it comes back elsewhere, and the count is right."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from drover.coordinator.cli.output import table
from drover.coordinator.cli.playground.layout import Layout
from drover.coordinator.keys import Keys, Kind
from drover.coordinator.record import Record
from drover.coordinator.records import Heartbeat, HistoryEntry, Phase, Status, Tenure
from drover.coordinator.timings import Timings
from tools.demo import container
from tools.demo.client import Client
from tools.demo.evidence import Ack, Epoch, Note, gap, losses, runs, two_writers, unanswered
from tools.demo.stage import DemoFailed, Stage
from tools.demo.telling import length, say, shown, title

DATASET, WORKLOAD = "notes", "notes-db"
ROUTE = ("node-b", "node-c", "node-a")
FIRST = DOOMED = "node-a"
ENOUGH = 150
"""Acknowledgements on a node before something is done to it: about a second."""
BACK_FOR = 5
"""Heartbeats of a node that came back, after which it has had every occasion to take the dataset away."""

_PROGRAM = [sys.executable, "-IS", str(Path(__file__).with_name("database.py"))]
_FILE = f"/srv/drover/{DATASET}/notes.db"
_SPEC = {"backend": "loopback", "size": "400MiB", "failover": "any"}
_PATIENCE = 20.0
"""Seconds for whatever should take one or two: other work on this computer must not spoil the story."""
_KEYS = Keys()
_TIMINGS = Timings()

R = TypeVar("R", bound=Record)


def tell(stage: Stage) -> None:
    """Raises DemoFailed."""
    title("A cluster on this computer: three nodes and three etcd members, each a machine of its own")
    stage.up(docker=not container.missing())
    shown(stage.show("drover", "nodes"))
    with Client(Layout.of(stage.directory).settings().uplink_address) as client:
        _begin(stage, client)
        _move(stage, client)
        heir = _lose_power(stage, client)
        _come_back(stage, client, heir)
        _prove(stage, client, heir)
    container.tell(stage)


def _begin(stage: Stage, client: Client) -> None:
    title("A dataset, and a database on it")
    stage.put(_KEYS.dataset(DATASET), json.dumps(_SPEC))
    say("failover any: when its node dies, whichever node can may take it.")
    say(
        "Two nodes could open this image at once, so nobody else may before it is certain that the owner has stopped. "
        f"A guard on every node stops its writers after {_TIMINGS.d_soft:g} s without an answer from etcd, and resets "
        f"the node by {_TIMINGS.d_hard:g} s where it cannot. So a node that was silent for {_TIMINGS.wait:g} s has "
        "stopped."
    )
    command = [*_PROGRAM, "serve", _FILE]
    workload = {"command": command, "datasets": [DATASET], "environment": {"CLIENT": client.address}}
    stage.put(_KEYS.workload(WORKLOAD), json.dumps(workload))
    stage.put(_KEYS.desired(DATASET), FIRST)
    _wait_for_notes(client, FIRST, since=0)
    say(
        "The database is SQLite; its commit returns when the note is on the disk. A client outside the nodes asks for "
        "one note after the other, and counts one as acknowledged when the database has answered, after its commit."
    )
    _wait_for_notes(client, FIRST, since=0, count=ENOUGH)
    say(f"{FIRST} has acknowledged {len(client.acks())} notes, and goes on.")


def _move(stage: Stage, client: Client) -> None:
    title("Three moves, while it writes")
    for node in ROUTE:
        before = len(client.acks())
        stage.put(_KEYS.desired(DATASET), node)
        _wait_for_notes(client, node, since=before)
        silent = gap(client.acks())
        status = _active(stage, [node])
        if status.cutover_ms is None:
            raise DemoFailed(f"the status of {DATASET} has a cutover_ms after a move", status.encode().decode())
        say(
            f"{node} has it, in epoch {status.epoch}. The client waited {length(silent)}: for {status.cutover_ms} ms "
            "(cutover_ms) the dataset was mounted nowhere, the rest went into ending and starting the database."
        )
        _wait_for_notes(client, node, since=before, count=ENOUGH)


def _lose_power(stage: Stage, client: Client) -> str:
    """Returns who has taken over."""
    title(f"{DOOMED} loses power, while it writes")
    before = len(client.acks())
    stage.show("drover", "playground", "kill", str(stage.directory), DOOMED)
    say("What it had not synced is gone, and it told nobody. The others watch its heartbeat stand still.")
    others = sorted({FIRST, *ROUTE} - {DOOMED})
    if not client.heard(others, before, _TIMINGS.wait + _PATIENCE):
        raise DemoFailed(f"{' or '.join(others)} takes over", _last_word(client))
    status = _active(stage, others)
    say(f"{status.node} has it, in epoch {status.epoch}: {status.reason}.")
    say(f"The client waited {length(gap(client.acks()))}.")
    _wait_for_notes(client, status.node, since=before, count=ENOUGH)
    return status.node


def _come_back(stage: Stage, client: Client, heir: str) -> None:
    title(f"{DOOMED} comes back")
    fenced = _one(stage, Heartbeat, _KEYS.heartbeat(DOOMED)).incarnation
    stage.show("drover", "playground", "start", str(stage.directory), DOOMED)
    _eventually(
        f"{DOOMED} is back with another incarnation, for {BACK_FOR} heartbeats",
        lambda: _one(stage, Heartbeat, _KEYS.heartbeat(DOOMED)),
        lambda beat: beat.incarnation != fenced and beat.counter > BACK_FOR,
    )
    tenure = _one(stage, Tenure, _KEYS.owner(DATASET))
    if tenure.node != heir:
        raise DemoFailed(f"{DATASET} stays on {heir}", f"it went to {tenure.node}: {tenure.because}")
    say(
        f"{DOOMED} has been back for {BACK_FOR} heartbeats, and desired still names it. Nothing moved: that wish was "
        f"answered before the power cut. {heir} has the dataset, in epoch {tenure.epoch}, until somebody moves it: "
        f"drover move {DATASET} {DOOMED}"
    )
    _wait_for_notes(client, heir, since=len(client.acks()))


def _prove(stage: Stage, client: Client, heir: str) -> None:
    title("The proof")
    acks = client.acks()
    exec_there = ("drover", "playground", "exec", str(stage.directory), heir, "--")
    found = json.loads(stage.show(*exec_there, *_PROGRAM, "check", _FILE))
    asked = client.asked()
    notes = [Note(*row) for row in found["notes"]]
    if found["integrity_check"] != "ok":
        raise DemoFailed("PRAGMA integrity_check finds nothing", found["integrity_check"])
    say("PRAGMA integrity_check: ok")
    if problems := losses(acks, notes, asked):
        raise DemoFailed("every acknowledged note is in the table, exactly once", _several(problems))
    say(
        f"{len(acks)} notes were acknowledged before this check. Each of them is in the table, exactly once, with the "
        "number, the text and the node that the client was told."
    )
    cut_off = unanswered(acks, asked)
    there = cut_off & {note.text for note in notes}
    say(f"Notes that got no answer when a node stopped: {len(cut_off)}; committed all the same: {len(there)}.")
    epochs = _epochs(stage)
    if problems := two_writers(acks, epochs):
        raise DemoFailed("one node at a time wrote, each in its own epoch", _several(problems))
    say("Never did two write: what a node acknowledged lies within its epoch. In seconds since the first note:")
    shown(_timetable(acks, epochs))
    shown(stage.show("drover", "show", DATASET))


def _timetable(acks: list[Ack], epochs: list[Epoch]) -> str:
    zero = acks[0].at
    rows = [
        [
            str(epoch.number),
            epoch.node,
            f"{epoch.began - zero:.3f}",
            f"{run.first.at - zero:.3f}",
            f"{run.last.at - zero:.3f}",
            f"{run.first.note.number}-{run.last.note.number}",
        ]
        for epoch, run in zip(epochs, runs(acks), strict=True)
    ]
    return table(["EPOCH", "NODE", "BEGAN", "FIRST NOTE", "LAST NOTE", "NUMBERS"], rows)


def _epochs(stage: Stage) -> list[Epoch]:
    entries = [HistoryEntry.decode(value) for value in stage.get(f"{_KEYS.under(Kind.HISTORY)}{DATASET}/", prefix=True)]
    return [Epoch(entry.epoch, entry.node, datetime.fromisoformat(entry.at).timestamp()) for entry in entries]


def _wait_for_notes(client: Client, node: str, since: int, count: int = 1) -> None:
    if not client.heard([node], since, _PATIENCE, count):
        raise DemoFailed(f"{node} acknowledges notes ({count} within {_PATIENCE:g} s)", _last_word(client))


def _last_word(client: Client) -> str:
    if not (acks := client.acks()):
        return "nobody has acknowledged anything"
    return f"the last note was acknowledged {time.time() - acks[-1].at:.1f} s ago by {acks[-1].note.node}"


def _active(stage: Stage, nodes: Collection[str]) -> Status:
    """The dataset's status, once it says that one of these nodes has it."""
    return _eventually(
        f"{DATASET} is active on {' or '.join(nodes)}",
        lambda: _one(stage, Status, _KEYS.status(DATASET)),
        lambda status: status.phase is Phase.ACTIVE and status.node in nodes,
    )


def _one(stage: Stage, kind: type[R], key: str) -> R:
    values = stage.get(key)
    if not values:
        raise DemoFailed(f"{key} is in etcd", "it is not")
    return kind.decode(values[0])


def _eventually(promise: str, look: Callable[[], R], holds: Callable[[R], bool], within: float = _PATIENCE) -> R:
    deadline = time.monotonic() + within
    while not holds(seen := look()):
        if time.monotonic() > deadline:
            raise DemoFailed(f"{promise} within {within:g} s", seen.encode().decode())
        time.sleep(0.1)
    return seen


def _several(problems: Sequence[str]) -> str:
    more = f" (and {len(problems) - 5} more)" if problems[5:] else ""
    return "; ".join(problems[:5]) + more
