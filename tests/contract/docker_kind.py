"""What holds for every kind of workload, for containers: run inside a node of a playground, where a real Docker Engine
and cgroup v2 are (test_docker_workload.py)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from drover.agent.cgroups import CONTAINERS, Cgroups
from drover.agent.workloads.base import (
    Absent,
    Condition,
    Exited,
    NotAllowedNow,
    Running,
    WorkloadError,
    fingerprint,
)
from drover.agent.workloads.container import Allowed
from drover.agent.workloads.docker import DockerRuntime
from drover.coordinator.clock import read_clock
from drover.coordinator.containers import ContainerSpec
from drover.coordinator.protocol.clock import Deadline

SOCKET = Path("/run/docker.sock")
STUBBORN = "trap '' TERM; echo ready > /data/ready; while :; do sleep 1; done"


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def spec(script: str = "exec sleep 600", **changes: Any) -> ContainerSpec:
    made = {"image": "busybox", "command": ["sh", "-c", script], "volumes": ["pgdata:/data"], "init": True}
    return ContainerSpec.model_validate(made | changes)


class Node:
    """Directories and cgroups of this node, and runtimes on them. allowed: answers of the gate; the last one stays."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.cgroups = directory, Cgroups.find(f"drover-test-{os.getpid()}")
        self.data = directory / "mounts/pgdata"
        self.data.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(self.data)], check=True)

        self.gates: list[bool] = [True]
        self.woken: asyncio.Queue[str] = asyncio.Queue()
        self.runtimes: list[DockerRuntime] = []

    def unmount(self) -> None:
        if os.path.ismount(self.data):
            subprocess.run(["umount", str(self.data)], check=True)

    def gate(self) -> Deadline | None:
        return read_clock().plus(60) if (self.gates.pop(0) if len(self.gates) > 1 else self.gates[0]) else None

    def runtime(self) -> DockerRuntime:
        mounts = self.directory / "mounts"
        made = DockerRuntime(self.cgroups, self.directory / "run", mounts, SOCKET, self.gate, Allowed())
        made.on_change(self.woken.put_nowait)
        self.runtimes.append(made)
        return made

    async def wait_for(self, runtime: DockerRuntime, kind: type[Condition], name: str = "web") -> Any:
        async with asyncio.timeout(20):
            while not isinstance(condition := (await runtime.look()).get(name, Absent()), kind):
                assert await self.woken.get() == name
        return condition


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(tmp_path)
    yield made
    assert not made.runtime().kill_all()
    for runtime in made.runtimes:
        runtime.close()
    for left in docker("ps", "-aq").split():
        docker("rm", "-f", left)
    made.unmount()
    made.cgroups.remove(CONTAINERS)
    with suppress(FileNotFoundError):
        made.cgroups.root.rmdir()


@pytest.fixture
def runtime(node: Node) -> DockerRuntime:
    return node.runtime()


async def start(node: Node, runtime: DockerRuntime, it: ContainerSpec | None = None, name: str = "web") -> None:
    await runtime.start(name, it or spec(), {"pgdata": node.data})


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_started_one_is_seen_running_by_its_pid_in_its_cgroup(node: Node, runtime: DockerRuntime) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    await start(node, runtime)
    condition = (await runtime.look())["web"]
    assert isinstance(condition, Running)
    assert condition.pid in node.cgroups.pids(f"{CONTAINERS}/web")
    assert condition.fingerprint == fingerprint(spec())
    assert before < condition.since <= time.clock_gettime(time.CLOCK_BOOTTIME)


async def test_a_start_and_an_end_wake_and_its_status_is_told(node: Node, runtime: DockerRuntime) -> None:
    await start(node, runtime, spec("sleep 0.3; exit 7"))
    assert await node.woken.get() == "web"
    ended = await node.wait_for(runtime, Exited)
    assert ended.status == 7
    assert 0 < ended.ran < 20


async def test_one_that_was_killed_is_told_to_have_died_of_that(node: Node, runtime: DockerRuntime) -> None:
    await start(node, runtime)
    docker("kill", "web")
    assert (await node.wait_for(runtime, Exited)).status == -9


async def test_starting_twice_is_as_good_as_once_and_another_spec_has_to_wait(
    node: Node, runtime: DockerRuntime
) -> None:
    await start(node, runtime)
    first = (await runtime.look())["web"]
    await start(node, runtime)
    assert (await runtime.look())["web"] == first
    with pytest.raises(WorkloadError, match="another spec"):
        await start(node, runtime, spec("exec sleep 60"))


async def test_one_that_ended_goes_on_with_what_it_had_written_outside_its_volumes(
    node: Node, runtime: DockerRuntime
) -> None:
    script = "test -e /tmp/seen && echo again > /data/seen && exec sleep 600; touch /tmp/seen"
    await start(node, runtime, spec(script))
    await node.wait_for(runtime, Exited)
    await start(node, runtime, spec(script))
    await until((node.data / "seen").exists)


async def test_a_restarted_agent_adopts_what_runs_and_stops_it(node: Node, runtime: DockerRuntime) -> None:
    await start(node, runtime)
    running = (await runtime.look())["web"]
    runtime.close()
    successor = node.runtime()
    assert (await successor.look())["web"] == running
    await successor.stop("web", 5)
    assert (await successor.look()).get("web") is None
    assert not node.cgroups.populated(CONTAINERS)


async def test_what_does_not_end_in_its_grace_period_is_killed(node: Node, runtime: DockerRuntime) -> None:
    await start(node, runtime, spec(STUBBORN, init=False))
    await until((node.data / "ready").exists)
    began = time.monotonic()
    await runtime.stop("web", 0.5)
    assert time.monotonic() - began >= 0.5
    assert not node.cgroups.populated(CONTAINERS)


