"""Workloads that are containers of the node's Docker Engine.

The cgroup `containers/<w>` is the truth, as it is for processes: the engine makes the container's own cgroup below it,
and a workload runs while a process is in there, whatever the engine says, or if it says nothing. So a container is
stopped, and found to have stopped, without the engine; it is needed to start one. What is written down in
`<directory>/<w>` adds what a cgroup cannot say: `container` (the ID, before the start), `started`, `ended`.

A container without such a record is left over, or made ready for a dataset that is about to come; one without our
label is somebody else's, and never touched.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from drover.agent.cgroup_wait import wait_empty
from drover.agent.cgroups import CONTAINERS, CgroupError, Cgroups, NotEmpty, Watch
from drover.agent.workloads.base import Absent, Condition, Exited, NotAllowedNow, Running, WorkloadError, fingerprint
from drover.agent.workloads.container import Allowed, below, config, refusal
from drover.agent.workloads.engine import FINGERPRINT, LABEL, Engine
from drover.agent.workloads.launch import Gate
from drover.agent.workloads.notes import now, read, whole, write
from drover.coordinator.containers import ContainerSpec
from drover.coordinator.keys import name_error
from drover.coordinator.specs import WorkloadSpec

log = logging.getLogger(__name__)

KILLED_WITHIN = 10.0
"""Seconds that killed processes may take to be gone when a workload is stopped."""
LADDER = 0.9
"""The same at the deadline, where D_io follows D_soft within a second."""
_ENDED = 2.0
"""Seconds that the engine may take to say how a container ended."""
_AGAIN = 2.0
"""Seconds before an engine is asked again that did not answer."""


class DockerRuntime:
    """A `Runtime`, used in one event loop; only `kill` may come from another thread.

    directory: on tmpfs, this class's own. mounts: what datasets are mounted below. gate: asked just before a start and
    after it, when the container's cgroup is known.
    """

    kind = "docker"

    def __init__(
        self, cgroups: Cgroups, directory: Path, mounts: Path, socket: Path, gate: Gate, allowed: Allowed
    ) -> None:
        self._cgroups, self._directory, self._mounts = cgroups, directory, mounts
        self._socket, self._engine = socket, Engine(socket)
        self._gate, self._allowed = gate, allowed
        self._wake: Callable[[str], None] = lambda name: None
        self._watched: dict[str, Watch] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._ailing: dict[str, str] = {}
        self._sweep = asyncio.Event()
        """There may be containers that are to be removed."""
        self._prepared: set[str] = set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_health())
            group.create_task(self._keep_swept())

    async def look(self) -> Mapping[str, Condition]:
        found = await asyncio.to_thread(self._look)
        for name, condition in found.items():
            if isinstance(condition, Running) and name not in self._watched:
                self._follow(name)
        return found

    def on_change(self, wake: Callable[[str], None]) -> None:
        self._wake = wake

    async def prepare(self, name: str, spec: WorkloadSpec) -> None:
        """The image is here afterwards, and the container made."""
        async with self._locks[name]:
            if isinstance(await asyncio.to_thread(self._look_at, name), Absent):
                self._prepared.add(name)
                try:
                    await whole(self._make_ready, name, _own(spec))
                except (OSError, CgroupError) as error:
                    raise WorkloadError(f"cannot get {name} ready: {error}") from error

    async def unprepare(self, name: str) -> None:
        self._prepared.discard(name)
        self._sweep.set()

    async def start(self, name: str, spec: WorkloadSpec, paths: Mapping[str, Path]) -> None:
        async with self._locks[name]:
            wanted = fingerprint(spec)
            found = await asyncio.to_thread(self._look_at, name)
            if isinstance(found, Running):
                if found.fingerprint == wanted:
                    return
                raise WorkloadError(f"{name} still runs with another spec; it has to be stopped first")
            self._forget(name)
            self._ailing.pop(name, None)
            self._prepared.add(name)
            await whole(self._start, name, _own(spec), isinstance(found, Exited) and found.fingerprint == wanted)
            self._prepared.discard(name)
            self._follow(name)
        self._wake(name)

    async def stop(self, name: str, grace: float) -> None:
        """The container's first process gets its signal; whatever is left after the grace period is killed."""
        async with self._locks[name]:
            if await asyncio.to_thread(self._terminate, name):
                await wait_empty(self._cgroups, _cgroup(name), grace)
            if await whole(self._end, [name], KILLED_WITHIN):
                pids = ", ".join(str(pid) for pid in self._cgroups.pids(_cgroup(name)))
                raise WorkloadError(
                    f"processes of container {name} do not die (pids {pids}): they hang in the kernel, because storage "
                    "or network does not answer; mend that, or reboot this node"
                )
            self._sweep.set()
            if name in self._watched:
                self._forget(name)
                self._wake(name)

    def kill(self, names: Sequence[str]) -> list[str]:
        return self._end([name for name in names if not name_error(name)], LADDER, sealed=True)

    def kill_all(self) -> list[str]:
        return self.kill(self._cgroups.names(CONTAINERS))

    def close(self) -> None:
        for name in list(self._watched):
            self._forget(name)

    # What is here.

    def _look(self) -> dict[str, Condition]:
        names = set(self._cgroups.names(CONTAINERS))
        with suppress(FileNotFoundError):
            names.update(name for name in os.listdir(self._directory) if not name_error(name))
        found = {name: self._look_at(name) for name in sorted(names)}
        return {name: condition for name, condition in found.items() if not isinstance(condition, Absent)}

    def _look_at(self, name: str) -> Condition:
        """`started` is written when it is known to run: once that is there, an empty cgroup means that it has ended."""
        directory = self._directory / name
        started = read(directory / "started")
        known_as = str((read(directory / "container") or {}).get("fingerprint", ""))
        if self._cgroups.populated(_cgroup(name)):
            if started is None:
                return Running(next(iter(self._cgroups.pids(_cgroup(name))), 0), now(), "")
            return Running(int(started["pid"]), started["since"], known_as, self._ailing.get(name, ""))
        if started is None:
            return Absent()
        ended = read(directory / "ended")
        if ended is None:
            status = self._engine.exit_code(str(started["id"]), _ENDED)
            if status is None:
                status = -signal.SIGKILL
            elif status > 128:
                status = 128 - status
            ended = {"status": status, "at": now(), "ran": now() - started["since"]}
            with suppress(FileNotFoundError):
                write(directory / "ended", json.dumps(ended))
        return Exited(int(ended["status"]), ended["at"], ended["ran"], known_as)

    # Starting and ending.

    def _make_ready(self, name: str, spec: ContainerSpec, again: str = "") -> str:
        """Blocking. The ID of a container that only has to be started. again: one that has run and may do so again."""
        if len(name) < 2:
            raise WorkloadError(f"{name!r} cannot be a container's name: Docker wants two characters at least")
        if wrong := refusal(spec, self._allowed):
            raise WorkloadError(wrong)
        found = self._engine.inspect(name)
        if found is not None:
            labels = found["Config"].get("Labels") or {}
            if labels.get(LABEL) != name:
                raise WorkloadError(
                    f"a container that is not Drover's has the name {name} on this node: rename or remove it there"
                )
            fit = labels.get(FINGERPRINT) == fingerprint(spec)
            if fit and (found["State"]["Status"] == "created" or found["Id"] == again):
                return str(found["Id"])
            self._engine.remove(found["Id"])
        self._engine.ensure_image(spec.image)
        targets = (*(one.target for one in spec.volumes), *(one.partition(":")[0] for one in spec.tmpfs))
        covered = {os.path.normpath(path) for path in targets}
        if lost := [path for path in self._engine.volumes(spec.image) if os.path.normpath(path) not in covered]:
            raise WorkloadError(
                f"image {spec.image} keeps data in {lost[0]}, which would be lost when the container moves or ends: "
                "put a volume or tmpfs there"
            )
        allowed = [os.path.realpath(path) for path in self._allowed.binds]
        for one in spec.volumes:
            if one.bind and not below(os.path.realpath(one.source), allowed):
                raise WorkloadError(f"{one.source} leads out of the directories that this node allows (binds)")
        for network in spec.networks:
            self._engine.ensure_network(network)
        if self._engine.systemd:
            raise WorkloadError(
                "the engine lets systemd make its cgroups, which Drover cannot stop containers by: start dockerd with "
                "--exec-opt native.cgroupdriver=cgroupfs"
            )
        parent = self._cgroups.make(_cgroup(name))
        self._cgroups.seal(_cgroup(name))  # it is started by us, with its data, or not at all
        paths = {dataset: self._mounts / dataset for dataset in spec.datasets}
        made = self._engine.create(config(name, spec, paths, self._cgroups.seen_as(parent)), name)
        for network in spec.networks[1:]:
            self._engine.connect(made, network)
        return made

    def _start(self, name: str, spec: ContainerSpec, again: bool) -> None:
        """Blocking. What it raises, it leaves nothing behind that runs."""
        directory = self._directory / name
        earlier = str((read(directory / "container") or {}).get("id", "")) if again else ""
        try:
            if stuck := self._end([name], KILLED_WITHIN):
                raise WorkloadError(f"processes of an earlier container {stuck[0]} do not die")
            made = self._make_ready(name, spec, earlier)
            directory.mkdir(parents=True)
            write(directory / "container", json.dumps({"id": made, "fingerprint": fingerprint(spec)}))
            self._cgroups.make(_cgroup(name))
            self._cgroups.unseal(_cgroup(name))
            if self._gate() is None:
                raise NotAllowedNow(f"{name} is not started: this node may not write now")
            # The ladder may have unmounted them. If it does so from here on, it has sealed the cgroup before.
            if gone := [dataset for dataset in spec.datasets if not os.path.ismount(self._mounts / dataset)]:
                raise NotAllowedNow(f"{name} is not started: dataset {gone[0]} is not mounted")
            self._engine.start(made)
            self._started(name, made)
        except BaseException as error:
            self._end([name], KILLED_WITHIN, sealed=True)
            if isinstance(error, OSError | CgroupError):
                raise WorkloadError(f"cannot start {name}: {error}") from error
            raise

    def _started(self, name: str, container: str) -> None:
        """Writes it down, once it is sure that it can be stopped without the engine's help."""
        found = self._engine.inspect(container) or {}
        state, stop = found.get("State", {}), found.get("Config", {}).get("StopSignal") or "SIGTERM"
        pid = int(state.get("Pid", 0))
        if pid and not self._cgroups.contains(_cgroup(name), pid):
            self._engine.remove(container)
            raise WorkloadError(
                f"the engine did not put container {name} into the cgroup that it was told: Drover could not stop it "
                "in time; the machine needs cgroup v2 alone, and dockerd the driver cgroupfs"
            )
        if self._gate() is None:
            raise NotAllowedNow(f"{name} is not started: this node may not write now")
        noted = {"pid": pid, "since": now(), "id": container, "signal": stop}
        write(self._directory / name / "started", json.dumps(noted))

    def _terminate(self, name: str) -> bool:
        """Whether anything is here; its first process has been told to end, or all where that is not known."""
        self._cgroups.seal(_cgroup(name))
        started = read(self._directory / name / "started") or {}
        pids = self._cgroups.pids(_cgroup(name))
        number = _signal(str(started.get("signal", "SIGTERM")))
        for pid in [started["pid"]] if started.get("pid") in pids else pids:
            with suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                try:
                    if pid in self._cgroups.pids(_cgroup(name)):  # the number is still its own
                        signal.pidfd_send_signal(descriptor, number)
                finally:
                    os.close(descriptor)
        return self._cgroups.populated(_cgroup(name))

    def _end(self, names: Sequence[str], timeout: float, sealed: bool = False) -> list[str]:
        """Kills all at once and forgets them; returns those of which something is left. sealed: their cgroups stay, so
        that an engine which was told to start one cannot do so any more, however late it is."""
        paths = {_cgroup(name): name for name in names}
        for path in paths:
            self._cgroups.seal(path)
        left = {paths[path] for path in self._cgroups.kill_all(list(paths), timeout)}
        for name in names:
            if name not in left:
                try:
                    if not sealed:
                        self._cgroups.remove(_cgroup(name))
                except NotEmpty:
                    left.add(name)
                else:
                    shutil.rmtree(self._directory / name, ignore_errors=True)
        return [name for name in names if name in left]

    # Cgroups, as the kernel tells of them.

    def _follow(self, name: str) -> None:
        self._forget(name)
        try:
            watch = self._cgroups.watch(_cgroup(name))
        except FileNotFoundError:
            self._wake(name)
            return
        self._watched[name] = watch
        asyncio.get_running_loop().add_reader(watch.fileno(), self._changed, name)
        self._changed(name)

    def _changed(self, name: str) -> None:
        if not self._watched[name].populated():
            self._forget(name)
            self._wake(name)

    def _forget(self, name: str) -> None:
        if watch := self._watched.pop(name, None):
            asyncio.get_running_loop().remove_reader(watch.fileno())
            watch.close()

    # What the engine tells.

    async def _keep_swept(self) -> None:
        """Containers of ours that have ended and belong to nothing any more are removed, off the path of moves."""
        self._sweep.set()
        while True:
            await self._sweep.wait()
            self._sweep.clear()
            try:
                for one in await asyncio.to_thread(self._engine.ours):
                    await self._remove_left_over(one)
            except WorkloadError as error:
                log.debug("%s", error)
                await asyncio.sleep(_AGAIN)
                self._sweep.set()

    async def _remove_left_over(self, one: Mapping[str, Any]) -> None:
        name = str(one["Labels"].get(LABEL, ""))
        if name_error(name) or f"/{name}" not in (one.get("Names") or ()):
            return  # somebody's own, of an image that was made from one of ours
        async with self._locks[name]:
            known = await asyncio.to_thread(read, self._directory / name / "container") or {}
            # The engine calls it running for a while after its end; one that was started by hand is not ended here.
            if (
                name not in self._prepared
                and known.get("id") != one["Id"]
                and not self._cgroups.populated(_cgroup(name))
            ):
                await asyncio.to_thread(self._engine.remove, one["Id"])

    async def _follow_health(self) -> None:
        while True:
            try:
                await self._listen()
            except (aiohttp.ClientError, OSError, WorkloadError, ValueError, LookupError, TypeError) as error:
                log.debug("the engine tells nothing: %s", error)
            await asyncio.sleep(_AGAIN)

    async def _listen(self) -> None:
        """One stream of events, until it breaks. What happened before it began is looked up."""
        filters = json.dumps({"label": [LABEL], "event": ["health_status", "start", "die"]})
        patience = aiohttp.ClientTimeout(total=None, sock_connect=_ENDED)
        connector = aiohttp.UnixConnector(str(self._socket))
        async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
            async with session.get("http://docker/events", params={"filters": filters}) as stream:
                stream.raise_for_status()
                self._sweep.set()
                for name, condition in (await self.look()).items():
                    if isinstance(condition, Running):
                        await self._ask_health(name)
                async for line in stream.content:
                    event = json.loads(line)
                    if event["Action"] == "die":
                        self._sweep.set()
                        continue
                    name = str(event["Actor"]["Attributes"].get(LABEL, ""))
                    await self._ask_health(name)
                    if event["Action"] == "start" and not name_error(name):
                        self._wake(name)  # by whomever it was started

    async def _ask_health(self, name: str) -> None:
        if name_error(name):
            return
        found = await asyncio.to_thread(self._engine.inspect, name)
        health = (found or {}).get("State", {}).get("Health") or {}
        said = {"starting": "has not said yet that it is healthy", "unhealthy": "is unhealthy"}
        ailing = said.get(str(health.get("Status")), "")
        if ailing and (last := [str(one.get("Output", "")).strip() for one in health.get("Log") or []][-1:]):
            ailing = f"{ailing}: {last[0].splitlines()[-1]}" if last[0] else ailing
        if ailing != self._ailing.get(name, ""):
            self._ailing[name] = ailing
            self._wake(name)


def _own(spec: WorkloadSpec) -> ContainerSpec:
    assert isinstance(spec, ContainerSpec)
    return spec


def _cgroup(name: str) -> str:
    if reason := name_error(name):
        raise WorkloadError(f"{name!r} cannot be a workload: {reason}")
    return f"{CONTAINERS}/{name}"


def _signal(name: str) -> signal.Signals:
    """As images and users write it: SIGINT, INT, 2."""
    with suppress(ValueError, KeyError):
        if name.isdecimal():
            return signal.Signals(int(name))
        return signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    return signal.SIGTERM
