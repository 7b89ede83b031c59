"""Every check of the model: what is searched, within which bounds, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Expected(StrEnum):
    HOLDS = "holds"
    """Everything that can be reached was looked at, and nothing is wrong anywhere."""
    FAILS = "fails"
    """A rule is switched off, and something goes wrong: so the check can fail, and the rule is needed."""
    REACHED = "reached"
    """The state can be reached: what holds does not hold for want of anything happening."""


@dataclass(frozen=True)
class Check:
    """shows: one line. defines: the bounds, and the rule that is switched off. quick: in `make test`, too."""

    name: str
    shows: str
    model: str
    expected: Expected
    defines: tuple[str, ...] = ()
    quick: bool = False


def _holds(name: str, shows: str, model: str, *defines: str, quick: bool = False) -> Check:
    return Check(name, shows, model, Expected.HOLDS, defines, quick)


def _bad(name: str, shows: str, model: str, *defines: str, quick: bool = False) -> Check:
    return Check(f"without: {name}", shows, model, Expected.FAILS, defines, quick)


def _reach(name: str, model: str, *defines: str) -> Check:
    return Check(f"reach: {name}", "the state is reached", model, Expected.REACHED, defines)


SESSION, GATE, OWNERSHIP, GROUP = "session.pml", "gate.pml", "ownership.pml", "group.pml"
LEAVING = "leaving.pml"
TWO, BLOCK = "N=2", ("N=2", "EXCLUSIVE")
SMALL, LONG = ("ROUNDS=2", "BEATS=2"), ("DEATHS=0",)

DESIGNED = (
    _holds(
        "session, small",
        "who is fenced for silence has passed its deadline",
        SESSION,
        "RESTARTS=0",
        "CRASHES=0",
        "DELETIONS=0",
        quick=True,
    ),
    _holds("session", "the same, with restarts, a reboot, a name clash, a heartbeat that is deleted", SESSION),
    _holds(
        "session, deleted twice",
        "the same, with a heartbeat that is deleted twice",
        SESSION,
        "DELETIONS=2",
        "CRASHES=0",
    ),
    _holds("gate, small", "what is verified is true and stays so; a guard may die anywhere", GATE, *SMALL, quick=True),
    _holds("gate, no death", "the same, with three rounds and three heartbeats", GATE, "DEATHS=0"),
    _holds("gate", "the same, and a guard may die anywhere", GATE),
    _holds("ownership, two nodes", "one writer, epochs, fences, records", OWNERSHIP, TWO, quick=True),
    _holds("ownership", "the same, three nodes", OWNERSHIP),
    _holds(
        "ownership, two faults", "the same, two nodes, two faults, four epochs", OWNERSHIP, TWO, "FAULTS=2", "EPOCHS=4"
    ),
    _holds(
        "ownership, not armed",
        "the same, where silence proves nothing, and a hung agent writes on",
        OWNERSHIP,
        TWO,
        "ARMED=0",
    ),
    _holds("ownership, not armed, three nodes", "the same, no planned moves", OWNERSHIP, "ARMED=0", "MOVES=0"),
    _holds(
        "fences collected",
        "after a fence nothing of it commits, though the fence is deleted",
        OWNERSHIP,
        TWO,
        "COLLECT",
    ),
    _holds(
        "exclusive block, two nodes",
        "one writer, with attach and detach that are late, or come twice",
        OWNERSHIP,
        *BLOCK,
    ),
    _holds(
        "exclusive block, no faults",
        "the same, three nodes, planned moves",
        OWNERSHIP,
        "EXCLUSIVE",
        "FAULTS=0",
        "LIVES=3",
    ),
    _holds(
        "exclusive block, no moves",
        "the same, three nodes, a fault",
        OWNERSHIP,
        "EXCLUSIVE",
        "MOVES=0",
        "REPEATS=0",
        "LIVES=3",
    ),
    _holds("group", "two datasets of a unit are never held apart; all or none", GROUP, quick=True),
    _holds("leaving", "who has left writes nothing; who has vanished holds nothing", LEAVING, quick=True),
    _holds("leaving, called off twice", "the same, longer", LEAVING, "CALLS_OFF=2"),
    _holds("group, two fences", "the same, longer", GROUP, "FENCES=2", "MOVES=3", "EPOCHS=5"),
)

BAD = (
    _bad("W after D_hard", "observers wait shorter than the sender", SESSION, "W=1", quick=True),
    _bad("counted from sending", "deadlines count from the answer", SESSION, "BAD_COUNTED_FROM_ANSWER"),
    _bad("resumed as of the last heartbeat", "a restarted agent counts from now", SESSION, "BAD_RESUMED_FROM_NOW"),
    _bad("the fence compares the heartbeat", "an old picture fences", SESSION, "BAD_FENCE_UNCOMPARED"),
    _bad(
        "placeholder", "a heartbeat that is missing twice is silence", SESSION, "BAD_MISSING_IS_SILENCE", "DELETIONS=2"
    ),
    _bad(
        "the join outwaits another machine",
        "another boot is taken for a reboot",
        SESSION,
        "BAD_JOIN_AT_ONCE",
        quick=True,
    ),
    _bad("the join fences the predecessor", "it only takes the name", SESSION, "BAD_NO_FENCE_AT_JOIN"),
    _bad(
        "enter, then check",
        "a helper checks, then enters the cgroup",
        GATE,
        "BAD_CHECK_BEFORE_ENTER",
        *SMALL,
    ),
    _bad("close, then kill", "the guard kills, then closes", GATE, "BAD_KILL_BEFORE_CLOSE", *SMALL),
    _bad("kill until empty", "one pass over those that are listed", GATE, "BAD_ONE_PASS", *SMALL),
    _bad("wait until empty", "SIGKILL was sent, so it is dead", GATE, "BAD_KILLED_IS_GONE", *SMALL),
    _bad(
        "the round is compared",
        "a job of an earlier round finds the gate open",
        GATE,
        "BAD_ROUND_NOT_COMPARED",
        "ROUNDS=2",
        "DEATHS=0",
    ),
    _bad(
        "verified is a word of its own",
        "closed, and no round begun, is taken for clean; the guard dies there",
        GATE,
        "BAD_LEFT_STANDS_FOR_VERIFIED",
        *SMALL,
    ),
    _bad("an oath is kept", "the gate opens after a sworn round", GATE, "BAD_OPENS_AFTER_THE_OATH", *SMALL, quick=True),
    _bad("opens on a newer heartbeat", "any that is young is enough", GATE, "BAD_OPENS_ON_AN_OLD_BEAT", *LONG),
    _bad("a round begins when it is on the page", "as of the look before", GATE, "BAD_BEGAN_WHEN_LOOKED", *LONG),
    _bad("testimony compares the heartbeat", "it is not compared", GATE, "BAD_TESTIFY_UNCOMPARED", *LONG),
    _bad("armed", "no reset, yet silence is believed", GATE, "BAD_NO_RESET", *SMALL),
    _bad(
        "leases prove nothing",
        "a record whose lease has ended is its holder's death",
        OWNERSHIP,
        TWO,
        "BAD_LEASE_IS_DEATH",
    ),
    _bad(
        "settled by touch",
        "an unanswered handover is settled by reading",
        OWNERSHIP,
        TWO,
        "BAD_SETTLED_BY_READING",
        quick=True,
    ),
    _bad(
        "the rule of life", "a restarted agent does not touch", OWNERSHIP, TWO, "BAD_NO_TOUCH_AFTER_RESTART", quick=True
    ),
    _bad("mod revisions", "epochs are compared", OWNERSHIP, TWO, "BAD_EPOCH_COMPARED", "MOVES=2", "EPOCHS=4"),
    _bad(
        "own fence compared", "a fenced incarnation's transactions commit", OWNERSHIP, TWO, "BAD_OWN_FENCE_NOT_COMPARED"
    ),
    _bad(
        "the ladder before a join",
        "a new incarnation in the same boot, beside what is left",
        OWNERSHIP,
        TWO,
        "BAD_JOIN_WITHOUT_LADDER",
    ),
    _bad(
        "evidence",
        "silence of an unarmed incarnation proves that it has stopped",
        OWNERSHIP,
        TWO,
        "ARMED=0",
        "BAD_SILENCE_OF_UNARMED_PROVES",
        quick=True,
    ),
    _bad(
        "unfenced is carried on",
        "a handover forgets who is to be cut off",
        OWNERSHIP,
        "ARMED=0",
        "BAD_UNFENCED_DROPPED",
    ),
    _bad("no write before active", "mkfs while assigned", OWNERSHIP, "ARMED=0", "BAD_ASSIGNED_WRITES"),
    _bad("reput compares", "the record is put back blindly", OWNERSHIP, TWO, "BAD_REPUT_UNCOMPARED"),
    _bad(
        "tenures outlive specs", "the tenure is deleted with its spec", OWNERSHIP, TWO, "BAD_TENURE_DELETED", quick=True
    ),
    _bad("fences outlive leases", "a fence is deleted at once", OWNERSHIP, TWO, "COLLECT", "BAD_COLLECTED_AT_ONCE"),
    _bad("past the deadline nothing is attached", "it goes on attaching", OWNERSHIP, *BLOCK, "BAD_KEEPS_ATTACHING"),
    _bad(
        "calls are settled",
        "the API has accepted it, so it is done",
        OWNERSHIP,
        *BLOCK,
        "BAD_ACCEPTED_IS_DONE",
        quick=True,
    ),
    _bad(
        "unfenced is carried on (block)",
        "a handover forgets who is to be cut off",
        OWNERSHIP,
        "EXCLUSIVE",
        "BAD_UNFENCED_DROPPED",
        "FAULTS=0",
    ),
    _bad("no write before active (block)", "mkfs while assigned", OWNERSHIP, *BLOCK, "BAD_ASSIGNED_WRITES"),
    _bad(
        "settled by touch (block)",
        "an unanswered handover is settled by reading",
        OWNERSHIP,
        *BLOCK,
        "BAD_SETTLED_BY_READING",
    ),
    _bad(
        "the rule of life (block)", "a restarted agent does not touch", OWNERSHIP, *BLOCK, "BAD_NO_TOUCH_AFTER_RESTART"
    ),
    _bad("the ladder before the last word", "it says that it has left first", LEAVING, "BAD_SAID_BEFORE_THE_LADDER"),
    _bad(
        "the lease goes first", "it reads what it holds first", LEAVING, "BAD_READ_BEFORE_THE_LEASE_IS_GONE", quick=True
    ),
    _bad("what it holds is asked as of now", "a read from the past is believed", LEAVING, "BAD_READ_OF_THE_PAST"),
    _bad("the last word is compared", "it is put whatever is there", LEAVING, "BAD_LAST_UNCOMPARED"),
    _bad(
        "here by a newer beat",
        "a new start is here for others before its heartbeat",
        LEAVING,
        "BAD_HERE_BEFORE_ITS_BEAT",
    ),
    _bad("entitled by a newer beat", "a new start goes by the old one", LEAVING, "BAD_ENTITLED_BY_AN_OLD_BEAT"),
    _bad("its fence compares the heartbeat", "it is not compared", LEAVING, "BAD_FENCE_UNCOMPARED"),
    _bad("all or none", "a transaction on two writes what it can", GROUP, "BAD_NOT_ALL_OR_NONE"),
    _bad("one claim for all", "each dataset is claimed by itself", GROUP, "BAD_ONE_BY_ONE"),
    _bad("the whole unit is compared", "only what is written is compared", GROUP, "BAD_ONLY_WRITTEN_COMPARED"),
    _bad("both are compared", "the first of the unit stands for all", GROUP, "BAD_FIRST_COMPARED", quick=True),
)

REACHED = (
    _reach("a name taken over", SESSION, "REACH_NAME_TAKEN_OVER"),
    _reach("rebooted", SESSION, "REACH_REBOOTED"),
    _reach("resumed after a restart", SESSION, "REACH_RESUMED"),
    _reach("a placeholder stood still", SESSION, "REACH_PLACEHOLDER_FENCED"),
    _reach("open again, a job in the new round", GATE, "REACH_OPEN_AGAIN", "ROUNDS=2"),
    _reach("joined anew, a job of the new incarnation", GATE, "REACH_JOINED_ANEW", "ROUNDS=2"),
    _reach("the guard's testimony", GATE, "REACH_TESTIMONY", "ROUNDS=2"),
    _reach("a reset that was needed", GATE, "REACH_RESET", "ROUNDS=2"),
    _reach("the guard died on the ladder", GATE, "REACH_GUARD_DIED_CLIMBING", "ROUNDS=2"),
    _reach("failed over and mounted", OWNERSHIP, TWO, "REACH_FAIL_OVER"),
    _reach("handed over, no fence", OWNERSHIP, TWO, "REACH_HANDOVER"),
    _reach("a third claimer with two to cut off", OWNERSHIP, "REACH_TWO_TO_CUT_OFF"),
    _reach("a fence of silence that was raised", OWNERSHIP, TWO, "ARMED=0", "REACH_RAISED"),
    _reach("a claim under way, its fence collected", OWNERSHIP, TWO, "COLLECT", "REACH_COLLECTED"),
    _reach("failed over (block)", OWNERSHIP, *BLOCK, "REACH_FAIL_OVER"),
    _reach("left, fenced and followed", LEAVING, "REACH_LEFT_AND_FENCED"),
    _reach("called off, its last word under way", LEAVING, "REACH_CALLED_OFF"),
    _reach("vanished, its claim under way", LEAVING, "REACH_VANISHED"),
    _reach("a unit failed over", GROUP, "REACH_FAIL_OVER"),
    _reach("the second one claimed beside the first", GROUP, "REACH_BESIDE"),
)

CHECKS = (*DESIGNED, *BAD, *REACHED)
