"""Workloads that are containers, in the terms of the Compose specification. No I/O, no clock.

What Compose writes in several forms is read in all of them, and kept in one.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from drover.coordinator.keys import name_error
from drover.coordinator.record import Name, UserRecord
from drover.coordinator.specs import WorkloadSpec

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:us|ms|s|m|h))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(b|k|kb|m|mb|g|gb)?", re.IGNORECASE)
_FACTORS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_PORT = re.compile(
    r"(?:(?P<ip>\[[0-9a-fA-F:.]+\]|\d+\.\d+\.\d+\.\d+):)?(?:(?P<published>\d{1,5}):)?(?P<target>\d{1,5})"
    r"(?:/(?P<protocol>tcp|udp|sctp))?"
)
MAX_PORT = 65535


def seconds(value: Any) -> Any:
    """A duration as Compose writes it (`1m30s`), in seconds; numbers are seconds."""
    if not isinstance(value, str):
        return value
    if not _DURATION.fullmatch(value):
        raise ValueError(f"{value!r} is no duration, like 10s or 1m30s")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))


def memory(value: Any) -> Any:
    """Bytes, as Compose writes them: `512m`."""
    if not isinstance(value, str):
        return value
    found = _BYTES.fullmatch(value.strip())
    if found is None or len(value) > 30:
        raise ValueError(f"{value!r} is no amount of memory, like 512m or 2g")
    unit = (found[2] or "").lower()
    return int(float(found[1]) * _FACTORS[unit[:1]])


def words(value: Any) -> Any:
    """A command line as one text is split as a shell would."""
    if not isinstance(value, str):
        return value
    try:
        return tuple(shlex.split(value))
    except ValueError as error:
        raise ValueError(f"{value!r} cannot be split into words: {error}") from None


def mapping(value: Any) -> Any:
    """`["A=b"]`, or `{"A": "b"}`; numbers are text."""
    if isinstance(value, list | tuple):
        if wrong := [one for one in value if not isinstance(one, str) or "=" not in one]:
            raise ValueError(f"{wrong[0]!r} is not NAME=VALUE")
        return dict(one.split("=", 1) for one in value)
    if isinstance(value, Mapping):
        return {
            name: str(one) if isinstance(one, int | float) and not isinstance(one, bool) else one
            for name, one in value.items()
        }
    return value


def _restart(value: Any) -> Any:
    """A container that is to run is started again: there is no other way to stop it than to say so."""
    return "always" if value == "unless-stopped" else value


def _test(value: Any) -> Any:
    return ("CMD-SHELL", value) if isinstance(value, str) else value


def _mount(value: Any) -> Any:
    """`SOURCE:/TARGET[:ro]`, or Compose's long form."""
    if isinstance(value, str):
        source, _, rest = value.partition(":")
        target, _, mode = rest.partition(":")
        if mode not in ("", "ro", "rw"):
            raise ValueError(f"{value!r}: there is only ro and rw, not {mode!r}")
        return {"source": source, "target": target, "read_only": mode == "ro"}
    if isinstance(value, Mapping) and "type" in value:
        kind = value["type"]
        if kind not in ("volume", "bind"):
            raise ValueError(f"there are volumes of type volume and bind, not {kind!r}")
        if (kind == "bind") != str(value.get("source", "")).startswith("/"):
            raise ValueError(f"a {kind} cannot come from {value.get('source', '')!r}")
        return {key: one for key, one in value.items() if key != "type"}
    return value


class Mount(UserRecord):
    """source: a dataset, or the absolute path of a directory of the node's (a bind)."""

    source: str
    target: str
    read_only: bool = False

    @property
    def bind(self) -> bool:
        return self.source.startswith("/")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.target.startswith("/"):
            raise ValueError(f"{self.source}:{self.target}: the second part must be an absolute path")
        if not self.bind and (wrong := name_error(self.source)):
            raise ValueError(f"{self.source!r} is not a dataset's name: {wrong}")
        return self


