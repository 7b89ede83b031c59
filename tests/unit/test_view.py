"""A view shows what etcd has, typed; what users mistyped is a reason to show and never an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drover.coordinator.keys import Keys, Kind
from drover.coordinator.protocol.dataset import Invalid
from drover.coordinator.record import Record
from drover.coordinator.records import Cordon, Phase, Status
from drover.coordinator.specs import DatasetSpec
from drover.coordinator.store import Changes
from drover.coordinator.txn import Delete, Put, Txn
from drover.coordinator.view import View
from tests.model.store import ModelCluster, ModelStore
from tests.unit.making import fence, node, spec, tenure, workload

KEYS = Keys()


class Etcd:
    def __init__(self) -> None:
        self.cluster = ModelCluster()
        self.store: ModelStore = ModelStore(self.cluster)

    def put(self, key: str, value: Record | str | bytes, lease: int = 0) -> int:
        raw = value.encode() if isinstance(value, str | Record) else value
        return self.cluster.apply(Txn((), (Put(key, raw, lease),))).revision

    def delete(self, key: str) -> int:
        return self.cluster.apply(Txn((), (Delete(key),))).revision

    @asynccontextmanager
    async def view(self) -> AsyncIterator[View]:
        shown = View(self.store, KEYS)
        task = asyncio.create_task(shown.run())
        try:
            await shown.ready(5)
            yield shown
        finally:
            task.cancel()
            await asyncio.wait([task])


async def settled(view: View, etcd: Etcd) -> None:
    """Until both mirrors have what etcd has: each is told by a key of its own."""
    for key in (KEYS.dataset("zz-settled"), KEYS.status("zz-settled")):
        etcd.put(key, "{}")
    async with asyncio.timeout(5):
        while not (view.entry(Kind.DATASETS, "zz-settled") and view.entry(Kind.STATUS, "zz-settled")):
            await asyncio.sleep(0)
    etcd.delete(KEYS.dataset("zz-settled"))
    etcd.delete(KEYS.status("zz-settled"))
    async with asyncio.timeout(5):
        while view.entry(Kind.DATASETS, "zz-settled") or view.entry(Kind.STATUS, "zz-settled"):
            await asyncio.sleep(0)


async def test_a_dataset_is_shown_with_the_revisions_that_transactions_compare() -> None:
    etcd = Etcd()
    made, wish = etcd.put(KEYS.dataset("d"), spec()), etcd.put(KEYS.desired("d"), "a")
    owner = etcd.put(KEYS.owner("d"), tenure())
    etcd.put(KEYS.lease("d"), "{}")
    changed, again = etcd.put(KEYS.dataset("d"), spec(size="2GiB")), etcd.put(KEYS.desired("d"), "b\n")
    async with etcd.view() as view:
        d = view.dataset("d")
    assert isinstance(d.spec, DatasetSpec)
    assert (d.spec.size, d.spec_created, d.spec_revision) == (2 * 2**30, made, changed)
    assert (d.desired, d.desired_created, d.desired_revision) == ("b", wish, again)
    assert (d.tenure, d.tenure_revision, d.leased) == (tenure(), owner, True)


async def test_what_was_mistyped_is_shown_with_its_reason() -> None:
    etcd = Etcd()
    etcd.put(KEYS.dataset("d"), '{"backend": "loopback", "size": "10GB?"}')
    etcd.put(KEYS.dataset("e e"), spec())
    etcd.put(KEYS.desired("d"), "node a")
    etcd.put(KEYS.desired("f"), b"\xff" * 100)
    etcd.put(KEYS.workload("w"), "{")
    etcd.put(KEYS.owner("g"), "what?")
    async with etcd.view() as view:
        d = view.dataset("d")
        assert isinstance(d.spec, Invalid)
        assert "'10GB?' is not a size" in d.spec.reason
        assert isinstance(d.desired, Invalid)
        assert d.desired.reason.startswith("'node a' is not a node's name")
        mistyped = view.dataset("e e").spec
        assert isinstance(mistyped, Invalid)
        assert "the name has ' '" in mistyped.reason
        long = view.dataset("f").desired
        assert isinstance(long, Invalid)
        assert len(long.reason) < 250
        assert view.invalid_workloads() == {"w": "the value is not JSON: '{'"}
        assert view.cluster.workloads == {}
        assert view.unreadable("g") == "the value is not JSON: 'what?'"
        assert view.dataset("g").tenure is None
        assert view.names() == {"d", "e e", "f", "g"}


async def test_a_workload_that_cannot_be_used_is_a_warning_for_the_datasets_that_it_names() -> None:
    etcd = Etcd()
    etcd.put(KEYS.workload("w"), '{"datasets": ["d", 7], "comand": ["x"]}')
    etcd.put(KEYS.workload("v"), "[" * 100_000)
    etcd.put(KEYS.workload("u"), b"\xff")
    async with etcd.view() as view:
        assert view.cluster.misfits == {
            "d": "workload w ignored: comand: there is no such field; did you mean command?"
        }
        assert view.invalid_workloads().keys() == {"u", "v", "w"}


async def test_a_fenced_nodes_record_is_no_node_and_a_cordon_is_shown() -> None:
    etcd = Etcd()
    etcd.put(KEYS.node("a"), node("a").record)
    etcd.put(KEYS.node("b"), node("b").record)
    etcd.put(KEYS.cordon("b"), Cordon())
    etcd.put(KEYS.node("c"), "not a record")
    async with etcd.view() as view:
        assert set(view.cluster.nodes) == {"a", "b"}
        assert [n.cordoned for n in view.cluster.nodes.values()] == [False, True]
        revision = etcd.put(KEYS.fence("a.1"), fence("a"))
        await settled(view, etcd)
        assert set(view.cluster.nodes) == {"b"}
        assert view.fence_revisions() == {"a.1": revision}


async def test_units_follow_specs_and_workloads_as_they_change() -> None:
    etcd = Etcd()
    for name in "de":
        etcd.put(KEYS.dataset(name), spec())
    async with etcd.view() as view:
        assert view.members("d") == {"d"}
        etcd.put(KEYS.workload("w"), workload("d", "e"))
        await settled(view, etcd)
        assert [d.name for d in view.unit("d")] == ["d", "e"]
        etcd.delete(KEYS.workload("w"))
        await settled(view, etcd)
        assert view.members("d") == {"d"}


async def test_waking_names_the_dataset_or_everybody() -> None:
    etcd = Etcd()
    async with etcd.view() as view:
        woken: list[str | None] = []
        view.subscribe(woken.append)
        etcd.put(KEYS.desired("d"), "a")
        etcd.put(KEYS.cordon("b"), Cordon())
        await settled(view, etcd)
        assert "d" in woken
        assert None in woken
        woken.clear()
        etcd.put(KEYS.status("d"), Status(phase=Phase.ACTIVE))
        etcd.put(KEYS.heartbeat("a"), "{}")
        await settled(view, etcd)
        assert "d" not in woken, "a status is what is told, and no reason to decide anything"
        assert None not in woken


async def test_a_verb_waits_until_the_view_shows_what_it_wrote() -> None:
    etcd = Etcd()
    async with etcd.view() as view:
        revision = etcd.put(KEYS.owner("d"), tenure())
        await view.reached(revision, 5)
        assert view.dataset("d").tenure == tenure()


class LosesEvents(ModelStore):
    """Its watches tell nothing of one revision (etcd issue 15271 and others)."""

    lost = 0

    async def watch(self, start: str, end: str, revision: int) -> AsyncGenerator[Changes, None]:
        async with aclosing(super().watch(start, end, revision)) as told:
            async for changes in told:
                kept = tuple(change for change in changes.changes if change.revision != self.lost)
                yield replace(changes, changes=kept)


async def test_a_tenure_that_was_written_is_shown_though_its_event_was_lost_and_later_ones_are_seen() -> None:
    etcd = Etcd()
    store = etcd.store = LosesEvents(etcd.cluster)
    etcd.put(KEYS.owner("d"), tenure("a"))
    async with etcd.view() as view:
        await settled(view, etcd)
        store.lost = etcd.cluster.revision + 1
        revision = etcd.put(KEYS.owner("d"), tenure("b", 2))
        later = etcd.put(KEYS.owner("e"), tenure("a"))
        await view.reached(later, 5)
        assert view.dataset("d").tenure == tenure("a"), "the lost event is what this is about"
        await view.reached(revision, 5, frozenset({"d"}))
        assert view.dataset("d").tenure == tenure("b", 2)


async def test_what_is_far_behind_is_waited_for_no_longer_than_asked() -> None:
    etcd = Etcd()
    async with etcd.view() as view:
        etcd.store.disconnect()
        revision = etcd.put(KEYS.owner("d"), tenure())
        with pytest.raises(TimeoutError):
            await view.reached(revision, 0.05)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([k for k in Kind if k not in (Kind.HEARTBEATS, Kind.HISTORY)]),
            st.sampled_from(["d", "a", "", " ", "a/b", "\n", "ä", "x" * 70]),
            st.binary(max_size=20) | st.sampled_from([spec().encode(), tenure().encode(), b"null", b"[" * 100_000]),
        ),
        max_size=12,
    )
)
def test_no_garbage_under_any_key_breaks_a_view(typed: list[tuple[Kind, str, bytes]]) -> None:
    async def look() -> None:
        etcd = Etcd()
        for kind, name, value in typed:
            etcd.put(KEYS.of(kind, name), value)
        etcd.put(KEYS.dataset("size"), '{"backend": "x", "size": "%s"}' % ("9" * 400))
        async with etcd.view() as view:
            assert isinstance(view.dataset("size").spec, Invalid)
            for name in view.names():
                view.dataset(name)
                view.unreadable(name)
                view.status(name)
                assert name in [d.name for d in view.unit(name)]
            assert view.tenures() is not None
            assert view.cluster.nodes is not None

    asyncio.run(look())


async def test_who_asked_counts_only_beside_the_desired_that_was_put_with_it() -> None:
    etcd = Etcd()
    both = (Put(KEYS.desired("d"), b"node-b"), Put(KEYS.asked("d"), b'{"by": "ann, drover move"}'))
    etcd.cluster.apply(Txn((), both))
    async with etcd.view() as view:
        assert view.dataset("d").desired_by == "ann, drover move"
        etcd.put(KEYS.desired("d"), "node-c")
        await settled(view, etcd)
        assert view.dataset("d").desired_by == ""
