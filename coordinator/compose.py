"""Compose files as datasets and workloads. No I/O, no clock.

The keys are the Compose specification's; what it has no word for stands below `x-drover`, of a service or of a volume.
What Drover cannot carry is refused by name, all of it at once, never dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from drover.coordinator.containers import ContainerSpec, mapping
from drover.coordinator.keys import name_error
from drover.coordinator.record import InvalidRecord, one_line
from drover.coordinator.specs import DatasetSpec

SERVICE = (
    *(
        "image",
        "command",
        "entrypoint",
        "environment",
        "ports",
        "user",
        "working_dir",
        "networks",
        "labels",
        "hostname",
    ),
    *("healthcheck", "stop_grace_period", "stop_signal", "restart", "cpus", "mem_limit", "shm_size", "init"),
    *("read_only", "tmpfs", "privileged", "cap_add", "cap_drop", "volumes"),
)
"""What a container is made of; `container_name` says its workload's name."""
DATASET = tuple(field for field in DatasetSpec.model_fields if field != "labels")

_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<braced>[^}]*)\}|(?P<named>[A-Za-z_]\w*))")
_BRACED = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:(?P<how>:?-)(?P<default>.*))?", re.DOTALL)
_WHY = {
    "build": "Drover makes no images: build it, and name it with image",
    "depends_on": "each service starts where and when its data is there: let it wait for the other one itself",
    "deploy": "write cpus and mem_limit instead",
    "env_file": "write environment instead",
    "network_mode": "write networks instead",
    "links": "write networks instead",
    "secrets": "no secret is put into etcd: keep it in the service's dataset",
    "configs": "keep it in the service's dataset",
}


