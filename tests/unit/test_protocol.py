"""The protocol's decisions, one promise a test; no clock, no etcd."""

from __future__ import annotations

from dataclasses import replace

from drover.coordinator.keys import Keys
from drover.coordinator.protocol import ownership, session
from drover.coordinator.protocol.clock import Instant
from drover.coordinator.protocol.observer import observe, stand_in
from drover.coordinator.protocol.placement import (
    Claim,
    Cluster,
    Dataset,
    Give,
    Keep,
    Node,
    Nothing,
    decide,
    successor,
    units,
)
from drover.coordinator.protocol.session import (
    Beat,
    CloseGate,
    Ended,
    Identity,
    LadderDone,
    Lapsed,
    Live,
    OpenGate,
    Reply,
    Tick,
    step,
)
from drover.coordinator.records import (
    MAX_D_HARD,
    Answers,
    DatasetSpec,
    Evidence,
    Fence,
    Heartbeat,
    Holder,
    NodeRecord,
    State,
    Tenure,
    Timings,
    required_wait,
)
from drover.coordinator.txn import ModRevision, Put, absent

ME = Identity("node-a", "a.1", "machine", "boot")
T = Timings()
SEAT = ownership.Seat(Keys(), "node-b", "b.1", 7, "now", "txn")


def at(seconds: float) -> Instant:
    return Instant(seconds, seconds)


def beaten(begun: float = 0.0) -> session.State:
    """Live, with one heartbeat sent at `begun` and not yet answered."""
    return step(session.begin(10, 1, at(begun), at(begun)), Beat(), at(begun), ME, T)[0]


def test_the_deadline_counts_from_when_the_heartbeat_was_sent() -> None:
    state, _ = step(beaten(0.0), Reply(2, True, 11), at(3.0), ME, T)
    assert isinstance(state, Live)
    assert session.soft_deadline(state, T).remaining(at(3.0)) == T.d_soft - 3.0


def test_either_clock_ends_the_right_to_write() -> None:
    for late in (Instant(T.d_soft, 0.0), Instant(0.0, T.d_soft)):
        state, actions = step(beaten(), Tick(), late, ME, T)
        assert isinstance(state, Lapsed)
        assert isinstance(actions[0], CloseGate)
        assert session.gate(state, T) is None


def test_a_heartbeat_that_commits_late_counts_from_its_own_sending() -> None:
    state = step(beaten(0.0), Beat(), at(2.0), ME, T)[0]
    seen = Heartbeat(incarnation="a.1", counter=2, clock=0.0, d_hard=6.5)
    state, _ = step(state, Reply(3, False, 12, seen, 12), at(2.5), ME, T)
    assert isinstance(state, Live)
    assert state.sent == at(0.0)
    assert state.revision == 12


def test_the_gate_opens_again_only_after_a_clean_ladder_and_a_fresh_answer() -> None:
    lapsed = step(beaten(), Tick(), at(5.0), ME, T)[0]
    stale, actions = step(lapsed, LadderDone(True), at(5.1), ME, T)
    assert isinstance(stale, Lapsed)
    assert actions == ()
    sent = step(stale, Beat(), at(6.0), ME, T)[0]
    live, actions = step(sent, Reply(3, True, 13), at(6.1), ME, T)
    assert isinstance(live, Live)
    assert actions == (OpenGate(),)
    dirty = step(step(lapsed, Beat(), at(6.0), ME, T)[0], Reply(3, True, 13), at(6.1), ME, T)[0]
    assert isinstance(dirty, Lapsed)


def test_a_fence_or_a_strangers_heartbeat_ends_the_session() -> None:
    stranger = Heartbeat(incarnation="x.9", counter=1, clock=0.0, d_hard=6.5)
    for reply in (Reply(2, False, 11, fenced=True), Reply(2, False, 11, stranger, 11)):
        state, actions = step(beaten(), reply, at(1.0), ME, T)
        assert isinstance(state, Ended)
        assert isinstance(actions[0], CloseGate)


def test_an_observer_waits_for_the_d_hard_in_the_heartbeat_and_starts_again_when_it_moves() -> None:
    beat = Heartbeat(incarnation="a.1", counter=1, clock=0.0, d_hard=20.0)
    first = observe(None, "node-a", beat, 5, 100.0)
    assert first.due() == 100.0 + required_wait(20.0)
    assert observe(first, "node-a", beat, 5, 110.0) is first
    assert observe(first, "node-a", beat, 6, 110.0).since == 110.0
    assert stand_in("a.1").d_hard == MAX_D_HARD


SPEC = DatasetSpec(backend="loopback", size=2**30)
HELD = Tenure(
    node="node-a",
    incarnation="a.1",
    epoch=3,
    state=State.ACTIVE,
    answers=Answers(value="node-a", revision=50),
    uid="u",
    created=40,
    backend="loopback",
    born=True,
    txn="t",
)
D = Dataset("d", SPEC, 41, 40, "node-a", 50, 50, HELD, 60, True)
DEAD = {"a.1": Fence(node="node-a", by="node-b", evidence=Evidence.SILENCE)}


