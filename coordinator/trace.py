"""Which trace what is done now belongs to: a W3C `traceparent`, kept with the task that does it.

It is carried from the command to the source of a move and on to its target in `asked/<d>` and `owners/<d>`, and from
the fence to whoever claims in `fences/<incarnation>`. Nothing is ever compared with it, or decided on it.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """What a change of epoch belongs to. parent: the traceparent of the span that covers all of it; "": nothing.
    begun: when that began: the wish was put, or the fence (Unix time); None: nobody knows."""

    parent: str = ""
    begun: float | None = None


NOTHING = Cause()

_CURRENT: ContextVar[str] = ContextVar("trace", default="")
_CAUSE: ContextVar[Cause] = ContextVar("cause", default=NOTHING)
_FORM = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")


def new() -> str:
    """The beginning of a trace, as a traceparent (https://www.w3.org/TR/trace-context/)."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def child(parent: str) -> str:
    """A traceparent in the same trace, for a span below that one; a new trace where it is none."""
    return f"00-{found[1]}-{secrets.token_hex(8)}-01" if (found := _FORM.fullmatch(parent)) else new()


def ids(parent: str) -> tuple[int, int]:
    """Of the trace and of the span. Raises ValueError where it is no traceparent."""
    if (found := _FORM.fullmatch(parent)) is None:
        raise ValueError(f"{parent!r} is no traceparent")
    return int(found[1], 16), int(found[2], 16)


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


def cause() -> Cause:
    """What the change of epoch that this task works on belongs to, however deep in it."""
    return _CAUSE.get()


@contextlib.contextmanager
def because(cause: Cause) -> Iterator[None]:
    """Inside, what is done is part of it."""
    token = _CAUSE.set(cause)
    try:
        with within(cause.parent):
            yield
    finally:
        _CAUSE.reset(token)
