"""Workloads that are processes, with real ones in real cgroups."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drover.agent.cgroups import Cgroups
from drover.agent.workloads.base import Absent, Condition, Exited, NotAllowedNow, Running, WorkloadError, fingerprint
from drover.agent.workloads.process import LOG_SIZE, ProcessRuntime
from drover.coordinator.clock import read_clock
from drover.coordinator.protocol.clock import Deadline
from drover.coordinator.specs import ProcessSpec, WorkloadSpec

STUBBORN = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.pause()
        os._exit(0)
    os.wait()
open('ready', 'w').close()
signal.pause()
"""
"""Ignores SIGTERM and has three daemons that do, too."""


def open_gate() -> Deadline | None:
    return read_clock().plus(60)


def shell(script: str, **rest: Any) -> WorkloadSpec:
    return ProcessSpec(command=("/bin/sh", "-c", script), datasets=("pgdata",), **rest)


def python(program: str, **rest: Any) -> WorkloadSpec:
    return ProcessSpec(command=(sys.executable, "-IS", "-c", program), datasets=("pgdata",), **rest)


SLEEP = shell("exec sleep 600")


class Node:
    """Directories and cgroups of one node, and runtimes on them."""

    def __init__(self, directory: Path, cgroups: Cgroups) -> None:
        self.directory = directory
        self.cgroups = cgroups
        self.data = directory / "mounts" / "pgdata"
        self.data.mkdir(parents=True)
        self.data.chmod(0o777)
        self.gate: Callable[[], Deadline | None] = open_gate
        self.woken: asyncio.Queue[str] = asyncio.Queue()
        self.runtimes: list[ProcessRuntime] = []

    def runtime(self) -> ProcessRuntime:
        made = ProcessRuntime(
            self.cgroups, self.directory / "run", self.directory / "log", self.directory / "mounts", lambda: self.gate()
        )
        made.on_change(self.woken.put_nowait)
        self.runtimes.append(made)
        return made

    def paths(self, *others: str) -> dict[str, Path]:
        return {name: self.data.parent / name for name in ("pgdata", *others)}

    def log(self, name: str = "web") -> str:
        return (self.directory / "log" / f"{name}.log").read_text()

    def pids(self, name: str = "web") -> list[int]:
        return self.cgroups.pids(f"workloads/{name}")

    async def wait_for(self, runtime: ProcessRuntime, kind: type[Condition], name: str = "web") -> Any:
        """Its condition, once that is of this kind. Looks again whenever the runtime says that something changed."""
        async with asyncio.timeout(10):
            while not isinstance(condition := (await runtime.look()).get(name, Absent()), kind):
                assert await self.woken.get() == name
        return condition


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    with tempfile.TemporaryDirectory(prefix="drover-test-") as directory:
        Path(directory).chmod(0o755)  # other users work here, too
        made = Node(Path(directory), Cgroups.find(f"drover-test-{os.getpid()}"))
        yield made
        await clean_up(made)


async def clean_up(made: Node) -> None:
    for runtime in made.runtimes:
        runtime.close()
    assert made.cgroups.kill("workloads", 10)
    made.cgroups.remove("workloads")
    with contextlib.suppress(FileNotFoundError):
        made.cgroups.root.rmdir()


@pytest.fixture
def runtime(node: Node) -> ProcessRuntime:
    return node.runtime()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


# Starting.


async def test_a_started_workload_is_seen_running_by_its_pid(node: Node, runtime: ProcessRuntime) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    await runtime.start("web", SLEEP, node.paths())
    condition = (await runtime.look())["web"]
    assert isinstance(condition, Running)
    command = Path(f"/proc/{condition.pid}/cmdline")
    await until(lambda: command.read_bytes() == b"sleep\x00600\x00")  # empty while the kernel changes programs
    assert condition.fingerprint == fingerprint(SLEEP)
    assert before < condition.since <= time.clock_gettime(time.CLOCK_BOOTTIME)


async def test_a_start_and_an_end_wake(node: Node, runtime: ProcessRuntime) -> None:
    await runtime.start("web", shell("sleep 0.1; exit 3"), node.paths())
    async with asyncio.timeout(10):
        assert await node.woken.get() == "web"
        assert await node.woken.get() == "web"
    condition = (await runtime.look())["web"]
    assert isinstance(condition, Exited)
    assert condition.status == 3
    assert 0.1 <= condition.ran < 5


