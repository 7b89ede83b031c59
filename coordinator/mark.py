"""A node's mark on its disk: how far it has seen etcd come, so that an agent that starts sees whether etcd went back.

The mark lags behind: it is written every few seconds, so it is a revision that etcd had reached for certain. What an
agent that runs has seen since is in memory. What etcd lost between the two is not seen by an agent that restarts just
then, and need not be: whatever touches data has stored its epoch with the data first, and is refused there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from drover.coordinator.protocol.history import Mark

log = logging.getLogger(__name__)

MARK = "etcd.json"
"""Its file, in an agent's state_dir."""
_EVERY = 15.0
"""Seconds between two writes: each costs an idle agent two flushes of its disk."""


class MarkFile:
    """One JSON file, written anew as a whole, durably."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changing = threading.Lock()

    def load(self) -> Mark | None:
        """None: this node has never joined, or the file is damaged, which is said in the log."""
        try:
            return Mark(**json.loads(self._path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            log.error(
                "%s is damaged (%s): whether etcd went back while this agent was off is not known", self._path, error
            )
            return None

    def save(self, mark: Mark) -> None:
        """Raises OSError."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        with open(temporary, "w") as file:
            json.dump(asdict(mark), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def broken(self, reason: str) -> None:
        """etcd was found to have gone back behind the mark: that stays known until a recovery. Raises OSError."""
        with self._changing:
            if (mark := self.load()) is not None:
                self.save(replace(mark, broken=reason))

    def advance(self, revision: int) -> None:
        """etcd has come so far. Raises OSError."""
        with self._changing:
            mark = self.load()
            if mark is not None and not mark.broken and revision > mark.revision:
                self.save(replace(mark, revision=revision))

    async def keep(self, revision: Callable[[], int]) -> None:
        """Until cancelled. revision: the highest seen so far."""
        trouble = ""
        while True:
            await asyncio.sleep(_EVERY)
            try:
                await asyncio.to_thread(self.advance, revision())
                trouble = ""
            except OSError as error:
                if str(error) != trouble:
                    log.error("the highest revision of etcd that was seen cannot be kept: %s", error)
                trouble = str(error)