class ComposeError(ValueError):
    """What of a file cannot be used: `lines`, each one line for people."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


@dataclass(frozen=True)
class Wanted:
    """What a file asks for. datasets: their specs as written, None for one that has to be there already. nodes: by
    dataset: where it is to begin."""

    datasets: Mapping[str, dict[str, Any] | None] = field(default_factory=dict)
    workloads: Mapping[str, ContainerSpec] = field(default_factory=dict)
    nodes: Mapping[str, str] = field(default_factory=dict)


def read(document: Any, environment: Mapping[str, str], only: tuple[str, ...], defaults: Mapping[str, str]) -> Wanted:
    """document: of the file, as YAML gives it. environment: for `${NAME}`. only: these services; none: all. defaults:
    `backend` and `size` of volumes that do not say them. Raises ComposeError."""
    return _Reader(environment, defaults).read(document, only)


class _Reader:
    def __init__(self, environment: Mapping[str, str], defaults: Mapping[str, str]) -> None:
        self._environment, self._defaults = environment, defaults
        self._wrong: list[str] = []

    def read(self, document: Any, only: tuple[str, ...]) -> Wanted:
        top = self._map("the file", self._filled("", document))
        self._unknown("", top, ("version", "name", "services", "volumes", "networks"))
        services, volumes = self._map("services", top.get("services")), self._map("volumes", top.get("volumes"))
        self._networks(self._map("networks", top.get("networks")))
        if missing := [name for name in only if name not in services]:
            raise ComposeError([f"services: there is no {missing[0]!r}; there are {', '.join(services) or 'none'}"])
        workloads: dict[str, ContainerSpec] = {}
        nodes: dict[str, str] = {}
        shared: dict[str, dict[str, Any]] = {}
        used: set[str] = set()
        for name, service in services.items():
            if only and name not in only:
                continue
            where = f"services.{name}"
            fields = self._map(where, service)
            workload = str(fields.get("container_name", name))
            if reason := name_error(workload):
                self._wrong.append(f"{where}: {workload!r} cannot be a workload's name: {reason}")
            made, named = self._service(where, fields, volumes)
            used |= set(named)
            extra = self._map(f"{where}.x-drover", fields.get("x-drover"))
            self._unknown(f"{where}.x-drover", extra, ("node", "on_start_failure", *DATASET))
            for key in named:
                dataset = _dataset_name(key, volumes)
                nodes |= {dataset: str(extra["node"])} if "node" in extra else {}
                shared.setdefault(dataset, {}).update({k: v for k, v in extra.items() if k in DATASET})
            if made is not None:
                workloads[workload] = made
        datasets = {_dataset_name(key, volumes): self._volume(key, volumes, shared, nodes) for key in sorted(used)}
        if not services:
            self._wrong.append("services: there is none")
        if self._wrong:
            raise ComposeError([one_line(line) for line in self._wrong])
        return Wanted(datasets, workloads, nodes)

    def _service(
        self, where: str, fields: dict[str, Any], volumes: dict[str, Any]
    ) -> tuple[ContainerSpec | None, list[str]]:
        """The container, and the keys of the volumes that it uses."""
        self._unknown(where, fields, (*SERVICE, "container_name"))
        mounts, named = [], []
        for one in fields.get("volumes") or ():
            source = one.get("source") if isinstance(one, Mapping) else str(one).partition(":")[0]
            if not isinstance(source, str) or source.startswith(("/", ".", "~")) or not source:
                if not isinstance(source, str) or not source.startswith("/"):
                    self._wrong.append(f"{where}.volumes: {one!r}: a path of a node must be absolute")
                mounts.append(one)
                continue
            if isinstance(one, str) and ":" not in one:
                self._wrong.append(f"{where}.volumes: {one!r} has no name: name it, as in data:{one}")
                continue
            if source not in volumes:
                self._wrong.append(f"{where}.volumes: {source!r} does not stand below volumes")
                continue
            named.append(source)
            dataset = _dataset_name(source, volumes)
            plain = {key: it for key, it in one.items() if key != "volume"} if isinstance(one, Mapping) else None
            mounts.append(plain | {"source": dataset} if plain else dataset + str(one)[len(source) :])
        if not named and not self._wrong:
            self._wrong.append(
                f"{where}: it has no volume that could move: leave it to docker compose (drover apply FILE SERVICE...)"
            )
        record = {key: fields[key] for key in SERVICE if fields.get(key) is not None} | {"volumes": mounts}
        if isinstance(networks := record.get("networks"), Mapping):
            if options := [name for name, it in networks.items() if it]:
                self._wrong.append(f"{where}.networks.{options[0]}: options of a network are not carried")
            record["networks"] = list(networks)
        record["networks"] = [name for name in record.get("networks") or () if name != "default"]
        for key in ("environment", "labels"):
            try:
                record[key] = mapping(record.get(key) or {})
            except ValueError as error:
                self._wrong.append(f"{where}.{key}: {error}")
                return None, named
        if empty := [key for key, value in record["environment"].items() if value is None]:
            self._wrong.append(f"{where}.environment.{empty[0]}: it has no value here")
        extra = fields.get("x-drover")
        if isinstance(extra, Mapping) and "on_start_failure" in extra:
            record["on_start_failure"] = extra["on_start_failure"]
        try:
            return ContainerSpec.decode(_json(record)), named
        except InvalidRecord as error:
            self._wrong.append(f"{where}.{error}")
            return None, named

    def _volume(
        self, key: str, volumes: dict[str, Any], shared: dict[str, dict[str, Any]], nodes: dict[str, str]
    ) -> dict[str, Any] | None:
        where, fields = f"volumes.{key}", self._map(f"volumes.{key}", volumes[key])
        self._unknown(where, fields, ("name", "external", "driver", "driver_opts", "labels"))
        dataset = _dataset_name(key, volumes)
        if reason := name_error(dataset):
            self._wrong.append(f"{where}: {dataset!r} cannot be a dataset's name: {reason}")
        if fields.get("driver") not in (None, "drover", "local"):
            self._wrong.append(f"{where}.driver: {fields['driver']!r}: the data of its services is kept by drover")
        extra = self._map(f"{where}.x-drover", fields.get("x-drover"))
        options = self._map(f"{where}.driver_opts", fields.get("driver_opts"))
        self._unknown(f"{where}.x-drover", extra, ("node", *DATASET))
        self._unknown(f"{where}.driver_opts", options, DATASET)
        if "node" in extra:
            nodes[dataset] = str(extra["node"])
        if fields.get("external"):
            return None
        raw = shared.get(dataset, {}) | options | extra
        raw = {field: raw[field] for field in DATASET if field in raw}
        if isinstance(failover := raw.get("failover"), str) and failover not in ("none", "any"):
            raw["failover"] = [node.strip() for node in failover.split(",")]
        raw = {**self._defaults, **raw}
        if missing := [field for field in ("backend", "size") if not raw.get(field)]:
            self._wrong.append(f"{where}: it needs a {missing[0]}: x-drover: {{{missing[0]}: ...}}, or --{missing[0]}")
            return raw
        try:
            if labels := mapping(fields.get("labels") or {}):
                raw["labels"] = labels
            DatasetSpec.decode(_json(raw))
        except (InvalidRecord, ValueError) as error:
            self._wrong.append(f"{where}: {error}")
        return raw

    def _networks(self, networks: dict[str, Any]) -> None:
        for name, network in networks.items():
            if isinstance(network, Mapping) and (options := sorted(set(network) - {"external", "name", "driver"})):
                self._wrong.append(f"networks.{name}.{options[0]}: options of a network are not carried")
            if isinstance(network, Mapping) and network.get("driver", "bridge") != "bridge":
                self._wrong.append(f"networks.{name}.driver: a network is a bridge of its node")
            if isinstance(network, Mapping) and network.get("name", name) != name:
                self._wrong.append(f"networks.{name}.name: a network has one name")

    def _unknown(self, where: str, fields: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for key in fields:
            if key not in known and not str(key).startswith("x-"):
                place = f"{where}.{key}" if where else str(key)
                self._wrong.append(f"{place}: {_WHY.get(str(key), 'Drover cannot carry it')}")

    def _map(self, where: str, value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._wrong.append(f"{where}: it must be a mapping, not {value!r}")
            return {}
        return {str(key): one for key, one in value.items()}

    def _filled(self, where: str, value: Any) -> Any:
        """With variables filled in, as Compose does, in values only."""
        if isinstance(value, str):
            return _VARIABLE.sub(self._variable(where), value)
        if isinstance(value, Mapping):
            return {key: self._filled(f"{where}.{key}" if where else str(key), one) for key, one in value.items()}
        if isinstance(value, list):
            return [self._filled(where, one) for one in value]
        return value

    def _variable(self, where: str) -> Callable[[re.Match[str]], str]:
        def fill(found: re.Match[str]) -> str:
            if found["escaped"]:
                return "$"
            parts = _BRACED.fullmatch(found["braced"] or found["named"] or "")
            if parts is None:
                self._wrong.append(f"{where}: {found[0]!r} is not carried: write ${{NAME}} or ${{NAME:-default}}")
                return ""
            value = self._environment.get(parts["name"])
            if value is None or (not value and parts["how"] == ":-"):
                value = parts["default"] if parts["how"] else None
            if value is None:
                self._wrong.append(f"{where}: {parts['name']} is not set in the environment of this command")
            return value or ""

        return fill


def _dataset_name(key: str, volumes: Mapping[str, Any]) -> str:
    volume = volumes.get(key)
    return str(volume.get("name", key)) if isinstance(volume, Mapping) else key


def as_written(spec: ContainerSpec) -> dict[str, Any]:
    """A workload as it is put into etcd: what a person would have typed."""
    return {"kind": spec.kind, **spec.model_dump(mode="json", exclude_defaults=True)}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Fields that are not the same, with None for one that is not there."""
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            yield key, old.get(key), new.get(key)


def _json(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, default=str).encode()
