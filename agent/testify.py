"""Tells the cluster that this node has stopped: its guard starts this where the agent is dead or hangs.

So nobody has to wait until the heartbeat has stood still for W.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

from drover.agent import logs
from drover.agent.config import Settings
from drover.agent.connect import connect
from drover.agent.guard.page import Page
from drover.agent.guard.settings import Files, LadderRecord, write
from drover.coordinator.join import NotOurCluster, ensure_cluster
from drover.coordinator.keys import Keys
from drover.coordinator.mark import MARK, MarkFile
from drover.coordinator.record import InvalidRecord, timestamp
from drover.coordinator.records import Evidence, Fence, Heartbeat
from drover.coordinator.store import Denied, Store, StoreError, WentBack
from drover.coordinator.txn import Put, Txn, unchanged

log = logging.getLogger("drover.testify")

LIMIT = 30.0
"""Seconds in which it is tried: afterwards silence has said it long since."""
_AGAIN = 0.2


async def say_stopped(store: Store, keys: Keys, node: str, files: Files) -> bool:
    """Writes the fence of the incarnation that the ladder has stopped; False: somebody has said it, or there is nothing
    to say any more. Raises StoreError, InvalidRecord.

    The heartbeat is read before the page, and compared: the gate opens after a sworn round only when another one was
    run and a heartbeat, sent after that had begun, was answered. So either that heartbeat or this fence fails. A fence
    that rests on silence only is replaced: silence may prove nothing.
    """
    beat = await store.get(keys.heartbeat(node))
    record = LadderRecord.load(files.record)
    with Page(files.page) as page:
        seen = page.seen()
    if beat is None or record is None or not seen.clean or not (record.round == seen.round == seen.sworn):
        return False
    last = Heartbeat.decode(beat.value)
    incarnation = last.incarnation
    if incarnation != record.incarnation or last.left:  # it has said so itself, and for how long to wait
        return False
    fence = Fence(
        node=node,
        by=node,
        evidence=Evidence.STOPPED,
        detail=f"its guard has stopped everything and verified it: {record.reason}",
        at=timestamp(datetime.now(UTC)),
        until=last.writes_until,
    )
    key = keys.fence(incarnation)
    while (written := await store.get(key)) is None or Fence.decode(written.value).evidence is Evidence.SILENCE:
        told = await store.txn(Txn((unchanged(beat.key, beat), unchanged(key, written)), (Put(key, fence.encode()),)))
        newest = await store.get(beat.key)
        if told.succeeded or newest is None or newest.mod_revision != beat.mod_revision:
            return told.succeeded
    return False


async def _insist(settings: Settings) -> None:
    """Until etcd has answered. Raises TimeoutError, Denied, WentBack, NotOurCluster."""
    keys = Keys(settings.prefix)
    async with asyncio.timeout(LIMIT), connect(settings.etcd, keys.cluster) as store:
        while True:
            try:
                await ensure_cluster(store, keys, MarkFile(settings.state_dir / MARK))
                said = await say_stopped(store, keys, settings.node, Files(settings.run_dir))
            except (Denied, WentBack):
                raise
            except StoreError as error:
                log.debug("%s", error)
                await asyncio.sleep(_AGAIN)
            else:
                return log.warning("%s", "the cluster knows that this node has stopped" if said else "nothing to say")


def command(files: Files, settings: Settings) -> tuple[str, ...]:
    """What to start. The settings are written down for it: they may have come from files that are gone by then."""
    write(files.agent, settings.model_dump_json())
    return sys.executable, "-P", "-m", __name__, str(files.agent)


def main() -> None:
    """Argument: the file with the agent's settings."""
    settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
    logs.setup(settings.log_level)
    try:
        asyncio.run(_insist(settings))
    except (TimeoutError, Denied, WentBack, NotOurCluster, InvalidRecord, OSError) as error:
        sys.exit(f"drover-agent: the cluster was not told that this node has stopped: {str(error) or 'etcd is away'}")


if __name__ == "__main__":
    main()
