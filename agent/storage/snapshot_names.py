"""Names of a dataset's snapshots, for back ends with local copies: `<epoch>.<sequence>`, made in that epoch, here or
elsewhere; with `.end`, what the working copy was as its epoch ended. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable

END = ".end"
UID = re.compile(r"[0-9a-f]{4,64}")
_NAME = re.compile(r"(\d{6,})\.(\d{6})(\.end)?")


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def order(name: str) -> tuple[int, int]:
    """Epoch and sequence. Raises ValueError where it is no snapshot's name."""
    if (found := _NAME.fullmatch(name)) is None:
        raise ValueError(f"{name!r} is no snapshot's name")
    return int(found[1]), int(found[2])


def next_name(taken: Iterable[str], epoch: int) -> str:
    """taken: other names may be among them."""
    orders = [order(name) for name in taken if is_name(name)]
    sequence = max((number for its, number in orders if its == epoch), default=0) + 1
    return f"{epoch:06d}.{sequence:06d}"
