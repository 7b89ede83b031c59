"""Which releases of etcd are refused or warned of."""

from __future__ import annotations

import pytest

from drover.coordinator.etcd_versions import Corrupting, Flawed, Sound, Unknown, judge


def numbers(version: str) -> set[int]:
    verdict = judge(version)
    return {bug.number for bug in verdict.bugs} if isinstance(verdict, Flawed) else set()


@pytest.mark.parametrize("version", ["3.5.0", "3.5.1", "3.5.2", "3.5.0-rc.1"])
def test_releases_that_lose_committed_data_are_refused_with_what_is_wrong_and_what_to_do(version: str) -> None:
    verdict = judge(version)
    assert isinstance(verdict, Corrupting)
    assert version in str(verdict)
    assert "without transactions that were committed" in str(verdict)
    assert "update each member" in str(verdict)


@pytest.mark.parametrize("version", ["3.4.0", "3.4.23", "3.5.3", "3.5.27", "3.6.0", "3.6.8"])
def test_releases_with_known_bugs_are_worked_with_and_named(version: str) -> None:
    verdict = judge(version)
    assert isinstance(verdict, Flawed)
    assert version in str(verdict)
    assert all(str(bug.number) in str(verdict) for bug in verdict.bugs)


@pytest.mark.parametrize("version", ["3.4.42", "3.4.45", "3.5.28", "3.6.9", "3.6.16", "3.7.0", "4.0.0"])
def test_releases_without_them_are_passed_over_in_silence(version: str) -> None:
    assert judge(version) == Sound()


@pytest.mark.parametrize("version", ["", "3.3.27", "2.3.8", "main", "3.5"])
def test_what_is_no_release_from_3_4_on_is_said_to_be_unknown(version: str) -> None:
    assert judge(version) == Unknown(version)


def test_a_bug_ends_with_the_release_that_mends_it_and_not_before() -> None:
    lease = 15247
    assert lease in numbers("3.4.30")
    assert lease not in numbers("3.4.31")
    assert lease in numbers("3.5.12")
    assert lease not in numbers("3.5.13")
    assert lease not in numbers("3.6.0")


def test_a_bug_that_came_later_is_not_in_what_was_before() -> None:
    stale = 20418
    assert stale not in numbers("3.4.19")
    assert stale in numbers("3.4.20")
    assert stale in numbers("3.6.0")
    assert 14685 not in numbers("3.4.23")
