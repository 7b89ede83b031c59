"""Logging: one line a record on stderr, which systemd keeps."""

from __future__ import annotations

import logging
import sys
import time

_QUIET = ("asyncio", "grpc", "opentelemetry", "urllib3")
"""Libraries whose warnings matter and whose chatter does not."""


class _OneLine(logging.Formatter):
    """Time (UTC), level, logger, message; a traceback follows its record, indented, as part of the same line."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        return " | ".join(part.rstrip() for part in super().format(record).splitlines() if part.strip())


def setup(level: str) -> None:
    """Log from `level` ("debug", "info", "warning", "error") on to stderr; libraries from "warning" on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
