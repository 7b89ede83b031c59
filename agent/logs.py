"""Logging: one line a record on stderr, which systemd keeps; as text, or as JSON for who collects it."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Literal

from drover.coordinator import trace
from drover.coordinator.protocol.dataset import Dataset

Format = Literal["text", "json"]

_QUIET = ("asyncio", "grpc", "opentelemetry", "urllib3")
"""Libraries whose warnings matter and whose chatter does not."""

_ABOUT: ContextVar[dict[str, object]] = ContextVar("about", default={})  # noqa: B039 - never changed in place


@contextlib.contextmanager
def about(unit: Sequence[Dataset]) -> Iterator[None]:
    """What is logged inside is about these: their names, and the newest epoch and its reason of the first."""
    first = next((d.tenure for d in unit if d.tenure), None)
    said: dict[str, object] = {"dataset": ", ".join(d.name for d in unit)}
    if first is not None:
        said |= {"epoch": first.epoch, "reason": first.because}
    token = _ABOUT.set(said)
    try:
        yield
    finally:
        _ABOUT.reset(token)


def context(record: logging.LogRecord) -> bool:
    """A filter that passes all: a record gets the fields `dataset`, `epoch`, `reason` and `trace_id`, where known."""
    vars(record).update(_ABOUT.get())
    if parent := trace.trace_id(trace.current()):
        vars(record)["trace_id"] = parent
    return True


class _OneLine(logging.Formatter):
    """Time (UTC), level, logger, message; a traceback follows its record, indented, as part of the same line."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        return " | ".join(part.rstrip() for part in super().format(record).splitlines() if part.strip())


class _Json(_OneLine):
    """The same, an object a line, with what the record is about."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {key: vars(record)[key] for key in ("dataset", "epoch", "reason", "trace_id") if key in vars(record)}
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def setup(level: str, form: Format = "text") -> None:
    """Log from `level` ("debug", "info", "warning", "error") on to stderr; libraries from "warning" on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(context)
    text = _OneLine("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(_Json() if form == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
