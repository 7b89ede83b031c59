"""The guard: when the deadline has passed, nothing of this node writes, whatever has become of the agent.

Real processes and cgroups; the agent's side is this test.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from drover.agent.cgroups import Cgroups
from drover.agent.guard.client import Guard, GuardFailed
from drover.agent.guard.ladder import Cut
from drover.agent.guard.page import Page
from drover.agent.guard.settings import NOTHING, REBOOT, Files, GuardSettings, LadderRecord
from drover.agent.guard.watchdog import Watchdog
from drover.agent.helper.pool import HelperPool
from drover.agent.storage.base import GateClosed, HelperDied, StorageError
from drover.coordinator.clock import read_clock
from drover.coordinator.timings import PROFILES

ROOT = Path(__file__).parents[2]
D_SOFT, D_IO = 0.6, 1.2


@pytest.fixture
def cgroups(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cgroups]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cgroups = Cgroups.find(f"drover-test-{os.getpid()}-{secrets.token_hex(4)}")
    cgroups.make("guard")
    yield cgroups
    assert cgroups.kill_all(["guard", "datasets", "workloads"], 5) == []
    for path in ("guard", "datasets", "workloads"):
        cgroups.remove(path)
    cgroups.root.rmdir()


@pytest.fixture
def settings(cgroups: Cgroups, tmp_path: Path) -> GuardSettings:
    cut = Cut("tests.contract.guard_jobs:cut", {"device": str(tmp_path / "device")})
    testify = ("/bin/sh", "-c", f"echo stopped >> {tmp_path}/testimony")
    return GuardSettings(str(cgroups.root), (cut,), NOTHING, 1.0, testify, "1")


@pytest.fixture
async def guard(settings: GuardSettings, tmp_path: Path) -> AsyncIterator[Guard]:
    async with guarded(tmp_path, settings) as guard:
        await opens(guard)
        yield guard


Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def write(cgroups: Cgroups) -> Iterator[Start]:
    """Starts a workload that ignores all that can be ignored."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["/bin/sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1; done"])
        started.append(process)
        cgroups.make("workloads/db")
        cgroups.enter("workloads/db", process.pid)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@asynccontextmanager
async def guarded(run_dir: Path, settings: GuardSettings) -> AsyncIterator[Guard]:
    """As an agent has it that starts."""
    with Guard(run_dir) as guard:
        await guard.start(settings)
        yield guard


async def opens(guard: Guard, seconds: float = D_SOFT) -> None:
    """As after a heartbeat that was answered. seconds: until D_soft."""
    async with asyncio.timeout(10):
        while True:
            guard.extend(read_clock(), seconds, seconds + D_IO - D_SOFT)
            guard.ask_open()
            if await guard.opened(0.3):
                return


def beat(guard: Guard) -> None:
    guard.extend(read_clock(), D_SOFT, D_IO)


async def outcome(job: Awaitable[object]) -> object:
    """Its result, or the StorageError that it raised."""
    try:
        return await job
    except StorageError as error:
        return error


