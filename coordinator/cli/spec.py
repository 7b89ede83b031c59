"""A dataset's spec from what a user typed. Kept as typed (`"size": "10GiB"`): etcdctl shows it as people write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from drover.coordinator.cli.errors import NotPossible, Usage
from drover.coordinator.cli.output import listing, plain
from drover.coordinator.cli.picture import Picture
from drover.coordinator.keys import name_error
from drover.coordinator.protocol.dataset import Cluster, Dataset, Node
from drover.coordinator.protocol.ignored import too_few_standbys
from drover.coordinator.record import InvalidRecord
from drover.coordinator.records import refusal
from drover.coordinator.specs import DatasetSpec


def typed(
    size: str | None = None,
    backend: str | None = None,
    fs: str | None = None,
    failover: str | None = None,
    fencing: str | None = None,
    group: str | None = None,
    labels: Sequence[str] = (),
    reclaim: str | None = None,
    replicas: int | None = None,
    replicate_every: float | None = None,
    max_data_loss: float | None = None,
    replicate_after: str | None = None,
) -> dict[str, Any]:
    """The fields that the user gave. Raises Usage."""
    given: dict[str, Any] = {"backend": backend, "size": size, "fs": fs, "fencing": fencing, "reclaim": reclaim}
    given |= {"replicas": replicas, "replicate_every": replicate_every, "max_data_loss": max_data_loss}
    given |= {"replicate_after": replicate_after}
    raw = {field: value for field, value in given.items() if value is not None}
    if failover is not None:
        raw["failover"] = _failover(failover)
    if group:
        check_name(group, "group")
        raw["group"] = group
    if labels:
        raw["labels"] = _labels(labels)
    return raw


def _failover(text: str) -> str | list[str]:
    if text in ("none", "any"):
        return text
    nodes = [part.strip() for part in text.split(",")]
    for node in nodes:
        if node in ("none", "any"):
            raise Usage(f"failover {plain(text)!r}: {node!r} stands alone", "It is none, any, or nodes: node-a,node-b")
        if reason := name_error(node):
            raise Usage(
                f"failover {plain(text)!r}: {plain(node)!r} is no node's name: {reason}",
                "It is none, any, or nodes: node-a,node-b",
            )
    return nodes


def _labels(texts: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise Usage(f"label {plain(text)!r} is not KEY=VALUE", "Example: --label team=web")
        labels[key] = value
    return labels


def check_name(name: str, what: str) -> None:
    """Raises Usage where this can be no name."""
    if reason := name_error(name):
        shown = name if len(name) <= 40 else f"{name[:40]}…"
        raise Usage(f"{plain(shown)!r} cannot be the name of a {what}: {reason}")


def check(raw: Mapping[str, Any]) -> DatasetSpec:
    """The spec that these fields make. Raises Usage with the field and what is wrong with it."""
    try:
        return DatasetSpec.decode(encode(raw))
    except InvalidRecord as error:
        raise Usage(str(error).removeprefix("size: ")) from None


def encode(raw: Mapping[str, Any]) -> bytes:
    """What goes into etcd."""
    return json.dumps(raw, ensure_ascii=False).encode()


def check_backend(backend: str, picture: Picture) -> list[str]:
    """Whether any live node offers the back end; warnings where that cannot be told. Raises NotPossible."""
    if not picture.live:
        return [f"no node is here, so nobody can say whether back end {backend!r} exists"]
    if backend in picture.backends:
        return []
    raise NotPossible(
        f"no node offers back end {plain(backend)!r}", f"Offered in this cluster: {listing(picture.backends)}."
    )


def check_size(spec: DatasetSpec, picture: Picture) -> None:
    """Whether any live node could make it. Raises NotPossible."""
    if wrong := refusal(spec, [node.record for node in picture.live.values() if node.record]):
        raise NotPossible(wrong)


def failover_warnings(spec: DatasetSpec, picture: Picture) -> list[str]:
    """Nodes in the failover list that nobody has heard of."""
    if isinstance(spec.failover, str):
        return []
    unknown = [node for node in spec.failover if node not in picture.nodes]
    if not unknown:
        return []
    return [f"failover names {listing(unknown)}, which is not known; known: {listing(list(picture.nodes))}"]


def replicas_warnings(spec: DatasetSpec, picture: Picture) -> list[str]:
    """What is asked about standbys and cannot be had, or says nothing."""
    nodes = {name: Node(it.record, 0, 0) for name, it in picture.live.items() if it.record}
    warnings = [too_few_standbys(Dataset("", spec), Cluster(nodes))]
    if spec.max_data_loss and not spec.replicas:
        warnings.append("max_data_loss says nothing: there are no replicas")
    elif spec.max_data_loss and spec.failover == "none":
        warnings.append("max_data_loss says nothing: failover is none, so that nobody goes on from a copy by itself")
    return list(filter(None, warnings))
