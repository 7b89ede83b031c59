"""`drover apply`: a Compose file as datasets and workloads."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from drover.coordinator import compose
from drover.coordinator.cli import options, output, spec
from drover.coordinator.cli.connection import commit, connection, run
from drover.coordinator.cli.describe import check_target
from drover.coordinator.cli.errors import Interrupted, NotPossible, Usage
from drover.coordinator.cli.picture import Dataset, Misdeclared, Picture, take
from drover.coordinator.cli.shapes import ApplyJson, DifferenceJson
from drover.coordinator.cli.wish import wish
from drover.coordinator.keys import DEFAULT_PREFIX, Keys
from drover.coordinator.protocol.placement import rank
from drover.coordinator.records import State
from drover.coordinator.specs import DatasetSpec, WorkloadSpec
from drover.coordinator.store import Store
from drover.coordinator.txn import Compare, Delete, Put, Txn, unchanged

_AT_MOST = 110
"""Operations of one transaction; etcd takes 128."""


@dataclass(frozen=True)
class Difference:
    """One key that is to change. old: None: it is new; new: None: it goes. node: where a new dataset is to begin."""

    kind: str
    name: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None
    node: str = ""

    def lines(self) -> list[str]:
        sign = "+" if self.old is None else "-" if self.new is None else "~"
        on = f", begins on {self.node}" if self.node else ""
        if self.new is None:
            return [f"{sign} {self.kind} {self.name}"]
        if self.old is None:
            what = ", ".join(f"{key} {_shown(value)}" for key, value in self.new.items() if key != "kind")
            return [f"{sign} {self.kind} {self.name}: {what}{on}" if what else f"{sign} {self.kind} {self.name}{on}"]
        changes = compose.differences(self.old, self.new)
        return [f"{sign} {self.kind} {self.name}{on}", *(f"    {k}: {_shown(a)} → {_shown(b)}" for k, a, b in changes)]


@dataclass(frozen=True)
class Planned:
    """What applying a file would do, decided on one picture."""

    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]
    txn: Txn

    def as_json(self, changed: bool) -> ApplyJson:
        return ApplyJson(
            changed=changed,
            differences=[
                DifferenceJson(kind=it.kind, name=it.name, old=it.old, new=it.new, node=it.node or None)
                for it in self.differences
            ],
            warnings=list(self.warnings),
        )


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def plan(wanted: compose.Wanted, picture: Picture, keys: Keys, on: str = "") -> Planned:
    """on: where new datasets begin that say nothing of it. Raises NotPossible, Usage."""
    differences: list[Difference] = []
    warnings: list[str] = []
    compare: list[Compare] = []
    then: list[Put | Delete] = []
    for name, raw in wanted.datasets.items():
        there = picture.datasets.get(name)
        entry = None if there is None else getattr(there.declaration, "entry", None)
        compare.append(unchanged(keys.dataset(name), entry))
        new = _dataset(name, raw, there, picture)
        if new is None:
            continue
        old = json.loads(entry.value) if entry else None
        node = "" if _placed(there) else _begin(name, wanted, on, picture)
        if node:
            backend = new.get("backend", "")
            warnings += check_target(node, backend, picture)
            desired = there.desired.entry if there and there.desired else None
            compare.append(unchanged(keys.desired(name), desired))
            then += wish(keys, name, node, "apply")
        if old is None or node or new != old:
            differences.append(Difference("dataset", name, old, new, node))
        if old is None or new != old:
            then.append(Put(keys.dataset(name), spec.encode(new)))
    for name, workload in wanted.workloads.items():
        known = picture.workloads.get(name)
        compare.append(unchanged(keys.workload(name), known.entry if known else None))
        if known and known.spec == workload:
            continue
        written = compose.as_written(workload)
        earlier = _readable(known.spec, known.entry.value) if known else None
        differences.append(Difference("workload", name, earlier, written))
        then.append(Put(keys.workload(name), spec.encode(written)))
    if max(len(compare), len(then)) > _AT_MOST:
        raise NotPossible("that is too much for one transaction", "Apply its services one after the other.")
    return Planned(tuple(differences), tuple(warnings), Txn(tuple(compare), tuple(then)))


def _readable(known: WorkloadSpec | None, value: bytes) -> dict[str, Any]:
    if known is not None:
        return {"kind": known.kind, **known.model_dump(mode="json", exclude_defaults=True)}
    return {"value": value.decode(errors="replace")}


def _dataset(name: str, raw: dict[str, Any] | None, there: Dataset | None, picture: Picture) -> dict[str, Any] | None:
    """The spec that is to stand in etcd: what the file does not say stays as it is. Raises NotPossible, Usage."""
    declaration = there.declaration if there else None
    if isinstance(declaration, Misdeclared):
        raise NotPossible(f"the spec of {name} cannot be used: {declaration.reason}", "Put a good one first.")
    known = there.spec if there else None
    entry = getattr(declaration, "entry", None)
    before: dict[str, Any] = json.loads(entry.value) if entry else {}
    if raw is None:
        if known is None:
            raise NotPossible(f"volume {name} is external, and there is no dataset of that name")
        return before
    if known is None:
        made = spec.check(raw)
        spec.check_backend(made.backend, picture)
        spec.check_size(made, picture)
        return raw
    merged = before | {key: value for key, value in raw.items() if not _same(known, key, value)}
    made = spec.check(merged)
    for fixed in ("backend", "fs"):
        if getattr(made, fixed) != getattr(known, fixed):
            raise NotPossible(
                f"{name} has {fixed} {getattr(known, fixed) or 'of its own choice'}, and the file says "
                f"{getattr(made, fixed)}: that stays as it was made"
            )
    if made.size < known.size:
        raise NotPossible(f"{name} cannot shrink: it has {before['size']}, and the file says {raw['size']}")
    return merged


def _same(known: DatasetSpec, key: str, value: Any) -> bool:
    """Whether a field says what it said already, in whatever words."""
    written = {"backend": known.backend, "size": known.size} | {key: value}
    return bool(getattr(spec.check(written), key) == getattr(known, key))


def _placed(there: Dataset | None) -> bool:
    """Whether somebody has it, or has been asked to take it: the file only says where a new one begins."""
    if there is None:
        return False
    held = there.tenure is not None and there.tenure.state is not State.DESTROYED
    return there.desired is not None or held


def _begin(name: str, wanted: compose.Wanted, on: str, picture: Picture) -> str:
    """What the file says, for it or for what moves with it; else --on; else the first in rank of those that can."""
    unit = _unit(name, wanted)
    for one in (name, *unit):
        if one in wanted.nodes:
            return wanted.nodes[one]
        if (there := picture.datasets.get(one)) and _placed(there):
            return there.desired.node if there.desired else there.tenure.node if there.tenure else ""
    if on:
        return on
    backends = {str(raw["backend"]) for one in unit if (raw := wanted.datasets.get(one))}
    able = [
        node for node, it in picture.live.items() if it.record and not it.cordon and backends <= set(it.record.backends)
    ]
    if not able:
        raise NotPossible("no node is here that could take it and is not cordoned", "Look: drover nodes")
    return rank(unit[0], able)[0]


def _unit(name: str, wanted: compose.Wanted) -> list[str]:
    """All in the file that lives with it."""
    groups: dict[Any, set[str]] = {}
    for dataset, raw in wanted.datasets.items():
        groups.setdefault((raw or {}).get("group") or (dataset,), set()).add(dataset)
    ties = [*groups.values(), *(set(it.datasets) for it in wanted.workloads.values())]
    found, grown = {name}, True
    while grown:
        more = found.union(*(tie for tie in ties if tie & found))
        found, grown = more, more != found
    return sorted(found)


def withdraw(wanted: compose.Wanted, picture: Picture, keys: Keys) -> Planned:
    """Take the file's workloads away; data stays."""
    known = {name: it for name in wanted.workloads if (it := picture.workloads.get(name))}
    differences = [Difference("workload", n, _readable(it.spec, it.entry.value), None) for n, it in known.items()]
    txn = Txn(
        tuple(unchanged(keys.workload(name), it.entry) for name, it in known.items()),
        tuple(Delete(keys.workload(name)) for name in known),
    )
    return Planned(tuple(differences), (), txn)


