"""Transactions that wait for one another, on etcd's model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from drover.coordinator.combine import MOST, Combiner, combined, compatible
from drover.coordinator.store import LeaseGone, Unanswered
from drover.coordinator.txn import Compare, Delete, ModRevision, Put, Txn, TxnResult, absent
from tests.model.store import MAX_OPERATIONS, ModelStore

FENCE = absent("fences/me")


def rewrite(key: str, revision: int = 0, *more: Compare, lease: int = 0) -> Txn:
    """Writes a key that is at this revision."""
    return Txn((ModRevision(key, revision), *more, FENCE), (Put(key, b"mine", lease),))


class Watched(ModelStore):
    """Remembers what was sent. `hold` lets nothing be answered until `go`."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Txn] = []
        self._may_go = asyncio.Event()
        self._may_go.set()

    def hold(self) -> None:
        self._may_go.clear()

    def go(self) -> None:
        self._may_go.set()

    async def txn(self, txn: Txn, timeout: float | None = None) -> TxnResult:
        self.sent.append(txn)
        await self._may_go.wait()
        return await super().txn(txn, timeout)


class NotNow(Exception):
    pass


class Case:
    def __init__(self) -> None:
        self.store = Watched()
        self.lapsed = False
        self.combiner = Combiner(self.store, self._check)

    def _check(self) -> None:
        if self.lapsed:
            raise NotNow

    async def start(self, *txns: Txn) -> list[asyncio.Task[TxnResult]]:
        """The first is under way and not answered, the others wait."""
        self.store.hold()
        tasks = [asyncio.create_task(self.combiner.txn(txn)) for txn in txns]
        while not self.store.sent:
            await asyncio.sleep(0)
        return tasks

    async def outcomes(self, tasks: Sequence[asyncio.Task[TxnResult]]) -> list[bool | type[BaseException]]:
        """Whether each committed, or what it raised."""
        self.store.go()
        async with asyncio.timeout(5):
            found = await asyncio.gather(*tasks, return_exceptions=True)
        return [one.succeeded if isinstance(one, TxnResult) else type(one) for one in found]

    def written(self) -> set[str]:
        return {entry.key for entry in self.store.cluster.entries("", "~")}


@pytest.fixture
async def case() -> Case:
    return Case()


def test_what_shares_only_its_compares_can_go_together_and_compares_them_once() -> None:
    txns = [rewrite("a"), rewrite("b"), rewrite("c")]
    assert compatible(txns) == [0, 1, 2]
    assert combined(txns) == Txn(
        (absent("a"), FENCE, absent("b"), absent("c")), (Put("a", b"mine"), Put("b", b"mine"), Put("c", b"mine"))
    )


@pytest.mark.parametrize(
    "other",
    [
        rewrite("a", 7),
        Txn((absent("a"),), (Put("b", b""),)),
        Txn((), (Put("b", b""),), read=("a",)),
        Txn((), (Put(FENCE.key, b""),)),
        Txn((), (Delete("0", "b"),)),
    ],
    ids=["writes it", "compares it", "reads it", "writes what the first compares", "deletes a range with it"],
)
def test_what_touches_a_key_that_another_writes_does_not_go_with_it(other: Txn) -> None:
    assert compatible([rewrite("a"), other, rewrite("c")]) == [0, 2]
    assert compatible([other, rewrite("a"), rewrite("c")])[0] == 0


@pytest.mark.parametrize("compares", [1, 3])
def test_never_more_go_together_than_etcd_takes(compares: int) -> None:
    txns = [rewrite(f"k{n}", 0, *(absent(f"with {n} {m}") for m in range(compares - 1))) for n in range(MOST)]
    one = combined([txns[n] for n in compatible(txns)])
    assert MOST == MAX_OPERATIONS
    assert MOST - compares < len(one.compare) <= MOST
    assert compatible([combined(txns), rewrite("x")]) == [0]


async def test_a_single_one_is_sent_as_it_is(case: Case) -> None:
    assert (await case.combiner.txn(rewrite("a"))).succeeded
    assert case.store.sent == [rewrite("a")]


async def test_those_that_come_while_one_is_under_way_are_sent_as_one(case: Case) -> None:
    tasks = await case.start(*(rewrite(key) for key in "abcd"))
    assert await case.outcomes(tasks) == [True] * 4
    assert case.store.sent == [rewrite("a"), combined([rewrite(key) for key in "bcd"])]
    assert case.written() == set("abcd")


