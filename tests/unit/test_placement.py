"""Who should own a dataset, and who claims it first: the rules of docs/protocol.md, "Who claims"."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.coordinator.keys import Kind
from drover.coordinator.protocol.dataset import Cluster, Dataset, Invalid
from drover.coordinator.protocol.ignored import ignored, warning
from drover.coordinator.protocol.placement import (
    MAX_UNIT,
    RANK_STEP,
    REFUSED_PAUSE,
    Claim,
    Decision,
    Dismiss,
    Give,
    Keep,
    Nothing,
    coming,
    decide,
    newest_desired,
    rank,
    speaker,
    successor,
    units,
)
from drover.coordinator.records import Answers, Evidence, Pause, State
from tests.unit.making import SPEC_REVISION, cluster, dataset, dead, fence, node, spec, tenure, wants, workload


def decided(me: str, c: Cluster, *unit: Dataset) -> Decision:
    return decide(me, c.nodes[me].record.incarnation if me in c.nodes else f"{me}.1", unit, c)


def claimant(c: Cluster, *unit: Dataset) -> str | None:
    """Who claims first, of the nodes that are here."""
    claims = {n: found for n in c.nodes if isinstance(found := decided(n, c, *unit), Claim)}
    return min(claims, key=lambda n: claims[n].delay, default=None)


def waits(c: Cluster, *unit: Dataset) -> str:
    """Nobody does anything; what people are told."""
    reasons = {found.reason for n in c.nodes if isinstance(found := decided(n, c, *unit), Nothing)}
    assert len(reasons) == 1, reasons
    return reasons.pop()


class TestAHealthyHolder:
    def test_follows_a_new_wish(self) -> None:
        assert decided("a", cluster("a", "b"), dataset(**wants("b"))) == Give("b", "desired says b")

    def test_keeps_what_it_has_while_the_wish_is_answered(self) -> None:
        assert decided("a", cluster("a", "b"), dataset()) == Keep()

    def test_is_not_moved_by_the_same_value_put_again(self) -> None:
        """A fail-over to b has answered `a`; somebody's configuration tool puts `a` every five minutes."""
        moved = dataset(tenure=tenure("b"), desired_revision=99)
        assert decided("b", cluster("a", "b"), moved) == Keep()

    def test_is_moved_by_the_same_value_when_the_key_was_deleted_before(self) -> None:
        again = dataset(tenure=tenure("b"), desired_revision=99, desired_created=99)
        assert decided("b", cluster("a", "b"), again) == Give("a", "desired says a")

    def test_goes_back_and_forth_as_often_as_it_is_asked(self) -> None:
        there = dataset(tenure=tenure("b", answers=Answers(value="b", revision=50)), desired_revision=99)
        assert decided("b", cluster("a", "b"), there) == Give("a", "desired says a")

    @pytest.mark.parametrize("typo", ["nod-b", "B", "b2"])
    def test_stays_when_the_wish_names_nobody_who_is_here(self, typo: str) -> None:
        c, typed = cluster("a", "b"), dataset(**wants(typo), spec=spec(failover="any"))
        assert decided("a", c, typed) == Keep()
        assert warning([typed], c) == f"desired node {typo!r} is not here; here are: a b"

    def test_stays_when_the_wish_is_no_name_at_all(self) -> None:
        c, typed = cluster("a", "b"), dataset(desired=Invalid("it is empty"), desired_revision=70)
        assert decided("a", c, typed) == Keep()
        assert warning([typed], c) == "desired ignored: it is empty"

    def test_stays_when_the_desired_node_lacks_the_back_end(self) -> None:
        c = cluster("a", node("b", backends=("btrfs",)))
        assert decided("a", c, dataset(**wants("b"))) == Keep()
        assert warning([dataset(**wants("b"))], c) == "desired node b does not offer back end loopback"

    def test_stays_when_the_desired_node_is_fenced(self) -> None:
        c = cluster("a", fences=dead("b"))
        assert isinstance(decided("a", c, dataset(**wants("b"))), Keep)

    def test_stays_when_the_spec_can_no_longer_be_read(self) -> None:
        c, typed = cluster("a", "b"), dataset(spec=Invalid("size: what?"))
        assert decided("a", c, typed) == Keep()
        assert warning([typed], c) == "spec ignored: size: what?"

    def test_stays_when_the_wish_is_deleted(self) -> None:
        assert decided("a", cluster("a", "b"), dataset(desired=None)) == Keep()

    def test_is_not_disturbed_by_anybody(self) -> None:
        for wish in ({}, wants("b"), wants("nod-b")):
            assert isinstance(decided("b", cluster("a", "b"), dataset(spec=spec(failover="any"), **wish)), Nothing)

    def test_is_not_disturbed_when_only_its_record_is_away(self) -> None:
        """etcd has lost its lease; it is not fenced."""
        assert waits(cluster("b", "c"), dataset(spec=spec(failover="any"))) == "held by a"

    def test_moves_to_a_cordoned_node_when_somebody_says_so(self) -> None:
        assert isinstance(decided("a", cluster("a", node("b", cordoned=True)), dataset(**wants("b"))), Give)


