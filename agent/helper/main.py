"""The helper: a process that can write to storage, and does so inside a dataset's cgroup and behind the gate only.

It is started beforehand and waits. For a job it first enters the dataset's cgroup and then looks at the gate; the guard
first closes the gate and then kills that cgroup until it is empty. So whatever the two meet in, nothing is
written after the guard has finished. Its socket is all that holds it: when the agent is gone, an idle helper ends.

Entering a cgroup costs the first process after a quiet time 8 ms (an RCU grace period), the next one 0.15 ms. So a
helper can be sent there before the job is known (`prepare`), and it answers before it leaves.
"""

from __future__ import annotations

import importlib
import json
import signal
import socket
import sys
from io import BufferedRWPair
from pathlib import Path
from typing import Any

from drover.agent.cgroups import Cgroups
from drover.agent.guard.page import Page
from drover.agent.helper.wire import error_to_wire, line
from drover.agent.storage.base import GateClosed
from drover.coordinator.clock import read_clock

IDLE = "helpers"
"""The cgroup of helpers that have nothing to do."""


class Helper:
    """Answers requests until its socket ends."""

    def __init__(self, stream: BufferedRWPair, cgroups: Cgroups, gate: Page) -> None:
        self._stream = stream
        self._cgroups = cgroups
        self._gate = gate
        self._where = ""

    def serve(self) -> None:
        self._enter(IDLE)
        self._say({"ready": True})
        for request in self._stream:
            self._handle(json.loads(request))

    def _handle(self, request: dict[str, Any]) -> None:
        if "prepare" in request:
            self._enter(request["prepare"])
            self._say({"ready": True})
            return
        try:
            self._enter(request["cgroup"])
            answer = {"result": self._run(request)}
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
            answer = {"error": error_to_wire(error, request["function"])}
        self._say(answer)
        self._enter(IDLE)
        self._say({"ready": True})

    def _run(self, request: dict[str, Any]) -> Any:
        if not self._gate.admits(request["round"], read_clock()):
            raise GateClosed("this node's deadline has passed: nothing was done")
        module, _, name = request["function"].partition(":")
        return getattr(importlib.import_module(module), name)(**request["arguments"])

    def _enter(self, path: str) -> None:
        if path != self._where:
            self._cgroups.make(path)
            self._cgroups.enter(path)
            self._where = path

    def _say(self, message: dict[str, Any]) -> None:
        self._stream.write(line(message))
        self._stream.flush()


def main() -> None:
    """Arguments: the socket's descriptor, the root of the cgroups, the gate, modules to import beforehand."""
    descriptor, root, gate, *modules = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the agent; EOF follows
    connection = socket.socket(fileno=int(descriptor))
    connection.set_inheritable(False)
    for module in modules:
        importlib.import_module(module)
    try:
        with connection.makefile("rwb") as stream, Page(Path(gate)) as page:
            Helper(stream, Cgroups(Path(root)), page).serve()
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # the agent is gone, and with it whoever wanted the answer


if __name__ == "__main__":
    main()