async def test_starting_what_runs_changes_nothing(node: Node, runtime: ProcessRuntime) -> None:
    await runtime.start("web", SLEEP, node.paths())
    before = await runtime.look()
    await asyncio.gather(*(runtime.start("web", SLEEP, node.paths()) for _ in range(3)))
    assert await runtime.look() == before


async def test_what_runs_with_another_spec_is_not_started_beside_it(node: Node, runtime: ProcessRuntime) -> None:
    await runtime.start("web", SLEEP, node.paths())
    with pytest.raises(WorkloadError, match="stopped first"):
        await runtime.start("web", shell("exec sleep 700"), node.paths())


def test_only_what_a_restart_would_change_is_in_the_fingerprint() -> None:
    one = shell("x", environment={"A": "1", "B": "2"})
    assert fingerprint(one) == fingerprint(shell("x", environment={"B": "2", "A": "1"}))
    assert fingerprint(one) == fingerprint(one.model_copy(update={"restart": "no", "stop_grace_period": 1.0}))
    assert fingerprint(one) != fingerprint(one.model_copy(update={"user": "nobody"}))
    assert fingerprint(one) != fingerprint(one.model_copy(update={"environment": {"A": "1"}}))


async def test_what_has_ended_can_be_started_again(node: Node, runtime: ProcessRuntime) -> None:
    await runtime.start("web", shell("exit 1"), node.paths())
    await node.wait_for(runtime, Exited)
    await runtime.start("web", SLEEP, node.paths())
    assert isinstance((await runtime.look())["web"], Running)
    await runtime.stop("web", 5)
    assert await runtime.look() == {}


@pytest.fixture
def own_cgroup(node: Node) -> Iterator[None]:
    """This process is in the cgroup `agent`, and with it what it starts."""
    before = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    node.cgroups.make("agent")
    node.cgroups.enter("agent")
    yield
    (node.cgroups.root.parent / before / "cgroup.procs").write_text("0")
    node.cgroups.remove("agent")


@pytest.mark.usefixtures("own_cgroup")
async def test_a_prepared_parent_is_used_and_replaced_where_it_was_killed(node: Node, runtime: ProcessRuntime) -> None:
    def waiting() -> list[int]:
        return [pid for pid in node.cgroups.pids("agent") if pid != os.getpid()]

    await runtime.prepare("web", SLEEP)
    await runtime.prepare("web", SLEEP)
    (parent,) = waiting()
    await runtime.start("web", SLEEP, node.paths())
    assert parent in node.pids()
    await runtime.stop("web", 5)

    await runtime.prepare("web", SLEEP)
    (parent,) = waiting()
    os.kill(parent, signal.SIGKILL)
    await until(lambda: parent not in waiting())
    await runtime.start("web", SLEEP, node.paths())
    assert isinstance((await runtime.look())["web"], Running)

    await runtime.prepare("api", SLEEP)
    runtime.close()
    await until(lambda: not waiting())


@pytest.mark.usefixtures("own_cgroup")
async def test_what_was_prepared_and_does_not_come_leaves_no_process(node: Node, runtime: ProcessRuntime) -> None:
    await runtime.prepare("web", SLEEP)
    assert len(node.cgroups.pids("agent")) == 2
    await runtime.unprepare("web")
    await until(lambda: node.cgroups.pids("agent") == [os.getpid()])
    await runtime.unprepare("web")


async def test_the_agent_keeps_no_descriptor_and_no_child_of_what_ended(node: Node, runtime: ProcessRuntime) -> None:
    def held() -> tuple[list[str], str]:
        return os.listdir("/proc/self/fd"), Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    before = held()
    await runtime.start("web", shell("exit 0"), node.paths())
    await node.wait_for(runtime, Exited)
    async with asyncio.timeout(10):
        while held() != before:
            await node.woken.get()  # once it starts, and once its end is told


# The command's surroundings.


async def output(node: Node, runtime: ProcessRuntime, spec: WorkloadSpec, *datasets: str) -> str:
    await runtime.start("web", spec, node.paths(*datasets))
    ended = await node.wait_for(runtime, Exited)
    assert ended.status == 0, node.log()
    return node.log()


