"""How a command can fail, and with which exit code. The texts are for people; scripts read the code.

CliError
├── Failed        1   it was tried and did not work
├── Usage         2   what was typed cannot be meant
├── NotPossible   3   as things stand; the text says what would have to change
├── InUse         4   something uses the dataset
├── NoEtcd        5   no answer from etcd
└── StillGoing    6   the time limit passed, the work goes on without us
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """Exit codes of `drover`; `words` is how errors name them."""

    words: str

    def __new__(cls, number: int, words: str) -> ExitCode:
        member = int.__new__(cls, number)
        member._value_ = number
        member.words = words
        return member

    DONE = 0, "done"
    FAILED = 1, "failed"
    USAGE = 2, "usage"
    NOT_POSSIBLE = 3, "not possible now"
    IN_USE = 4, "in use"
    NO_ETCD = 5, "no etcd"
    STILL_GOING = 6, "timed out, still going"
    INTERRUPTED = 130, "interrupted"


NOTHING_CHANGED = "Nothing was changed."


class CliError(Exception):
    """Base. what: one or more sentences without `error:`. todo: what the user can do, "" where there is nothing.
    outcome: what became of the user's data and intent."""

    code: ClassVar[ExitCode]

    def __init__(self, what: str, todo: str = "", outcome: str = NOTHING_CHANGED) -> None:
        super().__init__(what)
        self.what = what if what.endswith((".", "?", "!")) else f"{what}."
        self.todo = todo
        self.outcome = outcome

    def render(self) -> str:
        """`error: what. Nothing was changed.`, then what to do, then the exit code in words."""
        first = " ".join(part for part in (f"error: {self.what}", self.outcome) if part)
        code = f"[exit {int(self.code)}: {self.code.words}]"
        if not self.todo:
            return f"{first}      {code}"
        return f"{first}\n  " + self.todo.replace("\n", "\n  ") + f"      {code}"

    def as_json(self) -> dict[str, Any]:
        return {
            "error": {
                "code": int(self.code),
                "kind": self.code.words,
                "message": self.what,
                "outcome": self.outcome,
                "todo": self.todo,
            }
        }


class Failed(CliError):
    code = ExitCode.FAILED


class Usage(CliError):
    code = ExitCode.USAGE


class NotPossible(CliError):
    code = ExitCode.NOT_POSSIBLE


class InUse(CliError):
    code = ExitCode.IN_USE


class NoEtcd(CliError):
    code = ExitCode.NO_ETCD


class StillGoing(CliError):
    code = ExitCode.STILL_GOING


class Interrupted(CliError):
    """Ctrl-C: watching ended, nothing else."""

    code = ExitCode.INTERRUPTED
