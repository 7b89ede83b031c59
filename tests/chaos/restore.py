"""etcd goes back: restored from a snapshot under everybody's feet, and recovered as an operator does it."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from contextlib import suppress
from functools import partial
from pathlib import Path

from drover.coordinator.cli.errors import CliError
from drover.coordinator.cli.playground import etcd, tools
from drover.coordinator.cli.playground.layout import HTTP_PORT
from drover.coordinator.cli.playground.machine import State
from tests.chaos.arena import Arena
from tests.chaos.record import until

_KEPT = ("--name", "--data-dir", "--initial-advertise-peer-urls", "--initial-cluster", "--initial-cluster-token")
_HALTS = 40.0
"""Seconds in which every agent must have noticed and halted."""


def snapshot(arena: Arena) -> Path | None:
    """Of the first member that gives one; None: etcd does not answer now."""
    path = arena.directory / "snapshot"
    for endpoint in arena.playground.endpoints:
        command = [tools.find("etcdctl"), "--endpoints", endpoint, "snapshot", "save", str(path)]
        with suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):
            subprocess.run(command, check=True, capture_output=True, timeout=5, env=arena.playground.environment)
            return path
    return None


def go_back(arena: Arena, path: Path) -> None:
    """As an operator does: all members off, each made anew from the snapshot, and on again."""
    playground = arena.playground
    arena.cut_power(*(member for member in playground.members if playground.state(member) is not State.OFF))
    for member in playground.members:
        shutil.rmtree(playground.home(member) / "data")
        words = etcd.command(playground.layout, playground.settings, playground.settings.machine(member))
        chosen = [word for flag in _KEPT for word in (flag, words[words.index(flag) + 1])]
        command = [tools.find("etcdctl"), "snapshot", "restore", str(path), *chosen]
        subprocess.run(command, check=True, capture_output=True, timeout=30, env={"ETCDCTL_API": "3"})
    arena.switch_on(*playground.members)


def recover(arena: Arena) -> str:
    """What went wrong; "" where `drover recover` went through. Every agent has halted before."""
    for node in arena.playground.nodes:
        if not until(partial(_halted, arena, node), _HALTS, 0.3):
            return f"{node} does not halt"
    said = ""

    def done() -> bool:
        nonlocal said
        arena.revive()
        try:
            files = [_report(arena, node) for node in arena.playground.nodes]
        except (AssertionError, CliError) as error:
            said = str(error)
            return False
        told = arena.cluster.drover("recover", *files, "--confirm", check=False)
        said = told.stderr if told.returncode else ""
        return not told.returncode

    until(done, 60, 1.0)
    return said


def _halted(arena: Arena, node: str) -> bool:
    """By the agent's own word. A guard that was too slow on a busy machine has reset its node: it is switched on."""
    arena.revive()
    try:
        playground = arena.playground
        url = f"{playground.settings.scheme}://{playground.address(node)}:{HTTP_PORT}/readyz"
        with urllib.request.urlopen(url, timeout=2, context=playground.context):
            return False
    except urllib.error.HTTPError as error:
        return b"drover recover" in error.read()
    except OSError:
        return False


def _report(arena: Arena, node: str) -> str:
    """The file with what the node's back ends have. Raises AssertionError, CliError."""
    file = arena.directory / f"tokens-{node}.json"
    config = str(arena.playground.home(node) / "agent.toml")
    file.write_text(arena.playground.exec(node, tools.find("drover-agent"), "tokens", "--config", config).stdout)
    return str(file)