async def test_it_is_stopped_by_the_signal_that_it_asks_for(node: Node, runtime: DockerRuntime) -> None:
    script = "trap 'echo told > /data/told; exit 0' INT; echo > /data/ready; while :; do sleep 0.05; done"
    await start(node, runtime, spec(script, init=False, stop_signal="SIGINT"))
    await until((node.data / "ready").exists)
    await runtime.stop("web", 10)
    assert (node.data / "told").read_text() == "told\n"


async def test_with_a_closed_gate_nothing_is_started_and_nothing_is_left(node: Node, runtime: DockerRuntime) -> None:
    node.gates = [False]
    with pytest.raises(NotAllowedNow):
        await start(node, runtime)
    assert not await runtime.look()
    assert docker("ps", "-q") == ""


async def test_it_is_never_started_on_a_directory_where_its_data_is_not(node: Node, runtime: DockerRuntime) -> None:
    await runtime.prepare("web", spec())
    node.unmount()
    with pytest.raises(NotAllowedNow, match="pgdata is not mounted"):
        await start(node, runtime)
    assert docker("ps", "-q") == ""


async def test_a_gate_that_closes_while_it_starts_leaves_nothing_running(node: Node, runtime: DockerRuntime) -> None:
    node.gates = [True, False]
    with pytest.raises(NotAllowedNow):
        await start(node, runtime)
    assert not await runtime.look()
    assert not node.cgroups.populated(CONTAINERS)


async def test_all_are_killed_at_once_without_the_engine(node: Node, runtime: DockerRuntime) -> None:
    for name in ("web", "shop"):
        await start(node, runtime, spec(STUBBORN), name)
    pid = int(Path("/run/docker.pid").read_text())
    os.kill(pid, 19)
    try:
        assert runtime.kill_all() == []
        assert not node.cgroups.populated(CONTAINERS)
        assert not await runtime.look()
    finally:
        os.kill(pid, 18)


async def test_what_was_got_ready_is_what_is_started_and_goes_again_where_it_does_not_come(
    node: Node, runtime: DockerRuntime
) -> None:
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(runtime.run())
        await runtime.prepare("web", spec())
        made = docker("ps", "-aq", "--no-trunc")
        assert docker("inspect", "--format", "{{.State.Status}}", "web") == "created"
        assert not await runtime.look()
        await start(node, runtime)
        assert docker("ps", "-q", "--no-trunc") == made
        await runtime.stop("web", 5)
        await until(lambda: docker("ps", "-aq") == "")
        await runtime.prepare("web", spec())
        await runtime.unprepare("web")
        await until(lambda: docker("ps", "-aq") == "")
        watching.cancel()


async def test_what_was_got_ready_is_not_started_by_anybody_else(node: Node, runtime: DockerRuntime) -> None:
    await runtime.prepare("web", spec())
    with pytest.raises(subprocess.CalledProcessError):
        docker("start", "web")
    await start(node, runtime)
    assert isinstance((await runtime.look())["web"], Running)


async def test_what_cannot_be_started_says_why_and_is_absent(node: Node, runtime: DockerRuntime) -> None:
    with pytest.raises(WorkloadError, match="image nowhere"):
        await start(node, runtime, spec(image="nowhere"))
    with pytest.raises(WorkloadError, match=r"the engine says: .*no-such-program"):
        await start(node, runtime, spec(command=["no-such-program"], init=False))
    with pytest.raises(WorkloadError, match="two characters"):
        await start(node, runtime, name="w")
    assert not await runtime.look()


async def test_its_networks_are_made_and_shared_with_the_others_on_them(node: Node, runtime: DockerRuntime) -> None:
    await start(node, runtime, spec(networks=["back"]), "shop")
    await start(node, runtime, spec(networks=["back", "other"]))
    there = "{{range .Containers}}{{.Name}} {{end}}"
    assert sorted(docker("network", "inspect", "--format", there, "back").split()) == ["shop", "web"]
    assert docker("network", "inspect", "--format", there, "other").split() == ["web"]


async def test_an_image_that_keeps_data_where_no_volume_is_is_refused_as_it_would_be_lost(
    node: Node, runtime: DockerRuntime
) -> None:
    base = docker("create", "busybox", "true")
    docker("commit", "--change", "VOLUME /data/below", base, "keeps")
    docker("rm", base)
    with pytest.raises(WorkloadError, match=r"/data/below, which would be lost .*: put a volume or tmpfs there"):
        await start(node, runtime, spec(image="keeps"))
    await start(node, runtime, spec(image="keeps", tmpfs=["/data/below"]))
    assert isinstance((await runtime.look())["web"], Running)


async def test_a_container_of_somebody_elses_with_our_label_is_left_alone(node: Node, runtime: DockerRuntime) -> None:
    theirs = docker("run", "-d", "--name", "debug", "--label", "drover.workload=web", "busybox", "sleep", "600")
    running = asyncio.create_task(runtime.run())
    try:
        await start(node, runtime)
        await runtime.stop("web", 0.0)
        await until(lambda: "web" not in docker("ps", "-a", "--format", "{{.Names}}").split())
    finally:
        running.cancel()
    assert docker("inspect", "-f", "{{.State.Running}}", theirs) == "true"


async def test_what_was_killed_cannot_be_started_by_an_engine_that_is_late(node: Node, runtime: DockerRuntime) -> None:
    await start(node, runtime)
    assert not runtime.kill_all()
    with pytest.raises(subprocess.CalledProcessError):
        docker("start", "web")
