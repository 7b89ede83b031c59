"""`drover-agent`: reads the settings, runs the agent, says in one line why it cannot."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
from pathlib import Path

import uvloop

from drover.agent import logs
from drover.agent.alone import AlreadyRunning
from drover.agent.api.errors import CannotListen
from drover.agent.app import Agent
from drover.agent.cgroups import CgroupError
from drover.agent.config import Settings, load_or_exit
from drover.agent.config_errors import ConfigError
from drover.agent.control import NoAgent, shut_down
from drover.agent.examine import examine
from drover.agent.guard.client import GuardFailed
from drover.agent.install import install
from drover.agent.priority import prefer
from drover.agent.storage.base import StorageError
from drover.agent.systemd import Systemd
from drover.agent.tokens import report
from drover.coordinator.join import NotOurCluster, Refused
from drover.coordinator.store import Denied, Unfit

log = logging.getLogger(__name__)

FAILED, USAGE = 1, 2


async def _run(settings: Settings, systemd: Systemd) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    await Agent(settings, systemd).run()


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


def _install(arguments: list[str]) -> int:
    """`drover-agent install [ROOT]`: its exit status."""
    if len(arguments) > 1 or arguments[:1] in (["--help"], ["-h"]):
        print("Usage: drover-agent install [ROOT]\n\nWrites units and settings below ROOT/etc (ROOT: /).")  # noqa: T201
        return 0 if len(arguments) == 1 else USAGE
    try:
        for path in install(Path(*arguments[:1] or "/"), os.path.abspath(sys.argv[0])):
            print(path)  # noqa: T201
    except OSError as error:
        print(f"drover-agent: {error.filename}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return FAILED
    return 0


def _shutdown(arguments: list[str]) -> int:
    """`drover-agent shutdown`, with the settings of the agent: its exit status."""
    settings = load_or_exit(arguments, os.environ)
    try:
        outcome = asyncio.run(shut_down(settings.run_dir, settings.shutdown_timeout))
    except NoAgent as error:
        print(f"drover-agent: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    print(f"drover-agent: {outcome.told}", file=sys.stdout if outcome.clean else sys.stderr)
    return 0 if outcome.clean else FAILED


def _examine(arguments: list[str]) -> int:
    """`drover-agent examine`, with the settings of the agent: its exit status."""
    print(asyncio.run(examine(load_or_exit(arguments, os.environ))).model_dump_json(indent=1))  # noqa: T201
    return 0


_COMMANDS = {"tokens": _tokens, "examine": _examine, "install": _install, "shutdown": _shutdown}


def main() -> None:
    """`drover-agent`, or one of its commands. Exit status: 0 as asked, 1 cannot go on, 2 a setting is wrong."""
    if (command := _COMMANDS.get(sys.argv[1] if len(sys.argv) > 1 else "")) is not None:
        sys.exit(command(sys.argv[2:]))
    settings = load_or_exit(sys.argv[1:], os.environ)
    logs.setup(settings.log_level, settings.log_format)
    faulthandler.enable()  # SIGABRT, by systemd's watchdog: where the event loop hangs is in the journal
    try:
        prefer(os.getpid())
    except OSError as error:
        log.warning(
            "heartbeats may come late while this machine is busy: the kernel does not prefer this agent: %s", error
        )
    known = (AlreadyRunning, CannotListen, CgroupError, ConfigError, Denied, GuardFailed, NotOurCluster, Refused, Unfit)
    try:
        uvloop.run(_run(settings, Systemd.take(os.environ)))
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
