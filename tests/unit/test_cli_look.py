"""`drover ls`, `show` and `nodes`: what people see, and that nothing is hidden from them."""

from __future__ import annotations

import pytest

from drover.coordinator.cli import output
from drover.coordinator.records import Answers, Evidence, Phase, State
from tests.unit.cli_world import World, world


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    made = world(monkeypatch, capsys)
    made.dataset("notes")
    return made


def line(w: World, dataset: str) -> str:
    """The dataset's line in `drover ls`, blanks squeezed."""
    lines = [" ".join(text.split()) for text in w.drover("ls").out.splitlines()]
    assert lines[0] == "DATASET NODE PHASE SIZE BACKEND WHY"
    return next(text for text in lines if text.startswith(f"{dataset} "))


def shown(w: World, dataset: str = "notes") -> str:
    return w.drover("show", dataset).out


def test_ls_is_plain_text_in_columns(w: World) -> None:
    w.active("notes", "node-a")
    assert w.drover("ls").out == (
        "DATASET  NODE    PHASE   SIZE    BACKEND   WHY\nnotes    node-a  active  10 GiB  loopback\n"
    )


def test_ls_says_of_a_new_dataset_how_to_place_it(w: World) -> None:
    assert line(w, "notes") == (
        "notes - waiting 10 GiB loopback nobody has it yet: say where it should be: drover move notes node-a"
    )


def test_ls_shows_a_reason_and_a_warning_in_the_line(w: World) -> None:
    w.active("notes", "node-a", warning="desired node 'nowhere' is not here; here are: node-a")
    assert line(w, "notes").endswith("desired node 'nowhere' is not here; here are: node-a")
    w.status("notes", "node-a", 1, Phase.FAILED, reason="the image is missing")
    assert line(w, "notes") == "notes node-a failed 10 GiB loopback the image is missing"


def test_ls_shows_where_a_dataset_failed_over_from_and_when(w: World) -> None:
    w.tenure(
        "notes", "node-b", 2, evidence=Evidence.SILENCE, because="failed over from node-c (heartbeat still for 7.0 s)"
    )
    w.status("notes", "node-b", 2)
    text = line(w, "notes")
    assert "failed over from node-c" in text
    assert text.endswith(" d ago")


def test_ls_shows_an_invalid_spec_as_a_line_with_the_reason(w: World) -> None:
    w.dataset("typo", '{"backend": "loopback", "size": "10GB?"}')
    w.dataset("wrong", '{"backend": "loopback", "size": "1GiB", "sise": 1}')
    assert "invalid" in line(w, "typo")
    assert "size '10GB?' is not a size" in line(w, "typo")
    assert "sise" in line(w, "wrong")
    assert line(w, "typo").count("10GB?") == 1
    assert w.drover("ls").code == 0


def test_ls_shows_names_that_can_be_none_without_their_control_characters(w: World) -> None:
    w.dataset("bad\x1b[31mname")
    out = w.drover("ls").out
    assert "\x1b" not in out
    assert "bad\\x1b[31mname" in out


def test_ls_shows_a_wish_for_a_dataset_that_never_was(w: World) -> None:
    w.desired("nots", "node-a")
    assert line(w, "nots") == "nots - invalid - - it has no spec, only a desired node"


def test_ls_does_not_believe_the_status_of_a_dead_node(w: World) -> None:
    w.active("notes", "node-a")
    w.fence("node-a")
    assert line(w, "notes") == "notes - waiting 10 GiB loopback node-a has died; failover: none"


def test_ls_says_when_the_node_of_an_active_dataset_is_silent(w: World) -> None:
    w.active("notes", "node-a")
    w.silent("node-a")
    assert line(w, "notes") == "notes node-a active 10 GiB loopback node-a is silent"


def test_ls_does_not_believe_the_status_of_an_earlier_epoch(w: World) -> None:
    w.status("notes", "node-a", 1)
    w.tenure("notes", "node-b", 2, State.ASSIGNED)
    assert line(w, "notes").startswith("notes node-b starting")


def test_ls_names_what_was_removed_and_whose_data_is_kept(w: World) -> None:
    w.delete(w.keys.dataset("notes"))
    w.tenure("notes", "node-a", state=State.RELEASED)
    w.tenure("mail", "node-a", state=State.DESTROYED)
    ran = w.drover("ls")
    assert "removed, data kept: notes. To see them: drover ls --all" in ran.err
    assert "removed, data kept" not in w.drover("ls", "--all").err


def test_ls_leaves_out_what_was_removed_unless_asked(w: World) -> None:
    w.delete(w.keys.dataset("notes"))
    w.tenure("notes", "node-a", state=State.RELEASED)
    assert "notes" not in w.drover("ls").out
    assert "the data is kept (uid cafe)" in w.drover("ls", "--all").out


