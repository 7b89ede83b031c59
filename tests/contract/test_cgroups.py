"""Cgroups, on this machine's real cgroup v2."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from drover.agent.cgroup_wait import wait_empty
from drover.agent.cgroups import CONTAINERS, BadPath, Cgroups, NotEmpty
from drover.agent.guard.ladder import Ladder

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"
BOMB = """
import os, time
print('ready', flush=True)
while True:
    if len(open({procs!r}).readlines()) < 100 and os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
"""


@pytest.fixture
def cgroups() -> Iterator[Cgroups]:
    made = Cgroups.find(f"drover-test-{os.getpid()}")
    made.make("datasets")
    yield made
    for name in ("datasets", "workloads", CONTAINERS):
        assert made.kill(name, 5)
        made.remove(name)
    made.root.rmdir()


def inside(cgroups: Cgroups, path: str, program: str = STUBBORN) -> subprocess.Popen[bytes]:
    """A Python program that runs in a cgroup and has said that it is ready."""
    directory = cgroups.make(path)
    process = subprocess.Popen(
        ["sh", "-c", 'echo 0 > "$0"/cgroup.procs && exec "$@"', directory, sys.executable, "-IS", "-c", program],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process


def ticks(pid: int) -> int:
    """CPU time used so far, in clock ticks (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])


def test_find_gives_a_directory_below_a_cgroup2_mount(cgroups: Cgroups) -> None:
    assert (cgroups.root / "cgroup.events").exists()


FIND = "from drover.agent.cgroups import *\ntry: print(Cgroups.find().root)\nexcept CgroupsUnavailable as e: print(e)"


