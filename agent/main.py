"""`drover-agent`: reads the settings, runs the agent, says in one line why it cannot."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

import uvloop

from drover.agent import logs
from drover.agent.api.errors import CannotListen
from drover.agent.app import Agent, AlreadyRunning
from drover.agent.cgroups import CgroupError
from drover.agent.config import Settings, load_or_exit
from drover.agent.config_errors import ConfigError
from drover.agent.guard.client import GuardFailed
from drover.agent.priority import prefer
from drover.agent.storage.base import StorageError
from drover.agent.tokens import report
from drover.coordinator.join import NotOurCluster, Refused
from drover.coordinator.store import Denied, Unfit

log = logging.getLogger(__name__)

FAILED, USAGE = 1, 2


async def _run(settings: Settings) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await Agent(settings).run()


def _reasons(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [reason for inner in error.exceptions for reason in _reasons(inner)]
    return [error]


def _tokens(arguments: list[str]) -> int:
    """`drover-agent tokens`, with the settings of the agent: its exit status."""
    settings = load_or_exit(arguments, os.environ)
    try:
        print(asyncio.run(report(settings)).model_dump_json(indent=1))  # noqa: T201
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return USAGE
    except StorageError as error:
        print(f"drover-agent: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    return 0


def main() -> None:
    """`drover-agent`, or `drover-agent tokens`. Exit status: 0 as asked, 1 cannot go on, 2 a setting is wrong."""
    if sys.argv[1:2] == ["tokens"]:
        sys.exit(_tokens(sys.argv[2:]))
    settings = load_or_exit(sys.argv[1:], os.environ)
    logs.setup(settings.log_level)
    try:
        prefer(os.getpid())
    except OSError as error:
        log.warning(
            "heartbeats may come late while this machine is busy: the kernel does not prefer this agent: %s", error
        )
    known = (AlreadyRunning, CannotListen, CgroupError, ConfigError, Denied, GuardFailed, NotOurCluster, Refused, Unfit)
    try:
        uvloop.run(_run(settings))
    except asyncio.CancelledError:
        sys.exit(0)
    except BaseException as error:
        reasons = _reasons(error)
        if not all(isinstance(reason, known) for reason in reasons):
            raise
        for reason in reasons:
            line = str(reason) if isinstance(reason, ConfigError) else f"drover-agent: {reason}"
            print(line, file=sys.stderr)  # noqa: T201
        sys.exit(USAGE if any(isinstance(reason, ConfigError) for reason in reasons) else FAILED)
