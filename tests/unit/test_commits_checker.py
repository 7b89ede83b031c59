"""The checker of the cluster tests finds what it is there to find."""

from __future__ import annotations

import pytest

from tests.cluster.writer import Acknowledged, check, turns

A, B = "node-a/1/1", "node-b/1/2"
PROMISED = [Acknowledged(1, A, 1.0, 1.1), Acknowledged(2, A, 2.0, 2.1), Acknowledged(3, B, 3.0, 3.1)]
RECORDS = f"1 {A}\n2 {A}\n3 {B}\n"


def test_records_that_are_all_there_pass_also_with_later_ones_and_one_half_written() -> None:
    check(PROMISED, RECORDS)
    check(PROMISED, f"{RECORDS}4 {B}\n5 nod")


@pytest.mark.parametrize(
    ("records", "complaint"),
    [
        (f"1 {A}\n2 {A}\n", "1 acknowledged records are lost"),
        (f"1 {A}\n2 {B}\n3 {B}\n", "acknowledged records are lost"),
        (f"1 {A}\n3 {B}\n", "missing or doubled"),
        (f"1 {A}\n2 {A}\n2 {A}\n3 {B}\n", "missing or doubled"),
        ("", "acknowledged records are lost"),
    ],
)
def test_a_record_that_was_promised_and_is_not_there_once_is_found(records: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check(PROMISED, records)


def test_two_who_write_at_once_are_found() -> None:
    promised = [*PROMISED, Acknowledged(4, A, 3.5, 3.6)]
    with pytest.raises(AssertionError, match="two writers at once"):
        check(promised, f"{RECORDS}4 {A}\n")
    assert [turn.records for turn in turns(promised)] == [3, 1]
