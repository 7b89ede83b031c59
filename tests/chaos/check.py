"""All checks on one history. Pure: a history in, broken promises out."""

from __future__ import annotations

from tests.chaos import check_etcd, check_records, check_time
from tests.chaos.history import History
from tests.chaos.verdict import Check, Violation

CHECKS: tuple[Check, ...] = (check_records.check, check_etcd.check, check_time.check)


def check(history: History) -> list[Violation]:
    """In the order of their times; none: every promise was kept."""
    found = [violation for each in CHECKS for violation in each(history)]
    return sorted(found, key=lambda violation: violation.at)