def stopped(pid: int) -> bool:
    """Or gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except FileNotFoundError:
        return True


async def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


def record(tmp_path: Path) -> LadderRecord:
    found = LadderRecord.load(Files(tmp_path).record)
    assert found is not None
    return found


async def test_while_the_deadline_moves_on_nothing_is_stopped(guard: Guard, write: Start) -> None:
    writer = write()
    ends = time.monotonic() + 3 * D_SOFT
    while time.monotonic() < ends:
        beat(guard)
        await asyncio.sleep(0.05)
    assert guard.round is not None
    assert writer.poll() is None


async def test_when_the_deadline_has_passed_writers_are_killed_devices_cut_and_it_is_written_down(
    guard: Guard, write: Start, cgroups: Cgroups, tmp_path: Path
) -> None:
    (tmp_path / "session.json").write_text('{"incarnation": "node-a.1.2", "lease": 3}')
    (tmp_path / "device").touch()
    writer = write()
    began = time.monotonic()
    beat(guard)
    await until(lambda: writer.poll() is not None)
    assert time.monotonic() - began >= D_SOFT
    assert await guard.stopped(5) == []
    assert not cgroups.populated("workloads")
    assert not (tmp_path / "device").exists()
    written = record(tmp_path)
    assert (written.left, written.incarnation) == ((), "node-a.1.2")
    assert "no heartbeat of this node was answered" in written.reason


@pytest.mark.parametrize("where", ["before it enters the cgroup", "between the gate and its work"])
async def test_a_helper_that_was_stopped_while_the_ladder_ran_does_nothing_when_it_goes_on(
    guard: Guard, cgroups: Cgroups, tmp_path: Path, where: str
) -> None:
    written = tmp_path / "written"
    cgroups.make("helpers")
    async with HelperPool(cgroups, guard, ["tests.contract.helper_jobs"], size=1) as pool:
        await until(lambda: cgroups.pids("helpers") != [])
        [helper] = cgroups.pids("helpers")
        await opens(guard, 60)
        arguments = {"path": str(written), "stop": where != "before it enters the cgroup"}
        if not arguments["stop"]:
            os.kill(helper, signal.SIGSTOP)
        job = asyncio.create_task(outcome(pool.run("d", "tests.contract.helper_jobs:touch", arguments, 20.0)))
        await asyncio.sleep(0.1)  # it has been sent
        await until(lambda: stopped(helper))
        guard.close()
        assert await guard.stopped(5) == []
        with suppress(ProcessLookupError):
            os.kill(helper, signal.SIGCONT)
        assert isinstance(await job, GateClosed | HelperDied)
    assert not written.exists()
    assert cgroups.kill_all(["helpers"], 5) == []
    cgroups.remove("helpers")


async def test_it_does_so_when_the_agent_is_stopped_in_the_middle(
    settings: GuardSettings, cgroups: Cgroups, write: Start, tmp_path: Path
) -> None:
    agent = await other_agent(settings, tmp_path)
    writer = write()
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        await until(lambda: writer.poll() is not None)
    finally:
        agent.kill()
        agent.wait()


async def test_it_does_so_when_the_agent_is_killed_and_nobody_comes_after_it(
    settings: GuardSettings, cgroups: Cgroups, write: Start, tmp_path: Path
) -> None:
    (tmp_path / "session.json").write_text('{"incarnation": "node-a.1.2", "lease": 3}')
    agent = await other_agent(settings, tmp_path)
    writer = write()
    agent.kill()
    agent.wait()
    await until(lambda: writer.poll() is not None)
    await until(lambda: (tmp_path / "testimony").exists())
    assert record(tmp_path).left == ()


async def test_an_agent_that_comes_after_another_goes_on_with_the_same_guard_and_nothing_is_stopped(
    settings: GuardSettings, write: Start, cgroups: Cgroups, tmp_path: Path
) -> None:
    async with guarded(tmp_path, settings) as first:
        await opens(first, 60)
        writer = write()
        [pid] = cgroups.pids("guard")
    async with guarded(tmp_path, settings) as second:
        assert cgroups.pids("guard") == [pid]
        assert second.round is not None
        assert writer.poll() is None


async def test_new_settings_are_taken_over_by_the_guard_that_runs_and_nothing_is_stopped(
    settings: GuardSettings, write: Start, cgroups: Cgroups, tmp_path: Path
) -> None:
    async with guarded(tmp_path, settings) as first:
        await opens(first, 60)
        writer = write()
        [pid] = cgroups.pids("guard")
    async with guarded(tmp_path, replace(settings, resets=REBOOT)) as second:
        assert cgroups.pids("guard") == [pid]
        assert second.armed
        assert second.round is not None
        assert writer.poll() is None
        second.close()
        assert await second.stopped(5) == []


async def test_an_agent_that_finds_itself_fenced_has_everything_stopped_at_once(
    guard: Guard, write: Start, cgroups: Cgroups
) -> None:
    await opens(guard, 60)
    writer = write()
    guard.close()
    assert await guard.stopped(5) == []
    assert guard.round is None
    assert writer.wait(5) == -signal.SIGKILL
    assert not cgroups.populated("workloads")


async def test_the_gate_opens_again_after_heartbeats_are_answered_and_in_another_round(guard: Guard) -> None:
    before = guard.round
    await until(lambda: guard.round is None)
    assert await guard.stopped(5) == []
    guard.ask_open()
    assert not await guard.opened(0.3)
    await opens(guard)
    assert before is not None
    assert guard.round is not None
    assert guard.round > before


async def test_what_cannot_be_cut_is_said_and_tried_again_and_the_gate_stays_closed(
    guard: Guard, tmp_path: Path
) -> None:
    (tmp_path / "device").mkdir()  # which the cut of these tests does not remove
    guard.close()
    assert await guard.stopped(1) == [f"{tmp_path}/device is still there"]
    beat(guard)
    guard.ask_open()
    assert not await guard.opened(0.3)
    (tmp_path / "device").rmdir()
    assert await guard.stopped(5) == []


async def test_a_guard_that_was_killed_is_started_again_and_goes_on_where_it_was(
    settings: GuardSettings, cgroups: Cgroups, write: Start, tmp_path: Path
) -> None:
    async with guarded(tmp_path, settings) as guard, asyncio.TaskGroup() as group:
        keeping = group.create_task(guard.keep(lambda: None))
        await opens(guard, 60)
        writer = write()
        [before] = cgroups.pids("guard")
        os.kill(before, signal.SIGKILL)
        await until(lambda: cgroups.pids("guard") not in ([], [before]) and guard.answers)
        assert guard.round is not None
        assert writer.poll() is None
        keeping.cancel()


async def test_a_guard_that_does_not_answer_is_noticed(guard: Guard, cgroups: Cgroups) -> None:
    assert guard.answers
    await opens(guard, 60)
    [pid] = cgroups.pids("guard")
    os.kill(pid, signal.SIGSTOP)
    await until(lambda: not guard.answers)
    os.kill(pid, signal.SIGCONT)
    await until(lambda: guard.answers)


async def test_a_guard_that_is_told_to_end_does_so_only_when_nothing_writes(guard: Guard, cgroups: Cgroups) -> None:
    await opens(guard, 60)
    [pid] = cgroups.pids("guard")
    handle = os.pidfd_open(pid)
    os.kill(pid, signal.SIGTERM)
    assert not select.select([handle], [], [], 0.5)[0]
    guard.close()
    assert await guard.stopped(5) == []
    os.kill(pid, signal.SIGTERM)
    assert select.select([handle], [], [], 5)[0]
    os.close(handle)


async def test_a_second_guard_of_a_run_dir_is_refused(guard: Guard, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "drover.agent.guard.main", str(tmp_path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "another one has" in done.stderr


def lines(fifo: int) -> list[str]:
    text = b""
    while select.select([fifo], [], [], 0)[0]:
        text += os.read(fifo, 65536)
    return text.decode().split("\n")[:-1]


async def test_the_watchdog_is_armed_petted_while_all_is_well_and_no_more_when_something_may_write_after_d_io(
    settings: GuardSettings, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "watchdog")
    fifo = os.open(tmp_path / "watchdog", os.O_RDWR | os.O_NONBLOCK)
    async with guarded(tmp_path, replace(settings, resets=str(tmp_path / "watchdog"))) as guard:
        assert guard.armed
        await opens(guard)
        assert lines(fifo)[:2] == ["SETTIMEOUT 1", "KEEPALIVE"]
        (tmp_path / "device").mkdir()
        beat(guard)
        await asyncio.sleep(D_SOFT + 0.2)
        assert "KEEPALIVE" in lines(fifo)  # the ladder still has time
        await asyncio.sleep(D_IO - D_SOFT)
        lines(fifo)
        await asyncio.sleep(0.5)
        assert lines(fifo) == []
        (tmp_path / "device").rmdir()
        assert await guard.stopped(5) == []
        await until(lambda: "KEEPALIVE" in lines(fifo))
        with Page(Files(tmp_path).page) as page:
            os.kill(page.guard_pid, signal.SIGTERM)
        await until(lambda: "DISARM" in lines(fifo))
    os.close(fifo)


async def test_a_guard_that_begins_anew_gives_the_watchdog_time_until_d_hard_and_then_its_new_time_out(
    settings: GuardSettings, write: Start, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "watchdog")
    fifo = os.open(tmp_path / "watchdog", os.O_RDWR | os.O_NONBLOCK)
    armed = replace(settings, resets=str(tmp_path / "watchdog"), reset_within=4.0)
    async with guarded(tmp_path, armed) as guard:
        await opens(guard, 60)
        writer = write()
    async with guarded(tmp_path, replace(armed, reset_within=2.0)) as guard:
        timeouts = [int(line.split()[1]) for line in lines(fifo) if line.startswith("SETTIMEOUT")]
        assert timeouts[0] == 4
        assert 55 < timeouts[1] < 60 + D_IO - D_SOFT + 4
        assert timeouts[2:] == [2]
    async with guarded(tmp_path, settings) as guard:
        assert not guard.armed
        assert "DISARM" in lines(fifo)
        assert guard.round is not None
        assert writer.poll() is None
        guard.close()
        assert await guard.stopped(5) == []
    os.close(fifo)


async def test_nothing_is_armed_where_a_back_end_lacks_what_it_has_for_the_deadline(
    settings: GuardSettings, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "watchdog")
    fifo = os.open(tmp_path / "watchdog", os.O_RDWR | os.O_NONBLOCK)
    with pytest.raises(GuardFailed):
        async with guarded(tmp_path, replace(settings, resets=str(tmp_path / "watchdog"), cuts=(Cut("gone:cut"),))):
            pass
    assert lines(fifo) == []
    os.close(fifo)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_suits_a_watchdog_that_counts_whole_seconds(profile: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "watchdog")
    fifo = os.open(tmp_path / "watchdog", os.O_RDWR | os.O_NONBLOCK)
    timings = PROFILES[profile]
    Watchdog.open(str(tmp_path / "watchdog"), timings.d_hard - timings.d_io).disarm()
    [first, *_] = lines(fifo)
    assert int(first.split()[1]) <= round(timings.d_hard - timings.d_io, 3)
    os.close(fifo)


async def other_agent(settings: GuardSettings, run_dir: Path) -> subprocess.Popen[bytes]:
    """A process that has opened the gate and then goes on beating, until somebody stops it."""
    command = [sys.executable, "-m", "tests.contract.guard_jobs", str(run_dir), settings.text()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)  # noqa: ASYNC220
    assert process.stdout
    assert await asyncio.to_thread(process.stdout.readline) == b"open\n"
    return process


def test_a_page_of_another_layout_begins_closed(tmp_path: Path) -> None:
    (tmp_path / "gate").write_bytes(os.urandom(4096))
    with Page(tmp_path / "gate") as page:
        seen = page.seen()
    assert not seen.open
    assert not seen.clean