def cluster(*names: str, fences: dict[str, Fence] | None = None) -> Cluster:
    nodes = {
        f"node-{n}": Node(
            NodeRecord(incarnation=f"{n}.1", machine=n, boot=n, lease=7, backends=("loopback",)),
            create_revision=9,
            lease=7,
        )
        for n in names
    }
    return Cluster(nodes, fences or {})


def test_a_new_wish_is_followed_and_an_unknown_node_is_only_a_warning() -> None:
    wish = replace(D, desired="node-b", desired_created=70, desired_revision=70)
    assert decide("node-a", "a.1", [wish], cluster("a", "b")) == Give("node-b", "desired says node-b")
    kept = decide("node-a", "a.1", [replace(wish, desired="nod-b")], cluster("a", "b"))
    assert isinstance(kept, Keep)
    assert "'nod-b' is not here" in kept.warning


def test_the_same_value_put_again_after_a_fail_over_moves_nothing() -> None:
    moved = replace(D, tenure=HELD.model_copy(update={"node": "node-b", "incarnation": "b.1"}), desired_revision=99)
    assert decide("node-b", "b.1", [moved], cluster("a", "b")) == Keep()


def test_nobody_takes_what_a_node_holds_that_is_not_fenced() -> None:
    assert isinstance(decide("node-b", "b.1", [D], cluster("b")), Nothing)


def test_failover_decides_who_may_take_a_dead_nodes_dataset() -> None:
    waits = decide("node-b", "b.1", [D], cluster("b", fences=DEAD))
    assert waits == Nothing("waits for node-a, which is not here; failover: none")
    anybody = replace(D, spec=SPEC.model_copy(update={"failover": "any"}))
    assert isinstance(decide("node-b", "b.1", [anybody], cluster("b", fences=DEAD)), Claim)
    listed = replace(D, spec=SPEC.model_copy(update={"failover": ("node-c",)}))
    assert isinstance(decide("node-b", "b.1", [listed], cluster("b", "c", fences=DEAD)), Nothing)
    assert isinstance(decide("node-c", "c.1", [listed], cluster("b", "c", fences=DEAD)), Claim)


def test_who_refused_comes_last_but_is_never_out() -> None:
    refused = HELD.model_copy(update={"state": State.RELEASED, "refused": ("node-b",)})
    d = replace(D, tenure=refused, spec=SPEC.model_copy(update={"failover": "any"}))
    claim = decide("node-b", "b.1", [d], cluster("b"))
    assert isinstance(claim, Claim)
    assert claim.delay >= 30.0
    assert successor(
        "node-b", [replace(D, tenure=HELD.model_copy(update={"source": "node-a"}))], cluster("a", "b")
    ) == ("node-a")


def test_datasets_of_a_group_belong_together() -> None:
    grouped = SPEC.model_copy(update={"group": "g"})
    assert units({"x": grouped, "y": grouped, "z": SPEC}, {}) == {
        "x": frozenset({"x", "y"}),
        "y": frozenset({"x", "y"}),
        "z": frozenset({"z"}),
    }


def test_a_claim_carries_the_dead_holder_as_unfenced_and_compares_all_it_decided_on() -> None:
    txn = ownership.claim(SEAT, [D], cluster("b", fences=DEAD), {"d": "new"}, "why", Evidence.SILENCE, {"a.1": 80})
    keys = SEAT.keys
    for compare in (
        ModRevision(keys.owner("d"), 60),
        ModRevision(keys.desired("d"), 50),
        ModRevision(keys.dataset("d"), 41),
        ModRevision(keys.fence("a.1"), 80),
        absent(keys.fence("b.1")),
    ):
        assert compare in txn.compare
    put = txn.then[0]
    assert isinstance(put, Put)
    tenure = Tenure.decode(put.value)
    assert (tenure.epoch, tenure.state, tenure.uid) == (4, State.ASSIGNED, "u")
    assert tenure.unfenced == (Holder(node="node-a", incarnation="a.1"),)


def test_silence_of_an_unarmed_node_proves_nothing_unless_the_spec_settles_for_cooperation() -> None:
    holder = HELD.holder
    assert not ownership.may_clear(holder, D, DEAD["a.1"])
    assert not ownership.may_clear(holder, D, None)
    assert ownership.may_clear(holder, D, DEAD["a.1"].model_copy(update={"armed": True}))
    assert ownership.may_clear(holder, D, DEAD["a.1"].model_copy(update={"evidence": Evidence.REBOOT}))
    assert ownership.may_clear(holder, replace(D, spec=SPEC.model_copy(update={"fencing": "cooperative"})), DEAD["a.1"])


def test_a_handover_carries_unfenced_on() -> None:
    left = Holder(node="node-x", incarnation="x.1")
    d = replace(D, tenure=HELD.model_copy(update={"unfenced": (left,)}))
    txn = ownership.handover(SEAT, [d], "node-c", cluster("c").nodes["node-c"], "why")
    put = txn.then[0]
    assert isinstance(put, Put)
    tenure = Tenure.decode(put.value)
    assert tenure.unfenced == (left,)
    assert (tenure.node, tenure.epoch, tenure.state) == ("node-c", 4, State.ASSIGNED)
    assert absent(SEAT.keys.fence("b.1")) in txn.compare
    assert absent(SEAT.keys.fence("c.1")) in txn.compare
