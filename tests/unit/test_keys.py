"""The keyspace: what is built can be taken apart, and what a user mistyped still parses."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.coordinator.keys import SINGLE, Key, Keys, Kind, name_error, range_end

KEYS = Keys()
named = st.sampled_from([k for k in Kind if k not in SINGLE])
legal = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", fullmatch=True)
typed = st.text(max_size=80)
prefixes = st.from_regex(r"(/[A-Za-z0-9_.-]{1,8}){1,3}", fullmatch=True)


@given(prefixes, named, typed)
def test_a_key_is_taken_apart_as_it_was_built_whatever_the_name(prefix: str, kind: Kind, name: str) -> None:
    keys = Keys(prefix)
    assert keys.parse(keys.of(kind, name)) == Key(kind, name)


@given(typed)
def test_what_parses_is_built_again_as_it_was(key: str) -> None:
    for text in (key, KEYS.root + key):
        if (found := KEYS.parse(text)) is not None:
            again = getattr(KEYS, found.kind) if found.kind in SINGLE else KEYS.of(found.kind, found.name)
            assert again == text


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (KEYS.dataset("d"), "/drover/datasets/d"),
        (KEYS.desired("d"), "/drover/desired/d"),
        (KEYS.workload("w"), "/drover/workloads/w"),
        (KEYS.node("n"), "/drover/nodes/n"),
        (KEYS.heartbeat("n"), "/drover/heartbeats/n"),
        (KEYS.lease("d"), "/drover/leases/d"),
        (KEYS.owner("d"), "/drover/owners/d"),
        (KEYS.fence("i"), "/drover/fences/i"),
        (KEYS.cordon("n"), "/drover/cordons/n"),
        (KEYS.status("d"), "/drover/status/d"),
        (KEYS.history("d", 7), "/drover/history/d/00000007"),
        (KEYS.cluster, "/drover/cluster"),
        (KEYS.pause, "/drover/pause"),
    ],
)
def test_keys_are_what_people_type(build: str, key: str) -> None:
    assert build == key
    assert KEYS.parse(key) is not None


@pytest.mark.parametrize(
    "key",
    [
        *(
            "",
            "/",
            "/drover",
            "/drover/",
            "/drover/nothing/x",
            "/drover/datasets",
            "/drover/cluster/",
            "/drover/pause/",
        ),
        *("/drover/cluster/x", "/droverdatasets/x", "/other/datasets/x", "drover/datasets/x", "/DROVER/datasets/x"),
    ],
)
def test_what_is_not_ours_does_not_parse(key: str) -> None:
    assert KEYS.parse(key) is None


@given(legal)
def test_legal_names_have_no_error_and_break_nothing(name: str) -> None:
    assert name_error(name) is None
    assert "/" not in name
    assert name not in (".", "..")


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "a b", "a/b", "../etc", ".", "..", "-a", "a-", ".a", "a.", "a\n", "\na", "a\0b", "ä", "a" * 64, "١"),
        *("a\u202eb", "a;rm -rf", "$(x)", "'", '"', "a\tb", "_", "node-a\r", "\ufeffa"),
    ],
)
def test_hostile_names_are_refused_in_one_line_and_still_parse(name: str) -> None:
    wrong = name_error(name)
    assert wrong is not None
    assert wrong.splitlines() == [wrong]
    assert KEYS.parse(KEYS.dataset(name)) == Key(Kind.DATASETS, name)


@given(st.text(max_size=100))
def test_a_name_is_legal_exactly_when_the_rule_says_so(name: str) -> None:
    rule = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
    assert (name_error(name) is None) == bool(re.fullmatch(rule, name))


@pytest.mark.parametrize("prefix", ["", "/", "drover", "/drover/", "//x", "/a b", "/ä", "/x\n"])
def test_a_prefix_that_would_make_strange_keys_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="must look like '/drover'"):
        Keys(prefix)


@given(st.integers(min_value=0, max_value=10**8 - 1), st.integers(min_value=0, max_value=10**8 - 1))
def test_the_history_of_a_dataset_lists_in_order(one: int, two: int) -> None:
    assert (KEYS.history("d", one) < KEYS.history("d", two)) == (one < two)


@given(prefixes, named, typed)
def test_a_range_has_all_of_its_kind_and_nothing_else(prefix: str, kind: Kind, name: str) -> None:
    keys = Keys(prefix)
    start, end = keys.under(kind), range_end(keys.under(kind))
    assert start <= keys.of(kind, name) < end
    for other in Kind:
        if other not in SINGLE and other is not kind:
            assert not start <= keys.of(other, name) < end