class TestANewDataset:
    def test_goes_to_the_desired_node(self) -> None:
        new = dataset(tenure=None, desired="b")
        assert decided("b", cluster("a", "b"), new) == Claim(("d",), "new")
        assert decided("a", cluster("a", "b"), new) == Nothing("waits for b to take it")

    @pytest.mark.parametrize("failover", ["none", "any", ["a"]])
    def test_waits_for_a_desired_node_that_is_away(self, failover: Any) -> None:
        new = dataset(tenure=None, desired="x", spec=spec(failover=failover))
        assert waits(cluster("a", "b"), new) == "waits for node 'x', which is not here; here are: a b"

    def test_waits_for_a_wish(self) -> None:
        assert "say where" in waits(cluster("a", "b"), dataset(tenure=None, desired=None))
        told = waits(cluster("a"), dataset(tenure=None, desired=Invalid("it is empty")))
        assert told == "desired cannot be used: it is empty"

    def test_waits_for_a_spec_that_can_be_used(self) -> None:
        assert "there is no dataset of this name" in waits(cluster("a"), dataset(spec=None, tenure=None))
        assert waits(cluster("a"), dataset(spec=Invalid("no"), tenure=None)) == "the spec cannot be used: no"

    def test_is_not_made_where_its_back_end_is_not_offered(self) -> None:
        new = dataset(tenure=None, spec=spec(backend="zfs"))
        told = waits(cluster("a", node("b", backends=("ebs",))), new)
        assert told == "a does not offer back end zfs; offered in this cluster: ebs loopback"

    def test_is_claimed_by_nobody_while_its_file_system_cannot_be_so_small(self) -> None:
        small = dataset(tenure=None, spec=spec(size="200MiB"))
        told = waits(cluster("a", "b"), small)
        assert told == (
            "the spec cannot be used: size 200 MiB is too small: xfs needs at least 300 MiB; ask for more, or for ext4"
        )
        assert claimant(cluster("a", "b"), dataset(tenure=None, spec=spec(size="200MiB", fs="ext4"))) == "a"

    def test_that_is_too_small_is_not_taken_beside_the_others_of_its_group(self) -> None:
        unit = dataset(), dataset("small", tenure=None, spec=spec(size="200MiB"))
        assert decided("a", cluster("a", "b"), *unit) == Keep()


class TestAFencedHolder:
    def test_loses_it_to_the_desired_node_whatever_the_policy(self) -> None:
        c = cluster("b", "c", fences=dead("a"))
        lost = dataset(**wants("b"))
        assert claimant(c, lost) == "b"
        assert isinstance(decided("c", c, lost), Nothing)

    def test_gets_it_back_when_it_is_here_again_first(self) -> None:
        c = cluster(node("a", life=2), "b", fences={"a.1": fence("a", Evidence.REBOOT)})
        claim = decided("a", c, dataset())
        assert claim == Claim(("d",), "a is back (reboot)", evidence=Evidence.REBOOT)

    def test_keeps_it_waiting_when_the_policy_is_none(self) -> None:
        c = cluster("b", "c", fences=dead("a"))
        assert waits(c, dataset()) == "waits for a, which is not here; failover: none"

    def test_loses_it_to_one_of_the_others_when_the_policy_is_any(self) -> None:
        c = cluster("b", "c", fences=dead("a"))
        lost = dataset(spec=spec(failover="any"))
        first, second = rank("d", ["b", "c"])
        assert claimant(c, lost) == first
        later = decided(second, c, lost)
        assert isinstance(later, Claim)
        assert later.delay == pytest.approx(RANK_STEP)
        assert later.evidence is Evidence.SILENCE
        assert later.because.startswith("failed over from a")

    def test_loses_it_only_to_those_listed(self) -> None:
        c = cluster("b", "c", fences=dead("a"))
        assert claimant(c, dataset(spec=spec(failover=["c", "x"]))) == "c"
        told = waits(c, dataset(spec=spec(failover=["x", "y"])))
        assert told == "waits for a, which is not here; no other node may or can take it (failover: x y)"

    def test_loses_it_to_nobody_without_the_back_end(self) -> None:
        c = cluster(node("b", backends=()), "c", fences=dead("a"))
        assert claimant(c, dataset(spec=spec(failover="any"))) == "c"

    def test_loses_it_to_nobody_who_is_cordoned(self) -> None:
        c = cluster(node("b", cordoned=True), "c", fences=dead("a"))
        assert claimant(c, dataset(spec=spec(failover="any"))) == "c"

    def test_comes_first_of_all_where_the_desired_node_is_away(self) -> None:
        c = cluster(node("a", life=2), "b", "c", fences=dead("a"))
        assert claimant(c, dataset(spec=spec(failover="any"), desired="x")) == "a"

    def test_is_not_waited_for_when_a_newer_wish_was_put_during_the_fail_over(self) -> None:
        c = cluster("b", "c", fences=dead("a"))
        assert claimant(c, dataset(spec=spec(failover="any"), **wants("c"))) == "c"

    def test_is_told_what_the_desired_node_lacks(self) -> None:
        c = cluster("b", node("c", backends=("ebs",)), fences=dead("a"))
        assert waits(c, dataset(**wants("c"))) == "waits for c, which does not offer back end loopback; failover: none"


