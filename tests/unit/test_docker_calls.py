"""What a Docker Engine's calls mean, given the picture: no engine, no etcd."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drover.agent.api.docker_calls import Ask, Ready, Refuse, Wait, on_mount
from drover.agent.api.docker_options import (
    ON_BUSY,
    Defaults,
    WrongOption,
    dataset_of,
    difference,
    spec_of,
    volume_of,
)
from drover.coordinator.keys import name_error
from drover.coordinator.protocol.dataset import Cluster, Dataset, Node
from drover.coordinator.records import NodeRecord, Phase, State, Status, Tenure
from drover.coordinator.specs import DatasetSpec, ProcessSpec

SPEC = DatasetSpec(backend="loopback", size=1 << 30)
HERE, THERE = "node-a", "node-b"


def node(name: str) -> Node:
    record = NodeRecord(incarnation=f"i-{name}", machine=name, boot="b", lease=1, backends=("loopback",))
    return Node(record, 1, 1)


def tenure(name: str, state: State = State.ACTIVE) -> Tenure:
    return Tenure(
        node=name, incarnation=f"i-{name}", epoch=3, state=state, uid="u", created=5, backend="loopback", txn="t"
    )


CLUSTER = Cluster({name: node(name) for name in (HERE, THERE)})
ELSEWHERE = Dataset("v", SPEC, spec_created=5, tenure=tenure(THERE))
BUSY = Status(phase=Phase.ACTIVE, node=THERE, epoch=3, users=("container web (docker run)",))


def asked(d: Dataset, status: Status | None = None, cluster: Cluster = CLUSTER, here: bool = False) -> object:
    statuses = {d.name: status} if status else {}
    return on_mount(HERE, f"i-{HERE}", (d,), d.name, statuses, cluster, here)


def test_a_dataset_that_nobody_has_is_asked_for() -> None:
    assert asked(Dataset("v", SPEC)) == Ask()


def test_a_dataset_that_is_idle_elsewhere_is_asked_for_once() -> None:
    assert asked(ELSEWHERE) == Ask()
    assert isinstance(asked(replace(ELSEWHERE, desired=HERE, desired_revision=9, desired_created=9)), Wait)


def test_who_waits_is_told_what_stands_in_the_way() -> None:
    wanted = replace(
        ELSEWHERE,
        spec=SPEC.model_copy(update={"labels": {ON_BUSY: "move"}}),
        desired=HERE,
        desired_revision=9,
        desired_created=9,
    )
    status = BUSY.model_copy(update={"reason": "new", "warning": "in use by container web"})
    assert asked(wanted, status) == Wait("node-b gives it up: in use by container web")


def test_a_dataset_in_use_elsewhere_is_refused_with_by_whom_and_where() -> None:
    refused = asked(ELSEWHERE, BUSY)
    assert isinstance(refused, Refuse)
    assert "in use on node-b by container web (docker run)" in refused.reason


def test_what_moves_with_a_dataset_in_use_elsewhere_is_refused_too() -> None:
    unit = (ELSEWHERE, replace(ELSEWHERE, name="w"))
    refused = on_mount(HERE, f"i-{HERE}", unit, "v", {"w": BUSY}, CLUSTER, False)
    assert isinstance(refused, Refuse)
    assert "w, which moves with it, is in use on node-b by container web" in refused.reason


@pytest.mark.parametrize("nodes", [{}, {THERE: "a later one"}])
def test_what_a_node_that_is_gone_used_is_asked_for(nodes: dict[str, str]) -> None:
    there = {
        name: replace(node(name), record=node(name).record.model_copy(update={"incarnation": i}))
        for name, i in nodes.items()
    }
    assert asked(ELSEWHERE, BUSY, Cluster({HERE: node(HERE), **there})) == Ask()


def test_what_a_node_said_in_an_earlier_epoch_is_not_believed() -> None:
    assert asked(ELSEWHERE, BUSY.model_copy(update={"epoch": 2})) == Ask()


def test_a_workload_uses_its_datasets_wherever_they_are() -> None:
    cluster = replace(CLUSTER, workloads={"w": ProcessSpec(command=("x",), datasets=("v",))})
    refused = asked(ELSEWHERE, None, cluster)
    assert isinstance(refused, Refuse)
    assert "workload w" in refused.reason


def test_who_said_that_it_may_move_asks_for_a_move() -> None:
    moving = SPEC.model_copy(update={"labels": {ON_BUSY: "move"}})
    assert asked(replace(ELSEWHERE, spec=moving), BUSY) == Ask()


def test_only_a_dataset_that_is_active_and_mounted_here_is_ready() -> None:
    mine = replace(ELSEWHERE, tenure=tenure(HERE))
    assert asked(mine, here=True) == Ready()
    assert isinstance(asked(mine, here=False), Wait)
    assert isinstance(asked(replace(mine, tenure=tenure(HERE, State.ASSIGNED)), here=True), Wait)
    assert isinstance(asked(replace(mine, spec_created=6), here=True), Refuse | Ask | Wait)


def test_what_has_no_spec_is_no_volume() -> None:
    assert asked(Dataset("v")) == Refuse("there is no such volume")


@pytest.mark.parametrize("name", ["../../etc", "a b/c", "", "x" * 64])
def test_names_that_no_dataset_can_have_are_no_volumes(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        dataset_of(name)


def test_an_anonymous_volume_has_a_dataset_that_knows_its_name_and_goes_with_its_container() -> None:
    name = "0123456789abcdef" * 4
    spec = spec_of(name, {}, Defaults("loopback", "1GiB"))
    assert name_error(dataset_of(name)) is None
    assert volume_of(dataset_of(name), spec) == name
    assert spec.reclaim == "delete"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("size", "much"),
        ("fs", "fat"),
        ("fencing", "soft"),
        ("on_busy", "perhaps"),
        ("reclaim", "no"),
        ("failover", "!"),
    ],
)
def test_a_wrong_option_is_named_with_what_it_takes(option: str, value: str) -> None:
    with pytest.raises(WrongOption, match=f"option {option} cannot be '{value}': it takes "):
        spec_of("v", {"backend": "loopback", "size": "1GiB", option: value}, Defaults())


def test_nothing_becomes_a_default_that_nobody_chose() -> None:
    with pytest.raises(WrongOption, match="size is missing"):
        spec_of("v", {"backend": "loopback"}, Defaults())


def test_only_what_is_said_can_differ_from_what_is_there() -> None:
    defaults = Defaults("loopback", "2GiB")
    assert not difference({}, spec_of("v", {}, defaults), SPEC)
    options = {"size": "2GiB"}
    assert "size=1073741824, not 2147483648" in difference(options, spec_of("v", options, defaults), SPEC)
