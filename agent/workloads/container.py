"""A container's spec as the Engine API takes it, and what this node's settings allow of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from drover.agent.workloads.base import fingerprint
from drover.agent.workloads.engine import FINGERPRINT, LABEL
from drover.coordinator.containers import ContainerSpec, Healthcheck

_NANO = 1_000_000_000


@dataclass(frozen=True)
class Allowed:
    """What a key in etcd may start here. images: patterns; binds: directories of this node, with all that is below;
    capabilities: that may be added."""

    images: tuple[str, ...] = ("*",)
    binds: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    privileged: bool = False


def refusal(spec: ContainerSpec, allowed: Allowed) -> str:
    """Why this node does not start it; "" where it does."""
    where = "this node's settings ([workloads.docker]"
    if not any(fnmatchcase(spec.image, pattern) for pattern in allowed.images):
        return f"image {spec.image} is not among those that {where} images) allow"
    if spec.privileged and not allowed.privileged:
        return f"it wants to be privileged, and {where} privileged) do not allow that"
    if lacking := sorted(
        {_capability(one) for one in spec.cap_add} - {_capability(one) for one in allowed.capabilities}
    ):
        return f"it wants capability {lacking[0]}, and {where} capabilities) do not allow that"
    for one in spec.volumes:
        if one.bind and not below(one.source, allowed.binds):
            return f"it wants directory {one.source} of the node, and {where} binds) do not allow that"
    return ""


def _capability(name: str) -> str:
    return name.upper().removeprefix("CAP_")


def below(path: str, directories: Sequence[str]) -> bool:
    asked = PurePosixPath(path)
    return ".." not in asked.parts and any(asked.is_relative_to(directory) for directory in directories)


def config(name: str, spec: ContainerSpec, paths: Mapping[str, Path], cgroup_parent: str) -> dict[str, Any]:
    """paths: where its datasets are, or will be, mounted. What the spec leaves out is as the image says."""
    host: dict[str, Any] = {
        # This node's agent decides whether it runs: the engine must never start it by itself.
        "RestartPolicy": {"Name": "no"},
        "CgroupParent": cgroup_parent,
        "Binds": [_bind(one.source if one.bind else str(paths[one.source]), one) for one in spec.volumes],
        "PortBindings": {},
        "Privileged": spec.privileged,
        "CapAdd": list(spec.cap_add),
        "CapDrop": list(spec.cap_drop),
        "ReadonlyRootfs": spec.read_only,
        "Tmpfs": dict.fromkeys(spec.tmpfs, ""),
        "NetworkMode": spec.networks[0] if spec.networks else "bridge",
        "Init": spec.init,
    }
    if spec.cpus is not None:
        host["NanoCpus"] = round(spec.cpus * _NANO)
    if spec.mem_limit is not None:
        host["Memory"] = spec.mem_limit
    if spec.shm_size is not None:
        host["ShmSize"] = spec.shm_size
    exposed: dict[str, dict[str, str]] = {}
    for port in spec.ports:
        inner, ip, published = _port(port)
        exposed[inner] = {}
        host["PortBindings"].setdefault(inner, []).append({"HostIp": ip, "HostPort": published})
    made: dict[str, Any] = {
        "Image": spec.image,
        "Labels": {**spec.labels, LABEL: name, FINGERPRINT: fingerprint(spec)},
        "Env": [f"{key}={value}" for key, value in spec.environment.items()],
        "ExposedPorts": exposed,
        "HostConfig": host,
    }
    if spec.networks:
        made["NetworkingConfig"] = {"EndpointsConfig": {spec.networks[0]: {"Aliases": [name]}}}
    given = {
        "Cmd": list(spec.command) if spec.command is not None else None,
        "Entrypoint": list(spec.entrypoint) if spec.entrypoint is not None else None,
        "User": spec.user,
        "WorkingDir": spec.working_dir,
        "Hostname": spec.hostname,
        "StopSignal": spec.stop_signal,
        "Healthcheck": _healthcheck(spec.healthcheck) if spec.healthcheck else None,
    }
    return made | {key: value for key, value in given.items() if value is not None}


def _bind(source: str, mount: Any) -> str:
    return f"{source}:{mount.target}:{'ro' if mount.read_only else 'rw'}"


def _port(text: str) -> tuple[str, str, str]:
    """The engine's name of the port inside, the address and the port outside (empty: any)."""
    before, _, protocol = text.partition("/")
    outside, _, inner = before.rpartition(":")
    ip, _, published = outside.rpartition(":")
    return f"{inner}/{protocol or 'tcp'}", ip.strip("[]"), published


def _healthcheck(check: Healthcheck) -> dict[str, Any]:
    if check.disable:
        return {"Test": ["NONE"]}
    seconds = {"Interval": check.interval, "Timeout": check.timeout, "StartPeriod": check.start_period}
    found: dict[str, Any] = {key: round(value * _NANO) for key, value in seconds.items() if value is not None}
    if check.test is not None:
        found["Test"] = list(check.test)
    if check.retries is not None:
        found["Retries"] = check.retries
    return found