class TestAReleasedDataset:
    def free(self, **changes: Any) -> Dataset:
        return dataset(tenure=tenure(state=State.RELEASED), **changes)

    def test_goes_to_the_desired_node_without_any_fence(self) -> None:
        assert decided("b", cluster("a", "b"), self.free(**wants("b"))) == Claim(("d",), "released by a")

    def test_waits_without_a_wish(self) -> None:
        assert isinstance(decided("a", cluster("a"), self.free(desired=None)), Nothing)

    def test_waits_for_its_node_or_goes_to_another_as_the_policy_says(self) -> None:
        assert claimant(cluster("b"), self.free()) is None
        assert claimant(cluster("b"), self.free(spec=spec(failover="any"))) == "b"


class TestWhoRefused:
    def refused(self, *names: str, failover: Any = "any", **changes: Any) -> Dataset:
        old = tenure("a", state=State.RELEASED, refused=names)
        return dataset(tenure=old, spec=spec(failover=failover), **changes)

    def test_comes_after_everybody_else(self) -> None:
        first, second = rank("d", ["b", "c"])
        assert claimant(cluster("a", "b", "c"), self.refused("a", first)) == second

    def test_waits_before_it_tries_again(self) -> None:
        claim = decided("a", cluster("a"), self.refused("a"))
        assert isinstance(claim, Claim)
        assert claim.delay >= REFUSED_PAUSE

    @pytest.mark.parametrize("failover", ["none", "any", ["a"], ["x"]])
    def test_is_never_out_since_it_may_have_the_only_copy(self, failover: Any) -> None:
        assert claimant(cluster("a"), self.refused("a", failover=failover)) == "a"

    @pytest.mark.parametrize("failover", ["none", "any", ["a"]])
    def test_tries_again_though_nobody_ever_said_where(self, failover: Any) -> None:
        """Claimed without a wish after a fail-over, refused, and handed to nobody: it must not lie there for good."""
        assert claimant(cluster("a"), self.refused("a", failover=failover, desired=None)) == "a"

    def test_waits_as_long_when_it_holds_the_rest_of_the_unit(self) -> None:
        rest = dataset("e")
        claim = decided("a", cluster("a"), self.refused("a"), rest)
        assert isinstance(claim, Claim)
        assert claim.datasets == ("d",)
        assert claim.delay == REFUSED_PAUSE

    def test_hands_back_to_the_source(self) -> None:
        d = dataset(tenure=tenure("b", state=State.ASSIGNED, source="a"))
        assert successor("b", [d], cluster("a", "b", "c")) == "a"

    def test_hands_on_to_the_next_candidate_where_the_source_has_gone_or_refused(self) -> None:
        d = dataset(tenure=tenure("b", state=State.ASSIGNED, source="a"), spec=spec(failover="any"))
        assert successor("b", [d], cluster("b", "c")) == "c"
        d = dataset(tenure=tenure("b", state=State.ASSIGNED, source="a", refused=("a",)), spec=spec(failover=["c"]))
        assert successor("b", [d], cluster("a", "b", "c")) == "c"
        assert successor("b", [d], cluster("a", "b", node("c", cordoned=True))) is None

    def test_hands_to_nobody_who_is_not_allowed(self) -> None:
        d = dataset(tenure=tenure("b", state=State.ASSIGNED))
        assert successor("b", [d], cluster("a", "b", "c")) is None


