"""`drover move`: the wish it writes, whom it refuses, and how `--wait` ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from drover.coordinator.cli import follow as following
from drover.coordinator.cli import move
from drover.coordinator.cli.errors import CliError, Failed, StillGoing
from drover.coordinator.cli.follow import Arrived, Follower, Sight, follow
from drover.coordinator.records import Answers, Asked, Evidence, Phase, State, Status
from drover.coordinator.trace import trace_id
from tests.unit.cli_world import World, world

WISH = "/drover/desired/notes"


@pytest.fixture
def w(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> World:
    made = world(monkeypatch, capsys)
    made.dataset("notes")
    return made


def test_move_writes_the_wish_and_says_from_where_to_where(w: World) -> None:
    w.active("notes", "node-a")
    ran = w.drover("move", "notes", "node-b")
    assert ran.code == 0
    assert w.value(WISH) == "node-b"
    assert "notes: node-a → node-b" in ran.out


def test_move_to_where_it_is_already_writes_nothing_and_says_so(w: World) -> None:
    w.desired("notes", "node-a")
    w.active("notes", "node-a")
    revision = w.cluster.revision
    ran = w.drover("move", "notes", "node-a")
    assert ran.code == 0
    assert "notes is on node-a already" in ran.out
    assert w.cluster.revision == revision


def test_move_to_where_a_fail_over_brought_it_makes_it_stay_there(w: World) -> None:
    w.desired("notes", "node-c")
    w.active("notes", "node-a", 2)
    ran = w.drover("move", "notes", "node-a")
    assert ran.code == 0
    assert "on node-a already, and is meant to stay there" in ran.out
    assert w.value(WISH) == "node-a"


def test_move_back_to_where_it_failed_over_from_is_a_new_wish_to_the_nodes(w: World) -> None:
    """The nodes compare value and create revision: the same value put again would be no new request."""
    w.desired("notes", "node-c")
    w.active("notes", "node-a", 2)
    answered = w.entry(WISH)
    assert w.drover("move", "notes", "node-c").code == 0
    now = w.entry(WISH)
    assert now is not None
    assert answered is not None
    assert now.value == b"node-c"
    assert now.create_revision > answered.create_revision


def test_move_to_an_unknown_node_is_refused_with_the_known_ones(w: World) -> None:
    w.active("notes", "node-a")
    ran = w.drover("move", "notes", "nodeb")
    assert ran.code == 3
    assert "there is no node 'nodeb'. Nothing was changed." in ran.err
    assert "Did you mean node-b" in ran.err
    assert "Nodes that are here: node-a, node-b and node-c." in ran.err
    assert w.entry(WISH) is None


def test_move_to_a_node_that_is_not_here_is_refused_unless_forced(w: World) -> None:
    w.active("notes", "node-a")
    w.silent("node-b")
    ran = w.drover("move", "notes", "node-b")
    assert ran.code == 3
    assert "node-b is silent" in ran.err
    assert "nothing happens until node-b comes" in ran.err
    assert w.entry(WISH) is None
    ran = w.drover("move", "notes", "node-b", "--force")
    assert ran.code == 0
    assert w.value(WISH) == "node-b"
    assert "warning: node-b is silent" in ran.err


def test_move_to_a_cordoned_node_is_refused_unless_forced(w: World) -> None:
    w.cordon("node-b")
    assert w.drover("move", "notes", "node-b").code == 3
    assert w.drover("move", "notes", "node-b", "--force").code == 0


def test_move_to_a_node_without_the_back_end_names_those_that_have_it(w: World) -> None:
    w.node("node-d", backends=["btrfs"])
    ran = w.drover("move", "notes", "node-d", "--force")
    assert ran.code == 3
    assert "node-d does not offer back end 'loopback'" in ran.err
    assert "node-a, node-b and node-c" in ran.err


def test_move_of_an_unknown_dataset_names_those_that_are_like_it(w: World) -> None:
    ran = w.drover("move", "ntoes", "node-a")
    assert ran.code == 3
    assert "Did you mean notes?" in ran.err
    assert w.entry("/drover/desired/ntoes") is None


def test_move_of_a_broken_spec_that_nobody_has_is_refused(w: World) -> None:
    w.dataset("notes", "nonsense")
    assert w.drover("move", "notes", "node-a").code == 3


def test_move_names_what_moves_with_it(w: World) -> None:
    w.dataset("mail")
    w.dataset("logs")
    w.workload("web", "notes", "mail")
    ran = w.drover("move", "notes", "node-a", "--json").json
    assert ran["dataset"]["together"] == ["mail"]
    assert "mail" in w.drover("move", "notes", "node-b").out


# -- how a move ends, sight by sight ------------------------------------------------------------------------------


def sight(w: World, node: str, epoch: int, state: State = State.ACTIVE, **status: object) -> Sight:
    answers = status.pop("answers", Answers())
    tenure = w.tenure("notes", node, epoch, state, answers=answers)
    made = {"phase": Phase.ACTIVE, "node": node, "epoch": status.pop("told", epoch)} | status
    return Sight(tenure, 20, Status.model_validate(made), 20)


def test_a_move_has_ended_when_the_target_is_active_and_says_so(w: World) -> None:
    follower = Follower("notes", "node-b", wish=10)
    assert follower.look(sight(w, "node-a", 3)) is None
    assert follower.look(sight(w, "node-a", 3, phase=Phase.MOVING)) is None
    assert follower.look(sight(w, "node-b", 4, State.ASSIGNED, phase=Phase.STARTING)) is None
    assert follower.look(sight(w, "node-b", 4, cutover_ms=58)) == Arrived("node-b", 4, 58)


def test_a_status_of_an_earlier_epoch_ends_no_move(w: World) -> None:
    follower = Follower("notes", "node-b", wish=10)
    assert follower.look(sight(w, "node-b", 4, told=3)) is None


def test_a_move_has_failed_when_its_node_says_so_with_its_reason(w: World) -> None:
    follower = Follower("notes", "node-b", wish=10)
    outcome = follower.look(sight(w, "node-b", 4, State.ASSIGNED, phase=Phase.FAILED, reason="the image is missing"))
    assert isinstance(outcome, Failed)
    assert "notes did not move to node-b: the image is missing" in outcome.what


def test_a_failure_from_before_the_wish_says_nothing_about_it(w: World) -> None:
    follower = Follower("notes", "node-b", wish=30)
    assert follower.look(sight(w, "node-a", 3, phase=Phase.FAILED)) is None


def test_a_move_has_failed_when_the_target_hands_it_back(w: World) -> None:
    follower = Follower("notes", "node-b", wish=10)
    assert follower.look(sight(w, "node-b", 4, State.ASSIGNED, phase=Phase.STARTING)) is None
    outcome = follower.look(sight(w, "node-a", 5, reason="node-b: no room"))
    assert isinstance(outcome, Failed)
    assert "node-b could not take it, it is on node-a again: node-b: no room" in outcome.what


def test_a_move_has_failed_when_a_newer_wish_sent_it_elsewhere(w: World) -> None:
    follower = Follower("notes", "node-b", wish=10)
    outcome = follower.look(sight(w, "node-c", 4, answers=Answers(value="node-c", revision=5)))
    assert isinstance(outcome, Failed)
    assert "it was sent to node-c instead" in outcome.what


def test_a_warning_about_this_wish_ends_the_wait_at_once_if_new_and_after_a_while_if_old(w: World) -> None:
    warned = sight(w, "node-a", 3, warning="desired node 'node-b' is not here; here are: node-a")
    assert isinstance(Follower("notes", "node-b", wish=10).look(warned), Failed)
    assert Follower("notes", "node-b", wish=30).look(warned) is None
    assert isinstance(Follower("notes", "node-b", wish=30).look(warned, settled=True), Failed)


# -- watching -----------------------------------------------------------------------------------------------------


async def watched(w: World, agents: Callable[[], None], timeout: float = 5.0) -> Arrived | CliError:
    """Follows a move of notes to node-b while `agents` does what agents do."""
    w.active("notes", "node-a", 3)
    wish = w.desired("notes", "node-b")
    seen: list[Status] = []
    watch = asyncio.create_task(follow(w.store, w.keys, "notes", "node-b", wish, timeout, seen.append))
    for _ in range(20):
        await asyncio.sleep(0)
    agents()
    try:
        return await watch
    except CliError as error:
        return error


async def test_wait_sees_the_move_through_to_its_end(w: World) -> None:
    def agents() -> None:
        w.status("notes", "node-a", 3, Phase.MOVING, reason="stops workload web")
        w.tenure("notes", "node-b", 4, State.ASSIGNED)
        w.status("notes", "node-b", 4, Phase.STARTING)
        w.active("notes", "node-b", 4, cutover_ms=58)

    assert await watched(w, agents) == Arrived("node-b", 4, 58)


async def test_wait_survives_a_broken_watch_and_etcd_away_for_a_moment(w: World) -> None:
    def agents() -> None:
        w.store.disconnect()
        w.active("notes", "node-b", 4)
        asyncio.get_running_loop().call_later(0.3, w.store.connect)

    assert await watched(w, agents) == Arrived("node-b", 4, None)


async def test_wait_survives_a_compaction(w: World) -> None:
    def agents() -> None:
        w.store.disconnect()
        w.active("notes", "node-b", 4)
        w.cluster.compact(w.cluster.revision)
        w.store.connect()

    assert await watched(w, agents) == Arrived("node-b", 4, None)


async def test_wait_ends_at_its_limit_with_the_move_going_on(w: World) -> None:
    outcome = await watched(w, lambda: None, timeout=0.3)
    assert isinstance(outcome, StillGoing)
    assert outcome.code == 6
    assert "The move goes on." in outcome.render()


async def test_wait_notices_a_warning_that_was_there_before_and_stays(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "SETTLE", 0.2)
    w.active("notes", "node-a", 3, warning="desired node 'node-b' is not here; here are: node-a")
    wish = w.desired("notes", "node-b")
    with pytest.raises(Failed, match="is not here"):
        await follow(w.store, w.keys, "notes", "node-b", wish, timeout=5.0)


def test_wait_prints_the_likely_gap_the_trace_and_each_step_and_ends_with_epoch_and_cut_over(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def agents(*arguments: object, progress: Callable[[Status], None], **_: object) -> Arrived:
        progress(Status(phase=Phase.MOVING, node="node-a", epoch=3, reason="stops workload web"))
        return Arrived("node-b", 4, 58)

    monkeypatch.setattr(move, "follow", agents)
    w.active("notes", "node-a", 3)
    ran = w.drover("move", "notes", "node-b", "--wait")
    assert ran.code == 0
    asked = Asked.decode((w.value(w.keys.asked("notes")) or "").encode())
    assert ran.out.splitlines() == [
        "notes: node-a → node-b",
        "  gap    unknown: there was no move to go by",
        f"  trace  {trace_id(asked.trace)}",
        "  moving    node-a        stops workload web",
        "  active on node-b, epoch 4, cut-over 58 ms",
    ]


def test_ctrl_c_stops_watching_and_not_the_move(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: object, **__: object) -> Arrived:
        raise KeyboardInterrupt

    monkeypatch.setattr(move, "follow", interrupted)
    w.active("notes", "node-a", 3)
    ran = w.drover("move", "notes", "node-b", "--wait")
    assert ran.code == 130
    assert "stopped watching. The move of notes to node-b goes on." in ran.err
    assert w.value(WISH) == "node-b"


def test_wait_for_what_is_there_already_returns_at_once(w: World) -> None:
    w.desired("notes", "node-a")
    w.active("notes", "node-a")
    assert w.drover("move", "notes", "node-a", "--wait").code == 0


def test_a_dead_holder_is_no_reason_to_say_that_it_is_there_already(w: World) -> None:
    w.desired("notes", "node-a")
    w.active("notes", "node-a")
    w.fence("node-a", Evidence.SILENCE)
    assert w.drover("move", "notes", "node-a").code == 3
    w.node("node-a", life=2)
    ran = w.drover("move", "notes", "node-a")
    assert ran.code == 0
    assert "already" not in ran.out
