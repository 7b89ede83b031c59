"""What an agent does while etcd is not to be relied on, since it went back or is another one: nothing, until somebody
has decided (`drover recover`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from drover.coordinator.join import NotOurCluster, ensure_cluster
from drover.coordinator.keys import Keys
from drover.coordinator.mark import MarkFile
from drover.coordinator.store import Store, StoreError

log = logging.getLogger(__name__)

_LOOK = 2.0
"""Seconds between two looks."""


async def until_decided(connect: Callable[[], AbstractAsyncContextManager[Store]], keys: Keys, marks: MarkFile) -> None:
    """Returns once etcd can be gone on with. Each look is a new connection, since one that saw etcd go back is used
    no more."""
    while True:
        await asyncio.sleep(_LOOK)
        try:
            async with connect() as store:
                await ensure_cluster(store, keys, marks)
        except (StoreError, NotOurCluster, OSError) as error:
            log.debug("still halted: %s", error)
            continue
        log.warning("etcd can be relied on again")
        return
