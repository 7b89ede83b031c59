"""Which trace what is done now belongs to: a W3C `traceparent`, kept with the task that does it.

It is carried from the command to the source of a move and on to its target in `asked/<d>` and `owners/<d>`. Nothing is
ever compared with it, or decided on it.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from contextvars import ContextVar

_CURRENT: ContextVar[str] = ContextVar("trace", default="")
_FORM = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")


def new() -> str:
    """The beginning of a trace, as a traceparent (https://www.w3.org/TR/trace-context/)."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def trace_id(parent: str) -> str:
    """32 hexadecimal digits; "" where it is no traceparent: anybody may have typed it."""
    found = _FORM.fullmatch(parent)
    return found[1] if found else ""


def current() -> str:
    """The traceparent of what this task does; "" where that belongs to no trace."""
    return _CURRENT.get()


@contextlib.contextmanager
def within(parent: str) -> Iterator[None]:
    """Inside, what is done belongs to this trace."""
    token = _CURRENT.set(parent)
    try:
        yield
    finally:
        _CURRENT.reset(token)
