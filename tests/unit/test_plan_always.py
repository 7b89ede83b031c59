"""What the planner must never ask for, whatever the situation."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from hypothesis import example, given, settings
from hypothesis import strategies as st

from drover.agent.plan import plan
from drover.agent.situation import Blocked, Situation, Trouble
from drover.agent.steps import (
    Activate,
    AskReady,
    Clear,
    Create,
    Destroy,
    Grow,
    Handover,
    Publish,
    Refuse,
    Release,
    StartWorkload,
    Step,
    StopWorkload,
    TakeClaim,
    Touch,
    Unpublish,
)
from drover.agent.storage.base import Attached, Away, Here, Mounted
from drover.agent.workloads.base import Absent
from drover.coordinator.protocol import ownership
from drover.coordinator.protocol.dataset import Cluster, Dataset, Invalid, Node
from drover.coordinator.records import Answers, Evidence, State, Tenure
from drover.coordinator.specs import DatasetSpec
from tests.unit.making import (
    BACKEND,
    cluster,
    dataset,
    fence,
    holder,
    node,
    seat,
    spec,
    tenure,
    workload,
    written,
)
from tests.unit.planning import HERE, NOW, exited, running, situation

T = TypeVar("T")
NODES = ("a", "b", "c")


def mostly(usual: T, otherwise: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """So that what is rare does not hide what is usual."""
    return st.sampled_from([True, True, True, False]).flatmap(lambda u: st.just(usual) if u else otherwise)


names = st.sampled_from(NODES)
incarnations = st.builds(lambda n, life: f"{n}.{life}", names, st.integers(1, 2))
holders = st.builds(holder, names, st.integers(1, 2))
backends = st.sampled_from([BACKEND, "ebs"])


@st.composite
def tenures(draw: st.DrawFn) -> Tenure:
    return tenure(
        draw(st.sampled_from(["a", "a", "b", "c"])),
        draw(mostly(1, st.just(2))),
        state=draw(st.sampled_from([State.ASSIGNED, State.ACTIVE, *State])),
        unfenced=draw(mostly((), st.lists(holders, max_size=2, unique=True).map(tuple))),
        refused=draw(mostly((), st.lists(names, max_size=2, unique=True).map(tuple))),
        source=draw(st.just("") | names),
        answers=Answers(value=draw(names), revision=draw(st.sampled_from([50, 70]))),
        created=draw(mostly(40, st.just(90))),
        backend=draw(mostly(BACKEND, backends)),
        reclaim=draw(st.sampled_from(["retain", "delete"])),
        born=draw(st.booleans()),
    )


@st.composite
def datasets(draw: st.DrawFn, name: str) -> Dataset:
    put = st.sampled_from([50, 70])
    created = draw(put)
    unusual: list[DatasetSpec | Invalid | None] = [None, Invalid("mistyped")]
    usual = st.builds(
        spec,
        backend=mostly(BACKEND, backends),
        size=st.sampled_from(["1GiB", "2GiB"]),
        failover=st.sampled_from(["none", "any", ["b"], ["a", "c"]]),
        fencing=st.sampled_from(["hard", "cooperative"]),
        reclaim=st.sampled_from(["retain", "delete"]),
    )
    wish: list[str | Invalid | None] = [None, "nod-b", Invalid("mistyped"), *NODES, *NODES]
    return dataset(
        name,
        spec=draw(usual | usual | st.sampled_from(unusual)),
        desired=draw(st.sampled_from(wish)),
        desired_created=created,
        desired_revision=created + draw(st.integers(0, 9)),
        tenure=draw(st.none() | tenures() | tenures()),
        tenure_revision=draw(st.integers(55, 65)),
        leased=draw(st.booleans()),
    )


def nodes(name: str) -> st.SearchStrategy[Node]:
    offered = mostly((BACKEND,), st.sets(backends).map(lambda b: tuple(sorted(b))))
    return st.builds(node, st.just(name), mostly(1, st.just(2)), offered, mostly(False, st.just(True)))


@st.composite
def clusters(draw: st.DrawFn, used: tuple[str, ...]) -> Cluster:
    fences = draw(
        mostly({}, st.dictionaries(incarnations, st.builds(fence, names, st.sampled_from(Evidence), st.booleans())))
    )
    present = [draw(nodes(n)) for n in NODES if draw(mostly(True, st.just(False)))]
    uses = st.lists(st.sampled_from([*used, "phantom"]), min_size=1, max_size=3, unique=True)
    workloads = draw(st.dictionaries(st.sampled_from(["v", "w"]), uses.map(lambda d: workload(*d)), max_size=2))
    here = [n for n in present if n.record.incarnation not in fences]
    return cluster(*here, fences=fences, workloads=workloads)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    used = draw(st.sampled_from([("d",), ("d", "e"), ("d", "e", "f")]))
    c = draw(clusters(used))
    conditions = st.one_of(
        st.just(Absent()),
        *(st.builds(running, st.just(w)) for w in c.workloads.values()),
        *(st.builds(exited, st.just(w), at=st.floats(NOW - 60, NOW)) for w in c.workloads.values()),
        st.just(running(workload("d", command=["older"]))),
    )
    around = st.floats(NOW - 5, NOW + 5)
    places: st.SearchStrategy[Here] = st.sampled_from([Away(), Attached("/dev/loop0"), HERE])
    return Situation(
        node="a",
        incarnation=draw(mostly("a.1", st.just("a.2"))),
        now=NOW,
        life=draw(mostly(1, st.integers(50, 65))),
        gate=draw(mostly(True, st.booleans())),
        unit=tuple(draw(datasets(name)) for name in used),
        cluster=c,
        here=draw(st.dictionaries(st.sampled_from(used), places)),
        conditions=draw(st.fixed_dictionaries(dict.fromkeys(c.workloads, conditions))),
        failures=draw(st.dictionaries(st.sampled_from(["v", "w"]), st.integers(0, 40))),
        allowed=draw(st.sampled_from([frozenset(), frozenset({"process"})])),
        claim_since=draw(st.none() | st.floats(NOW - 60, NOW)),
        trouble=draw(mostly(None, st.builds(Trouble, st.just("it failed"), around, st.integers(1, 5)))),
        blocked=draw(mostly(None, st.builds(Blocked, st.integers(50, 79), st.just("in use"), around))),
    )


def used_by(step: Step) -> tuple[str, ...]:
    """The datasets that a step is about."""
    match step:
        case TakeClaim(claim):
            return claim.datasets
        case Handover(names_) | Release(names_) | Refuse(names_):
            return names_
        case AskReady() | StartWorkload() | StopWorkload():
            return ()
        case _:
            return (step.dataset,)


def mine(s: Situation, name: str) -> Tenure | None:
    d = next(d for d in s.unit if d.name == name)
    held = d.tenure is not None and d.tenure.held and d.tenure.incarnation == s.incarnation
    return d.tenure if held else None


def idle(s: Situation, name: str) -> bool:
    """Nothing of it is here, and no workload that uses it."""
    users = [w for w, spec_ in s.cluster.workloads.items() if name in spec_.datasets]
    return isinstance(s.here.get(name, Away()), Away) and all(
        isinstance(s.conditions.get(w, Absent()), Absent) for w in users
    )


def check(s: Situation, step: Step) -> None:
    """What must hold for a step, whatever led to it."""
    unit = {d.name: d for d in s.unit}
    me = replace(seat(), node=s.node, incarnation=s.incarnation)
    about = [unit[n] for n in used_by(step)]
    if not isinstance(step, TakeClaim | Unpublish | StartWorkload | StopWorkload):
        assert all(mine(s, d.name) for d in about), "only what is mine"
    if not isinstance(step, TakeClaim | Touch | Unpublish | StopWorkload):
        assert all(d.tenure_revision > s.life for d in about), "touched first"
    match step:
        case Publish(name) | Create(name) | Grow(name) | Destroy(name):
            tenure_ = mine(s, name)
            assert tenure_ is not None
            assert tenure_.state is State.ACTIVE, "activated before any write"
            assert tenure_.unfenced == () or tenure_.state is State.ACTIVE
            if isinstance(step, Create):
                assert not tenure_.born, "missing data is never made anew"
            if isinstance(step, Destroy):
                assert idle(s, name)
                assert tenure_.reclaim == "delete"
                assert unit[name].spec is None or unit[name].replaced, "only as the user asked"
        case StartWorkload(w):
            for name in s.cluster.workloads[w].datasets:
                tenure_ = mine(s, name)
                assert tenure_ is not None
                assert tenure_.state is State.ACTIVE
                assert isinstance(s.here.get(name), Mounted)
        case Activate(name):
            assert idle(s, name), "nothing of an earlier epoch is mounted when this one begins"
            assert ownership.activate(me, unit[name]).then
        case Clear(name, stopped):
            for h in stopped:
                assert ownership.may_clear(h, unit[name], s.cluster.fences.get(h.incarnation))
        case Handover(_, to):
            assert to != s.node
            assert all(idle(s, d.name) for d in about)
            assert ownership.handover(me, about, to, s.cluster.nodes[to], "why").then
        case Release():
            assert all(idle(s, d.name) for d in about)
        case Refuse(_, to):
            assert to != s.node
            assert to is None or to in s.cluster.nodes
            assert all(idle(s, d.name) for d in about)
            assert all(d.tenure and d.tenure.state is State.ASSIGNED for d in about)
        case TakeClaim(claim):
            fences = dict.fromkeys(s.cluster.fences, 80)
            uids = {d.name: "new" for d in about}
            txn = ownership.claim(me, about, s.cluster, uids, claim.because, claim.evidence, fences)
            offered = s.cluster.nodes[s.node].record.backends
            for d in about:
                assert written(txn, d.name).backend in offered, "a claim that its node could not act on"


CLAIMS_GARBAGE = situation(dataset(tenure=tenure(state=State.RELEASED, created=90), spec=Invalid("mistyped")), here={})


@example(CLAIMS_GARBAGE)
@settings(max_examples=250, deadline=None)
@given(situations())
def test_no_situation_makes_the_planner_fail_or_ask_for_what_is_not_safe(s: Situation) -> None:
    planned = plan(s)
    if not s.gate:
        assert planned.steps == ()
    for step in planned.steps:
        check(s, step)
    about = [name for step in planned.steps if isinstance(step, Handover | Release | Refuse) for name in used_by(step)]
    busy = [name for step in planned.steps if isinstance(step, Publish | Create | Activate) for name in used_by(step)]
    assert not set(about) & set(busy), "given away and brought up at the same time"
    for name, status in planned.statuses.items():
        assert name in {d.name for d in s.unit}
        assert "\n" not in status.reason
