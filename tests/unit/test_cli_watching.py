"""What `move --wait` shows of copies, in lines: standard output is no terminal here."""

from __future__ import annotations

import pytest

from drover.coordinator.cli.agents import Copying, Round
from drover.coordinator.cli.watching import Board, going

MIB = 1 << 20
FULL, SMALL = Round(300 * MIB, 2.0, True), Round(14 * MIB, 0.058, False)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_round_is_told_once_when_it_is_over_with_its_rate_and_what_the_rest_will_take(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Board(("notes",)) as board:
        board.show({"notes": Copying("node-b", sent=MIB, total=300 * MIB)})
        board.show({"notes": Copying("node-b", (FULL,))})
        board.show({"notes": Copying("node-b", (FULL,), sent=MIB)})
        board.show({"notes": Copying("node-b", (FULL, SMALL), predicted=0.058, last=True)})
    assert capsys.readouterr().out.splitlines() == [
        "  round 1  300 MiB in 2.0 s  150 MiB/s  all of it",
        "  round 2  14 MiB in 58 ms  241.4 MiB/s",
        "  the last increment takes about 58 ms; it comes next",
    ]
    assert board.rounds == {"notes": (FULL, SMALL)}


def test_a_long_round_is_told_of_now_and_then_with_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with Board(("notes", "mail"), clock=clock) as board:
        for clock.now in (0.0, 4.0, 9.0, 11.0, 12.0):
            board.show({"notes": Copying("node-b", sent=round(clock.now * 10 * MIB), total=300 * MIB)})
    assert capsys.readouterr().out == "  notes  round 1  110 MiB of about 300 MiB  10 MiB/s  19 s left\n"


def test_copying_that_begins_again_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with Board(("notes",)) as board:
        board.show({"notes": Copying("node-b", (FULL,))})
        board.show({"notes": Copying("node-b")})
        board.show({"notes": Copying("node-b", (SMALL,))})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  begins again"
    assert lines[2].startswith("  round 1  14 MiB")


def test_nothing_is_promised_of_a_round_whose_size_nobody_knows() -> None:
    assert going(Copying("node-b", sent=MIB), 2.0) == "1 MiB  512 KiB/s"


def test_a_silent_board_prints_nothing_and_keeps_the_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    with Board(("notes",), silent=True) as board:
        board.show({"notes": Copying("node-b", (FULL,)), "other": Copying("node-b", (SMALL,))})
        board.say("anything")
    assert capsys.readouterr().out == ""
    assert board.rounds == {"notes": (FULL,)}