async def test_one_waits_for_others_that_were_announced_until_the_last_has_arrived(case: Case) -> None:
    async def arrive(key: str) -> TxnResult:
        case.combiner.arrived(key)
        return await case.combiner.txn(rewrite(key))

    for key in "abc":
        case.combiner.announce(key)
    tasks = [asyncio.create_task(arrive(key)) for key in "ab"]
    await asyncio.sleep(0)
    assert case.store.sent == []
    tasks.append(asyncio.create_task(arrive("c")))
    assert await case.outcomes(tasks) == [True] * 3
    assert case.store.sent == [combined([rewrite(key) for key in "abc"])]


async def test_one_that_was_announced_and_does_not_come_holds_nothing_up(case: Case) -> None:
    case.combiner.announce("never")
    async with asyncio.timeout(5):
        for _ in range(20):
            assert (await case.combiner.txn(Txn((), (Put("a", b""),)))).succeeded


async def test_each_is_told_only_what_it_asked_to_read(case: Case) -> None:
    tasks = await case.start(rewrite("a"), Txn((), (Put("b", b"1"),), read=("b",)), rewrite("c"))
    assert await case.outcomes(tasks) == [True] * 3
    assert [set(task.result().read) for task in tasks] == [set(), {"b"}, set()]


async def test_one_whose_compare_fails_takes_no_other_with_it(case: Case) -> None:
    tasks = await case.start(rewrite("a"), rewrite("b"), rewrite("c", 99), rewrite("d"))
    assert await case.outcomes(tasks) == [True, True, False, True]
    assert case.written() == set("abd")


async def test_a_lease_that_has_ended_is_a_no_only_to_who_named_it(case: Case) -> None:
    tasks = await case.start(rewrite("a"), rewrite("b", lease=5), rewrite("c"))
    assert await case.outcomes(tasks) == [True, LeaseGone, True]
    assert case.written() == set("ac")


async def test_an_unanswered_one_is_unknown_to_each_and_sent_again_for_none(case: Case) -> None:
    tasks = await case.start(*(rewrite(key) for key in "abc"))
    case.store.go()
    assert (await tasks[0]).succeeded
    case.store.delay_next_txn()
    assert await case.outcomes(tasks[1:]) == [Unanswered, Unanswered]
    assert len(case.store.sent) == 2
    assert case.written() == {"a"}


async def test_a_touch_of_one_settles_that_nothing_of_an_unanswered_one_happens_any_more(case: Case) -> None:
    tasks = await case.start(*(rewrite(key) for key in "abc"))
    case.store.go()
    await tasks[0]
    case.store.delay_next_txn()
    await case.outcomes(tasks[1:])
    assert (await case.store.txn(Txn((absent("b"),), (Put("b", b"touched"),)))).succeeded
    assert [result.succeeded for result in case.store.release()] == [False]
    assert case.written() == {"a", "b"}


async def test_one_that_is_cancelled_while_it_waits_is_never_sent(case: Case) -> None:
    tasks = await case.start(*(rewrite(key) for key in "abc"))
    tasks[1].cancel()
    assert await case.outcomes(tasks) == [True, asyncio.CancelledError, True]
    assert case.written() == {"a", "c"}


async def test_where_the_sender_is_cancelled_the_others_do_not_know_what_became_of_it(case: Case) -> None:
    tasks = await case.start(*(rewrite(key) for key in "abc"))
    case.store.go()
    await tasks[0]
    case.store.hold()
    while len(case.store.sent) < 2:
        await asyncio.sleep(0)
    tasks[1].cancel()
    assert await case.outcomes(tasks) == [True, asyncio.CancelledError, Unanswered]


async def test_nothing_is_sent_once_it_may_not_be(case: Case) -> None:
    tasks = await case.start(*(rewrite(key) for key in "abc"))
    case.lapsed = True
    assert await case.outcomes(tasks) == [True, NotNow, NotNow]
    assert case.written() == {"a"}


async def test_after_a_no_to_all_none_is_sent_by_itself_once_it_may_not_be(case: Case) -> None:
    tasks = await case.start(rewrite("a"), rewrite("b", 99), rewrite("c"))
    case.store.go()
    await tasks[0]
    case.store.hold()
    while len(case.store.sent) < 2:
        await asyncio.sleep(0)
    case.lapsed = True
    assert await case.outcomes(tasks) == [True, NotNow, NotNow]
    assert case.written() == {"a"}