async def test_the_environment_is_that_of_the_spec_and_says_where_the_datasets_are(
    node: Node, runtime: ProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DROVER_ETCD_PASSWORD", "secret")
    spec = ProcessSpec(command=("env",), datasets=("pgdata", "wal-1.x"), environment={"MODE": "a b\nc", "LANG": "C"})
    said = await output(node, runtime, spec, "wal-1.x")
    mounts = node.data.parent
    assert set(said.splitlines()) == {
        "DROVER_WORKLOAD=web",
        f"DROVER_PATH={mounts}/pgdata",
        f"DROVER_PATH_PGDATA={mounts}/pgdata",
        f"DROVER_PATH_WAL_1_X={mounts}/wal-1.x",
        "MODE=a b",
        "c",
        "LANG=C",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME=/root",
        "USER=root",
        "LOGNAME=root",
    }


async def test_it_begins_in_the_first_dataset_or_in_its_working_directory(node: Node, runtime: ProcessRuntime) -> None:
    assert await output(node, runtime, shell("pwd -P")) == f"{node.data}\n"
    assert await output(node, runtime, shell("pwd -P", working_dir="/usr")) == f"{node.data}\n/usr\n"


@pytest.mark.parametrize("by", ["name", "number"])
async def test_the_user_is_switched_with_all_its_groups(
    node: Node, runtime: ProcessRuntime, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = pwd.getpwnam("nobody")
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 4242, 4243] if name == "nobody" else [])
    user = "nobody" if by == "name" else str(entry.pw_uid)
    said = await output(node, runtime, shell("id -ru; id -u; id -rg; id -g; id -G; echo $HOME", user=user))
    uid, gid = str(entry.pw_uid), str(entry.pw_gid)
    assert said.splitlines() == [uid, uid, gid, gid, f"{gid} 4242 4243", entry.pw_dir]


async def test_a_number_without_a_name_is_its_own_only_group(node: Node, runtime: ProcessRuntime) -> None:
    assert await output(node, runtime, shell("id -u; id -G", user="54321")) == "54321\n54321\n"


async def test_it_starts_as_if_from_a_fresh_system(node: Node, runtime: ProcessRuntime) -> None:
    said = await output(
        node,
        runtime,
        python(
            "import os, signal, json; print(json.dumps(dict("
            "stdin=os.readlink('/proc/self/fd/0'), fds=sorted(map(int, os.listdir('/proc/self/fd')))[:-1],"
            "leader=os.getsid(0) == os.getpgid(0) == os.getpid(), umask=os.umask(0),"
            "status=[l.split()[1] for l in open('/proc/self/status') if l[:6] in ('SigBlk',)])))"
        ),
    )
    assert json.loads(said) == {
        "stdin": "/dev/null",
        "fds": [0, 1, 2],
        "leader": True,
        "umask": 0o022,
        "status": ["0" * 16],
    }


async def test_a_closed_pipe_ends_commands_of_a_workload_as_usual(node: Node, runtime: ProcessRuntime) -> None:
    assert await output(node, runtime, shell("yes | head -1")) == "y\n"


async def test_the_log_is_appended_to_and_set_aside_at_a_start_when_it_is_large(
    node: Node, runtime: ProcessRuntime
) -> None:
    spec = shell("echo out; echo err >&2")
    assert await output(node, runtime, spec) == "out\nerr\n"
    assert await output(node, runtime, spec) == "out\nerr\nout\nerr\n"
    log = node.directory / "log" / "web.log"
    os.truncate(log, LOG_SIZE + 1)
    assert await output(node, runtime, spec) == "out\nerr\n"
    assert log.with_name("web.log.1").stat().st_size == LOG_SIZE + 1