class TestADeletedSpec:
    def test_makes_the_holder_release(self) -> None:
        gone = decided("a", cluster("a"), dataset(spec=None))
        assert gone == Dismiss(("d",), (), "its spec was deleted")

    def test_makes_the_holder_destroy_where_it_said_so(self) -> None:
        gone = decided("a", cluster("a"), dataset(spec=None, tenure=tenure(reclaim="delete")))
        assert gone == Dismiss(("d",), ("d",), "its spec was deleted")

    def test_changes_nothing_while_a_workload_uses_the_dataset(self) -> None:
        c = cluster("a", workloads={"w": workload("d")})
        kept = decided("a", c, dataset(spec=None, tenure=tenure(reclaim="delete")))
        assert isinstance(kept, Keep)
        assert "workload w uses it" in kept.warning

    def test_of_a_dead_holder_is_claimed_to_be_destroyed(self) -> None:
        doomed = dataset(spec=None, tenure=tenure(reclaim="delete"))
        assert claimant(cluster("b", "c", fences=dead("a")), doomed) == rank("d", ["b", "c"])[0]

    def test_is_claimed_to_be_destroyed_only_where_its_back_end_is(self) -> None:
        doomed = dataset(spec=None, tenure=tenure(reclaim="delete"))
        for others in (("b", node("c", backends=("ebs",))), (node("b", backends=("ebs",)), "c")):
            c = cluster(*others, fences=dead("a"))
            first = claimant(c, doomed)
            assert first is not None
            assert "loopback" in c.nodes[first].record.backends
            assert sum(isinstance(decided(n, c, doomed), Claim) for n in c.nodes) == 1

    def test_of_a_dead_holder_whose_data_is_kept_is_left_alone(self) -> None:
        assert waits(cluster("b", fences=dead("a")), dataset(spec=None)) == "its spec was deleted; the data is kept"

    def test_that_was_destroyed_is_over(self) -> None:
        done = dataset(spec=None, tenure=tenure(state=State.DESTROYED, reclaim="delete"))
        assert waits(cluster("a"), done) == "destroyed"


class TestASpecPutAgain:
    """Another create revision: another dataset under the old one's name."""

    def replaced(self, reclaim: str = "retain", state: State = State.ACTIVE, **changes: Any) -> Dataset:
        return dataset(tenure=tenure(reclaim=reclaim, state=state), spec_created=90, spec_revision=90, **changes)

    def test_is_a_new_dataset_once_the_old_one_is_given_up(self) -> None:
        assert decided("a", cluster("a"), self.replaced()) == Dismiss(("d",), (), "its spec was deleted")
        assert decided("a", cluster("a"), self.replaced(state=State.RELEASED)) == Claim(("d",), "new")
        assert decided("a", cluster("a"), self.replaced(state=State.DESTROYED)) == Claim(("d",), "new")

    def test_does_not_save_the_data_of_the_old_one(self) -> None:
        assert decided("a", cluster("a"), self.replaced("delete")) == Dismiss(("d",), ("d",), "its spec was deleted")
        claim = decided("a", cluster("a"), self.replaced("delete", State.RELEASED))
        assert claim == Claim(("d",), "to destroy it, as its spec said")

    def test_with_another_back_end_goes_where_that_is(self) -> None:
        c = cluster("a", node("b", backends=("ebs",)))
        for state in (State.RELEASED, State.DESTROYED):
            there = self.replaced(state=state, spec=spec(backend="ebs"), **wants("b"))
            assert decided("b", c, there) == Claim(("d",), "new")
            here = self.replaced(state=state, spec=spec(backend="ebs"))
            assert waits(c, here) == "a does not offer back end ebs; offered in this cluster: ebs loopback"

    def test_with_another_back_end_leaves_the_destroying_to_a_node_that_has_the_old_one(self) -> None:
        c = cluster("a", node("b", backends=("ebs",)))
        assert claimant(c, self.replaced("delete", State.RELEASED, spec=spec(backend="ebs"), **wants("b"))) == "a"

    @pytest.mark.parametrize("state", [State.RELEASED, State.DESTROYED])
    def test_that_cannot_be_used_is_not_claimed(self, state: State) -> None:
        told = waits(cluster("a"), self.replaced(state=state, spec=Invalid("size: what?")))
        assert told == "the spec cannot be used: size: what?"

    def test_waits_for_a_living_holder_of_the_old_one(self) -> None:
        assert waits(cluster("b"), self.replaced(**wants("b"))) == "held by a"