def test_ls_says_below_the_table_what_nobody_acts_on(w: World) -> None:
    w.active("notes", "node-a")
    w.put(w.keys.workload("web"), "nonsense")
    w.put("/drover/desird/notes", "node-b")
    w.put("/drover/dataset", "x")
    w.put("/drover/desired", "x")
    ran = w.drover("ls")
    assert len(ran.out.splitlines()) == 2
    assert ran.err.splitlines() == [
        "ignored: dataset: there is no such kind of key. Did you mean datasets?",
        "ignored: desird/notes: there is no such kind of key. Did you mean desired?",
        "ignored: desired: a name is missing: desired/NAME",
        "ignored: workloads/web: the value is not JSON: 'nonsense'",
    ]
    assert w.drover("ls", "--json").json["ignored"]["workloads/web"] == "the value is not JSON: 'nonsense'"


def test_show_says_that_a_workload_which_names_it_cannot_be_read(w: World) -> None:
    w.active("notes", "node-a")
    w.put(w.keys.workload("web"), '{"datasets": ["notes"], "command": "sleep"}')
    assert "ignored   workload web: command: " in shown(w)


def test_ls_of_nothing_says_what_to_do(w: World) -> None:
    w.delete(w.keys.dataset("notes"))
    ran = w.drover("ls")
    assert (ran.code, ran.out) == (0, "")
    assert "drover create" in ran.err


def test_a_record_that_cannot_be_read_is_shown_and_hides_nothing_else(w: World) -> None:
    w.put(w.keys.owner("notes"), "garbage")
    w.dataset("mail")
    w.active("mail", "node-a")
    assert "mail" in w.drover("ls").out
    assert "/drover/owners/notes: the value is not JSON" in shown(w)


def test_long_reasons_wrap_below_themselves_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [["notes", "word " * 20]]
    assert len(output.table(("DATASET", "WHY"), rows).splitlines()) == 2
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    wrapped = output.table(("DATASET", "WHY"), rows).splitlines()
    assert len(wrapped) > 3
    assert all(len(text) <= 50 for text in wrapped)
    assert all(text.startswith(" " * 9 + "word") for text in wrapped[2:])


def test_colour_is_for_terminals_that_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.colour("active", "green") == "active"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert output.colour("active", "green") == "\x1b[32mactive\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.colour("active", "green") == "active"


# -- show ---------------------------------------------------------------------------------------------------------


def test_show_begins_with_where_it_is(w: World) -> None:
    w.active("notes", "node-b", 4)
    assert shown(w).splitlines()[0].startswith("notes  active on node-b, epoch 4, since ")


def test_show_tells_path_spec_and_policies_in_words(w: World) -> None:
    w.desired("notes", "node-b")
    w.active("notes", "node-b", 4, cutover_ms=58)
    text = shown(w)
    for part in (
        "/srv/drover/notes",
        "10 GiB, back end loopback",
        "none — if its node dies, notes waits for it; nobody else takes it",
        "hard — nobody else writes before there is proof that the old node has stopped",
        "retain — drover rm keeps the data",
        "58 ms",
        "uid cafe",
    ):
        assert part in text


def test_show_says_after_a_fail_over_that_desired_was_answered_and_how_to_move_it_back(w: World) -> None:
    w.desired("notes", "node-a")
    w.active("notes", "node-b", 2)
    told = "node-a (answered; it stays on node-b until it is moved, for example back: drover move notes node-a)"
    assert told in shown(w)
    w.delete(w.keys.desired("notes"))
    w.desired("notes", "node-a")
    w.tenure("notes", "node-b", 2, answers=Answers(value="node-a", revision=1))
    assert "answered" not in shown(w)


def test_show_says_whose_wish_counts_for_datasets_that_move_together(w: World) -> None:
    w.workload("web", "notes", "mail")
    w.dataset("mail")
    w.desired("notes", "node-a")
    w.active("notes", "node-b", 2)
    w.desired("mail", "node-b")
    assert "node-a (the newer wish for mail, which it moves with, counts)" in shown(w)


def test_show_lists_the_last_five_epochs_newest_first_with_their_evidence(w: World) -> None:
    for epoch in range(1, 8):
        w.history("notes", epoch, "node-b", "node-a", Evidence.SILENCE if epoch == 7 else None)
    w.active("notes", "node-b", 7)
    lines = shown(w).splitlines()
    first = next(number for number, text in enumerate(lines) if text.split()[:1] == ["EPOCH"])
    assert [text.split()[0] for text in lines[first + 1 :]] == ["7", "6", "5", "4", "3"]
    assert "silence" in lines[first + 1]


def test_show_of_an_unknown_dataset_names_those_that_are_like_it(w: World) -> None:
    ran = w.drover("show", "notse")
    assert ran.code == 3
    assert "Did you mean notes?" in ran.err


def said_next(w: World) -> tuple[str, str]:
    after = w.drover("show", "notes", "--json").json["next"]
    return after["who"], after["what"]


def test_nobody_has_to_do_anything_about_an_active_dataset(w: World) -> None:
    w.active("notes", "node-a")
    assert said_next(w) == ("nobody", "")


def test_a_dataset_whose_node_died_without_failover_needs_a_person(w: World) -> None:
    w.active("notes", "node-a")
    w.fence("node-a")
    assert said_next(w) == ("you", "bring node-a back, or say where it should be: drover move notes node-b")
    assert "needs you" in shown(w)


