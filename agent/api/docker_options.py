"""What `docker volume create -o ...` may say, as the spec of a dataset. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from drover.coordinator.keys import name_error
from drover.coordinator.specs import DatasetSpec

OPTIONS: Final = {
    "backend": "the name of a back end",
    "size": "like 10GiB",
    "fs": "xfs or ext4",
    "failover": "none, any, or nodes: node-a,node-b",
    "fencing": "hard or cooperative",
    "group": "the name of a group",
    "reclaim": "retain, trash or delete: what docker volume rm does to the data",
    "on_busy": "refuse or move: what a container does that starts where the volume is not, while it is in use",
}
"""By name: what it takes."""

ON_BUSY: Final = "docker/on_busy"
NAMED: Final = "docker/name"
"""Labels of a dataset: the option on_busy, and the name of an anonymous volume."""

_ANONYMOUS = re.compile(r"[0-9a-f]{64}")


class WrongOption(ValueError):
    """One line that names the option and what it takes."""


@dataclass(frozen=True)
class Defaults:
    """Of this node's settings, for volumes that do not say it; empty: they have to."""

    backend: str = ""
    size: str = ""


def dataset_of(volume: str) -> str:
    """The dataset's name. Anonymous volumes have 64 characters, one more than a dataset may have. Raises ValueError
    where it cannot be one: the engine checks nothing."""
    if _ANONYMOUS.fullmatch(volume):
        return f"anonymous-{volume[:40]}"
    if wrong := name_error(volume):
        raise ValueError(f"{volume!r} cannot be the name of a volume: {wrong}")
    return volume


def volume_of(dataset: str, spec: DatasetSpec) -> str:
    """The name that the engine knows it by."""
    return spec.labels.get(NAMED, dataset)


def spec_of(volume: str, options: Mapping[str, str], defaults: Defaults) -> DatasetSpec:
    """Anonymous volumes go with their container, data and all. Raises WrongOption."""
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise WrongOption(f"there is no option {unknown[0]!r}; there is {', '.join(OPTIONS)}")
    anonymous = _ANONYMOUS.fullmatch(volume) is not None
    chosen: dict[str, Any] = {k: v for k, v in options.items() if k != "on_busy"}
    for option in ("backend", "size"):
        if not chosen.setdefault(option, getattr(defaults, option)):
            raise WrongOption(f"option {option} is missing: {OPTIONS[option]} (or set docker.{option} on this node)")
    chosen.setdefault("reclaim", "delete" if anonymous else "trash")
    if "failover" in chosen and chosen["failover"] not in ("none", "any"):
        chosen["failover"] = [node.strip() for node in chosen["failover"].split(",")]
    labels = {NAMED: volume} if anonymous else {}
    if "on_busy" in options:
        if options["on_busy"] not in ("refuse", "move"):
            raise _wrong("on_busy", options["on_busy"])
        labels[ON_BUSY] = options["on_busy"]
    try:
        return DatasetSpec(**chosen, labels=labels)
    except ValidationError as error:
        option = str(error.errors()[0]["loc"][0])
        raise _wrong(option, options.get(option, str(chosen.get(option)))) from None


def difference(options: Mapping[str, str], wanted: DatasetSpec, there: DatasetSpec) -> str:
    """How a volume that is there differs from what is asked for; "" where it does not. What was not said is not
    compared."""
    for option in options:
        if option == "on_busy":
            ours, theirs = (spec.labels.get(ON_BUSY, "refuse") for spec in (wanted, there))
        else:
            ours, theirs = (getattr(spec, option) for spec in (wanted, there))
        if ours != theirs:
            return f"it is there already, with {option}={_shown(theirs)}, not {_shown(ours)}"
    return ""


def _shown(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else "unset" if value is None else str(value)


def _wrong(option: str, value: str) -> WrongOption:
    return WrongOption(f"option {option} cannot be {value!r}: it takes {OPTIONS.get(option, 'something else')}")