def load(file: Path) -> Any:
    """What stands in a YAML file, or on standard input for `-`. Raises Usage."""
    import yaml

    class Loader(yaml.SafeLoader):
        """A key that stands there twice is an error: the first one would be lost."""

    def once(loader: Any, node: Any, deep: bool = False) -> Any:
        loader.flatten_mapping(node)
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            if key in found and isinstance(key_node, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem=f"{key!r} stands there twice", problem_mark=key_node.start_mark)
            found[key] = loader.construct_object(value_node, deep=True)
        return found

    Loader.add_constructor("tag:yaml.org,2002:map", once)
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        return yaml.load(text, Loader)
    except OSError as error:
        raise Usage(f"{file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise Usage(f"{file} is no YAML: {' '.join(str(error).split())}") from None


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise Usage("nobody is here to ask whether to do this", "Say --yes to do it, or --dry-run to only see it.")
    return typer.confirm("Do this?")


def apply(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", show_default=False, help="A Compose file; - for standard input.")
    ],
    services: Annotated[
        list[str] | None, typer.Argument(metavar="[SERVICE]...", show_default=False, help="Only these services of it.")
    ] = None,
    on: Annotated[
        str,
        typer.Option("--on", metavar="NODE", show_default=False, help="Where new datasets begin, if it does not say."),
    ] = "",
    backend: Annotated[
        str, typer.Option(metavar="NAME", help="Of volumes that do not say it.", show_default=False)
    ] = "",
    size: Annotated[str, typer.Option(metavar="SIZE", help="Of volumes that do not say it.", show_default=False)] = "",
    down: Annotated[bool, typer.Option("--down", help="Stop its services instead. Their data stays.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Make the services and volumes of a Compose file run as it says: workloads and datasets.

    Shows the difference first, and asks. What it cannot carry it names, and does nothing at all then.
    """
    where = connection(endpoints, prefix)
    if as_json and not (yes or dry_run):
        raise Usage("--json asks nobody", "Say --yes to do it, or --dry-run to only see it.")
    defaults = {key: value for key, value in (("backend", backend), ("size", size)) if value}
    try:
        wanted = compose.read(load(file), os.environ, tuple(services or ()), defaults)
    except compose.ComposeError as error:
        raise Usage(f"{file} cannot be applied as it is", "\n".join(error.lines)) from None

    async def decided(store: Store, keys: Keys) -> Planned:
        picture = await take(store, keys)
        return withdraw(wanted, picture, keys) if down else plan(wanted, picture, keys, on)

    async def done(store: Store, keys: Keys, planned: Planned) -> None:
        await commit(store, planned.txn, "what the file is about was changed by somebody else just now")

    planned = run(where, decided)
    if not as_json:
        _tell(planned, file)
    changes = bool(planned.differences) and not dry_run
    if changes and not yes and not _agreed():
        raise Interrupted("not applied")
    if changes:
        run(where, lambda store, keys: done(store, keys, planned))
    if as_json:
        output.say_json(planned.as_json(changes))
    elif planned.differences:
        output.say("Nothing was changed." if dry_run else "Done. Look: drover ls")


def _tell(planned: Planned, file: Path) -> None:
    for warning in planned.warnings:
        output.warn(warning)
    if not planned.differences:
        output.say(f"all of {file} is as it says already")
    for difference in planned.differences:
        for line in difference.lines():
            output.say(output.plain(line))
