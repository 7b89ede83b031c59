"""`drover set`: change a dataset's spec."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from drover.coordinator.cli import options, spec
from drover.coordinator.cli.change import Change, tell
from drover.coordinator.cli.connection import commit, connection, run
from drover.coordinator.cli.describe import the_declared
from drover.coordinator.cli.errors import NotPossible, Usage
from drover.coordinator.cli.picture import Declared, Misdeclared, take
from drover.coordinator.cli.situation import failover_text, failover_words
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.sizes import format_size
from drover.coordinator.specs import DatasetSpec
from drover.coordinator.store import Store
from drover.coordinator.txn import Put, Txn, unchanged


@dataclass(frozen=True)
class Request:
    """raw: the fields to change, as typed. unlabel: labels to take away. ungroup: leave the group."""

    name: str
    raw: dict[str, Any]
    unlabel: Sequence[str] = ()
    ungroup: bool = False


async def change(store: Store, keys: Keys, request: Request) -> Change:
    """if datasets/<d> is as read, put it with the fields changed. Raises CliError, StoreError."""
    name = request.name
    before = await take(store, keys)
    match the_declared(name, before).declaration:
        case Misdeclared(reason):
            raise NotPossible(
                f"the spec of {name} cannot be used: {reason}",
                f"""Put a good one: etcdctl put {keys.dataset(name)} '{{"backend": "loopback", "size": "1GiB"}}'""",
            )
        case Declared(old, entry):
            pass
        case _:
            raise AssertionError("a declared dataset is valid or not")
    raw = _merged(json.loads(entry.value), request)
    new = spec.check(raw)
    if new.size < old.size:
        raise NotPossible(
            f"{name} has {format_size(old.size)}: it cannot shrink to {format_size(new.size)}",
            "A dataset only grows. To have a smaller one, create another and copy.",
        )
    if new == old:
        return Change(name, before, f"{name} is so already", changed=False)
    if new.size != old.size:
        spec.check_size(new, before)
    warnings = spec.failover_warnings(new, before) + spec.replicas_warnings(new, before)
    txn = Txn(compare=(unchanged(keys.dataset(name), entry),), then=(Put(keys.dataset(name), spec.encode(raw)),))
    await commit(store, txn, f"the spec of {name} was changed by somebody else just now")
    after = await take(store, keys)
    return Change(name, after, f"changed {name}", _differences(name, old, new), warnings=warnings)


def _merged(raw: dict[str, Any], request: Request) -> dict[str, Any]:
    merged = raw | request.raw
    labels = raw.get("labels", {}) | request.raw.get("labels", {})
    if missing := [label for label in request.unlabel if label not in labels]:
        raise NotPossible(f"{request.name} has no label {missing[0]!r}")
    labels = {key: value for key, value in labels.items() if key not in request.unlabel}
    merged.pop("labels", None)
    if labels:
        merged["labels"] = labels
    if request.ungroup:
        merged.pop("group", None)
    return merged


def _differences(name: str, old: DatasetSpec, new: DatasetSpec) -> list[tuple[str, str]]:
    changed: list[tuple[str, str]] = []
    for field in DatasetSpec.model_fields:
        if getattr(old, field) != getattr(new, field):
            changed.append((field, f"{_shown(old, field)} → {_shown(new, field)}"))
    if old.failover != new.failover:
        changed.append(("that means", failover_words(name, new)))
    return changed


def _shown(it: DatasetSpec, field: str) -> str:
    if field in ("size", "replicate_after"):
        size = getattr(it, field)
        return "none" if size is None else format_size(size)
    if field == "failover":
        return failover_text(it)
    if field == "labels":
        return ", ".join(f"{key}={value}" for key, value in sorted(it.labels.items())) or "none"
    return str(getattr(it, field) or "none")


def set_(
    name: options.DatasetName,
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", show_default=False, help="A larger one; it grows while in use.")
    ] = None,
    failover: options.Failover = None,
    fencing: options.Fencing = None,
    group: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default=False, help='The group that it moves with; "" leaves its group.'),
    ] = None,
    label: options.Label = None,
    unlabel: Annotated[
        list[str] | None,
        typer.Option(
            "--unlabel", metavar="KEY", show_default=False, help="Take a label away; may be given several times."
        ),
    ] = None,
    reclaim: options.Reclaim = None,
    replicas: options.Replicas = None,
    replicate_every: options.ReplicateEvery = None,
    replicate_after: options.ReplicateAfter = None,
    max_data_loss: options.MaxDataLoss = None,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Change a dataset: its size, and what happens when its node dies.

    The back end and the file system stay as they were made. The same with etcdctl: put PREFIX/datasets/DATASET again.
    """
    where = connection(endpoints, prefix)
    kept = (replicas, replicate_every, max_data_loss, replicate_after)
    raw = spec.typed(size, None, None, failover, fencing, group, label or (), reclaim, *kept)
    request = Request(name, raw, unlabel or (), ungroup=group == "")
    if not raw and not request.unlabel and not request.ungroup:
        raise Usage("nothing to change was given", f"Example: drover set {name} --size 20GiB")
    tell(run(where, lambda store, keys: change(store, keys, request)), as_json)
