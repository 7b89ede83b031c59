"""`drover verify`: two streams are compared as they come; what it says where there is nothing to compare."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.coordinator.cli.comparing import Difference, Entry, compare
from drover.coordinator.records import Copies, Copy
from tests.unit.cli_world import World, world


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    return world(monkeypatch, capsys)


def file(path: str, digest: str = "d") -> Entry:
    return Entry(path.encode(), stat.S_IFREG | 0o644, 0, 0, 4, 0, digest)


def directory(path: str) -> Entry:
    return replace(file(path, ""), mode=stat.S_IFDIR | 0o755)


async def stream(entries: Mapping[bytes, Entry]) -> AsyncIterator[Entry]:
    for entry in sorted(entries.values(), key=lambda one: one.place):
        yield entry


def compared(ours: list[Entry], theirs: list[Entry]) -> list[Difference]:
    async def found() -> list[Difference]:
        here, there = ({one.path: one for one in side} for side in (ours, theirs))
        return [one async for one in compare(("a", stream(here)), ("b", stream(there)))]

    return asyncio.run(found())


def test_what_is_otherwise_is_named() -> None:
    assert compared([file("x")], [replace(file("x", "e"), mtime_ns=1)]) == [Difference("x", "another time, content")]
    assert compared([file("x")], [replace(file("x"), mode=stat.S_IFREG, uid=7)]) == [
        Difference("x", "another mode, owner")
    ]
    assert compared([file("x")], [directory("x")]) == [Difference("x", "a file on a, a directory on b")]
    broken = replace(file("x"), error="Input/output error")
    assert compared([file("x")], [broken]) == [Difference("x", "cannot be read on b: Input/output error")]
    assert compared([broken], [broken])[0].what.count("cannot be read") == 2


def test_of_what_is_below_a_missing_directory_only_the_directory_is_told() -> None:
    ours = [directory("."), directory("a"), file("a/1"), file("a/2"), file("a-b"), file("z")]
    assert compared(ours, [directory("."), file("z"), file("zz")]) == [
        Difference("a", "only on a"),
        Difference("a-b", "only on a"),
        Difference("zz", "only on b"),
    ]


PATHS = st.lists(st.sampled_from(["a", "a/b", "a/b/c", "a-", "a.b", "b", "b/a", "é"]), unique=True)


@given(PATHS, PATHS, PATHS)
def test_exactly_what_differs_is_found_in_whatever_order_names_sort(
    one: list[str], both: list[str], changed: list[str]
) -> None:
    ours = {path: file(path) for path in {*one, *both}}
    theirs = {path: file(path, "e" if path in changed else "d") for path in both}
    found = compared(list(ours.values()), list(theirs.values()))
    expected = {path for path in ours if path not in theirs} | {path for path in both if path in changed}
    assert {difference.path for difference in found} == expected
    assert len(found) == len(expected)


def test_without_a_copy_there_is_nothing_to_verify(w: World) -> None:
    w.dataset("notes")
    w.active("notes", "node-a", 3)
    ran = w.drover("verify", "notes")
    assert ran.code == 3
    assert "drover set notes --replicas 1" in ran.err
    copy = Copy(guid="g", name="n", taken=1.0)
    w.put(w.keys.copies("notes"), Copies(epoch=3, uid="cafe", standbys=("node-b",), nodes={"node-b": copy}))
    ran = w.drover("verify", "notes", "--node", "node-c")
    assert ran.code == 3
    assert "It is on node-b" in ran.err


def test_an_agent_that_cannot_be_asked_is_a_failure_and_not_a_difference(w: World) -> None:
    w.dataset("notes")
    w.active("notes", "node-a", 3)
    copy = Copy(guid="g", name="n", taken=1.0)
    w.put(w.keys.copies("notes"), Copies(epoch=3, uid="cafe", standbys=("node-b",), nodes={"node-b": copy}))
    ran = w.drover("verify", "notes")
    assert ran.code == 1
    assert "could not be verified: node-a's agent tells nobody where it can be asked" in ran.err