class TestAUnit:
    def test_is_a_group_or_what_one_workload_uses_and_such_ties_join(self) -> None:
        specs = {"a": spec(group="g"), "b": spec(group="g"), "c": spec(), "d": spec(), "e": spec()}
        found = units(specs, {"w": workload("b", "c"), "v": workload("d", "phantom")})
        assert found["a"] == found["b"] == found["c"] == {"a", "b", "c"}
        assert found["d"] == {"d", "phantom"}
        assert found["e"] == {"e"}

    def test_follows_the_wish_that_was_put_last(self) -> None:
        d, e = dataset("d", **wants("b")), dataset("e", desired="c", desired_revision=80, desired_created=80)
        assert newest_desired([d, e]) == e
        assert decided("a", cluster("a", "b", "c"), d, e) == Give("c", "desired says c")

    def test_does_not_follow_a_wish_that_is_no_name(self) -> None:
        d, e = dataset("d", **wants("b")), dataset("e", desired=Invalid("no"), desired_revision=80)
        assert newest_desired([d, e]) == d

    def test_is_claimed_as_a_whole(self) -> None:
        c = cluster("b", fences=dead("a"))
        any_ = spec(failover="any")
        claim = decided("b", c, dataset("d", spec=any_), dataset("e", spec=any_))
        assert isinstance(claim, Claim)
        assert claim.datasets == ("d", "e")

    def test_needs_a_node_with_the_back_ends_of_all(self) -> None:
        c = cluster("b", node("c", backends=("loopback", "ebs")), fences=dead("a"))
        any_ = spec(failover="any")
        d, e = dataset("d", spec=any_), dataset("e", spec=any_, tenure=tenure(backend="ebs"))
        assert claimant(c, d, e) == "c"

    def test_brings_what_nobody_has_to_where_the_others_are(self) -> None:
        new = dataset("e", tenure=None, desired=None)
        assert decided("a", cluster("a", "b"), dataset("d"), new) == Claim(("e",), "belongs with d")
        assert isinstance(decided("b", cluster("a", "b"), dataset("d"), new), Nothing)

    def test_does_not_bring_what_the_node_cannot_hold(self) -> None:
        new = dataset("e", tenure=None, spec=spec(backend="ebs"))
        assert isinstance(decided("a", cluster("a", "b"), dataset("d"), new), Keep)

    def test_of_which_a_living_node_has_a_part_waits_for_that_node(self) -> None:
        c = cluster("b", "c", fences=dead("a"))
        d, e = dataset("d", spec=spec(failover="any")), dataset("e", tenure=tenure("x"))
        assert decided("b", c, d, e) == Nothing("waits for x, which has the others of its group")

    def test_that_came_about_while_living_nodes_had_its_parts_comes_together_where_the_last_wish_was_answered(
        self,
    ) -> None:
        c = cluster("a", "b")
        answered = tenure("b", answers=Answers(value="b", revision=80))
        d, e = dataset("d"), dataset("e", tenure=answered, desired="b", desired_revision=80, desired_created=80)
        assert decided("a", c, d, e) == Give("b", "belongs with e")
        assert decided("b", c, d, e) == Keep()

    def test_of_which_another_node_has_a_part_stays_where_it_is_asked_for(self) -> None:
        d, e = dataset("d", **wants("a")), dataset("e", tenure=tenure("b"))
        assert decided("a", cluster("a", "b"), d, e) == Keep()
        assert decided("b", cluster("a", "b"), d, e) == Give("a", "desired says a")

    def test_without_a_wish_comes_together_where_the_first_of_it_is(self) -> None:
        d, e = dataset("d", desired=None), dataset("e", desired=None, tenure=tenure("b"))
        assert decided("a", cluster("a", "b"), d, e) == Keep()
        assert decided("b", cluster("a", "b"), d, e) == Give("a", "belongs with d")

    def test_does_not_come_together_at_a_node_that_is_not_here(self) -> None:
        d, e = dataset("d"), dataset("e", desired=None, tenure=tenure("b"))
        assert decided("b", cluster("b"), d, e) == Keep()

    def test_that_is_too_large_for_one_transaction_is_said_to_be(self) -> None:
        many = [dataset(f"d{i:02}", tenure=None, desired="a") for i in range(MAX_UNIT + 1)]
        told = decided("a", cluster("a"), *many)
        assert isinstance(told, Nothing)
        assert str(MAX_UNIT) in told.reason
        held = [dataset(f"d{i:02}", **wants("b")) for i in range(MAX_UNIT + 1)]
        assert decided("a", cluster("a", "b"), *held) == Keep()
        assert f"at most {MAX_UNIT} can move" in warning(held, cluster("a", "b"))


