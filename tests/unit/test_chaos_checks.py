"""The checker of the chaos runs finds each broken promise in a history, and nothing in one that keeps them all."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from drover.coordinator.records import State
from tests.chaos import check_etcd, check_records, check_time
from tests.chaos.check import check
from tests.chaos.check_time import late_writes
from tests.chaos.history import Change, Clock, Device, History, Jump, Outcome, Run, Token
from tests.unit.chaos_world import (
    FIRST,
    SECOND,
    THIRD,
    UID,
    WRITERS,
    A,
    B,
    C,
    Changes,
    acks,
    beat,
    holder,
    lease,
    owned,
    silence,
    sound,
    tenure,
    with_reading,
)


def rules(history: History) -> set[str]:
    return {violation.rule for violation in check(history)}


def plus(*more: Callable[[Changes], None]) -> History:
    """The sound history, and more that happened in etcd."""

    def tell(changes: Changes) -> None:
        owned(changes)
        for each in more:
            each(changes)

    return sound(tell)


def test_nothing_is_found_where_every_promise_was_kept() -> None:
    assert check(sound()) == []


class TestRecords:
    def test_that_were_acknowledged_and_are_not_in_a_later_reading_are_lost(self) -> None:
        history = with_reading(sound(), 3, runs=(FIRST, replace(SECOND, last=39), replace(THIRD, first=40)))
        assert check_records.LOST in rules(history)

    def test_that_are_lost_are_found_at_the_first_reading_without_them(self) -> None:
        history = with_reading(sound(), 1, runs=(replace(FIRST, last=25),))
        (lost,) = (violation for violation in check(history) if violation.rule == check_records.LOST)
        assert (lost.at, "misses 1 of 26" in lost.says) == (17.5, True)

    def test_that_nobody_acknowledged_may_be_there_or_not(self) -> None:
        history = with_reading(sound(), 3, runs=(FIRST, SECOND, replace(THIRD, last=61)))
        assert check(history) == []

    def test_that_were_acknowledged_after_a_reading_began_need_not_be_in_it(self) -> None:
        history = sound()
        late = replace(history.acks[25], done=17.55)
        history = replace(history, acks=(*history.acks[:25], late, *history.acks[26:]))
        assert check(with_reading(history, 1, runs=(FIRST,))) == []

    @pytest.mark.parametrize(
        "runs",
        [
            (FIRST, SECOND, THIRD, Run(WRITERS[1], 26, 26)),
            (FIRST, SECOND, THIRD, Run(WRITERS[3], 62, 63)),
            (FIRST, SECOND, Run(WRITERS[1], 27, 27), THIRD),
        ],
        ids=["doubled", "missing", "written over"],
    )
    def test_are_there_once_and_without_a_hole(self, runs: tuple[Run, ...]) -> None:
        assert check_records.DOUBLED in rules(with_reading(sound(), 3, runs=runs))

    def test_that_a_writer_found_must_be_found_by_the_next_one_too(self) -> None:
        history = with_reading(sound(), 1, runs=(FIRST, Run("a/7/0", 27, 27)))
        assert check_records.FORGOTTEN in rules(history)

    def test_that_are_damaged_are_found(self) -> None:
        assert check_records.DAMAGED in rules(with_reading(sound(), 3, damaged=1))


class TestWriters:
    def test_never_write_when_the_next_one_has_started(self) -> None:
        history = sound()
        late = replace(history.acks[25], began=17.7, done=17.8)
        history = replace(history, acks=(*history.acks[:25], late, *history.acks[26:]))
        assert check_records.TWO_WRITERS in rules(history)

    def test_start_in_epochs_that_only_grow(self) -> None:
        assert check_records.ORDER in rules(with_reading(sound(), 2, epoch=1, incarnation=A))

    def test_of_one_epoch_are_of_one_incarnation(self) -> None:
        assert check_records.ORDER in rules(with_reading(sound(), 2, epoch=2))

    def test_do_not_start_before_their_epoch_is_active(self) -> None:
        history = with_reading(sound(), 1, at=14.9)
        assert check_time.INSIDE in rules(history)

    def test_do_not_start_in_an_epoch_that_never_was_active(self) -> None:
        assert check_time.INSIDE in rules(with_reading(sound(), 2, epoch=4))

    def test_do_not_write_when_the_next_epoch_has_begun(self) -> None:
        history = sound()
        late = tuple(acks(2, 41, 41, 25.2))
        history = replace(history, acks=(*history.acks[:40], *late, *history.acks[40:]))
        assert check_time.INSIDE in rules(history)

    def test_do_not_write_past_d_hard_even_where_nobody_takes_over(self) -> None:
        history = sound(a_until=6)
        assert check_time.IN_TIME in rules(history)

    def test_that_write_past_d_io_only_are_counted(self) -> None:
        history = sound(a_until=8)
        assert check_time.IN_TIME not in rules(history)
        assert len(late_writes(history)) == 2


class TestStorage:
    def test_never_has_a_lower_epoch_than_before(self) -> None:
        back = replace(sound(), tokens=(*sound().tokens, Token(30.0, UID, 2, B, "b")))
        assert check_time.TOKENS in rules(back)

    def test_has_each_epoch_of_one_incarnation_only(self) -> None:
        other = replace(sound(), tokens=(*sound().tokens, Token(30.0, UID, 3, "c.2", "c")))
        assert check_time.TOKENS in rules(other)

    def test_is_not_written_by_an_incarnation_after_its_fence(self) -> None:
        history = sound()
        grown = tuple(
            replace(
                sample,
                devices=tuple(
                    replace(device, sectors=device.sectors + 8) if device.node == "a" and sample.at > 17.1 else device
                    for device in sample.devices
                ),
            )
            for sample in history.samples
        )
        assert check_time.SECTORS in rules(replace(history, samples=grown))

    def test_may_be_written_by_the_next_incarnation_of_the_same_node(self) -> None:
        history = sound()
        again = tuple(
            replace(sample, devices=(*sample.devices, Device(9, "u2", "a", int(sample.at))))
            if sample.at > 20
            else sample
            for sample in history.samples
        )
        tokens = (*history.tokens, Token(19.9, "u2", 1, "a.2", "a"))
        assert check(replace(history, samples=again, tokens=tokens)) == []


class TestOwnership:
    def test_needs_every_revision_to_be_judged(self) -> None:
        history = sound()
        assert check_etcd.COMPLETE in rules(replace(history, changes=(*history.changes[:30], *history.changes[31:])))

    @pytest.mark.parametrize(
        "wrong",
        [
            tenure(2, B, State.ACTIVE),
            tenure(5, C, State.ASSIGNED, source="c"),
            tenure(3, B, State.ACTIVE),
            tenure(3, C, State.ASSIGNED),
            tenure(4, B, State.ACTIVE, source="c"),
        ],
        ids=["fell", "jumped", "changed hands", "became unwritten", "began active"],
    )
    def test_is_a_chain_of_epochs(self, wrong: object) -> None:
        assert check_etcd.CHAIN in rules(plus(lambda changes: changes.add(30.0, owners__d=wrong)))

    def test_is_never_deleted(self) -> None:
        assert check_etcd.CHAIN in rules(plus(lambda changes: changes.add(30.0, owners__d=None, leases__d=None)))

    def test_begins_with_epoch_one(self) -> None:
        first = tenure(2, C, State.ASSIGNED)
        assert check_etcd.CHAIN in rules(plus(lambda changes: changes.add(30.0, owners__e=first)))

    def test_is_not_taken_from_one_that_lives(self) -> None:
        taken = tenure(4, B, State.ASSIGNED)
        history = plus(lambda changes: changes.add(30.0, owners__d=taken, leases__d=lease(4, B)))
        assert check_etcd.UNFENCED_CLAIM in rules(history)

    def test_may_be_handed_back_by_one_that_refuses(self) -> None:
        back = tenure(4, B, State.ASSIGNED, refused=("c",))
        history = plus(lambda changes: changes.add(38.9, owners__d=back, leases__d=lease(4, B)))
        assert check(history) == []

    def test_remembers_who_may_still_write(self) -> None:
        def forgets(changes: Changes) -> None:
            changes.add(30.0, **{"fences/c.1": silence("c")})
            changes.add(30.1, owners__d=tenure(4, B, State.ASSIGNED), leases__d=lease(4, B))

        assert check_etcd.CARRIED in rules(plus(forgets))

    def test_is_not_active_while_somebody_may_still_write(self) -> None:
        def hurries(changes: Changes) -> None:
            unfenced = (holder(A),)
            changes.add(30.0, owners__e=tenure(1, A, State.ASSIGNED), leases__e=lease(1, A))
            changes.add(30.1, owners__e=tenure(2, B, State.ASSIGNED, unfenced=unfenced), leases__e=lease(2, B))
            changes.add(30.2, owners__e=tenure(2, B, State.ACTIVE))

        assert check_etcd.CARRIED in rules(plus(hurries))

    def test_agrees_with_the_lease_that_people_look_at(self) -> None:
        assert check_etcd.AGREES in rules(plus(lambda changes: changes.add(30.0, leases__d=lease(2, B))))


class TestAFence:
    @pytest.mark.parametrize(
        "late",
        [{"owners/e": tenure(1, A, State.ASSIGNED)}, {"heartbeats/a": beat(A, 50, 30.0)}],
        ids=["a tenure", "a heartbeat"],
    )
    def test_is_followed_by_nothing_of_its_incarnation(self, late: dict[str, object]) -> None:
        assert check_etcd.AFTER_FENCE in rules(plus(lambda changes: changes.add(30.0, **late)))

    def test_for_silence_does_not_come_before_d_hard(self) -> None:
        history = plus(lambda changes: changes.add(39.9, **{"fences/c.1": silence("c")}))
        assert check_etcd.TOO_EARLY in rules(history)


class TestAnEtcdThatWentBack:
    """Restored just before the end; no heartbeat comes any more."""

    @staticmethod
    def restored(*then: tuple[str, object]) -> History:
        """What is put, in this order, each in a transaction of its own."""

        def tell(changes: Changes) -> None:
            changes.restored = 39.1
            for number, (key, value) in enumerate(then):
                changes.add(39.2 + number / 10, **{key: value})

        return plus(tell)

    def test_is_recovered_with_an_epoch_above_all(self) -> None:
        history = self.restored(("cluster", "{}"), ("owners/d", tenure(1003, "d.recovered", State.ACTIVE)))
        assert check(history) == []

    def test_must_not_give_out_an_epoch_again(self) -> None:
        history = self.restored(("cluster", "{}"), ("owners/d", tenure(3, "d.recovered", State.ACTIVE)))
        assert check_etcd.CHAIN in rules(history)

    def test_is_written_by_nobody_before_the_recovery(self) -> None:
        history = self.restored(("heartbeats/c", beat(C, 41, 39.15)), ("cluster", "{}"))
        assert rules(history) == {check_etcd.RECOVERED}

    def test_may_lose_what_hangs_on_leases(self) -> None:
        assert check(self.restored(("nodes/c", None), ("cluster", "{}"))) == []


class TestAClock:
    """That runs fast or jumps tells the common time all the same."""

    CLOCK = Clock(rate=1.004, base=100.0, jumps=(Jump(200.0, 20.0), Jump(300.0, 5.0)))

    @pytest.mark.parametrize("at", [100.0, 150.0, 199.9, 200.1, 219.0, 299.9, 300.1, 400.0])
    def test_is_read_back(self, at: float) -> None:
        jumped = sum(jump.seconds for jump in self.CLOCK.jumps if jump.at <= at)
        shown = at + 0.004 * (at - 100.0) + jumped
        assert self.CLOCK.common(shown) == pytest.approx(at)

    def test_that_is_fast_changes_no_verdict(self) -> None:
        clock = Clock(rate=1.5, base=0.0)
        ahead = sound()
        changes = tuple(
            replace(
                change,
                value=re.sub(r'"clock":([\d.]+)', lambda found: f'"clock":{float(found[1]) * 1.5}', change.value),
            )
            if change.key.endswith("heartbeats/a") and change.value
            else change
            for change in ahead.changes
        )
        told = replace(ahead, changes=changes, about=replace(ahead.about, clocks={"a": clock}))
        assert check(told) == []
        assert check(replace(told, about=ahead.about)) == []  # what was heard of had been sent before


def test_a_dataset_that_is_not_served_at_the_end_is_a_broken_promise() -> None:
    assert check_time.SERVED in rules(replace(sound(), outcomes=(Outcome("d", None, "waits"),)))


def test_values_that_users_may_write_are_nobodys_records() -> None:
    odd = Change(140, 0.0, "/drover/heartbeats/x", "{")
    history = sound()
    last = history.changes[-1].revision
    assert check(replace(history, changes=(*history.changes, replace(odd, revision=last + 1, at=39.9)))) == []
    assert C in {reading.incarnation for reading in history.readings}
