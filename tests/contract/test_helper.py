"""Helpers: a write happens in the dataset's cgroup and behind the gate, or not at all. Real processes and cgroups."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drover.agent.cgroups import Cgroups
from drover.agent.helper.pool import HelperPool
from drover.agent.storage.base import Busy, GateClosed, HelperDied, StorageError
from drover.agent.storage.two_nodes import Gate
from tests.contract.helper_jobs import Special

JOBS = "tests.contract.helper_jobs"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def cgroups(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cgroups]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cgroups = Cgroups.find(f"drover-test-{os.getpid()}-{secrets.token_hex(4)}")
    cgroups.make("helpers")
    yield cgroups
    assert cgroups.kill_all(["helpers", "datasets"], 5) == []
    for path in ("helpers", "datasets"):
        cgroups.remove(path)
    cgroups.root.rmdir()


@pytest.fixture
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("run") / "gate")


@pytest.fixture
async def pool(cgroups: Cgroups, gate: Gate) -> AsyncIterator[HelperPool]:
    async with HelperPool(cgroups, gate, [JOBS], size=2) as pool:
        await until(lambda: len(cgroups.pids("helpers")) == 2)
        yield pool


async def until(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.005)


async def run(pool: HelperPool, job: str, timeout: float = 10.0, **arguments: Any) -> Any:
    return await pool.run("pgdata", f"{JOBS}:{job}", arguments, timeout)


async def test_a_job_runs_in_the_cgroup_of_its_dataset_and_the_helper_goes_back(
    pool: HelperPool, cgroups: Cgroups
) -> None:
    found = await run(pool, "where")
    assert found["cgroup"].endswith(f"{cgroups.root.name}/datasets/pgdata")
    await until(lambda: found["pid"] in cgroups.pids("helpers") and cgroups.pids("datasets") == [])


async def test_a_job_starts_no_process(pool: HelperPool, cgroups: Cgroups) -> None:
    waiting = cgroups.pids("helpers")
    for _ in range(4):
        assert (await run(pool, "where"))["pid"] in waiting


async def test_a_helper_that_is_prepared_waits_in_the_cgroup_and_does_the_next_job(
    pool: HelperPool, cgroups: Cgroups
) -> None:
    await pool.prepare("pgdata")
    await pool.prepare("pgdata")
    [prepared] = cgroups.pids("datasets/pgdata")
    assert (await pool.run("other", f"{JOBS}:where", {}, 10.0))["pid"] != prepared
    assert (await run(pool, "where"))["pid"] == prepared
    await until(lambda: cgroups.pids("datasets") == [])


async def test_a_helper_that_is_prepared_in_vain_leaves_the_cgroup(pool: HelperPool, cgroups: Cgroups) -> None:
    await pool.prepare("pgdata")
    pool.unprepare("pgdata")
    await until(lambda: cgroups.pids("datasets") == [])


async def test_a_prepared_helper_that_was_killed_is_replaced_unnoticed(pool: HelperPool, cgroups: Cgroups) -> None:
    await pool.prepare("pgdata")
    assert await asyncio.to_thread(cgroups.kill, "datasets/pgdata", 5)
    await until(lambda: not cgroups.populated("datasets"))
    assert (await run(pool, "where"))["pid"]


async def test_idle_helpers_that_were_killed_are_replaced(pool: HelperPool, cgroups: Cgroups) -> None:
    before = set(cgroups.pids("helpers"))
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: len(set(cgroups.pids("helpers")) - before) == 2)
    assert (await run(pool, "where"))["pid"] not in before


async def test_a_closed_gate_is_said_at_once_and_nothing_is_done(pool: HelperPool, gate: Gate, tmp_path: Path) -> None:
    gate.close()
    with pytest.raises(GateClosed):
        await run(pool, "touch", path=str(tmp_path / "written"))
    assert not (tmp_path / "written").exists()


async def test_a_deadline_that_has_passed_is_noticed_by_the_helper_and_nothing_is_done(
    pool: HelperPool, gate: Gate, cgroups: Cgroups, tmp_path: Path
) -> None:
    gate.open(-0.001)
    with pytest.raises(GateClosed, match="deadline has passed"):
        await run(pool, "touch", path=str(tmp_path / "written"))
    assert not (tmp_path / "written").exists()
    gate.open(60)
    await run(pool, "touch", path=str(tmp_path / "written"))
    assert (tmp_path / "written").exists()


async def test_a_deadline_that_passes_on_the_way_is_looked_at_in_the_cgroup_only(
    pool: HelperPool, gate: Gate, cgroups: Cgroups, tmp_path: Path
) -> None:
    cgroups.make("datasets/pgdata")
    cgroups.freeze("datasets/pgdata")
    gate.open(0.3)
    async with asyncio.TaskGroup() as group:
        job = group.create_task(outcome(run(pool, "touch", path=str(tmp_path / "written"))))
        await until(lambda: cgroups.pids("datasets/pgdata") != [])
        await asyncio.sleep(0.35)  # the deadline passes while the helper is held up inside
        cgroups.thaw("datasets/pgdata")
    assert isinstance(job.result(), GateClosed)
    assert not (tmp_path / "written").exists()


async def test_killing_the_cgroup_before_the_helper_looks_means_that_nothing_is_done(
    pool: HelperPool, cgroups: Cgroups, tmp_path: Path
) -> None:
    cgroups.make("datasets/pgdata")
    cgroups.freeze("datasets/pgdata")
    async with asyncio.TaskGroup() as group:
        job = group.create_task(outcome(run(pool, "touch", path=str(tmp_path / "written"))))
        await until(lambda: cgroups.pids("datasets/pgdata") != [])
        assert await asyncio.to_thread(cgroups.kill, "datasets/pgdata", 5)
    assert isinstance(job.result(), HelperDied)
    assert not (tmp_path / "written").exists()


async def test_a_helper_killed_in_the_middle_of_a_job_is_said_and_what_it_started_is_killed(
    pool: HelperPool, cgroups: Cgroups, tmp_path: Path
) -> None:
    async with asyncio.TaskGroup() as group:
        job = group.create_task(outcome(run(pool, "touch", path=str(tmp_path / "written"), after=60)))
        await until(lambda: len(cgroups.pids("datasets/pgdata")) == 2)
        helper = next(pid for pid in cgroups.pids("datasets/pgdata") if os.getpgid(pid) == pid)
        os.kill(helper, signal.SIGKILL)
    assert isinstance(job.result(), HelperDied)
    assert "killed by signal 9" in str(job.result())
    assert cgroups.pids("datasets/pgdata") == []
    await run(pool, "touch", path=str(tmp_path / "written"))


async def test_a_job_that_takes_too_long_is_killed_with_what_it_started_and_then_said(
    pool: HelperPool, cgroups: Cgroups, tmp_path: Path
) -> None:
    with pytest.raises(HelperDied, match="did not finish within"):
        await run(pool, "touch", timeout=0.3, path=str(tmp_path / "written"), after=1)
    assert not cgroups.populated("datasets/pgdata")
    await run(pool, "where")


async def test_a_cancelled_job_is_killed_before_the_cancellation_goes_on(
    pool: HelperPool, cgroups: Cgroups, tmp_path: Path
) -> None:
    job = asyncio.create_task(run(pool, "touch", path=str(tmp_path / "written"), after=60))
    await until(lambda: len(cgroups.pids("datasets/pgdata")) == 2)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert not cgroups.populated("datasets/pgdata")


async def test_a_job_that_was_sent_before_the_gate_was_closed_is_not_done_after_it_has_opened_again(
    pool: HelperPool, cgroups: Cgroups, gate: Gate, tmp_path: Path
) -> None:
    [one, other] = cgroups.pids("helpers")
    for pid in (one, other):
        os.kill(pid, signal.SIGSTOP)
    async with asyncio.TaskGroup() as group:
        job = group.create_task(outcome(run(pool, "touch", path=str(tmp_path / "written"))))
        await asyncio.sleep(0.1)  # until it has been sent
        gate.close()
        gate.open(60)
        for pid in (one, other):
            os.kill(pid, signal.SIGCONT)
    assert isinstance(job.result(), GateClosed)
    assert not (tmp_path / "written").exists()


async def test_errors_of_storage_come_back_as_themselves(pool: HelperPool) -> None:
    with pytest.raises(Busy, match="it is in use") as busy:
        await run(pool, "busy")
    assert busy.value.by == "somebody"


async def test_errors_that_a_back_end_brings_along_come_back_too(pool: HelperPool) -> None:
    with pytest.raises(Special) as special:
        await run(pool, "special")
    assert (str(special.value), special.value.code) == ("it is special", 7)


async def test_an_error_that_nobody_foresaw_names_the_function_and_keeps_its_traceback(pool: HelperPool) -> None:
    with pytest.raises(StorageError, match="fault failed: ZeroDivisionError: nobody foresaw this") as fault:
        await run(pool, "fault")
    assert type(fault.value) is StorageError
    assert "in fault" in fault.value.__notes__[0]
    await run(pool, "where")


async def test_jobs_run_side_by_side_as_far_as_there_are_places(cgroups: Cgroups, gate: Gate, tmp_path: Path) -> None:
    async with HelperPool(cgroups, gate, [JOBS], size=1, most=3) as pool:
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                arguments = {"path": str(tmp_path / f"written-{number}"), "after": 1}
                group.create_task(pool.run(f"data{number}", f"{JOBS}:touch", arguments, 20.0))
            await until(lambda: len(cgroups.pids("datasets")) == 6)
        assert len(list(tmp_path.iterdir())) == 4


async def test_a_job_that_finds_no_place_in_time_is_not_begun(cgroups: Cgroups, gate: Gate, tmp_path: Path) -> None:
    async with HelperPool(cgroups, gate, [JOBS], size=1, most=1) as pool, asyncio.TaskGroup() as group:
        group.create_task(run(pool, "touch", path=str(tmp_path / "first"), after=1))
        await until(lambda: cgroups.pids("datasets") != [])
        with pytest.raises(HelperDied, match="nothing was done"):
            await run(pool, "touch", timeout=0.1, path=str(tmp_path / "second"))
        assert not (tmp_path / "second").exists()


AGENT = """
import asyncio, sys
from pathlib import Path
from drover.agent.cgroups import Cgroups
from drover.agent.helper.pool import HelperPool
from drover.agent.storage.two_nodes import Gate