# What cannot be started.


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (ProcessSpec(command=("/no/such",), datasets=("pgdata",)), "the command /no/such: No such file or directory"),
        (ProcessSpec(command=("nosuch",), datasets=("pgdata",)), "the command nosuch: No such file or directory"),
        (ProcessSpec(command=("/etc/passwd",), datasets=("pgdata",)), "the command /etc/passwd: Permission denied"),
        (shell("true", working_dir="/no/such"), "the working directory /no/such: No such file or directory"),
        (shell("true", user="nosuch"), "no user 'nosuch'"),
        (shell("true", user="99999999999"), "no user '99999999999'"),
    ],
)
async def test_a_start_that_fails_says_why_and_leaves_nothing(
    node: Node, runtime: ProcessRuntime, spec: WorkloadSpec, says: str
) -> None:
    with pytest.raises(WorkloadError, match=says):
        await runtime.start("web", spec, node.paths())
    assert await runtime.look() == {}
    assert node.pids() == []
    await runtime.start("web", SLEEP, node.paths())


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (ProcessSpec(command=("/no/such",), datasets=("pgdata",)), "the command /no/such is not on this node"),
        (ProcessSpec(command=("nosuch",), datasets=("pgdata",)), "the command nosuch is not on this node's PATH"),
        (shell("true", working_dir="/no/such"), "the working directory /no/such"),
        (shell("true", user="nosuch"), "no user 'nosuch'"),
    ],
)
async def test_preparing_finds_beforehand_what_would_fail(
    runtime: ProcessRuntime, spec: WorkloadSpec, says: str
) -> None:
    with pytest.raises(WorkloadError, match=says):
        await runtime.prepare("web", spec)


async def test_preparing_does_not_ask_for_what_comes_with_the_data(node: Node, runtime: ProcessRuntime) -> None:
    inside = str(node.data / "bin" / "server")
    path = {"PATH": f"/usr/bin:{node.data}/bin"}
    await runtime.prepare("web", ProcessSpec(command=(inside,), datasets=("pgdata",), working_dir=str(node.data / "x")))
    await runtime.prepare("web", ProcessSpec(command=("bin/server",), datasets=("pgdata",)))
    await runtime.prepare("web", ProcessSpec(command=("server",), datasets=("pgdata",), environment=path))


@pytest.mark.parametrize("name", ["", "..", "../web", "a/b", "/etc", "web\n", "x" * 64])
async def test_names_that_lead_elsewhere_are_refused(node: Node, runtime: ProcessRuntime, name: str) -> None:
    with pytest.raises(WorkloadError):
        await runtime.start(name, SLEEP, node.paths())
    with pytest.raises(WorkloadError):
        await runtime.stop(name, 0)
    assert runtime.kill([name]) == []


async def test_a_name_like_one_of_the_kernels_files_is_a_name_like_others(node: Node, runtime: ProcessRuntime) -> None:
    await runtime.start("cgroup.kill", SLEEP, node.paths())
    assert list(await runtime.look()) == ["cgroup.kill"]
    await runtime.stop("cgroup.kill", 5)
    assert await runtime.look() == {}


async def test_a_look_in_the_middle_of_a_start_leaves_no_descriptor_and_a_stop_still_hears_of_the_end(
    node: Node, runtime: ProcessRuntime
) -> None:
    loop, looked = asyncio.get_running_loop(), []

    def looking() -> Deadline | None:
        """Called when the workload's parent is in the cgroup already, and nobody watches that yet."""
        looked.append(asyncio.run_coroutine_threadsafe(runtime.look(), loop).result(10))
        return open_gate()

    node.gate = looking
    before = set(os.listdir("/proc/self/fd"))
    await runtime.start("web", SLEEP, node.paths())
    assert isinstance(looked[0]["web"], Running)
    async with asyncio.timeout(10):
        await runtime.stop("web", 60)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("gate", [lambda: None, lambda: read_clock().plus(-0.001)])
async def test_behind_a_closed_gate_nothing_is_started(
    node: Node, runtime: ProcessRuntime, gate: Callable[[], Deadline | None]
) -> None:
    node.gate = gate
    with pytest.raises(NotAllowedNow):
        await runtime.start("web", shell("touch started"), node.paths())
    assert await runtime.look() == {}
    assert not (node.data / "started").exists()


async def test_the_gate_is_asked_when_killing_the_cgroup_already_reaches_the_start(
    node: Node, runtime: ProcessRuntime
) -> None:
    def closing() -> Deadline | None:
        assert node.pids() != []
        assert node.cgroups.kill("workloads", 5)  # what the guard does, between the agent's look and its act
        return open_gate()

    node.gate = closing
    with pytest.raises(WorkloadError, match="was killed"):
        await runtime.start("web", shell("touch started"), node.paths())
    assert node.pids() == []
    assert not (node.data / "started").exists()


# Stopping.


