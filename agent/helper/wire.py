"""What agent and helper say to each other: one JSON object a line, over a socket. Errors travel as class and state."""

from __future__ import annotations

import importlib
import json
import traceback
from collections.abc import Mapping
from typing import Any

from drover.agent.storage.base import StorageError

LIMIT = 1 << 20
"""Bytes of the longest line."""


def line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def error_to_wire(error: Exception, function: str) -> dict[str, Any]:
    """An error that is no StorageError is a fault in Drover or one that nobody foresaw: it travels as text."""
    if not isinstance(error, StorageError):
        text = f"{function} failed: {type(error).__name__}: {error}"
        return {"class": _name(StorageError), "args": [text], "notes": traceback.format_exception(error)}
    return {"class": _name(type(error)), "args": error.args, "state": vars(error)}


def error_from_wire(message: Mapping[str, Any]) -> StorageError:
    """Raises ValueError where it names no class of StorageError."""
    module, _, name = message["class"].partition(":")
    kind = getattr(importlib.import_module(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, StorageError)):
        raise ValueError(f"a helper answered with {message['class']}, which is no StorageError")
    error = kind.__new__(kind)  # its own constructor may want other arguments than those that it kept
    BaseException.__init__(error, *message["args"])
    vars(error).update(message.get("state", {}))
    if notes := message.get("notes"):
        error.add_note("".join(notes))
    return error


def _name(kind: type[StorageError]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"
