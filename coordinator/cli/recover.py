"""`drover recover`: go on after etcd was restored from a backup, or with a copy of it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from drover.coordinator.cli import options, output
from drover.coordinator.cli.connection import commit, connection, run
from drover.coordinator.cli.describe import now
from drover.coordinator.cli.errors import Failed, Interrupted, NotPossible, Usage
from drover.coordinator.cli.output import listing, plain
from drover.coordinator.cli.shapes import RecoveryJson
from drover.coordinator.keys import DEFAULT_PREFIX, Key, Keys, Kind, range_end
from drover.coordinator.protocol import recovery
from drover.coordinator.protocol.dataset import Dataset, Invalid
from drover.coordinator.protocol.history import UNDER_RECOVERY
from drover.coordinator.record import InvalidRecord, R, timestamp
from drover.coordinator.records import Cluster, Evidence, Fence, Heartbeat, HistoryEntry, NodeRecord, State, Tenure
from drover.coordinator.reports import NodeReport
from drover.coordinator.specs import DatasetSpec
from drover.coordinator.store import Compacted, Store, WatchBroken
from drover.coordinator.timings import required_wait
from drover.coordinator.txn import Delete, Entry, Put, Txn, unchanged

_JOIN = 20.0
"""Seconds that halted agents may take to join again before their datasets may go to others."""
T = TypeVar("T")
_BATCH = 50
"""Fences or nodes in one transaction; etcd takes 128 operations."""
_ELSE = "Something wrote to etcd meanwhile"


@dataclass(frozen=True)
class Seen:
    """All that etcd has. cluster_entry: of the record `cluster`; heartbeat_entries: by node."""

    etcd: str
    cluster: Cluster
    cluster_entry: Entry
    datasets: dict[str, Dataset]
    tenure_entries: dict[str, Entry]
    heartbeats: dict[str, Heartbeat]
    heartbeat_entries: dict[str, Entry]
    nodes: dict[str, NodeRecord]
    fences: dict[str, Fence]
    revision: int


async def look(store: Store, keys: Keys) -> Seen:
    """Raises NotPossible, Failed where what must be kept cannot be read, StoreError."""
    etcd = (await store.status()).cluster_id
    found = await store.range(keys.root, range_end(keys.root))
    by_kind: dict[Kind, dict[str, Entry]] = {kind: {} for kind in Kind}
    for entry in found.entries:
        if isinstance(key := keys.parse(entry.key), Key):
            by_kind[key.kind][key.name] = entry
    cluster_entry = next((entry for entry in found.entries if entry.key == keys.cluster), None)
    if cluster_entry is None:
        raise NotPossible(
            f"there is no cluster under {keys.root}", "Restore etcd from a backup of this cluster, or check --prefix."
        )
    tenures = _decoded(Tenure, by_kind[Kind.OWNERS])
    specs = by_kind[Kind.DATASETS]
    datasets = {
        name: Dataset(
            name,
            _spec(specs.get(name)),
            spec_revision=specs[name].mod_revision if name in specs else 0,
            spec_created=specs[name].create_revision if name in specs else 0,
            tenure=tenures.get(name),
            tenure_revision=by_kind[Kind.OWNERS][name].mod_revision if name in tenures else 0,
        )
        for name in {*tenures, *specs}
    }
    cluster = _decoded(Cluster, {"cluster": cluster_entry})["cluster"]
    return Seen(
        etcd,
        cluster,
        cluster_entry,
        datasets,
        by_kind[Kind.OWNERS],
        _decoded(Heartbeat, by_kind[Kind.HEARTBEATS]),
        by_kind[Kind.HEARTBEATS],
        _decoded(NodeRecord, by_kind[Kind.NODES]),
        _decoded(Fence, by_kind[Kind.FENCES]),
        found.revision,
    )


def _decoded(kind: type[R], entries: Mapping[str, Entry]) -> dict[str, R]:
    found = {}
    for name, entry in entries.items():
        try:
            found[name] = kind.decode(entry.value)
        except InvalidRecord as error:
            raise Failed(f"{entry.key} cannot be read ({error})", "Put back what it was.") from None
    return found


def _spec(entry: Entry | None) -> DatasetSpec | Invalid | None:
    if entry is None:
        return None
    try:
        return DatasetSpec.decode(entry.value)
    except InvalidRecord as error:
        return Invalid(str(error))


def expected(seen: Seen) -> set[str]:
    """Nodes that may have written: all that etcd knows of."""
    held = {d.tenure.node for d in seen.datasets.values() if d.tenure and d.tenure.node}
    return {*seen.heartbeats, *seen.nodes, *held}


def incarnations(seen: Seen, reports: Sequence[NodeReport], plan: recovery.Plan) -> dict[str, str]:
    """The nodes of all incarnations that etcd, or the data, knows of."""
    known = {beat.incarnation: node for node, beat in seen.heartbeats.items()}
    known |= {record.incarnation: node for node, record in seen.nodes.items()}
    known |= {volume.incarnation: volume.node for report in reports for volume in report.volumes if volume.incarnation}
    for restored in plan.restored:
        known |= {holder.incarnation: holder.node for holder in restored.tenure.unfenced}
    return known


class Recovery:
    """The steps, in order. Whatever breaks it off, agents stay halted, and it can be run again."""

    def __init__(self, store: Store, keys: Keys, seen: Seen, reports: Sequence[NodeReport]) -> None:
        self._store, self._keys, self._seen, self._reports = store, keys, seen, reports

    async def run(self, plan: recovery.Plan, life: str) -> None:
        """Raises NotPossible where an agent lives or something else writes; StoreError."""
        cluster = self._seen.cluster
        await self._declare(cluster.model_copy(update={"etcd": UNDER_RECOVERY}))
        await self._nobody_lives()
        await self._fence(incarnations(self._seen, self._reports, plan), silent=True)
        await self._forget_nodes()
        for restored in plan.restored:
            await self._restore(restored)
        histories = (*cluster.histories, life)
        await self._declare(cluster.model_copy(update={"etcd": self._seen.etcd, "histories": histories}))
        # Whoever comes first would take all that may fail over to it: their own nodes are let in before.
        await self._until_joined()
        await self._fence({r.tenure.incarnation: r.tenure.node for r in plan.restored})

    async def _declare(self, cluster: Cluster) -> None:
        """While it says that a recovery is under way, no agent joins."""
        revision = await self._write((Put(self._keys.cluster, cluster.encode()),))
        entry = replace(self._seen.cluster_entry, mod_revision=revision)
        self._seen = replace(self._seen, cluster_entry=entry)

    async def _until_joined(self) -> None:
        """Until all that have reported are back, but not for long."""
        wanted = {self._keys.node(report.node) for report in self._reports}
        start = self._keys.under(Kind.NODES)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_JOIN):
                while not wanted <= {entry.key for entry in (await self._store.range(start, range_end(start))).entries}:
                    await asyncio.sleep(0.2)

    async def _write(self, then: Sequence[Put | Delete], *compare: tuple[str, Entry | None]) -> int:
        """The revision of a transaction that holds only while nobody else recovers."""
        compares = [unchanged(key, entry) for key, entry in ((self._keys.cluster, self._seen.cluster_entry), *compare)]
        return (await commit(self._store, Txn(tuple(compares), tuple(then)), _ELSE)).revision

    async def _nobody_lives(self) -> None:
        """No heartbeat moves for W: by then what an agent had begun that was stopped just before has ended, too."""
        longest = max((beat.d_hard for beat in self._seen.heartbeats.values() if not beat.placeholder), default=0.0)
        start = self._keys.under(Kind.HEARTBEATS)
        try:
            async with asyncio.timeout(required_wait(longest)):
                async with aclosing(self._store.watch(start, range_end(start), self._seen.revision + 1)) as watch:
                    async for batch in watch:
                        for change in batch.changes:
                            raise NotPossible(
                                f"the agent of {change.key.removeprefix(start)} is alive: its heartbeat moves",
                                "Stop it (systemctl stop drover-agent), and give the command again.",
                                outcome="No agent joins until this command has been through.",
                            )
        except TimeoutError:
            return
        except (WatchBroken, Compacted) as error:
            raise Failed(
                f"etcd ended the watch on heartbeats ({error})",
                "Give the command again.",
                outcome="No agent joins until this command has been through.",
            ) from error

    async def _fence(self, known: Mapping[str, str], silent: bool = False) -> None:
        """All of them, by the operator's word. A fence that only says silence would free nothing. silent: their nodes'
        heartbeats must be as they were. A watch that told of none may be late."""
        at = timestamp(now())
        wanted = [
            (
                node,
                Put(
                    self._keys.fence(incarnation),
                    Fence(
                        node=node or "unknown",
                        by="operator",
                        evidence=Evidence.OPERATOR,
                        detail="recovered after etcd went back",
                        at=at,
                    ).encode(),
                ),
            )
            for incarnation, node in sorted(known.items())
            if (fence := self._seen.fences.get(incarnation)) is None or fence.evidence is Evidence.SILENCE
        ]
        for batch in _batches(wanted):
            nodes = sorted({node for node, _ in batch if node}) if silent else []
            still = [(self._keys.heartbeat(node), self._seen.heartbeat_entries.get(node)) for node in nodes]
            await self._write([put for _, put in batch], *still)

    async def _forget_nodes(self) -> None:
        for batch in _batches([Delete(self._keys.node(node)) for node in self._seen.nodes]):
            await self._write(batch)

    async def _restore(self, restored: recovery.Restored) -> None:
        keys, name, tenure = self._keys, restored.dataset.name, restored.tenure
        if restored.spec is not None:
            key = keys.dataset(name)
            declared = await self._write((Put(key, restored.spec.encode()),), (key, None))
            tenure = tenure.model_copy(update={"created": declared})
        entry = HistoryEntry(
            epoch=tenure.epoch,
            node=tenure.node,
            because=tenure.because,
            before=restored.dataset.tenure.node if restored.dataset.tenure else "",
            at=tenure.since,
        )
        await self._write(
            (
                Put(keys.owner(name), tenure.encode()),
                Put(keys.history(name, tenure.epoch), entry.encode()),
                Delete(keys.lease(name)),
            ),
            (keys.owner(name), self._seen.tenure_entries.get(name)),
        )


def _batches(operations: Sequence[T]) -> Iterable[Sequence[T]]:
    return (operations[at : at + _BATCH] for at in range(0, len(operations), _BATCH))


def read_reports(files: Sequence[Path]) -> list[NodeReport]:
    """Raises Usage."""
    reports: dict[str, NodeReport] = {}
    for file in files:
        try:
            report = NodeReport.decode(file.read_bytes())
        except OSError as error:
            raise Usage(f"{file} cannot be read: {error.strerror}") from None
        except InvalidRecord as error:
            raise Usage(f"{file} is not what drover-agent tokens prints: {error}") from None
        if report.node in reports:
            raise Usage(f"{file}: {report.node} has reported twice", "Give the newest report of each node.")
        reports[report.node] = report
    return list(reports.values())


def choices(texts: Sequence[str]) -> dict[str, str]:
    """Raises Usage."""
    for text in texts:
        if not all(text.partition("=")):
            raise Usage(f"--use {text}: must be NAME=UID")
    return {name: uid for name, _, uid in (text.partition("=") for text in texts)}


def recover(
    reports: Annotated[
        list[Path],
        typer.Argument(
            metavar="REPORT...", show_default=False, help="What drover-agent tokens printed, a file a node."
        ),
    ],
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", show_default=False, help="This node is gone for good, with what only it had."),
    ] = None,
    use: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=UID", show_default=False, help="Of several volumes of one name, this one."),
    ] = None,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm",
            help="I have made sure that no agent runs but halted ones, and this etcd is the one to go on with.",
        ),
    ] = False,
    endpoints: options.Endpoints = options.DEFAULT_ENDPOINTS,
    prefix: options.Prefix = DEFAULT_PREFIX,
    as_json: options.Json = False,
) -> None:
    """Go on after etcd was restored from a backup, or with a copy of it.

    Agents that saw etcd go back have halted, and say so. On each node: drover-agent tokens > NODE.json. Those files
    tell which epochs etcd has lost. Without --confirm it shows what would be done. With it, every incarnation is
    fenced, all epochs are set above those stored with the data, and the halted agents join again and go on.
    """
    where = connection(endpoints, prefix)
    told, chosen, life = read_reports(reports), choices(use or []), secrets.token_hex(4)
    seen = run(where, look)
    planned = recovery.plan(
        seen.datasets, told, seen.cluster.id, expected(seen) - set(without or ()), chosen, life, timestamp(now())
    )
    if not as_json:
        _show(planned)
    elif planned.problems or not confirm:
        output.say_json(_json(planned, done=False))
    if planned.problems:
        raise NotPossible("this cannot be recovered yet: " + "; ".join(map(plain, planned.problems)), "Look above.")
    if not confirm:
        if as_json:
            return
        output.say("Nothing was changed. To do it: the same command with --confirm")
        return
    try:
        run(where, lambda store, keys: Recovery(store, keys, seen, told).run(planned, life))
    except KeyboardInterrupt:
        raise Interrupted(
            "stopped in the middle",
            "Give the same command again.",
            outcome="No agent joins until it has been through; it can be repeated.",
        ) from None
    if as_json:
        output.say_json(_json(planned, done=True))
        return
    names = [restored.dataset.name for restored in planned.restored]
    output.say(plain(f"recovered  {listing(names) if names else 'no dataset'}; halted agents join again by themselves"))


def _json(planned: recovery.Plan, done: bool) -> RecoveryJson:
    datasets = [
        {
            "name": restored.dataset.name,
            "node": restored.tenure.node if restored.tenure.held else None,
            "state": restored.tenure.state.value,
            "epoch": restored.dataset.tenure.epoch if restored.dataset.tenure else 0,
            "becomes": restored.tenure.epoch,
            "notes": list(restored.notes),
        }
        for restored in planned.restored
    ]
    return RecoveryJson(done=done, problems=list(planned.problems), datasets=datasets)


def _show(planned: recovery.Plan) -> None:
    rows = [
        [
            restored.dataset.name,
            restored.tenure.node if restored.tenure.state in (State.ACTIVE, State.ASSIGNED) else "",
            restored.tenure.state.value,
            str(restored.dataset.tenure.epoch if restored.dataset.tenure else 0),
            str(restored.tenure.epoch),
            "; ".join(restored.notes),
        ]
        for restored in planned.restored
    ]
    if rows:
        output.say(output.table(("DATASET", "LAST ON", "STATE", "EPOCH", "BECOMES", "NOTE"), rows, {}))