class TestInputThatIsIgnored:
    """By the key that somebody typed, its kind and its revision."""

    @pytest.mark.parametrize(
        ("changes", "kind", "revision"),
        [
            ({"desired": Invalid("it is empty"), "desired_revision": 70}, Kind.DESIRED, 70),
            (wants("nod-b"), Kind.DESIRED, 70),
            ({"spec": None, "tenure": None, **wants("b")}, Kind.DESIRED, 70),
            ({"spec": Invalid("size: what?")}, Kind.DATASETS, SPEC_REVISION),
            ({"tenure": None, "spec": spec(size="1MiB")}, Kind.DATASETS, SPEC_REVISION),
        ],
    )
    def test_says_which_key_it_is(self, changes: dict[str, Any], kind: Kind, revision: int) -> None:
        (wrong,) = ignored([dataset(**changes)], cluster("a", "b"))
        assert (wrong.kind, wrong.name, wrong.revision) == (kind, "d", revision)

    def test_is_nothing_that_was_answered_or_can_still_be(self) -> None:
        for changes in ({}, wants("b"), {"tenure": tenure("b")}, {"desired": None}):
            assert ignored([dataset(**changes)], cluster("a", "b")) == []

    def test_of_a_workload_is_the_last_that_its_datasets_tell(self) -> None:
        c = replace(cluster("a", "b"), misfits={"d": "workload w ignored: no"})
        assert warning([dataset()], c) == "workload w ignored: no"
        assert "nod-b" in warning([dataset(**wants("nod-b"))], c)


@given(st.sets(st.text(min_size=1, max_size=6), min_size=2, max_size=8), st.text(max_size=6))
def test_a_node_that_leaves_changes_no_rank_among_the_others(nodes: set[str], name: str) -> None:
    order = rank(name, nodes)
    gone = order[0]
    assert rank(name, nodes - {gone}) == order[1:]
    assert sorted(order) == sorted(nodes)


def test_one_of_those_here_speaks_for_a_dataset_that_nobody_has() -> None:
    c = cluster("a", "b", "c")
    assert speaker("d", c) == rank("d", ["a", "b", "c"])[0]
    assert speaker("d", cluster()) is None


def test_a_unit_is_coming_where_a_new_wish_names_the_node_and_another_one_holds_it() -> None:
    c = cluster("a", "b")
    assert coming("b", [dataset(**wants("b"))], c)
    assert not coming("a", [dataset(**wants("b"))], c), "it is there already"
    assert not coming("b", [dataset()], c), "nobody asked"
    assert not coming("b", [dataset(tenure=tenure("b"), **wants("b"))], c), "it has come"
    assert not coming("b", [dataset(**wants("b"))], cluster("b", fences=dead("a"))), "nobody hands it over"


class TestPaused:
    """Nothing changes hands; what is held stays where it is."""

    pause = Pause(until=datetime(2026, 1, 2, 15, tzinfo=UTC), by="ann", reason="new etcd")

    def decide(self, me: str, d: Dataset, *present: str, **more: Any) -> Decision:
        paused = replace(cluster(*present, **more), pause=self.pause)
        return decided(me, paused, d)

    def test_a_wish_for_another_node_waits_and_says_why(self) -> None:
        decision = self.decide("a", dataset(**wants("b")), "a", "b")
        assert decision == Keep("paused by ann until 2026-01-02T15:00:00Z (new etcd): goes to b after that")

    def test_nobody_takes_what_a_fenced_node_had(self) -> None:
        d = dataset(spec=spec(failover="any"))
        decision = self.decide("b", d, "b", fences=dead("a"))
        assert isinstance(decision, Nothing)
        assert "nobody takes it before" in decision.reason

    def test_nobody_takes_a_new_one(self) -> None:
        assert isinstance(self.decide("a", dataset(tenure=None), "a"), Nothing)

    def test_a_holder_goes_on(self) -> None:
        assert self.decide("a", dataset(), "a", "b") == Keep()
