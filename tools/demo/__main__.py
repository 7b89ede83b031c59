"""Runs the demo: `make demo`, or `python -m tools.demo [--keep]`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FrameType

from tools.demo import story
from tools.demo.stage import DemoFailed, Stage, left_behind
from tools.demo.telling import bad, good, say, shown, title

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TAIL = 12
"""Lines of each log that are shown when the demo fails."""


class Stopped(BaseException):
    """Somebody wants the demo to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number


def main() -> int:
    """The exit status: 0, 1 where something was not as promised, 128 + the number of the signal that ended it."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description="A database, three moves, a power cut.")
    parser.add_argument("--keep", action="store_true", help="leave the playground up, to go on playing")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        bad("demo: run this as root: a playground makes namespaces, mounts and cgroups")
        return 1
    for number in _STOPPING:
        signal.signal(number, _stop)
    try:
        for directory in left_behind(Path(tempfile.gettempdir())):
            title("An earlier demo was killed: ending what it left")
            Stage(directory).down()
        succeeded = _perform(Stage.new(), arguments.keep)
    except DemoFailed as failure:  # of cleaning up
        _explain(failure)
        succeeded = False
    except Stopped as stopped:
        bad(f"demo: {stopped}")
        return stopped.status
    if succeeded:
        if not arguments.keep:
            say("To go on playing in such a cluster: .venv/bin/python -m tools.demo --keep")
        good("demo: OK")
        return 0
    bad("demo: FAILED")
    return 1


def _perform(stage: Stage, keep: bool) -> bool:
    """Whether all was as promised; a failure has been explained. However it ends, nothing is left but what `keep` asks
    for. Raises DemoFailed where cleaning up failed."""
    try:
        story.tell(stage)
    except DemoFailed as failure:
        _explain(failure)
        _look_back(stage)
        return False
    except BaseException:
        keep = False  # it was stopped: there may be no whole playground yet
        raise
    finally:
        _ignore_signals()
        if keep:
            _hand_over(stage)
        else:
            title("Leaving this computer as it was")
            stage.down()
    return True


def _explain(failure: DemoFailed) -> None:
    title("This is not as it should be")
    say(f"Expected: {failure.expected}.")
    say(f"Seen: {failure.seen}")


def _look_back(stage: Stage) -> None:
    """Shows what may explain a failure."""
    with suppress(DemoFailed):  # where etcd is what failed
        shown(stage.show("drover", "show", story.DATASET))
    for log in stage.logs():
        title(f"The end of {log}")
        shown("\n".join(log.read_text(errors="replace").splitlines()[-_TAIL:]) or "(nothing)")


def _hand_over(stage: Stage) -> None:
    stage.keep()
    title("The playground stays up (--keep)")
    say("The database waits for its client, which ends with this demo. All else is yours:")
    shown(
        f"""export PATH={Path(sys.executable).parent}:$PATH
eval "$(drover playground env {stage.directory})"
etcdctl put /drover/desired/{story.DATASET} node-b    # or: drover move {story.DATASET} node-b --wait
drover ls                                   # or: drover show {story.DATASET}; drover nodes
drover playground --help                    # its verbs: kill, start, freeze, partition, exec, ..."""
    )
    say("When you are done:")
    shown(f"drover playground down --delete {stage.directory}")


def _stop(number: int, frame: FrameType | None) -> None:
    _ignore_signals()
    raise Stopped(number)


def _ignore_signals() -> None:
    """Cleaning up is not interrupted; all that it does has a time limit."""
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
