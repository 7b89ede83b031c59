"""Makes the values that the protocol and the planner decide on: a dataset `d` at home on node `a`, and variations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drover.coordinator.keys import Keys
from drover.coordinator.protocol.dataset import Cluster, Dataset, Node
from drover.coordinator.protocol.ownership import Seat
from drover.coordinator.records import Answers, Evidence, Fence, Holder, NodeRecord, State, Tenure
from drover.coordinator.specs import DatasetSpec, Limits, ProcessSpec, WorkloadSpec
from drover.coordinator.txn import Put, Txn

KEYS = Keys()
BACKEND = "loopback"
CREATED, SPEC_REVISION, DESIRED_CREATED, TENURE_REVISION = 40, 41, 50, 60
"""etcd revisions of what `dataset` makes."""


def incarnation(node: str, life: int = 1) -> str:
    return f"{node}.{life}"


def holder(node: str, life: int = 1) -> Holder:
    return Holder(node=node, incarnation=incarnation(node, life))


def fence(node: str, evidence: Evidence = Evidence.SILENCE, armed: bool = False) -> Fence:
    return Fence(node=node, by="z", evidence=evidence, armed=armed)


def dead(*nodes: str) -> dict[str, Fence]:
    """Fences of the first incarnations of these nodes."""
    return {incarnation(n): fence(n) for n in nodes}


LIMITS = Limits(fs="xfs", minimum={"xfs": 300 << 20, "ext4": 16 << 20})


def node(name: str, life: int = 1, backends: tuple[str, ...] = (BACKEND,), cordoned: bool = False) -> Node:
    limits = dict.fromkeys(backends, LIMITS)
    record = NodeRecord(
        incarnation=incarnation(name, life), machine=name, boot=name, lease=7, backends=backends, limits=limits
    )
    return Node(record, create_revision=9, lease=7, cordoned=cordoned)


def cluster(
    *present: str | Node,
    fences: Mapping[str, Fence] | None = None,
    workloads: Mapping[str, WorkloadSpec] | None = None,
) -> Cluster:
    """Nodes by name, or made by `node`."""
    nodes = [node(n) if isinstance(n, str) else n for n in present]
    named = {n.record.incarnation.partition(".")[0]: n for n in nodes}
    return Cluster(named, fences or {}, workloads or {})


def spec(**changes: Any) -> DatasetSpec:
    return DatasetSpec.model_validate({"backend": BACKEND, "size": "1GiB"} | changes)


def workload(*datasets: str, **changes: Any) -> WorkloadSpec:
    return ProcessSpec.model_validate({"command": ["true"], "datasets": list(datasets)} | changes)


def tenure(at: str = "a", life: int = 1, **changes: Any) -> Tenure:
    """Active on node `at`, which `desired` named."""
    made = Tenure(
        node=at,
        incarnation=incarnation(at, life),
        epoch=3,
        state=State.ACTIVE,
        answers=Answers(value="a", revision=DESIRED_CREATED),
        uid="uid",
        created=CREATED,
        backend=BACKEND,
        object="object",
        born=True,
        txn="before",
    )
    return made.model_copy(update=changes)


def dataset(name: str = "d", **changes: Any) -> Dataset:
    """Its spec, `desired` = a, and a tenure that has answered it."""
    made: dict[str, Any] = {
        "spec": spec(),
        "spec_revision": SPEC_REVISION,
        "spec_created": CREATED,
        "desired": "a",
        "desired_revision": DESIRED_CREATED,
        "desired_created": DESIRED_CREATED,
        "tenure": tenure(),
        "tenure_revision": TENURE_REVISION,
        "leased": True,
    }
    made |= changes
    if made["spec"] is None:
        made |= {"spec_revision": 0, "spec_created": 0}
    if made["desired"] is None:
        made |= {"desired_revision": 0, "desired_created": 0}
    if made["tenure"] is None:
        made |= {"tenure_revision": 0, "leased": False}
    return Dataset(name, **made)


def wants(to: str, **changes: Any) -> dict[str, Any]:
    """`desired` names another node than the tenure has answered."""
    return {"desired": to, "desired_revision": 70, "desired_created": 70} | changes


def seat(at: str = "a", life: int = 1, lease: int = 7, txn: str = "mine") -> Seat:
    return Seat(KEYS, at, incarnation(at, life), lease, "2026-01-02T03:04:05.000Z", txn)


def puts(txn: Txn) -> dict[str, Put]:
    """What a transaction puts, by key below the prefix."""
    return {p.key.removeprefix(KEYS.root): p for p in txn.then if isinstance(p, Put)}


def written(txn: Txn, name: str = "d") -> Tenure:
    """The tenure that a transaction puts."""
    return Tenure.decode(puts(txn)[f"owners/{name}"].value)