def test_a_dataset_whose_node_died_with_failover_goes_on_by_itself(w: World) -> None:
    w.dataset("notes", '{"backend": "loopback", "size": "10GiB", "failover": ["node-b"]}')
    w.active("notes", "node-a")
    w.fence("node-a")
    assert said_next(w) == ("drover", "node-b may take it")
    assert "on its own" in shown(w)


def test_a_silent_node_is_waited_for_no_longer_than_its_heartbeat_says(w: World) -> None:
    w.active("notes", "node-a")
    w.beat("node-a", d_hard=6.5)
    w.silent("node-a")
    assert said_next(w) == ("drover", "node-a comes back, or is fenced in at most 7 s")


def test_a_node_whose_machine_shut_down_is_waited_for_as_long_as_it_said(w: World) -> None:
    w.active("notes", "node-a")
    w.left("node-a", longer=300.0)
    assert "silent" not in line(w, "notes")
    assert said_next(w) == ("drover", "node-a comes back, or is fenced in at most 5 min")
    lines = [text.split() for text in w.drover("nodes").out.splitlines()]
    assert lines[1][:2] == ["node-a", "left"]
    assert " ".join(lines[1]).endswith("its machine shut down; it is waited for, 5 min")


def test_a_holder_that_may_still_write_needs_a_persons_word_where_no_other_proof_comes(w: World) -> None:
    w.fence("node-a", Evidence.SILENCE, armed=False)
    w.tenure("notes", "node-b", 2, State.ASSIGNED, unfenced=(w.holder("node-a"),))
    who, what = said_next(w)
    assert who == "you"
    assert "drover fence node-a.boot1.00000001 --confirm" in what
    assert "node-a (node-a.boot1.00000001)" in shown(w)


def test_a_holder_whose_reset_was_armed_needs_no_word(w: World) -> None:
    w.fence("node-a", Evidence.SILENCE, armed=True)
    w.tenure("notes", "node-b", 2, State.ASSIGNED, unfenced=(w.holder("node-a"),))
    assert said_next(w) == ("drover", "node-b is at work on it")


def test_a_dataset_whose_spec_was_deleted_is_given_up_once_nothing_uses_it(w: World) -> None:
    w.active("notes", "node-a")
    w.workload("web", "notes")
    w.delete(w.keys.dataset("notes"))
    assert line(w, "notes") == "notes node-a active - loopback its spec was deleted"
    assert said_next(w) == ("you", "remove workload web, which uses it")
    w.delete(w.keys.workload("web"))
    assert said_next(w) == ("drover", "node-a gives it up")
    w.fence("node-a")
    assert line(w, "notes").endswith("which had it, has died; the data is kept (uid cafe)")


def test_a_wish_for_a_live_node_is_followed_whatever_failover_says(w: World) -> None:
    w.active("notes", "node-a")
    w.fence("node-a")
    w.desired("notes", "node-b")
    assert said_next(w) == ("drover", "node-b takes it")


def test_a_failed_dataset_needs_what_its_reason_says(w: World) -> None:
    w.active("notes", "node-a")
    w.status("notes", "node-a", 1, Phase.FAILED, reason="the image is missing: put it back")
    assert said_next(w) == ("you", "the image is missing: put it back")


def test_a_wish_for_a_node_that_is_not_here_names_those_that_are(w: World) -> None:
    w.desired("notes", "node-x")
    assert said_next(w) == ("you", "start node-x, or choose one of: node-a, node-b and node-c")


# -- nodes --------------------------------------------------------------------------------------------------------


def test_nodes_lists_state_datasets_and_what_is_offered(w: World) -> None:
    w.active("notes", "node-a")
    w.silent("node-b")
    w.fence("node-c")
    lines = [text.split() for text in w.drover("nodes").out.splitlines()]
    assert lines[0] == ["NODE", "STATE", "SINCE", "DATASETS", "BACKENDS", "VERSION", "ADDRESS", "WHY"]
    assert lines[1][:2] == ["node-a", "live"]
    assert lines[1][5:] == ["1", "loopback", "0.1.0", "10.0.0.1"]
    assert lines[2][:2] == ["node-b", "silent"]
    assert " ".join(lines[2]).endswith("its session has ended at heartbeat 7")
    assert lines[3][:2] == ["node-c", "fenced"]
    assert " ".join(lines[3]).endswith("silence (heartbeat still for 7.0 s)")


def test_nodes_shows_a_node_that_came_back_after_a_fence_as_live(w: World) -> None:
    w.fence("node-a")
    w.node("node-a", life=2)
    assert w.drover("nodes", "--json").json["nodes"][0]["state"] == "live"


def test_nodes_says_who_is_cordoned_and_why(w: World) -> None:
    w.cordon("node-a")
    assert "cordoned: new disks" in w.drover("nodes").out


def test_nodes_of_nothing_says_so(w: World) -> None:
    for name in ("node-a", "node-b", "node-c"):
        w.delete(w.keys.node(name))
        w.delete(w.keys.heartbeat(name))
    assert "No nodes yet" in w.drover("nodes").err
