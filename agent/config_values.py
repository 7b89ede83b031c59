"""What one setting may be, and what becomes of it: functions for pydantic, which raise ValueError with one line."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator

from drover.agent.guard.settings import NOTHING, REBOOT
from drover.coordinator.addresses import host_port
from drover.coordinator.keys import Keys
from drover.coordinator.kinds import KINDS
from drover.coordinator.sizes import parse_size
from drover.coordinator.timings import PROFILES, Timings

MACHINE_ID = Path("/etc/machine-id")


def parsed(value: Any) -> Any:
    """Tables and lists come as text from the environment and from flags: JSON."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"is not JSON: {error}") from None
    return value


def listed(value: Any) -> Any:
    value = parsed(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list of texts, not {value!r}")
    return value


def number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {value}")
    return value


def timings(value: Any) -> Any:
    value = parsed(value)
    if isinstance(value, str):
        if value not in PROFILES:
            raise ValueError(f"must be one of {', '.join(PROFILES)}, or a table, not {value!r}")
        return PROFILES[value]
    if isinstance(value, dict) and (unknown := sorted(set(value) - set(Timings.model_fields))):
        raise ValueError(f"unknown key {unknown[0]!r}; a table has {', '.join(Timings.model_fields)}")
    return value


def endpoint(value: str) -> str:
    """`http://host:port`, as etcd's clients write it."""
    try:
        parts = urlsplit(value)
        rest = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port and not rest
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"{value!r} must look like 'http://10.0.0.1:2379' or 'https://etcd-1:2379'")
    return value.rstrip("/")


def listened(value: str) -> str:
    """`host:port`, `[::1]:port`; port 0 takes any free one."""
    try:
        host_port(value)
    except ValueError:
        raise ValueError(f"must look like '127.0.0.1:7470' or '[::1]:7470', not {value!r}") from None
    return value


def absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError(f"must be an absolute path, not {str(value)!r}")
    return value


def file(value: Path) -> Path:
    if not value.is_file():
        raise ValueError(f"there is no file {str(value)!r}")
    return value


def prefix(value: str) -> str:
    Keys(value)
    return value


def cgroup(value: str) -> str:
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or path == PurePosixPath("."):
        raise ValueError(f"must be a path below the cgroup2 mount, like 'drover', not {value!r}")
    return str(path)


def rate(value: Any) -> Any:
    return None if value in (None, "", 0, "0") else parse_size(number(value))


def machine_id(value: str) -> str:
    if value:
        return value
    try:
        found = MACHINE_ID.read_text().strip()
    except OSError as error:
        raise ValueError(f"{MACHINE_ID} cannot be read ({error.strerror}): set machine_id") from None
    if not found:
        raise ValueError(f"{MACHINE_ID} is empty: set machine_id, or run systemd-machine-id-setup")
    return found


def kind(value: str) -> str:
    if value not in KINDS:
        raise ValueError(f"{value!r} is no kind of workload; there are {', '.join(KINDS)}")
    return value


AbsolutePath = Annotated[Path, AfterValidator(absolute)]
FilePath = Annotated[Path, AfterValidator(absolute), AfterValidator(file)]
HostPort = Annotated[str, AfterValidator(listened)]


def reset(value: str) -> str:
    if value not in (NOTHING, REBOOT) and not Path(value).is_absolute():
        raise ValueError(f"must be '{NOTHING}', '{REBOOT}' or the path of a watchdog device, not {value!r}")
    return value
