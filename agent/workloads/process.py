"""Workloads that are plain processes: a command in a cgroup of its own, below a tiny parent that outlives the agent.

The cgroup `workloads/<w>` is the truth: the workload runs while a process is in it, so no pid is ever trusted that
could have been used again. What is written down in `<directory>/<w>` only adds what a cgroup cannot say: `fingerprint`
(by the agent, before the start), `started` and `ended` (by the parent, after entering and before leaving the cgroup).
The directory must be emptied by a reboot, as /run is.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from drover.agent.cgroup_wait import wait_empty
from drover.agent.cgroups import CgroupError, Cgroups, NotEmpty, Watch
from drover.agent.workloads.base import Absent, Condition, Exited, Running, WorkloadError, fingerprint
from drover.agent.workloads.launch import Gate, Job, Parent, ParentGone, check, environment, find_user
from drover.agent.workloads.notes import now, read, whole, write
from drover.coordinator.keys import name_error
from drover.coordinator.specs import ProcessSpec, WorkloadSpec

KILLED_WITHIN = 10.0
"""Seconds that killed processes may take to be gone when a workload is stopped: flushing to a slow disk counts."""

LADDER = 0.9
"""The same at the deadline, where D_io follows D_soft within a second."""

LOG_SIZE = 10 * 2**20
"""Bytes; a larger log is set aside, as <name>.log.1, when the workload is started next."""


class ProcessRuntime:
    """A `Runtime`, used in one event loop; only `kill` may come from another thread.

    directory: on tmpfs, this class's own. log_directory: stdout and stderr of a workload go to <name>.log there.
    mounts: what datasets are mounted below. gate: asked when a starting workload is in its cgroup already, so that
    whoever closes the gate and then kills `workloads/*` leaves nothing, and nothing that comes later.
    """

    kind = "process"

    def __init__(self, cgroups: Cgroups, directory: Path, log_directory: Path, mounts: Path, gate: Gate) -> None:
        self._cgroups = cgroups
        self._directory = directory
        self._logs = log_directory
        self._mounts = mounts
        self._gate = gate
        self._wake: Callable[[str], None] = lambda name: None
        self._watched: dict[str, Watch] = {}
        self._prepared: dict[str, Parent] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def run(self) -> None:
        """Nothing to watch: the kernel tells of cgroups."""

    async def look(self) -> Mapping[str, Condition]:
        found = await asyncio.to_thread(self._look)
        for name, condition in found.items():
            if isinstance(condition, Running) and name not in self._watched:
                self._follow(name)
        return found

    def on_change(self, wake: Callable[[str], None]) -> None:
        self._wake = wake

    async def prepare(self, name: str, spec: WorkloadSpec) -> None:
        """Also starts the parent, a Python process: three quarters of what a start takes. It waits, with 5 MB of its
        own, until `start` or `close`."""
        await asyncio.to_thread(check, _own(spec), self._mounts)
        async with self._locks[name]:
            if name not in self._prepared:
                self._prepared[name] = await whole(Parent)

    async def unprepare(self, name: str) -> None:
        async with self._locks[name]:
            if prepared := self._prepared.pop(name, None):
                prepared.close()

    async def start(self, name: str, spec: WorkloadSpec, paths: Mapping[str, Path]) -> None:
        async with self._locks[name]:
            wanted = fingerprint(spec)
            match await asyncio.to_thread(self._look_at, name):
                case Running(fingerprint=running) if running == wanted:
                    return
                case Running():
                    raise WorkloadError(f"{name} still runs with another spec; it has to be stopped first")
            self._forget(name)
            prepared = self._prepared.pop(name, None)
            await whole(self._start, name, _own(spec), paths, wanted, prepared)
            self._follow(name)
        self._wake(name)

    async def stop(self, name: str, grace: float) -> None:
        """Only the command's process group gets SIGTERM; what else is left when the command has ended is killed."""
        async with self._locks[name]:
            if await asyncio.to_thread(self._terminate, name):
                await wait_empty(self._cgroups, _cgroup(name), grace)
            if stuck := await whole(self._end, [name], KILLED_WITHIN):
                pids = ", ".join(str(pid) for pid in self._cgroups.pids(_cgroup(stuck[0])))
                raise WorkloadError(
                    f"processes of {name} do not die (pids {pids}): they hang in the kernel, because storage or "
                    "network does not answer; mend that, or reboot this node"
                )
            if name in self._watched:  # the kernel tells nothing of a cgroup that was removed before it came to it
                self._forget(name)
                self._wake(name)

    def kill(self, names: Sequence[str]) -> list[str]:
        return self._end([name for name in names if not name_error(name)], LADDER)

    def kill_all(self) -> list[str]:
        return self.kill(self._cgroups.names("workloads"))

    def close(self) -> None:
        for name in list(self._watched):
            self._forget(name)
        while self._prepared:
            self._prepared.popitem()[1].close()

    def _look(self) -> dict[str, Condition]:
        names = set(self._cgroups.names("workloads"))
        with suppress(FileNotFoundError):
            names.update(name for name in os.listdir(self._directory) if not name_error(name))
        found = {name: self._look_at(name) for name in sorted(names)}
        return {name: condition for name, condition in found.items() if not isinstance(condition, Absent)}

    def _look_at(self, name: str) -> Condition:
        """The order makes it true. `started` is written inside the cgroup: once that is there, an empty cgroup means
        that all is over, and `ended`, written before the parent left, is there or never will be."""
        cgroup, directory = _cgroup(name), self._directory / name
        started = read(directory / "started")
        populated = self._cgroups.populated(cgroup)
        try:
            known_as = (directory / "fingerprint").read_text()
        except FileNotFoundError:
            known_as = ""  # like no other: it is stopped and started again
        if populated:
            if started is None:
                return Running(next(iter(self._cgroups.pids(cgroup)), 0), now(), known_as)
            return Running(int(started["pid"]), started["since"], known_as)
        if started is None:
            return Absent()
        ended = read(directory / "ended")
        if ended is None:
            # The parent was killed, and with it all the rest: by an administrator, or for want of memory.
            ended = {"status": -signal.SIGKILL, "at": now(), "ran": now() - started["since"]}
            with suppress(FileNotFoundError):
                write(directory / "ended", json.dumps(ended))
        return Exited(int(ended["status"]), ended["at"], ended["ran"], known_as)

    def _start(
        self, name: str, spec: ProcessSpec, paths: Mapping[str, Path], wanted: str, prepared: Parent | None
    ) -> None:
        """Blocking. What it raises, it leaves nothing behind."""
        try:
            job = self._job(name, spec, paths)
            if stuck := self._end([name], KILLED_WITHIN):
                raise WorkloadError(f"processes of an earlier {stuck[0]} do not die")
            (self._directory / name).mkdir(parents=True)
            write(self._directory / name / "fingerprint", wanted)
            self._cgroups.make(f"{_cgroup(name)}/parent")
            self._cgroups.make(f"{_cgroup(name)}/main")
            if prepared is not None:
                try:
                    return prepared.launch(job, self._gate)
                except ParentGone:  # somebody killed it while it waited
                    self._cgroups.kill(_cgroup(name), KILLED_WITHIN)
            Parent().launch(job, self._gate)
        except BaseException as error:
            if prepared is not None:
                prepared.close()
            self._end([name], KILLED_WITHIN)
            if isinstance(error, OSError | CgroupError):
                raise WorkloadError(f"cannot start {name}: {error}") from error
            raise

    def _job(self, name: str, spec: ProcessSpec, paths: Mapping[str, Path]) -> Job:
        user = find_user(spec.user) if spec.user is not None else None
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{name}.log"
        with suppress(FileNotFoundError):
            if log.stat().st_size > LOG_SIZE:
                log.replace(log.with_name(f"{log.name}.1"))
        return Job(
            command=spec.command,
            environment=environment(name, spec, paths, user),
            working_dir=spec.working_dir or str(paths[spec.datasets[0]]),
            user=user,
            cgroup=str(self._cgroups.directory(_cgroup(name))),
            directory=str(self._directory / name),
            log=str(log),
        )

    def _terminate(self, name: str) -> bool:
        """SIGTERM by way of the parent, or to all where somebody has killed that; whether anything is here."""
        for below in ("parent", "main"):
            path = f"{_cgroup(name)}/{below}"
            for pid in self._cgroups.pids(path):
                with suppress(ProcessLookupError):
                    descriptor = os.pidfd_open(pid)
                    try:
                        if pid in self._cgroups.pids(path):  # the number is still its own
                            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                    finally:
                        os.close(descriptor)
            if self._cgroups.populated(path):
                return True
        return False

    def _end(self, names: Sequence[str], timeout: float) -> list[str]:
        """Kills all at once and forgets them; returns those of which something is left."""
        paths = {_cgroup(name): name for name in names}
        left = {paths[path] for path in self._cgroups.kill_all(list(paths), timeout)}
        for name in names:
            if name not in left:
                try:
                    self._cgroups.remove(_cgroup(name))
                except NotEmpty:
                    left.add(name)
                else:
                    shutil.rmtree(self._directory / name, ignore_errors=True)
        return [name for name in names if name in left]

    def _follow(self, name: str) -> None:
        """Watch until the cgroup is empty, which it may be already. A look during a start may have begun to."""
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


def _own(spec: WorkloadSpec) -> ProcessSpec:
    assert isinstance(spec, ProcessSpec)
    return spec


def _cgroup(name: str) -> str:
    if reason := name_error(name):
        raise WorkloadError(f"{name!r} cannot be a workload: {reason}")
    return f"workloads/{name}"
