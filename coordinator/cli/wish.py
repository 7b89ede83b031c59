"""A wish of where a dataset should be, with the name of whoever has it."""

from __future__ import annotations

import getpass
import os

from drover.coordinator.keys import Keys
from drover.coordinator.records import Asked
from drover.coordinator.txn import Delete, Put


def user() -> str:
    """Who runs this command, by the machine's word."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


def wish(keys: Keys, dataset: str, node: str, verb: str) -> tuple[Put, ...]:
    """For one transaction: `asked/<d>` counts only beside the `desired/<d>` that was put with it."""
    asked = Asked(by=f"{user()}, drover {verb}")
    return Put(keys.desired(dataset), node.encode()), Put(keys.asked(dataset), asked.encode())


def unwish(keys: Keys, dataset: str) -> tuple[Delete, ...]:
    return Delete(keys.desired(dataset)), Delete(keys.asked(dataset))
