"""What a node does about datasets: each verb is one transaction, and what it answers is final or said to be open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from drover.coordinator.combine import Combiner
from drover.coordinator.keys import Keys, Kind
from drover.coordinator.protocol import ownership
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.protocol.ownership import Seat
from drover.coordinator.protocol.placement import Claim
from drover.coordinator.record import InvalidRecord
from drover.coordinator.records import Copies, Holder, Status, Tenure
from drover.coordinator.store import LeaseGone, NoSpace, Store, Unanswered, Unavailable
from drover.coordinator.txn import Put, Txn, TxnResult
from drover.coordinator.view import View

log = logging.getLogger(__name__)

_PAUSE = 0.1
"""Seconds between two tries where the first was refused at once."""
_CATCH_UP = 10.0
"""Seconds that the view may take to show what this node wrote, before the log says so and it is doubted."""
_REFUTED = 5
"""So many transactions in a row whose compare failed: what they were decided on is doubted."""


class NotLive(Exception):
    """The session has lapsed or ended: nothing was sent, or it is no matter any more what became of it."""


def _owners(keys: Keys, txn: Txn) -> frozenset[str]:
    """The datasets whose tenures a transaction puts."""
    under = keys.under(Kind.OWNERS)
    return frozenset(
        put.key.removeprefix(under) for put in txn.then if isinstance(put, Put) and put.key.startswith(under)
    )


class Verbs:
    """All raise NotLive, and StoreError where nothing else is said; False: etcd said no."""

    def __init__(
        self,
        store: Store,
        view: View,
        seat: Callable[[], Seat],
        check_live: Callable[[], None],
        check_joined: Callable[[], None],
        lagged: Callable[[float], None],
    ) -> None:
        """seat: for one transaction. check_live, check_joined: raise NotLive where nothing may be sent, and where
        nothing that was sent can commit any more. lagged: told for how many seconds the view did not show what had been
        written."""
        self._store, self._view, self._seat, self._check_joined = store, view, seat, check_joined
        self._lagged = lagged
        self._combiner = Combiner(store, check_live)
        self._refuted = 0

    async def _commit(self, txn: Txn) -> bool:
        """Whether it committed. Raises NotLive, Unanswered (not settled), Unavailable, NoSpace, Denied."""
        try:
            result = await self._combiner.txn(txn)
        except LeaseGone:
            return False
        return await self._shown(txn, result)

    async def _shown(self, txn: Txn, result: TxnResult) -> bool:
        self._refuted = 0 if result.succeeded else self._refuted + 1
        if result.succeeded:
            await self._caught_up(result.revision, _owners(self._view.keys, txn))
        else:
            if self._refuted % _REFUTED == 0:
                self._view.doubt()
            # It was decided on an older picture than etcd's: the next decision waits for news, or for a moment.
            with contextlib.suppress(TimeoutError):
                await self._view.reached(result.revision, _PAUSE)
        return result.succeeded

    async def _caught_up(self, revision: int, owners: frozenset[str]) -> None:
        """Until the view shows what is at `revision`, in these tenures too: planning on an older picture would undo
        what was just done. A node that has handed a dataset over and does not see that would use it again."""
        answered = asyncio.get_running_loop().time()
        while True:
            try:
                await self._view.reached(revision, _CATCH_UP, owners)
                return self._lagged(asyncio.get_running_loop().time() - answered)
            except TimeoutError:
                log.warning("etcd's watch lags by more than %.0f s", _CATCH_UP)
                self._view.doubt()
                self._check_joined()

    async def _settled(self, seat: Seat, datasets: Sequence[Dataset], txn: Txn) -> bool:
        """Commit, and where no answer comes, find out what became of it: True or False are final.

        An unanswered transaction may commit later, after a read that does not show it. Touching one of the tenures that
        it compares makes that impossible; if the touch does not commit, something else did, perhaps it.
        """
        for d in datasets:
            self._combiner.arrived(d.name)
        try:
            return await self._commit(txn)
        except (Unanswered, Unavailable) as error:
            log.warning("%s: settling what became of it (%s)", ", ".join(d.name for d in datasets), error)
        while True:
            self._check_joined()
            try:
                fate = await self._fate(seat, datasets[0])
            except (Unanswered, Unavailable, NoSpace):
                await asyncio.sleep(_PAUSE)
                continue
            if fate is not None:
                return fate

    async def _fate(self, sent: Seat, d: Dataset) -> bool | None:
        """Whether the transaction that was sent from this seat committed; None: not known yet. Raises StoreError."""
        entry = await self._store.get(sent.keys.owner(d.name))
        if entry is not None and entry.mod_revision == d.tenure_revision:
            touch = ownership.touch(self._seat(), d)
            return False if await self._shown(touch, await self._store.txn(touch)) else None
        if entry is None:
            return False
        await self._caught_up(entry.mod_revision, frozenset({d.name}))
        try:
            now = Tenure.decode(entry.value)
        except InvalidRecord:
            return False
        if now.txn == sent.txn:
            return True
        # Others have gone on from there. What I held and do not hold any more, I gave away: or I was fenced.
        if now.held and d.tenure is not None and (now.holder, now.epoch) == (d.tenure.holder, d.tenure.epoch):
            return False
        if await self._store.get(sent.keys.fence(sent.incarnation)) is not None:
            raise NotLive(f"incarnation {sent.incarnation} has been fenced")
        return True

    async def claim(self, claim: Claim, datasets: Sequence[Dataset], beside: Sequence[Dataset]) -> bool:
        """beside: the others of the unit. Nothing relies on a claim's having failed, so an unanswered one needs no
        settling: the view tells."""
        uids = {d.name: secrets.token_hex(16) for d in datasets}
        homes = {d.tenure.node for d in datasets if d.tenure is not None and d.tenure.held}
        txn = ownership.claim(
            self._seat(),
            datasets,
            self._view.cluster,
            uids,
            claim.because,
            claim.evidence,
            self._view.fence_revisions(),
            beside,
            promoted=claim.promoted,
            homes={node: entry.mod_revision if (entry := self._view.entry(Kind.NODES, node)) else 0 for node in homes},
        )
        return await self._commit(txn)

    async def activate(self, d: Dataset) -> bool:
        return await self._commit(ownership.activate(self._seat(), d))

    async def cleared(self, d: Dataset, stopped: Sequence[Holder]) -> bool:
        return await self._commit(ownership.cleared(self._seat(), d, stopped))

    async def born(self, d: Dataset, object_: str, local: bool) -> bool:
        return await self._commit(ownership.born(self._seat(), d, object_, local))

    async def refresh(self, d: Dataset) -> bool:
        return await self._commit(ownership.refresh(self._seat(), d))

    async def condemn(self, d: Dataset) -> bool:
        """Whether its data may be destroyed: asked of etcd, not of the view."""
        return await self._commit(ownership.condemn(self._seat(), d))

    async def destroyed(self, d: Dataset) -> bool:
        return await self._commit(ownership.destroyed(self._seat(), d))

    async def reput(self, d: Dataset) -> bool:
        return await self._commit(ownership.reput(self._seat(), d))

    async def report(self, d: Dataset, status: Status) -> bool:
        """status/<d>. A lost one is written again by whoever looks next."""
        return await self._commit(ownership.report(self._seat(), d, status))

    async def acknowledge(self, d: Dataset, copies: Copies, revision: int) -> int:
        """copies/<d>, last written at `revision`. The revision that it has now; 0: etcd said no. Nothing waits for the
        view to show it, as nothing is planned on it here."""
        try:
            result = await self._combiner.txn(ownership.acknowledge(self._seat(), d, copies, revision))
        except LeaseGone:
            return 0
        return result.revision if result.succeeded else 0

    def announce(self, dataset: str) -> None:
        """Its handover or release is to come: those that are ready wait a moment for it, to go in one transaction."""
        self._combiner.announce(dataset)

    async def handover(
        self,
        datasets: Sequence[Dataset],
        to: str,
        because: str,
        beside: Sequence[Dataset],
        refused: bool = False,
        down: float | None = None,
        stopped: float | None = None,
        bases: Mapping[str, str] = MappingProxyType({}),
    ) -> bool:
        """Settled: False means that it has not happened and never will. beside: the others of the unit. down: Unix time
        when their use was stopped; stopped: when their first workload was told to end."""
        target = self._view.cluster.nodes.get(to)
        if target is None:
            return False
        seat = self._seat()
        txn = ownership.handover(seat, datasets, to, target, because, refused, down, beside, stopped, bases)
        return await self._settled(seat, datasets, txn)

    async def release(self, datasets: Sequence[Dataset], because: str, refused: bool = False) -> bool:
        """Settled, as handover."""
        seat = self._seat()
        return await self._settled(seat, datasets, ownership.release(seat, datasets, because, refused))

    async def touch(self, d: Dataset) -> bool:
        """Nothing that an earlier life of this agent sent about `d` can commit any more. False: it has changed."""
        return await self._commit(ownership.touch(self._seat(), d))
