"""A cluster in memory for the command line: what agents would have written, and `drover` run against it in-process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drover.coordinator.cli import connection, main
from drover.coordinator.keys import Keys
from drover.coordinator.record import Record
from drover.coordinator.records import (
    Answers,
    Cordon,
    Evidence,
    Fence,
    Heartbeat,
    HistoryEntry,
    Holder,
    NodeRecord,
    Phase,
    State,
    Status,
    Tenure,
    Trashed,
)
from drover.coordinator.specs import DatasetSpec, Limits, ProcessSpec
from drover.coordinator.store import Store
from drover.coordinator.trash import name_in_trash
from drover.coordinator.txn import Delete, Entry, Put, Txn
from tests.model.store import ModelCluster, ModelStore

SINCE = "2026-01-02T03:04:05.000Z"


@dataclass(frozen=True)
class Ran:
    """One command: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def incarnation(node: str, life: int = 1) -> str:
    return f"{node}.boot{life}.{life:08x}"


@dataclass
class World:
    """Puts records as agents and users do, and runs `drover` on them."""

    capsys: pytest.CaptureFixture[str]
    cluster: ModelCluster = field(default_factory=ModelCluster)
    keys: Keys = field(default_factory=Keys)

    def __post_init__(self) -> None:
        self.store = ModelStore(self.cluster)

    def drover(self, *arguments: str) -> Ran:
        self.capsys.readouterr()
        code = main.run(arguments)
        out, err = self.capsys.readouterr()
        return Ran(code, out, err)

    # -- etcd -----------------------------------------------------------------------------------------------------

    def put(self, key: str, value: str | bytes | Record) -> int:
        raw = value.encode() if isinstance(value, str | Record) else value
        return self.cluster.apply(Txn((), (Put(key, raw),))).revision

    def delete(self, key: str) -> None:
        self.cluster.apply(Txn((), (Delete(key),)))

    def entry(self, key: str) -> Entry | None:
        return self.cluster.entry(key)

    def value(self, key: str) -> str | None:
        entry = self.cluster.entry(key)
        return entry.value.decode() if entry else None

    # -- what users and agents write ------------------------------------------------------------------------------

    def dataset(self, name: str, spec: str = '{"backend": "loopback", "size": "10GiB"}') -> None:
        self.put(self.keys.dataset(name), spec)

    def workload(self, name: str, *datasets: str) -> None:
        self.put(self.keys.workload(name), ProcessSpec(command=("sleep", "1"), datasets=datasets))

    def node(self, name: str, backends: Sequence[str] = ("loopback",), life: int = 1) -> None:
        """A node that is here."""
        self.beat(name, life=life)
        record = NodeRecord(
            incarnation=incarnation(name, life),
            machine="m",
            boot="b",
            lease=1,
            address="10.0.0.1",
            backends=tuple(backends),
            limits=dict.fromkeys(backends, Limits(fs="xfs", minimum={"xfs": 300 << 20, "ext4": 16 << 20})),
            version="0.1.0",
            joined=SINCE,
        )
        self.put(self.keys.node(name), record)

    def beat(self, name: str, life: int = 1, counter: int = 7, d_hard: float = 0.4) -> None:
        self.put(
            self.keys.heartbeat(name),
            Heartbeat(incarnation=incarnation(name, life), counter=counter, clock=1.0, d_hard=d_hard),
        )

    def silent(self, name: str) -> None:
        """Its session's lease has ended."""
        self.delete(self.keys.node(name))

    def left(self, name: str, longer: float) -> None:
        """Its machine has shut down, and it kept datasets."""
        self.silent(name)
        last = Heartbeat(incarnation=incarnation(name), counter=8, clock=1.0, d_hard=6.5, longer=longer, left=True)
        self.put(self.keys.heartbeat(name), last)

    def fence(self, name: str, evidence: Evidence = Evidence.SILENCE, armed: bool = True, life: int = 1) -> None:
        self.silent(name)
        fence = Fence(
            node=name, by="node-z", evidence=evidence, armed=armed, detail="heartbeat still for 7.0 s", at=SINCE
        )
        self.put(self.keys.fence(incarnation(name, life)), fence)

    def cordon(self, name: str) -> None:
        self.put(self.keys.cordon(name), Cordon(by="me", reason="new disks"))

    def desired(self, dataset: str, node: str) -> int:
        return self.put(self.keys.desired(dataset), node)

    def tenure(self, dataset: str, node: str, epoch: int = 1, state: State = State.ACTIVE, **fields: Any) -> Tenure:
        desired = self.entry(self.keys.desired(dataset))
        made: dict[str, Any] = {
            "answers": Answers(value=desired.value.decode(), revision=desired.create_revision)
            if desired
            else Answers(),
            "because": "new",
            "since": SINCE,
            "uid": "cafe",
            "created": 1,
            "backend": "loopback",
        }
        tenure = Tenure(
            node=node, incarnation=incarnation(node), epoch=epoch, state=state, txn=f"t{epoch}", **(made | fields)
        )
        self.put(self.keys.owner(dataset), tenure)
        return tenure

    def status(self, dataset: str, node: str, epoch: int = 1, phase: Phase = Phase.ACTIVE, **fields: Any) -> None:
        path = f"/srv/drover/{dataset}" if phase is Phase.ACTIVE else ""
        self.put(
            self.keys.status(dataset), Status(phase=phase, node=node, epoch=epoch, since=SINCE, path=path, **fields)
        )

    def active(self, dataset: str, node: str, epoch: int = 1, **status: Any) -> None:
        """The node has the dataset and is content."""
        self.tenure(dataset, node, epoch)
        self.status(dataset, node, epoch, **status)

    def history(self, dataset: str, epoch: int, node: str, before: str, evidence: Evidence | None = None) -> None:
        entry = HistoryEntry(
            epoch=epoch, node=node, before=before, because=f"epoch {epoch}", evidence=evidence, at=SINCE
        )
        self.put(self.keys.history(dataset, epoch), entry)

    def trash(self, dataset: str, uid: str = "0ld", spec: str = '{"backend": "loopback", "size": "1GiB"}') -> str:
        """It was removed, and is in the trash for a day. Its name there."""
        aside, until = name_in_trash(uid), datetime.now(UTC) + timedelta(days=1, seconds=5)
        record = Trashed(dataset=dataset, uid=uid, spec=DatasetSpec.decode(spec.encode()), until=until, by="ann")
        self.put(self.keys.trash(aside), record)
        self.tenure(aside, "node-a", 4, State.RELEASED, uid=uid, born=True, object=f"{uid}.img")
        self.tenure(dataset, "node-a", 4, State.DESTROYED, uid=uid, trash=aside)
        return aside

    def holder(self, node: str) -> Holder:
        return Holder(node=node, incarnation=incarnation(node))


def world(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    """Three nodes that are here, and no dataset."""
    made = World(capsys)
    for name in ("node-a", "node-b", "node-c"):
        made.node(name)

    @asynccontextmanager
    async def open_store(_: connection.Connection) -> AsyncIterator[Store]:
        yield made.store

    monkeypatch.setattr(connection, "open_store", open_store)
    for variable in ("DROVER_ENDPOINTS", "ETCDCTL_ENDPOINTS", "DROVER_PREFIX"):
        monkeypatch.delenv(variable, raising=False)
    return made
