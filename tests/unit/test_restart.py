"""Restart policy: when a workload that ended is started again."""

from __future__ import annotations

from typing import Literal

import pytest

from drover.agent.workloads.base import Exited
from drover.agent.workloads.restart import restart_at, restarts
from drover.coordinator.specs import ProcessSpec, WorkloadSpec


def spec(restart: Literal["always", "on-failure", "no"] = "always") -> WorkloadSpec:
    return ProcessSpec(command=("true",), datasets=("pgdata",), restart=restart)


def ended(status: int = 1, ran: float = 1.0) -> Exited:
    return Exited(status=status, at=100.0, ran=ran, fingerprint="f")


@pytest.mark.parametrize(
    ("policy", "status", "again"),
    [
        ("always", 0, True),
        ("always", 1, True),
        ("always", -9, True),
        ("on-failure", 0, False),
        ("on-failure", 1, True),
        ("on-failure", -15, True),
        ("no", 0, False),
        ("no", 1, False),
    ],
)
def test_the_policy_and_the_status_decide_whether_it_is_started_again(
    policy: Literal["always", "on-failure", "no"], status: int, again: bool
) -> None:
    assert (restart_at(spec(policy), ended(status), 0) is not None) == again


def test_the_first_restart_comes_200_ms_after_the_end() -> None:
    assert restart_at(spec(), ended(), 0) == pytest.approx(100.2)


def test_each_restart_in_a_row_waits_twice_as_long_but_never_more_than_30_s() -> None:
    waits = [(restart_at(spec(), ended(), failures) or 0) - 100 for failures in range(10)]
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30])


def test_a_workload_that_has_failed_for_years_still_has_a_wait() -> None:
    assert restart_at(spec(), ended(), 10**6) == pytest.approx(130)


def test_what_ran_for_10_s_waits_as_if_it_had_never_failed() -> None:
    assert restart_at(spec(), ended(ran=10.0), 8) == pytest.approx(100.2)
    assert restart_at(spec(), ended(ran=9.9), 8) == pytest.approx(130)


def test_restarts_are_counted_in_a_row_and_anew_once_it_has_settled() -> None:
    assert restarts(ended(ran=1), 0) == 1
    assert restarts(ended(ran=1), 3) == 4
    assert restarts(ended(ran=10), 3) == 1