async def main(root, gate, *path):
    cgroups = Cgroups(Path(root))
    async with HelperPool(cgroups, Gate(Path(gate)), ["tests.contract.helper_jobs"], size=2) as pool:
        while len(cgroups.pids("helpers")) < 2:
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        if path:
            await pool.run("pgdata", "tests.contract.helper_jobs:touch", {"path": path[0], "after": 0.5}, 10)
        await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


def agent(cgroups: Cgroups, gate: Gate, *arguments: str) -> subprocess.Popen[bytes]:
    """Another agent, once its helpers are there."""
    command = [sys.executable, "-c", AGENT, str(cgroups.root), str(gate.path), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


async def test_idle_helpers_end_by_themselves_when_their_agent_is_killed(cgroups: Cgroups, gate: Gate) -> None:
    process = agent(cgroups, gate)
    assert len(cgroups.pids("helpers")) == 2
    kill(process)
    await until(lambda: not cgroups.populated("helpers"))


async def test_a_helper_at_work_finishes_its_job_when_its_agent_is_killed(
    cgroups: Cgroups, gate: Gate, tmp_path: Path
) -> None:
    process = agent(cgroups, gate, str(tmp_path / "written"))
    await until(lambda: len(cgroups.pids("datasets/pgdata")) == 2)
    kill(process)
    assert not (tmp_path / "written").exists()
    await until(lambda: not cgroups.populated("datasets"))
    assert (tmp_path / "written").exists()


async def test_what_an_earlier_agent_left_at_work_is_killed_first(cgroups: Cgroups, gate: Gate, tmp_path: Path) -> None:
    process = agent(cgroups, gate, str(tmp_path / "written"))
    await until(lambda: len(cgroups.pids("datasets/pgdata")) == 2)
    kill(process)
    async with HelperPool(cgroups, gate, [JOBS], size=1, left_over=True):
        assert not cgroups.populated("datasets")
        await asyncio.sleep(0.6)  # when it would have written
        assert not (tmp_path / "written").exists()


async def test_idle_helpers_of_an_earlier_agent_are_killed_and_other_datasets_are_spared(
    cgroups: Cgroups, gate: Gate
) -> None:
    process = agent(cgroups, gate)
    theirs = cgroups.pids("helpers")
    bystander = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220
    try:
        cgroups.make("datasets/other")
        cgroups.enter("datasets/other", bystander.pid)
        os.kill(process.pid, signal.SIGSTOP)
        async with HelperPool(cgroups, gate, [JOBS], size=1):
            assert not set(theirs) & set(cgroups.pids("helpers"))
            assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
        kill(process)


async def test_the_pool_leaves_no_process_behind(cgroups: Cgroups, gate: Gate, tmp_path: Path) -> None:
    async with HelperPool(cgroups, gate, [JOBS], size=2) as pool:
        await pool.prepare("other")
        job = asyncio.create_task(outcome(run(pool, "touch", path=str(tmp_path / "written"), after=60)))
        await until(lambda: len(cgroups.pids("datasets/pgdata")) == 2)
    assert isinstance(await job, HelperDied)
    assert not cgroups.populated("helpers")
    assert not cgroups.populated("datasets")


async def test_ending_in_the_middle_of_starting_leaves_no_process_behind(cgroups: Cgroups, gate: Gate) -> None:
    started = time.monotonic()
    async with HelperPool(cgroups, gate, [JOBS], size=3):
        await asyncio.sleep(0.05)
    await until(lambda: not cgroups.populated("helpers"))
    assert time.monotonic() - started < 5


async def outcome(job: Any) -> Any:
    """Its result, or the StorageError that it raised."""
    try:
        return await job
    except StorageError as error:
        return error