def _port(value: Any) -> Any:
    """Compose's short form, of one port."""
    if isinstance(value, Mapping):
        if unknown := sorted(set(value) - {"target", "published", "protocol", "host_ip", "mode", "name"}):
            raise ValueError(f"a port has no field {unknown[0]!r}")
        ip = f"{value['host_ip']}:" if value.get("host_ip") else ""
        published = f"{value['published']}:" if value.get("published") else ""
        value = f"{ip}{published}{value.get('target', '')}/{value.get('protocol', 'tcp')}"
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not (found := _PORT.fullmatch(text)):
        raise ValueError(f"{text!r} is no port: write 8080:80, 127.0.0.1:8080:80/tcp, one for each port")
    if not all(0 < int(found[part]) <= MAX_PORT for part in ("published", "target") if found[part]):
        raise ValueError(f"{text!r}: ports are numbers from 1 to {MAX_PORT}")
    return text


Duration = Annotated[float, BeforeValidator(seconds), Field(ge=0, le=86400)]
Command = Annotated[tuple[str, ...] | None, BeforeValidator(words)]
Port = Annotated[str, BeforeValidator(_port)]


class Healthcheck(UserRecord):
    """test: `["CMD", ...]`, `["CMD-SHELL", "..."]` or a line for the shell. What is left out is as the image says."""

    test: Annotated[tuple[str, ...] | None, BeforeValidator(_test)] = None
    interval: Duration | None = None
    timeout: Duration | None = None
    start_period: Duration | None = None
    retries: Annotated[int, Field(ge=0)] | None = None
    disable: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.test and self.test[0] not in ("CMD", "CMD-SHELL", "NONE"):
            raise ValueError("test must begin with CMD, CMD-SHELL or NONE")
        return self


class ContainerSpec(WorkloadSpec):
    """A container on a Docker Engine. Fields are Compose's; `volumes` names datasets where Compose names volumes."""

    awaited: ClassVar[bool] = True

    kind: Literal["docker"] = "docker"
    image: Annotated[str, Field(min_length=1)]
    command: Command = None
    """None: the image's own."""
    entrypoint: Command = None
    volumes: Annotated[tuple[Annotated[Mount, BeforeValidator(_mount)], ...], Field(min_length=1)]
    datasets: Annotated[tuple[Name, ...], Field(exclude=True)] = ()
    """Those among `volumes`: not to be written."""
    environment: Annotated[dict[str, str], BeforeValidator(mapping)] = Field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    networks: tuple[Name, ...] = ()
    """Networks of the node's engine, made where they are missing. None: the engine's own bridge."""
    labels: Annotated[dict[str, str], BeforeValidator(mapping)] = Field(default_factory=dict)
    hostname: str | None = None
    healthcheck: Healthcheck | None = None
    stop_grace_period: Annotated[float, BeforeValidator(seconds), Field(ge=0, le=3600)] = 10.0
    stop_signal: str | None = None
    """None: the image's, else SIGTERM."""
    restart: Annotated[Literal["always", "on-failure", "no"], BeforeValidator(_restart)] = "always"
    cpus: Annotated[float, Field(gt=0)] | None = None
    mem_limit: Annotated[int, BeforeValidator(memory), Field(ge=6 * 2**20)] | None = None
    """Bytes."""
    shm_size: Annotated[int, BeforeValidator(memory), Field(gt=0)] | None = None
    init: bool = False
    read_only: bool = False
    tmpfs: tuple[str, ...] = ()
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _datasets(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if data.get("datasets"):
            raise ValueError("datasets: a container names them in volumes")
        volumes = data.get("volumes")
        found = []
        for one in volumes if isinstance(volumes, list | tuple) else ():
            source = one.source if isinstance(one, Mount) else one
            if isinstance(one, Mapping):
                source = one.get("source")
            if isinstance(source, str) and not source.startswith("/"):
                found.append(source.partition(":")[0])
        return data | {"datasets": tuple(dict.fromkeys(found))}

    def _words(self) -> tuple[str, ...]:
        return (self.image, *(self.command or ()), *(self.entrypoint or ()))

    @model_validator(mode="after")
    def _once(self) -> Self:
        if not self.datasets:
            raise ValueError("volumes: at least one of them must be a dataset")
        targets = [one.target for one in self.volumes]
        if twice := [target for target in targets if targets.count(target) > 1]:
            raise ValueError(f"volumes: {twice[0]} stands there twice")
        return self
