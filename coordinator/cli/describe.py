"""Datasets and nodes as JSON, and the errors about names that are not there. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from drover.coordinator.cli.copies import copies_json
from drover.coordinator.cli.errors import NotPossible
from drover.coordinator.cli.output import listing, near, plain
from drover.coordinator.cli.picture import Dataset, Misdeclared, Node, Picture, Undeclared
from drover.coordinator.cli.shapes import DatasetJson, DivergedJson, NodeJson
from drover.coordinator.cli.situation import fresh_status, situation
from drover.coordinator.records import Diverged, Phase


def now() -> datetime:
    """This machine's clock: for ages in words, never for a decision."""
    return datetime.now(UTC)


def dataset_json(dataset: Dataset, picture: Picture, history: bool = False) -> DatasetJson:
    """One dataset as `--json` promises it."""
    seen = situation(dataset, picture, now())
    tenure, status, spec = dataset.tenure, fresh_status(dataset), dataset.spec
    current = status if status and status.phase == seen.phase else None
    return DatasetJson(
        name=dataset.name,
        phase=seen.phase,
        node=seen.node or None,
        epoch=tenure.epoch if tenure else 0,
        since=(current.since if current else tenure.since if tenure else None) or None,
        path=(current.path if current and seen.phase == Phase.ACTIVE else None) or None,
        size=spec.size if spec else None,
        backend=spec.backend if spec else tenure.backend if tenure else None,
        why=seen.why,
        next={"who": seen.next.who, "what": seen.next.what},
        desired=dataset.desired.node if dataset.desired else None,
        invalid=dataset.declaration.reason if isinstance(dataset.declaration, Misdeclared) else None,
        spec=spec.model_dump(mode="json") if spec else None,
        uid=tenure.uid if tenure else None,
        incarnation=tenure.incarnation if tenure and tenure.held else None,
        asked=(tenure.asked if tenure else "") or None,
        users=list(current.users) if current else [],
        data_on=list(tenure.copies) if tenure else [],
        copies=copies_json(dataset),
        unfenced=[holder.incarnation for holder in tenure.unfenced] if tenure else [],
        together=picture.together(dataset.name),
        workloads=picture.users_of(dataset.name),
        diverged=diverged_json(dataset.diverged),
        cutover_ms=status.cutover_ms if status else None,
        history=[entry.model_dump(mode="json") for entry in dataset.history] if history else [],
    )


def diverged_json(diverged: Mapping[str, Diverged]) -> list[DivergedJson]:
    """What diverged, by node."""
    return [
        DivergedJson(node=node, epoch=one.epoch, guid=one.guid, path=one.path, size=one.size)
        for node, told in diverged.items()
        for one in told.copies
    ]


def node_json(node: Node, picture: Picture) -> NodeJson:
    """One node as `--json` promises it."""
    record, beat = node.record, node.heartbeat
    since = node.fence.at if node.fence else record.joined if record else ""
    return NodeJson(
        name=node.name,
        state=node.state.value,
        since=since or None,
        incarnation=node.incarnation or None,
        cordoned=node.cordon is not None,
        counter=beat.counter if beat else None,
        datasets=picture.held_by(node.name),
        backends=list(record.backends) if record else [],
        version=(record.version if record else "") or None,
        address=(record.address if record else "") or None,
    )


def the_dataset(name: str, picture: Picture) -> Dataset:
    """The dataset of this name. Raises NotPossible with names that are like it, where nothing in etcd has the name."""
    found = picture.datasets.get(name)
    if found is None:
        raise _no_dataset(name, picture)
    return found


def the_declared(name: str, picture: Picture) -> Dataset:
    """The dataset of this name, which has a spec, valid or not. Raises NotPossible."""
    found = picture.datasets.get(name)
    if found is None or isinstance(found.declaration, Undeclared):
        raise _no_dataset(name, picture)
    return found


def _no_dataset(name: str, picture: Picture) -> NotPossible:
    there = (
        f"There are: {listing(picture.specs)}"
        if picture.specs
        else "There are none yet: drover create NAME --size 1GiB"
    )
    return NotPossible(f"there is no dataset {plain(name)!r}", near(name, picture.specs, there))


def the_node(name: str, picture: Picture) -> Node:
    """The node of this name. Raises NotPossible with names that are like it, where nothing in etcd has the name."""
    if (found := picture.nodes.get(name)) is not None:
        return found
    there = (
        f"There are: {listing(list(picture.nodes))}" if picture.nodes else "No agent has joined under this prefix yet."
    )
    raise NotPossible(f"there is no node {plain(name)!r}", near(name, picture.nodes, there))


def check_target(node: str, backend: str, picture: Picture, force: bool = False) -> list[str]:
    """Whether a dataset could go to this node; returns warnings where `force` overrules. Raises NotPossible."""
    live = list(picture.live)
    here = f"Nodes that are here: {listing(live)}."
    if node not in picture.nodes:
        todo = near(node, picture.nodes, "") + ("\n" if near(node, picture.nodes, "") else "") + here
        objection = f"there is no node {plain(node)!r}"
    elif node not in picture.live:
        objection = f"{node} is {picture.nodes[node].state}"
        todo = f"{here} With --force it is written down, and nothing happens until {node} comes."
    elif picture.nodes[node].cordon:
        objection = f"{node} is cordoned: it takes no new datasets"
        todo = f"{here} With --force it takes this one all the same."
    elif (record := picture.nodes[node].record) and backend not in record.backends:
        offer = [n for n, it in picture.live.items() if it.record and backend in it.record.backends]
        raise NotPossible(f"{node} does not offer back end {backend!r}", f"Nodes that offer it: {listing(offer)}.")
    else:
        return []
    if force:
        return [objection]
    raise NotPossible(objection, todo)