def find_after(mount: str) -> str:
    """What `find` says in a mount and cgroup namespace of its own, once `mount` has been done there."""
    command = ["unshare", "--mount", "--cgroup", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", FIND]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_find_takes_the_mount_that_lies_over_the_others() -> None:
    assert find_after("mount -t cgroup2 cgroup2 /sys/fs/cgroup") == "/sys/fs/cgroup/drover\n"
    assert find_after("mount -t cgroup2 cgroup2 /srv && mount -t tmpfs tmpfs /sys/fs/cgroup") == "/srv/drover\n"


def test_find_says_what_to_do_where_no_cgroup2_can_be_reached() -> None:
    assert "mount -t cgroup2" in find_after("mount -t tmpfs tmpfs /sys/fs/cgroup")


def test_making_a_cgroup_twice_is_as_good_as_once(cgroups: Cgroups) -> None:
    assert cgroups.make("datasets/pgdata") == cgroups.make("datasets/pgdata")
    assert cgroups.names("datasets") == ["pgdata"]


@pytest.mark.parametrize("name", ["cgroup.kill", "cgroup.procs", "cpu.stat", "memory.max", "a.b"])
def test_names_that_the_kernel_uses_for_its_files_can_be_used(cgroups: Cgroups, name: str) -> None:
    process = inside(cgroups, f"datasets/{name}")
    assert cgroups.names("datasets") == [name]
    assert cgroups.pids(f"datasets/{name}") == [process.pid]
    assert cgroups.kill(f"datasets/{name}", 5)
    process.wait(5)


@pytest.mark.parametrize(
    "path", ["", "/", "..", ".", "datasets/..", "datasets/../..", "/etc", "datasets//x", "x\0", "_x"]
)
def test_paths_that_lead_elsewhere_are_refused_by_every_verb(cgroups: Cgroups, path: str) -> None:
    verbs: list[Any] = [cgroups.make, cgroups.enter, cgroups.pids, cgroups.populated, cgroups.freeze, cgroups.thaw]
    verbs += [cgroups.remove, cgroups.names, cgroups.watch, lambda p: cgroups.kill(p, 0)]
    for verb in verbs:
        with pytest.raises(BadPath):
            verb(path)


def test_what_does_not_exist_is_empty_and_can_be_killed_thawed_and_removed(cgroups: Cgroups) -> None:
    assert cgroups.pids("datasets/none") == []
    assert cgroups.names("datasets/none") == []
    assert not cgroups.populated("datasets/none")
    cgroups.freeze("datasets/none")
    cgroups.thaw("datasets/none")
    assert cgroups.kill("datasets/none", 0)
    cgroups.remove("datasets/none")


def test_a_process_is_seen_in_its_cgroup_and_in_those_above(cgroups: Cgroups) -> None:
    process = inside(cgroups, "datasets/a/b")
    assert cgroups.pids("datasets") == cgroups.pids("datasets/a/b") == [process.pid]
    assert cgroups.populated("datasets")
    cgroups.make("datasets/other")
    assert not cgroups.populated("datasets/other")
    process.kill()
    process.wait(5)
    assert not cgroups.populated("datasets")


def test_a_cgroup_with_processes_is_not_removed(cgroups: Cgroups) -> None:
    process = inside(cgroups, "datasets/a/b")
    with pytest.raises(NotEmpty, match=str(process.pid)):
        cgroups.remove("datasets/a")
    assert cgroups.kill("datasets/a", 5)
    cgroups.remove("datasets/a")
    cgroups.remove("datasets/a")
    assert cgroups.names("datasets") == []
    process.wait(5)


def test_a_frozen_process_does_nothing_until_it_is_thawed_and_can_be_killed(cgroups: Cgroups) -> None:
    busy = "print('ready', flush=True)\nwhile True: pass"
    process = inside(cgroups, "datasets/busy", busy)
    cgroups.freeze("datasets/busy")
    events = cgroups.directory("datasets/busy") / "cgroup.events"
    wait_for(lambda: "frozen 1" in events.read_text())
    used = ticks(process.pid)
    time.sleep(0.1)
    assert ticks(process.pid) == used
    cgroups.thaw("datasets/busy")
    wait_for(lambda: ticks(process.pid) > used)
    cgroups.freeze("datasets/busy")
    assert cgroups.kill("datasets/busy", 5)
    process.wait(5)


def test_a_cgroup_that_was_killed_can_be_used_again(cgroups: Cgroups) -> None:
    first = inside(cgroups, "datasets/a")
    cgroups.freeze("datasets/a")
    assert cgroups.kill("datasets/a", 5)
    second = inside(cgroups, "datasets/a")
    assert cgroups.kill("datasets/a", 5)
    assert first.wait(5) == second.wait(5) == -9


@pytest.mark.parametrize("kernel", ["with cgroup.kill", "without"])
def test_killing_leaves_nothing_of_a_fork_bomb_of_daemons(
    cgroups: Cgroups, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "without":
        write = Cgroups._write
        monkeypatch.setattr(
            Cgroups, "_write", staticmethod(lambda d, file, value: file != "cgroup.kill" and write(d, file, value))
        )
    procs = str(cgroups.make("datasets/bomb") / "cgroup.procs")
    process = inside(cgroups, "datasets/bomb", BOMB.format(procs=procs))
    wait_for(lambda: len(cgroups.pids("datasets/bomb")) > 20)
    assert cgroups.kill("datasets/bomb", 30)
    assert cgroups.pids("datasets/bomb") == []
    process.wait(5)


def test_many_are_killed_at_once_and_others_are_left_alone(cgroups: Cgroups) -> None:
    killed = [inside(cgroups, f"datasets/{name}") for name in "abcd"]
    spared = inside(cgroups, "datasets/spared")
    assert cgroups.kill_all([f"datasets/{name}" for name in "abcd"], 5) == []
    assert [process.wait(5) for process in killed] == [-9] * 4
    assert cgroups.pids("datasets") == [spared.pid]
    spared.kill()
    spared.wait(5)


def test_the_ladder_ends_containers_and_lets_no_engine_make_another_one_in_their_place(cgroups: Cgroups) -> None:
    running = inside(cgroups, f"{CONTAINERS}/web/0123abcd")
    assert Ladder(cgroups, ()).climb().left == ()
    assert running.wait(5) == -9
    with pytest.raises(OSError):
        (cgroups.directory(f"{CONTAINERS}/web") / "4567cdef").mkdir()
    cgroups.unseal(f"{CONTAINERS}/web")
    cgroups.make(f"{CONTAINERS}/web/4567cdef")


def test_a_process_can_enter_a_cgroup_by_itself(cgroups: Cgroups) -> None:
    cgroups.make("datasets/a")
    child = os.fork()
    if child == 0:
        cgroups.enter("datasets/a")
        os.execvp("sleep", ["sleep", "60"])
    wait_for(lambda: cgroups.pids("datasets/a") == [child])
    assert cgroups.kill("datasets/a", 5)
    os.waitpid(child, 0)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_waiting_for_an_empty_cgroup_ends_when_the_last_process_does(cgroups: Cgroups, run: Any) -> None:
    process = inside(cgroups, "datasets/a/b")

    async def wait() -> tuple[bool, bool, float]:
        before = await wait_empty(cgroups, "datasets/a", 0.05)
        used, started = time.process_time(), time.monotonic()
        asyncio.get_running_loop().call_later(0.3, process.kill)
        after = await wait_empty(cgroups, "datasets/a", 10)
        assert time.monotonic() - started < 2
        return before, after, time.process_time() - used

    before, after, cpu = run(wait())
    assert (before, after) == (False, True)
    assert cpu < 0.1, "it polls"
    process.wait(5)


async def test_an_empty_or_missing_cgroup_is_not_waited_for(cgroups: Cgroups) -> None:
    cgroups.make("datasets/empty")
    assert await wait_empty(cgroups, "datasets/empty", 0)
    assert await wait_empty(cgroups, "datasets/none", 0)


async def test_waiting_leaves_no_descriptor_open(cgroups: Cgroups) -> None:
    process = inside(cgroups, "datasets/a")
    before = os.listdir("/proc/self/fd")
    assert not await wait_empty(cgroups, "datasets/a", 0.01)
    assert cgroups.kill("datasets/a", 5)
    assert os.listdir("/proc/self/fd") == before
    process.wait(5)


def wait_for(condition: Any, timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
