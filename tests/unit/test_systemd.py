"""What systemd is told of the agent, and the units that are shipped."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from drover.agent.api.source import ETCD, SESSION
from drover.agent.install import install, shipped
from drover.agent.sight import Sight
from drover.agent.systemd import OF_D_SOFT, Systemd

D_SOFT = 0.3
WATCHDOG = D_SOFT * OF_D_SOFT
AGENT = Path(sys.executable).with_name("drover-agent")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.setblocking(False)
        yield bound


@pytest.fixture
def systemd(manager: socket.socket) -> Systemd:
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "9", "WATCHDOG_PID": "1", "PATH": "/bin"}
    made = Systemd.take(environ)
    assert environ == {"PATH": "/bin"}, "nothing that the agent starts may speak for it"
    return made


class Node(Sight):
    """An agent whose health the test decides."""

    def __init__(self) -> None:
        super().__init__("node-a")
        self.now: dict[str, str | None] = {ETCD: None, SESSION: None}

    def health(self) -> dict[str, str | None]:
        return self.now


def told(manager: socket.socket) -> list[str]:
    """All lines since the last call."""
    lines: list[str] = []
    with suppress(BlockingIOError):
        while True:
            lines += manager.recv(4096).decode().split("\n")
    return lines


async def test_ready_comes_first_then_each_status_once_and_stopping_last(
    systemd: Systemd, manager: socket.socket
) -> None:
    node = Node()
    task = asyncio.create_task(systemd.keep(node, D_SOFT))
    await asyncio.sleep(WATCHDOG)
    first = told(manager)
    assert first[:3] == ["READY=1", f"WATCHDOG_USEC={WATCHDOG * 1e6:.0f}", "STATUS=ready, 0 datasets here"]
    assert first.count("READY=1") == 1
    assert sum(line.startswith("STATUS=") for line in first) == 1
    node.now[ETCD] = "etcd does not answer"
    node.ring()
    await asyncio.sleep(WATCHDOG / 10)
    assert "STATUS=not ready: etcd: etcd does not answer" in told(manager)
    node.now |= {ETCD: None, "backend.loopback": "its directory is gone"}
    node.ring()
    await asyncio.sleep(WATCHDOG / 10)
    assert "STATUS=ready, 0 datasets here; backend.loopback: its directory is gone" in told(manager)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert told(manager)[-1] == "STOPPING=1"


async def test_signs_of_life_are_sent_only_while_the_event_loop_turns(systemd: Systemd, manager: socket.socket) -> None:
    task = asyncio.create_task(systemd.keep(Node(), D_SOFT))
    await asyncio.sleep(2 * WATCHDOG)
    assert told(manager).count("WATCHDOG=1") >= 4
    time.sleep(2 * WATCHDOG)  # noqa: ASYNC251 - the loop hangs
    assert told(manager) == []
    await asyncio.sleep(WATCHDOG / 2)
    assert "WATCHDOG=1" in told(manager)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_systemd_that_does_not_take_what_it_is_told_harms_nobody(
    systemd: Systemd, manager: socket.socket, tmp_path: Path
) -> None:
    (tmp_path / "notify").unlink()
    task = asyncio.create_task(systemd.keep(Node(), D_SOFT))
    await asyncio.sleep(WATCHDOG)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_without_systemd_nothing_is_said_and_nothing_waits() -> None:
    alone = Systemd.take({})
    assert not alone.started_us
    await asyncio.wait_for(alone.keep(Node(), D_SOFT), 1)


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    subprocess.run([AGENT, "install", tmp_path], check=True, capture_output=True, timeout=30)
    units = sorted((tmp_path / "etc/systemd/system").glob("*.service"))
    assert [unit.name for unit in units] == ["drover-agent.service", "drover-shutdown.service"]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_installing_again_keeps_the_settings_that_are_there(tmp_path: Path) -> None:
    install(tmp_path, "/opt/drover/bin/drover-agent")
    settings = tmp_path / "etc/drover/agent.toml"
    assert settings.read_text() == (shipped() / "agent.toml").read_text()
    settings.write_text('node = "mine"\n')
    assert settings not in install(tmp_path, "/opt/drover/bin/drover-agent")
    assert settings.read_text() == 'node = "mine"\n'


def test_the_units_run_the_program_that_installed_them(tmp_path: Path) -> None:
    install(tmp_path, "/opt/drover/bin/drover-agent")
    for unit in (tmp_path / "etc/systemd/system").glob("*.service"):
        assert "/usr/bin/drover-agent" not in unit.read_text()
        assert "/opt/drover/bin/drover-agent" in unit.read_text()


@pytest.mark.parametrize(("program", "file"), [("sysusers", "sysusers.d"), ("tmpfiles", "tmpfiles.d")])
def test_users_and_directories_are_made_as_the_files_say(tmp_path: Path, program: str, file: str) -> None:
    install(tmp_path, "/usr/bin/drover-agent")
    (tmp_path / "etc/passwd").touch()
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    for name in ("sysusers", "tmpfiles") if program == "tmpfiles" else ("sysusers",):
        command = [f"systemd-{name}", f"--root={tmp_path}", *(["--create"] if name == "tmpfiles" else [])]
        subprocess.run([*command, f"{tmp_path}/etc/{name}.d/drover.conf"], check=True, timeout=30)
    assert "drover:" in (tmp_path / "etc/group").read_text()
    if program == "tmpfiles":
        assert (tmp_path / "etc/drover").stat().st_mode & 0o777 == 0o750
        assert (tmp_path / "var/lib/drover").stat().st_mode & 0o777 == 0o700
