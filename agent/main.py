"""`drover-agent`: reads the settings, runs the agent, says in one line why it cannot."""

from __future__ import annotations

import asyncio
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
from drover.coordinator.join import NotOurCluster, Refused
from drover.coordinator.store import Denied, Unfit

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


def main() -> None:
    """Exit status: 0 stopped as asked, 1 cannot go on, 2 a setting is wrong."""
    settings = load_or_exit(sys.argv[1:], os.environ)
    logs.setup(settings.log_level)
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
