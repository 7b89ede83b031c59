"""The agent of one node, apart from its machine: killed, hung, stopped, started."""

from __future__ import annotations

import os
import select
import signal
from enum import StrEnum
from pathlib import Path

from drover.coordinator.cli.errors import Failed, NotPossible
from drover.coordinator.cli.playground import etcd
from drover.coordinator.cli.playground.init import HOLD
from drover.coordinator.cli.playground.layout import Kind
from drover.coordinator.cli.playground.machine import Place

_STOP_LIMIT = 20.0
"""Seconds that a service has to end by itself before it is killed."""


class Action(StrEnum):
    STOP = "stop"
    START = "start"
    RESTART = "restart"


def service_name(place: Place) -> str:
    return f"the agent of {place.machine.name}" if place.machine.kind is Kind.NODE else place.machine.name


def send(place: Place, number: signal.Signals) -> None:
    """A signal to the agent's process alone; its machine starts it again when it ends. Raises NotPossible."""
    place.running()
    gone = NotPossible(f"{service_name(place)} is not running")
    pid = place.service()
    if not pid:
        raise gone
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise gone from None


def stop(place: Place) -> None:
    """SIGTERM, later SIGKILL; it is not started again before `start`. Idempotent. Raises NotPossible, Failed."""
    first = place.running()
    _hold(first).touch()
    pid = place.service()
    if not pid:
        return
    handle = os.pidfd_open(pid)
    try:
        for number, limit in ((signal.SIGTERM, _STOP_LIMIT), (signal.SIGKILL, 5.0)):
            signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], limit)[0]:
                return
    except ProcessLookupError:
        return
    finally:
        os.close(handle)
    raise Failed(f"{service_name(place)} (process {pid}) does not end", outcome="")


def start(place: Place, deadline: float) -> None:
    """Returns when its process is there. Idempotent. deadline: of time.monotonic(). Raises NotPossible, Failed."""
    first = place.running()
    _hold(first).unlink(missing_ok=True)
    os.kill(first, signal.SIGHUP)
    etcd.wait_until(
        lambda: place.service() is not None,
        deadline,
        lambda: f"{service_name(place)} did not start: see {place.layout.log(place.machine)}",
    )


def held(place: Place) -> bool:
    """Whether it was stopped on purpose."""
    first = place.first_process()
    return bool(first) and _hold(first or 0).exists()


def _hold(first: int) -> Path:
    return Path(f"/proc/{first}/root{HOLD}")
