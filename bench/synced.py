"""What the receiver's helper does after `btrfs receive` in bench/transfer.py: small, so that it is there at once."""

from __future__ import annotations

import subprocess
import time

SNAPSHOT = "snapshot"


def synced(pool: str) -> float:
    """The receiver's check: everything is on the disk, and the snapshot is whole. Returns the seconds it took."""
    began = time.monotonic()
    subprocess.run(["btrfs", "filesystem", "sync", pool], check=True, stdout=subprocess.DEVNULL)
    shown = subprocess.run(
        ["btrfs", "property", "get", f"{pool}/{SNAPSHOT}", "ro"], check=True, capture_output=True, text=True
    )
    if shown.stdout.strip() != "ro=true":
        raise RuntimeError(f"{pool}/{SNAPSHOT} is not whole")
    return time.monotonic() - began
