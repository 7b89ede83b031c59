"""Sockets of an agent on its own machine: who may use them."""

from __future__ import annotations

import grp
import os
from pathlib import Path


def restrict(path: Path, group: str) -> None:
    """For root and this group (mode 0660); for root alone (0600) where the machine has no such group.

    Raises OSError."""
    path.chmod(0o600)
    try:
        number = grp.getgrnam(group).gr_gid
    except KeyError:
        return
    os.chown(path, -1, number)
    path.chmod(0o660)
