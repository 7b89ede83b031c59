"""A container as the engine describes it, as a workload and the directories that become datasets. No I/O, no clock.

What a workload cannot carry is refused by name: nothing of a container is dropped silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from drover.coordinator.compose import ComposeError
from drover.coordinator.containers import ContainerSpec
from drover.coordinator.keys import name_error
from drover.coordinator.record import InvalidRecord, one_line

_NANO = 1e9
_SHM = 64 * 2**20
"""What the engine gives where nobody asks."""
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
_NOT_CARRIED = (
    *("Devices", "DeviceRequests", "DeviceCgroupRules", "VolumesFrom", "Links", "ExtraHosts", "Dns", "DnsSearch"),
    *("SecurityOpt", "Sysctls", "Ulimits", "GroupAdd", "PidMode", "UTSMode", "UsernsMode", "CpusetCpus", "CpuShares"),
    *("CpuQuota", "OomScoreAdj", "Runtime"),
)
_PORT_ANY = ("", "0.0.0.0", "::")


@dataclass(frozen=True)
class Directory:
    """What becomes a dataset. source: where it is on the node; "": it is one already."""

    dataset: str
    source: str


@dataclass(frozen=True)
class Adoption:
    """The container as a workload, and its data."""

    workload: str
    spec: ContainerSpec
    directories: tuple[Directory, ...]


def adoption(container: Mapping[str, Any], image: Mapping[str, Any], is_directory: Mapping[str, bool]) -> Adoption:
    """container, image: as the Engine API shows them. is_directory: by source of a bind. Raises ComposeError."""
    name = str(container["Name"]).removeprefix("/")
    own, given, host = container["Config"], image.get("Config") or {}, container["HostConfig"]
    wrong = [f"{key}: a workload cannot carry it" for key in _NOT_CARRIED if _said(key, host.get(key))]
    if reason := name_error(name):
        wrong.append(f"{name!r} cannot be a workload's name: {reason}")
    networks = []
    mode = str(host.get("NetworkMode", "default"))
    if mode in ("host", "none") or mode.startswith("container:"):
        wrong.append(f"NetworkMode {mode}: a workload cannot carry it")
    elif mode not in ("default", "bridge"):
        networks = sorted(container.get("NetworkSettings", {}).get("Networks") or {mode: None})
    if host.get("IpcMode", "") not in ("", "private", "shareable"):
        wrong.append(f"IpcMode {host['IpcMode']}: a workload cannot carry it")
    mounts, directories = _mounts(name, container.get("Mounts") or [], is_directory, wrong)
    record: dict[str, Any] = {
        "image": own["Image"],
        "volumes": mounts,
        "networks": networks,
        "environment": dict(one.split("=", 1) for one in own.get("Env") or () if one not in (given.get("Env") or ())),
        "labels": {k: v for k, v in (own.get("Labels") or {}).items() if (given.get("Labels") or {}).get(k) != v},
        "ports": _ports(host.get("PortBindings") or {}),
        "restart": "on-failure" if (host.get("RestartPolicy") or {}).get("Name") == "on-failure" else "always",
        "stop_grace_period": own.get("StopTimeout") or 10,
        "privileged": bool(host.get("Privileged")),
        "cap_add": host.get("CapAdd") or (),
        "cap_drop": host.get("CapDrop") or (),
        "read_only": bool(host.get("ReadonlyRootfs")),
        "tmpfs": list(host.get("Tmpfs") or ()),
        "init": bool(host.get("Init")),
        "cpus": host["NanoCpus"] / _NANO if host.get("NanoCpus") else None,
        "mem_limit": host.get("Memory") or None,
        "shm_size": host["ShmSize"] if host.get("ShmSize") not in (None, 0, _SHM) else None,
        "healthcheck": _healthcheck(own.get("Healthcheck"))
        if own.get("Healthcheck") != given.get("Healthcheck")
        else None,
        "hostname": own.get("Hostname") if not str(container["Id"]).startswith(str(own.get("Hostname"))) else None,
    }
    same = {
        "command": "Cmd",
        "entrypoint": "Entrypoint",
        "user": "User",
        "working_dir": "WorkingDir",
        "stop_signal": "StopSignal",
    }
    for field, key in same.items():
        if own.get(key) and own.get(key) != given.get(key):
            record[field] = own[key]
    if wrong:
        raise ComposeError([one_line(line) for line in wrong])
    try:
        spec = ContainerSpec.model_validate({key: value for key, value in record.items() if value is not None})
        spec = ContainerSpec.decode(spec.encode())
    except (InvalidRecord, ValueError) as error:
        raise ComposeError([one_line(str(error))]) from None
    return Adoption(name, spec, tuple(directories))


def _said(key: str, value: Any) -> bool:
    return bool(value) and not (key == "Runtime" and value in ("runc", "io.containerd.runc.v2"))


def _mounts(
    name: str, found: list[Mapping[str, Any]], is_directory: Mapping[str, bool], wrong: list[str]
) -> tuple[list[dict[str, Any]], list[Directory]]:
    """As the workload has them. Directories that it can write to become datasets; what it only reads stays a bind."""
    mounts: list[dict[str, Any]] = []
    directories: dict[str, Directory] = {}
    for one in found:
        source, target, writes = str(one.get("Source", "")), str(one["Destination"]), bool(one.get("RW"))
        volume = str(one.get("Name", ""))
        if one["Type"] == "bind" and (not writes or not is_directory.get(source, False)):
            mounts.append({"source": source, "target": target, "read_only": not writes})
            continue
        if one["Type"] not in ("volume", "bind"):
            if one["Type"] != "tmpfs":
                wrong.append(f"{target}: a mount of type {one['Type']} cannot be carried")
            continue
        if one["Type"] == "volume" and one.get("Driver") not in ("local", "drover"):
            wrong.append(f"{target}: volume {volume} is kept by driver {one.get('Driver')}")
            continue
        known = volume and not _ANONYMOUS.fullmatch(volume)
        base = PurePosixPath(target if one["Type"] == "volume" else source).name
        dataset = volume if known else f"{name}-{base}"
        if reason := name_error(dataset):
            wrong.append(f"{target}: {dataset!r} cannot be a dataset's name: {reason}")
        already = one["Type"] == "volume" and one.get("Driver") == "drover"
        made = Directory(dataset, "" if already else source)
        if directories.setdefault(dataset, made) != made:
            wrong.append(f"{target}: two directories would be dataset {dataset}")
        mounts.append({"source": dataset, "target": target, "read_only": not writes})
    if not directories:
        wrong.append("it has no volume and no directory that it writes to: there is nothing to move")
    return mounts, list(directories.values())


def _ports(bindings: Mapping[str, Any]) -> list[str]:
    found = []
    for inner, places in bindings.items():
        for place in places or ():
            ip, port = str(place.get("HostIp", "")), str(place.get("HostPort", ""))
            shown = "" if ip in _PORT_ANY else f"[{ip}]:" if ":" in ip else f"{ip}:"
            found.append(f"{shown}{port}:{inner}" if port else inner)
    return list(dict.fromkeys(found))


def _healthcheck(check: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not check:
        return None
    if check.get("Test") == ["NONE"]:
        return {"disable": True}
    times = {"interval": "Interval", "timeout": "Timeout", "start_period": "StartPeriod"}
    found: dict[str, Any] = {field: check[key] / _NANO for field, key in times.items() if check.get(key)}
    return found | {"test": check.get("Test"), **({"retries": check["Retries"]} if check.get("Retries") else {})}
