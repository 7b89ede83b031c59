"""The receiver's check of what has arrived, in a thread: it may take long (it syncs), and the sender wants to be told
that somebody is still there. Standard library only."""

from __future__ import annotations

import importlib
import json
import os
import threading
from collections.abc import Mapping
from typing import Any

from drover.agent.storage.base import StorageError
from drover.agent.transfer.errors import VerificationFailed
from drover.agent.transfer.wire import LARGEST


class Checking:
    """Begun at once. Its descriptor is readable when there is an answer or an error."""

    def __init__(self, check: Mapping[str, Any]) -> None:
        self.answer: Any = None
        self.error: StorageError | None = None
        self._done = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, args=(check["function"], check["arguments"]), daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        return self._done

    def close(self) -> None:
        """Waits for its end: what it does cannot be stopped half-way, but by killing this process."""
        self._thread.join()
        os.close(self._done)

    def _run(self, function: str, arguments: Mapping[str, Any]) -> None:
        try:
            module, _, name = function.partition(":")
            self.answer = getattr(importlib.import_module(module), name)(**arguments)
            if len(json.dumps(self.answer)) > LARGEST // 2:
                raise ValueError(f"it answers with more than {LARGEST // 2} bytes")
        except StorageError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - whatever it is, the round has not arrived
            self.error = VerificationFailed(f"{function} failed: {type(error).__name__}: {error}")
        os.eventfd_write(self._done, 1)