async def test_a_stop_lets_the_command_end_by_itself_and_returns_as_soon_as_it_has(
    node: Node, runtime: ProcessRuntime
) -> None:
    spec = shell("trap 'touch stopped; exit 0' TERM; touch ready; while :; do sleep 0.01; done")
    await runtime.start("web", spec, node.paths())
    await until((node.data / "ready").exists)
    started = time.monotonic()
    await runtime.stop("web", 30)
    assert time.monotonic() - started < 10
    assert (node.data / "stopped").exists()
    assert await runtime.look() == {}
    assert not node.cgroups.directory("workloads/web").exists()
    assert list((node.directory / "run").iterdir()) == []


async def test_a_stop_kills_what_ignores_sigterm_daemons_included(node: Node, runtime: ProcessRuntime) -> None:
    await runtime.start("web", python(STUBBORN), node.paths())
    await until((node.data / "ready").exists)
    assert len(node.pids()) == 5
    started = time.monotonic()
    await runtime.stop("web", 0.3)
    assert 0.3 <= time.monotonic() - started < 5
    assert node.pids() == []
    assert await runtime.look() == {}


async def test_sigterm_reaches_the_whole_process_group_of_the_command(node: Node, runtime: ProcessRuntime) -> None:
    script = (
        "trap : TERM; sh -c 'trap \"touch inner; exit\" TERM; touch ready; while :; do sleep 0.01; done' & wait; wait"
    )
    await runtime.start("web", shell(script), node.paths())
    await until((node.data / "ready").exists)
    await runtime.stop("web", 30)
    assert (node.data / "inner").exists()


async def test_stopping_what_is_not_here_or_has_ended_is_done_at_once(node: Node, runtime: ProcessRuntime) -> None:
    await runtime.stop("web", 30)
    await runtime.start("web", shell("exit 0"), node.paths())
    await node.wait_for(runtime, Exited)
    await runtime.stop("web", 30)
    assert await runtime.look() == {}


async def test_a_stop_wakes_when_the_workload_is_gone(node: Node, runtime: ProcessRuntime) -> None:
    await runtime.start("web", SLEEP, node.paths())
    assert node.woken.get_nowait() == "web"
    await runtime.stop("web", 5)
    async with asyncio.timeout(10):
        assert await node.woken.get() == "web"


async def test_the_ladder_kills_all_at_once_and_leaves_nothing(node: Node, runtime: ProcessRuntime) -> None:
    names = ["a", "b", "c"]
    for name in names:
        await runtime.start(name, python(STUBBORN), node.paths())
        await until((node.data / "ready").exists)
        (node.data / "ready").unlink()
    await runtime.start("spared", SLEEP, node.paths())
    assert await asyncio.to_thread(runtime.kill, [*names, "never started"]) == []
    assert [node.pids(name) for name in names] == [[], [], []]
    assert list(await runtime.look()) == ["spared"]


# Ending by itself.


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 77", 77), ("kill -KILL $$", -9), ("kill $$", -15)]
)
async def test_how_it_ended_is_known(node: Node, runtime: ProcessRuntime, script: str, status: int) -> None:
    await runtime.start("web", shell(script), node.paths())
    assert (await node.wait_for(runtime, Exited)).status == status


async def test_daemons_that_the_command_leaves_are_gone_before_it_counts_as_ended(
    node: Node, runtime: ProcessRuntime
) -> None:
    daemons = STUBBORN.removesuffix("signal.pause()\n") + "os._exit(5)\n"
    await runtime.start("web", python(daemons), node.paths())
    assert (await node.wait_for(runtime, Exited)).status == 5
    assert node.pids() == []


async def test_a_workload_whose_parent_was_killed_still_runs_and_stops_and_its_end_is_noticed(
    node: Node, runtime: ProcessRuntime
) -> None:
    for end in ("by itself", "stopped"):
        await runtime.start("web", SLEEP, node.paths())
        (parent,) = node.cgroups.pids("workloads/web/parent")
        running = (await runtime.look())["web"]
        assert isinstance(running, Running)
        os.kill(parent, signal.SIGKILL)
        await until(lambda: len(node.pids()) == 1)
        assert (await runtime.look())["web"] == running
        if end == "by itself":
            os.kill(running.pid, signal.SIGKILL)
            ended = await node.wait_for(runtime, Exited)
            assert ended.status == -9
            assert (await runtime.look())["web"] == ended
        else:
            await runtime.stop("web", 30)
            assert await runtime.look() == {}


# Outliving the agent.

