"""Keeps secrets out of what people pass on: by the names of fields, by how they look in text, and by what they are.

Pure. Nobody can know every secret; so what a workload is given (arguments, environment) goes as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

REMOVED = "(removed)"

_NAMES = re.compile(r"passw|passphrase|secret|token|credential|api.?key|access.?key|private|authorization|cookie", re.I)
_FILE = re.compile(r"(_file|_path|\.file)$", re.I)
_ASSIGNED = re.compile(
    r"(?i)\b([\w.-]*(?:passw|passphrase|secret|token|credential|api.?key|access.?key|authorization|cookie)[\w.-]*)"
    r"(\\?[\"']?\s*[:=]\s*)(?:(?:basic|bearer)\s+)?(\\?\"[^\"\n]*\"|'[^'\n]*'|[^\s,;\"'}]+)"
)
_URL = re.compile(r"(?<=://)[^\s/@:]+:[^\s/@]+(?=@)")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S)
_LEAST = 6
"""Characters of a known secret below which it is not looked for: `yes` would be found everywhere."""


def secret(name: str) -> bool:
    """Whether a field of this name holds a secret. The name of a file is none."""
    return bool(_NAMES.search(name)) and not _FILE.search(name)


def redacted(value: Any) -> Any:
    """Settings or a record, as JSON has them, without the values of fields whose names say that they are secret."""
    if isinstance(value, Mapping):
        return {key: REMOVED if secret(str(key)) and it else redacted(it) for key, it in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(it) for it in value]
    return scrubbed(value) if isinstance(value, str) else value


def scrubbed(text: str, known: Iterable[str] = ()) -> str:
    """Text without what looks like a secret, and without these ones."""
    for one in sorted((it for it in known if len(it) >= _LEAST), key=len, reverse=True):
        text = text.replace(one, REMOVED)
    text = _PEM.sub(REMOVED, text)
    text = _URL.sub(REMOVED, text)
    text = _ASSIGNED.sub(lambda found: f"{found[1]}{found[2]}{REMOVED}", text)
    return _BEARER.sub(lambda found: f"{found[1]} {REMOVED}", text)


def values(value: Any) -> list[str]:
    """Every text in what is secret as a whole."""
    if isinstance(value, Mapping):
        return [text for it in value.values() for text in values(it)]
    if isinstance(value, list | tuple):
        return [text for it in value for text in values(it)]
    return [value] if isinstance(value, str) else []
