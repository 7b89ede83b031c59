"""Schedules of the chaos runs, and what their writers store."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos import history, report, schedule, writer
from tests.chaos.check import check
from tests.chaos.history import Fault
from tests.chaos.nemeses import NEMESES
from tests.chaos.schedule import KINDS, MINUTE, MOVE, Act, Area
from tests.unit.chaos_world import UID, sound


def test_one_number_makes_one_schedule() -> None:
    assert schedule.make(7, 300) == schedule.make(7, 300)
    assert schedule.make(7, 300) != schedule.make(8, 300)


@pytest.mark.parametrize("seed", range(20))
def test_all_has_ended_when_the_time_is_up_and_faults_of_one_area_follow_each_other(seed: int) -> None:
    acts = schedule.make(seed, 300)
    areas: defaultdict[Area, list[Act]] = defaultdict(list)
    for act in acts:
        assert act.at + act.seconds <= 300
        if act.kind is not MOVE:
            areas[act.kind.area].append(act)
    for several in areas.values():
        assert all(a.at + a.seconds <= b.at for a, b in itertools.pairwise(several))


def test_every_kind_of_fault_comes_in_ten_minutes_and_a_minute_without_etcd_once() -> None:
    named = [act.kind.name for act in schedule.make(3, 600)]
    assert set(named) == {kind.name for kind in (*KINDS, MINUTE, MOVE)}
    assert named.count(MINUTE.name) == 1


def test_a_machine_does_not_stand_still_where_storage_protects_nothing() -> None:
    assert not {act.kind.name for act in schedule.make(3, 600, blind=True)} & {"processes frozen", "machine frozen"}


def test_only_what_is_asked_for_comes_beside_the_moves() -> None:
    assert {act.kind.name for act in schedule.make(3, 200, only=["power cut"])} == {"power cut", "move"}


def test_there_is_somebody_who_does_each_kind_of_harm() -> None:
    assert {kind.name for kind in (*KINDS, MINUTE, MOVE)} == NEMESES.keys()


def test_a_record_can_be_read_back_and_one_changed_letter_is_seen() -> None:
    line = writer.record(12, "node-a/7/1", 3, 5.25)
    assert writer.parse(line) == (12, "node-a/7/1")
    assert writer.parse(line.replace(b"node-a", b"node-b")) is None


def test_what_a_dataset_holds_is_told_in_runs_without_what_was_half_written() -> None:
    lines = [writer.record(n, "a", 1, 0.0) for n in (1, 2)] + [writer.record(n, "b", 2, 0.0) for n in (3, 4)]
    content = b"".join(lines) + b"5 b 2 0.0"
    assert writer.runs(content) == (
        [{"writer": "a", "first": 1, "last": 2}, {"writer": "b", "first": 3, "last": 4}],
        0,
    )
    assert writer.runs(b"rubbish\n" + content)[1] == 1


def test_a_history_that_was_kept_says_the_same_when_it_is_checked_again(tmp_path: Path) -> None:
    kept = sound()
    (tmp_path / "writers").mkdir()
    history.save_about(tmp_path, kept.about)
    history.save(tmp_path / "writers", "d.acks", kept.acks)
    history.save(tmp_path / "writers", "d.readings", kept.readings[:-1])
    history.save(tmp_path, "final", kept.readings[-1:])
    for kind in ("changes", "samples", "tokens", "faults", "outcomes"):
        history.save(tmp_path, kind, getattr(kept, kind))
    assert history.load(tmp_path) == kept
    with (tmp_path / "writers" / "d.acks.jsonl").open("a") as torn:
        torn.write('{"uid":"u1","wri')
    assert history.load(tmp_path) == kept


def test_a_time_without_service_is_laid_at_the_door_of_what_was_done_last() -> None:
    found = report.gaps(sound())
    assert [(gap.why, round(gap.began, 2)) for gap in found if gap.seconds > 1] == [
        ("cut off from etcd", 14.51),
        ("move", 24.11),
    ]
    assert all(gap.why == "nothing that was done to it" for gap in report.gaps(replace(sound(), faults=())))


def test_times_without_service_are_counted_in_a_histogram() -> None:
    assert report.histogram([0.6, 0.9, 1.0, 7.9, 29.0, 30.0, 90.0]) == [2, 1, 1, 0, 1, 2]
    assert json.loads(report.as_json(sound(), []))["histograms"]["cut off from etcd"][1:] == [0, 1, 0, 0, 0]
    assert re.search(r"^cut off from etcd +1 ", report.summary(sound(), []), re.MULTILINE)
    assert re.search(r"^cut off from etcd +2 ", report.total([sound(), sound()]), re.MULTILINE)


def test_the_story_of_a_broken_promise_tells_what_happened_around_it() -> None:
    kept = sound()
    late = replace(kept.acks[25], began=17.7, done=17.8)
    broken = replace(kept, acks=(*kept.acks[:25], late, *kept.acks[26:]))
    told = report.story(broken, check(broken)[0])
    for part in ("fault      cut off from etcd a", "fence a.1: silence", "d epoch 2 active b.1", "starts, finds 26"):
        assert part in told


def test_faults_that_could_not_be_done_are_not_counted() -> None:
    history_ = replace(sound(), faults=(*sound().faults, Fault("move", "d", 30.0, 30.0, "not done: no answer")))
    assert report.injected(history_) == {"cut off from etcd": 1, "move": 1}
    assert UID in history_.uids()