AGENT = """
import asyncio, sys
from pathlib import Path
from drover.agent.cgroups import Cgroups
from drover.agent.workloads.process import ProcessRuntime
from drover.coordinator.clock import read_clock
from drover.coordinator.specs import ProcessSpec

async def main(root, directory, spec):
    directory = Path(directory)
    runtime = ProcessRuntime(Cgroups(Path(root)), directory / "run", directory / "log", directory / "mounts",
                             lambda: read_clock().plus(60))
    await runtime.start("web", ProcessSpec.decode(spec.encode()), {"pgdata": directory / "mounts" / "pgdata"})
    print("started", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def other_agent(node: Node) -> Iterator[Callable[[WorkloadSpec], None]]:
    """Starts a workload in another agent-like process, in a cgroup of its own, and kills that process."""
    agents: list[subprocess.Popen[str]] = []

    def start_and_die(spec: WorkloadSpec) -> None:
        agent = subprocess.Popen(
            [sys.executable, "-c", AGENT, str(node.cgroups.root), str(node.directory), spec.encode().decode()],
            stdout=subprocess.PIPE,
            text=True,
        )
        agents.append(agent)
        assert agent.stdout is not None
        assert agent.stdout.readline() == "started\n"
        agent.kill()
        agent.wait(5)
        agent.stdout.close()

    yield start_and_die
    for agent in agents:
        agent.kill()
        agent.wait(5)


async def test_a_workload_outlives_its_agent_and_its_end_is_known_to_the_next(
    node: Node, runtime: ProcessRuntime, other_agent: Callable[[WorkloadSpec], None]
) -> None:
    spec = shell("while [ ! -e end ]; do sleep 0.01; done; exit 42")
    other_agent(spec)
    running = (await runtime.look())["web"]
    assert isinstance(running, Running)
    assert running.fingerprint == fingerprint(spec)
    assert str(running.pid) in Path("/proc").joinpath(str(running.pid), "stat").read_text()
    await runtime.start("web", spec, node.paths())
    assert (await runtime.look())["web"] == running
    while not node.woken.empty():
        node.woken.get_nowait()
    (node.data / "end").touch()
    async with asyncio.timeout(10):
        assert await node.woken.get() == "web"
    ended = (await runtime.look())["web"]
    assert isinstance(ended, Exited)
    assert ended.status == 42


async def test_what_ended_while_there_was_no_agent_is_known_to_the_next(
    node: Node, other_agent: Callable[[WorkloadSpec], None]
) -> None:
    other_agent(shell("while [ ! -e end ]; do sleep 0.01; done; exit 7"))
    (node.data / "end").touch()
    await until(lambda: not node.pids())
    ended = (await node.runtime().look())["web"]
    assert isinstance(ended, Exited)
    assert ended.status == 7


async def test_an_adopted_workload_is_stopped_like_any_other(
    node: Node, runtime: ProcessRuntime, other_agent: Callable[[WorkloadSpec], None]
) -> None:
    other_agent(python(STUBBORN))
    await until((node.data / "ready").exists)
    await runtime.stop("web", 0.1)
    assert node.pids() == []
    assert await runtime.look() == {}


async def test_a_pid_that_was_used_again_is_not_taken_for_the_workload(
    node: Node, other_agent: Callable[[WorkloadSpec], None]
) -> None:
    other_agent(SLEEP)
    assert node.cgroups.kill("workloads/web", 5)
    started = node.directory / "run" / "web" / "started"
    started.write_text(json.dumps(json.loads(started.read_text()) | {"pid": os.getpid()}))
    runtime = node.runtime()
    ended = (await runtime.look())["web"]
    assert isinstance(ended, Exited)
    assert ended.status == -9
    await runtime.stop("web", 5)


async def test_what_is_in_the_cgroup_without_a_record_runs_with_a_spec_like_no_other(
    node: Node, runtime: ProcessRuntime, other_agent: Callable[[WorkloadSpec], None]
) -> None:
    other_agent(SLEEP)
    for file in ("started", "fingerprint"):
        (node.directory / "run" / "web" / file).unlink()
    condition = (await runtime.look())["web"]
    assert isinstance(condition, Running)
    assert condition.pid in node.pids()
    assert condition.fingerprint != fingerprint(SLEEP)
    await runtime.stop("web", 5)
    assert await runtime.look() == {}
