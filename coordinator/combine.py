"""Transactions that wait for one another go as one: for each that it is sent, etcd writes its log on every member and
tells every watcher, which is most of what it costs when many datasets move at once.

What is combined stays what it was: every compare of each holds, or nothing of any happens, and then each is sent by
itself. So one dataset's loss is never another's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from drover.coordinator.store import Store, StoreError, Unanswered, Unavailable
from drover.coordinator.txn import Delete, Txn, TxnResult

MOST = 128
"""Compares, and operations, that etcd takes in one transaction (its default, --max-txn-ops)."""


def compatible(txns: Sequence[Txn]) -> list[int]:
    """Which of these can be sent as one, by their places. The first is always among them.

    A key that one of them writes, no other may write, compare or read: then the one means what they mean one after the
    other, in any order.
    """
    taken: list[int] = []
    written: set[str] = set()
    touched: set[str] = set()
    deleted: list[Delete] = []
    for place, txn in enumerate(txns):
        writes = {operation.key for operation in txn.then}
        touches = writes | {compare.key for compare in txn.compare} | set(txn.read)
        deletes = [operation for operation in txn.then if isinstance(operation, Delete) and operation.end]
        clash = writes & touched or touches & written or _inside(touched, deletes) or _inside(touches, deleted)
        if taken and (clash or _size([*(txns[n] for n in taken), txn]) > MOST):
            continue
        taken.append(place)
        written |= writes
        touched |= touches
        deleted += deletes
    return taken


def _inside(keys: set[str], ranges: Sequence[Delete]) -> bool:
    return any(it.key <= key < it.end for it in ranges for key in keys)


def combined(txns: Sequence[Txn]) -> Txn:
    """All of each, if every compare of each holds. What several compare, as the sender's fence, is compared once."""
    return Txn(
        compare=tuple(dict.fromkeys(compare for txn in txns for compare in txn.compare)),
        then=tuple(operation for txn in txns for operation in txn.then),
        read=tuple(dict.fromkeys(key for txn in txns for key in txn.read)),
    )


def _size(txns: Sequence[Txn]) -> int:
    one = combined(txns)
    return max(len(one.compare), len(one.then) + len(one.read))


LINGER = 0.02
"""Seconds that a transaction at most waits for others that were announced."""
_ANNOUNCED = 0.1
"""Seconds for which an announcement holds: what takes longer is not waited for."""


class _Alone:
    """To be sent by itself: what it was combined into did not happen, and never will."""


class _Waiting:
    """A transaction that somebody waits for. fate: None until it has been sent."""

    def __init__(self, txn: Txn) -> None:
        self.txn = txn
        self.fate: TxnResult | Unanswered | _Alone | None = None


class Combiner:
    """One transaction is under way at a time; those that come meanwhile go together when it has been answered. A single
    one waits for nothing, unless others were announced."""

    def __init__(self, store: Store, check: Callable[[], None]) -> None:
        """check: called right before anything is sent; what it raises goes to who wanted to send."""
        self._store, self._check = store, check
        self._turn = asyncio.Lock()
        self._queue: list[_Waiting] = []
        self._announced: dict[str, float] = {}
        self._complete = asyncio.Event()

    def announce(self, name: str) -> None:
        """A transaction about `name` is to come soon. Until `arrived` others wait a moment for it, to go together."""
        self._announced[name] = asyncio.get_running_loop().time() + _ANNOUNCED

    def arrived(self, name: str) -> None:
        """It is about to be sent, or does not come."""
        self._announced.pop(name, None)
        if not self._announced:
            self._complete.set()

    async def txn(self, txn: Txn) -> TxnResult:
        """As `Store.txn`: sent once, or again where it was part of one that got a plain no. Cancelled
        while it waits, it is never sent. It waits at most the store's time limit for each that is sent before it.

        Raises what `Store.txn` and `check` raise.
        """
        mine = _Waiting(txn)
        self._queue.append(mine)
        try:
            async with self._turn:
                if mine.fate is None:
                    await self._linger()
                    self._check()
                    if (batch := self._take()) == [mine]:
                        return await self._store.txn(txn)
                    await self._send(batch)
        finally:
            if mine in self._queue:
                self._queue.remove(mine)
        match mine.fate:
            case TxnResult(succeeded, revision, read):
                return TxnResult(succeeded, revision, {key: read[key] for key in txn.read})
            case Unanswered() as error:
                raise Unanswered(str(error)) from error
        self._check()
        return await self._store.txn(txn)

    async def _linger(self) -> None:
        """While others are announced."""
        loop = asyncio.get_running_loop()
        left = min(LINGER, max(self._announced.values(), default=0.0) - loop.time())
        if left > 0:
            self._complete.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._complete.wait()
        self._announced = {name: until for name, until in self._announced.items() if until > loop.time()}

    def _take(self) -> list[_Waiting]:
        """The one that has waited longest, with all that can go with it."""
        batch = [self._queue[place] for place in compatible([one.txn for one in self._queue])]
        self._queue = [one for one in self._queue if one not in batch]
        return batch

    async def _send(self, batch: Sequence[_Waiting]) -> None:
        fate: TxnResult | Unanswered | _Alone = Unanswered("its sender was stopped before etcd's answer came")
        try:
            result = await self._store.txn(combined([one.txn for one in batch]))
            fate = result if result.succeeded else _Alone()
        except (Unanswered, Unavailable) as error:
            fate = Unanswered(str(error))
        except StoreError:
            fate = _Alone()
        finally:
            for one in batch:
                one.fate = fate
