"""A trace goes with a move from whoever asked for it to the new holder, and decides nothing."""

from __future__ import annotations

import json
import logging

import pytest

from drover.agent import logs
from drover.coordinator import trace
from drover.coordinator.cli.wish import wish
from drover.coordinator.keys import Keys
from drover.coordinator.protocol import ownership
from drover.coordinator.protocol.dataset import Dataset, Node
from drover.coordinator.protocol.ownership import Seat
from drover.coordinator.records import Asked, HistoryEntry, NodeRecord, State, Tenure
from drover.coordinator.trace import Cause
from drover.coordinator.txn import Put, Txn

KEYS = Keys("/drover")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ID = "0af7651916cd43dd8448eb211c80319c"
TENURE = Tenure(
    node="node-a",
    incarnation="node-a.1.1",
    epoch=3,
    state=State.ACTIVE,
    uid="u",
    created=1,
    backend="loopback",
    txn="1",
    because="wanted here",
)
PGDATA = Dataset("pgdata", tenure=TENURE, tenure_revision=7)


def handed_over(parent: str) -> Txn:
    seat = Seat(KEYS, "node-a", "node-a.1.1", 1, "now", "2", Cause(parent, 5.0))
    there = NodeRecord(incarnation="node-b.1.1", machine="m", boot="b", lease=2)
    return ownership.handover(seat, [PGDATA], "node-b", Node(there, 5, 2), "wanted there")


def value(txn: Txn, key: str) -> bytes:
    return next(put.value for put in txn.then if isinstance(put, Put) and put.key == key)


def test_the_new_holder_finds_the_trace_in_its_tenure_and_history_has_its_id() -> None:
    txn = handed_over(PARENT)
    assert Tenure.decode(value(txn, KEYS.owner("pgdata"))).trace == PARENT
    assert HistoryEntry.decode(value(txn, KEYS.history("pgdata", 4))).trace == ID


def test_the_new_holder_knows_since_when() -> None:
    assert Tenure.decode(value(handed_over(PARENT), KEYS.owner("pgdata"))).begun == 5.0


def test_what_is_part_of_a_trace_has_a_span_of_its_own_there() -> None:
    part = trace.child(PARENT)
    assert trace.ids(part)[0] == trace.ids(PARENT)[0] == int(ID, 16)
    assert trace.ids(part)[1] != trace.ids(PARENT)[1]
    assert trace.trace_id(trace.child("typed")) not in ("", ID)


def test_however_deep_in_a_change_of_epoch_its_cause_is_known() -> None:
    with trace.because(Cause(PARENT, 5.0)), trace.within(trace.child(PARENT)):
        assert trace.cause() == Cause(PARENT, 5.0)
        assert trace.current() != PARENT
    assert trace.cause() == Cause()


def test_nothing_is_compared_with_a_trace() -> None:
    assert handed_over(PARENT).compare == handed_over("").compare


def test_whoever_asks_begins_a_trace_of_their_own() -> None:
    asked = [Asked.decode(wish(KEYS, "pgdata", "node-b", "move")[1].value).trace for _ in range(2)]
    assert len({trace.trace_id(one) for one in asked} - {""}) == 2


@pytest.mark.parametrize("typed", ["", "x", PARENT.upper(), PARENT + "\n", f"00-{'0' * 32}-b7ad6b7169203331-01"])
def test_what_is_no_traceparent_is_no_trace(typed: str) -> None:
    assert trace.trace_id(typed) == ""
    assert trace.trace_id(PARENT) == ID


def test_a_line_of_log_in_json_says_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.setup("info", "json")
        with logs.about([PGDATA]), trace.within(PARENT):
            logging.getLogger("drover.test").warning("two\nlines")
        logging.getLogger("drover.test").info("about nothing")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "warning",
        "logger": "drover.test",
        "message": "two\nlines",
        "dataset": "pgdata",
        "epoch": 3,
        "reason": "wanted here",
        "trace_id": ID,
    }
    assert "trace_id" not in second
    assert second["message"] == "about nothing"
