"""A wish of where a dataset should be, with the name of whoever has it."""

from __future__ import annotations

import contextlib
import getpass
import os
import time
from pathlib import Path

from drover.coordinator import trace
from drover.coordinator.keys import Keys
from drover.coordinator.records import Accepted, Asked
from drover.coordinator.txn import Delete, Put


def user() -> str:
    """Who gives this command: the user of etcd or the name in the certificate that etcd is shown (etcd itself does not
    say who put a key), else who runs it, by the machine's word."""
    if name := os.environ.get("ETCDCTL_USER", "").partition(":")[0]:
        return f"{name} (etcd user)"
    if file := os.environ.get("ETCDCTL_CERT"):
        from drover.coordinator.certificates import Certificate, Unusable

        with contextlib.suppress(Unusable):
            if names := Certificate.read(Path(file)).names:
                return f"{names[0]} (certificate)"
    return os.environ.get("SUDO_USER") or getpass.getuser()


def wish(
    keys: Keys, dataset: str, node: str, verb: str, parent: str = "", accepts: Accepted | None = None
) -> tuple[Put, ...]:
    """For one transaction: `asked/<d>` counts only beside the `desired/<d>` that was put with it. parent: the
    traceparent that the move is to belong to; "": a new one. accepts: what may be lost by it."""
    by, began = f"{user()}, drover {verb}", parent or trace.new()
    asked = Asked(by=by, trace=began, at=round(time.time(), 3), accepts=accepts)
    return Put(keys.desired(dataset), node.encode()), Put(keys.asked(dataset), asked.encode())


def unwish(keys: Keys, dataset: str) -> tuple[Delete, ...]:
    return Delete(keys.desired(dataset)), Delete(keys.asked(dataset))
