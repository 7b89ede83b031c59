"""Wiring, and nothing else: which parts an agent has, and how one incarnation follows another."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import entry_points

import drover
from drover.agent import ladder
from drover.agent.api import http, rpc
from drover.agent.cgroups import Cgroups
from drover.agent.config import Settings
from drover.agent.execute import Executor
from drover.agent.helper.pool import HelperPool
from drover.agent.ignored import IgnoredInput
from drover.agent.janitor import Janitor
from drover.agent.local import Local
from drover.agent.machine import boot_id
from drover.agent.preparer import Preparer
from drover.agent.reporter import Reporter
from drover.agent.sight import Sight
from drover.agent.storage.base import Backend, Factory, Runner
from drover.agent.telemetry import Telemetry
from drover.agent.worker import Shared
from drover.agent.workers import Workers
from drover.agent.workloads.base import Runtime
from drover.agent.workloads.process import ProcessRuntime
from drover.coordinator.clock import read_clock
from drover.coordinator.etcd import Credentials, Etcd, Tls
from drover.coordinator.join import Applicant, Joining, Refused
from drover.coordinator.keys import Keys
from drover.coordinator.member import Lost, Member
from drover.coordinator.protocol.clock import Deadline
from drover.coordinator.protocol.session import Loss
from drover.coordinator.records import NodeRecord, timestamp
from drover.coordinator.store import Store

log = logging.getLogger(__name__)

_AGAIN = 0.5


class AlreadyRunning(Exception):
    """Another agent of this node runs on this machine."""


def first(group: BaseExceptionGroup[Lost]) -> Lost:
    """The loss in a group, however deep."""
    error = group.exceptions[0]
    return first(error) if isinstance(error, BaseExceptionGroup) else error


class Agent:
    """One agent: the parts that outlive an incarnation, and the loop that takes a new one where the last was fenced."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = Keys(settings.prefix)
        self._cgroups = Cgroups.find(settings.cgroup)
        self._telemetry = Telemetry(settings.node)
        self._sight = Sight(settings.node)
        self._member: Member | None = None
        self._workers: Workers | None = None
        self._helpers: HelperPool | None = None
        self._closed = asyncio.Event()
        self._laddering = asyncio.Lock()
        self._backends: Mapping[str, Backend] = {}
        self._runtimes: Mapping[str, Runtime] = {}

    async def run(self) -> None:
        """Until cancelled; then everything that is mounted and runs is left as it is, for the next agent.

        Raises AlreadyRunning, ConfigError, Refused, NotOurCluster, Denied, CannotListen.
        """
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._alone())
            self._cgroups.make("agent")
            self._cgroups.enter("agent")
            helpers = await stack.enter_async_context(HelperPool(self._cgroups, self.gate, left_over=True))
            self._helpers = helpers
            self._backends = self._make_backends(helpers)
            self._runtimes = self._make_runtimes(stack)
            stack.callback(self._telemetry.close)
            store = await stack.enter_async_context(self._etcd())
            await stack.enter_async_context(rpc.serving(self._sight, settings.listen.grpc))
            await stack.enter_async_context(http.serving(self._sight, self._telemetry, settings.listen.http))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._examine_backends())
                group.create_task(self._live(store, helpers))

    def gate(self) -> Deadline | None:
        return self._member.gate() if self._member else None

    async def _live(self, store: Store, helpers: HelperPool) -> None:
        while True:
            joining = Joining(
                store,
                self._keys,
                self._applicant(),
                self._settings.run_dir / "session.json",
                read_clock,
                self._left_over,
            )
            member = Member(
                store,
                self._keys,
                await joining.run(),
                self._describe(),
                self._settings.timings,
                self._settings.run_dir / "session.json",
                self,
                compacts=self._settings.compact == "auto",
            )
            try:
                await self._live_once(member, helpers)
            except* Lost as group:
                await self._after(first(group))

    async def _after(self, lost: Lost) -> None:
        """The incarnation is dead to the cluster: nothing of it may be left before the node joins again."""
        self._sight.ended = True
        self._sight.ring()
        while await self._left_over():
            await asyncio.sleep(_AGAIN)
        self._telemetry.session_lost(lost.ended.loss)
        if lost.ended.loss is Loss.STRANGER:
            raise Refused(
                f"{lost.ended.detail}. Everything here was stopped. Give one of the two another name"
            ) from None

    async def _live_once(self, member: Member, helpers: HelperPool) -> None:
        self._member = member
        self._closed.clear()
        ignored = IgnoredInput(member.view, member.node, self._telemetry)
        reporter = Reporter(member, lambda dataset: self._told(ignored, dataset))
        local = Local(self._backends, lambda name: workers.wake(name))
        allowed = frozenset(self._settings.workloads.allow)
        execute = Executor(
            member,
            self._backends,
            self._runtimes,
            local,
            self._settings.mount_root,
            self._telemetry,
            helpers,
        )
        shared = Shared(member, execute, reporter, allowed)
        workers = self._workers = Workers(shared)
        janitor = Janitor(member.view, self._runtimes)
        preparer = Preparer(member.view, member.node, self._runtimes, allowed)

        def changed(workload: str) -> None:
            workers.wake_workload(workload)
            janitor.wake()

        for runtime in self._runtimes.values():
            runtime.on_change(changed)
        self._sight.show(member, reporter, local)
        async with asyncio.TaskGroup() as group:
            group.create_task(member.run())
            group.create_task(self._climb(member, local, workers))
            await self._picture(member)
            group.create_task(reporter.run())
            group.create_task(ignored.run())
            group.create_task(local.run())
            group.create_task(workers.run())
            group.create_task(janitor.run())
            group.create_task(preparer.run())

    @staticmethod
    async def _picture(member: Member) -> None:
        """Nothing is decided before the whole picture is there: an empty one would stop everything."""
        while True:
            with contextlib.suppress(TimeoutError):
                return await member.view.ready(10.0)
            log.warning("waiting for etcd: it does not show what this cluster has")

    # The ladder.

    async def _climb(self, member: Member, local: Local, workers: Workers) -> None:
        """Whenever the gate closes: stop everything, verify, and say so, until it is certain."""
        while True:
            await self._closed.wait()
            self._closed.clear()
            left = await self._left_over()
            local.forget_all()
            member.ladder_done(not left)
            workers.wake(None)
            if left:
                await asyncio.sleep(_AGAIN)
                self._closed.set()

    async def _left_over(self) -> list[str]:
        async with self._laddering:
            return await asyncio.to_thread(
                ladder.run_ladder, self._cgroups, self._runtimes.values(), self._backends.values()
            )

    # Listener of the member.

    def gate_closed(self, reason: str) -> None:
        if self._helpers is not None:
            self._helpers.abort()  # their requests may carry a deadline that lies ahead
        self._closed.set()
        self._telemetry.session_lost("deadline")
        self._sight.ring()

    def gate_opened(self) -> None:
        if self._workers is not None:
            self._workers.wake(None)
        self._sight.ring()

    def heartbeat(self, outcome: str, seconds: float) -> None:
        self._telemetry.heartbeat("ok" if outcome == "answered" else "failed", seconds)

    def _told(self, ignored: IgnoredInput, dataset: str) -> None:
        ignored.look(dataset)
        self._sight.ring()

    # Making the parts.

    def _applicant(self) -> Applicant:
        settings = self._settings
        return Applicant(settings.node, settings.machine_id, boot_id(), settings.timings, self._describe())

    def _describe(self) -> NodeRecord:
        settings = self._settings
        return NodeRecord(
            incarnation="",
            machine=settings.machine_id,
            boot=boot_id(),
            lease=0,
            address=settings.address,
            backends=tuple(sorted(self._backends)),
            limits={name: backend.limits for name, backend in self._backends.items()},
            version=drover.__version__,
            joined=timestamp(datetime.now(UTC)),
        )

    def _make_backends(self, runner: Runner) -> dict[str, Backend]:
        """Raises ConfigError for a back end that is not installed or whose settings are wrong."""
        installed = {point.name: point for point in entry_points(group="drover.storage")}
        backends: dict[str, Backend] = {}
        for name, table in self._settings.backends.items():
            try:
                if name not in installed:
                    raise ValueError(f"there is no back end {name!r}; installed are {', '.join(sorted(installed))}")
                factory: Factory = installed[name].load()
                backends[name] = factory(table, self._settings.node, runner)
            except ValueError as wrong:
                raise self._settings.backend_error(name, wrong) from None
        return backends

    def _make_runtimes(self, stack: contextlib.AsyncExitStack) -> dict[str, Runtime]:
        settings = self._settings
        process = ProcessRuntime(
            self._cgroups,
            settings.run_dir / "workloads",
            settings.state_dir / "log",
            settings.mount_root,
            self.gate,
        )
        stack.callback(process.close)
        return {process.kind: process}

    @contextlib.asynccontextmanager
    async def _etcd(self) -> AsyncIterator[Etcd]:
        etcd = self._settings.etcd
        tls = Tls(etcd.tls.ca, etcd.tls.cert, etcd.tls.key) if etcd.tls else None
        login = etcd.credentials()
        credentials = Credentials(*login) if login else None
        async with Etcd(etcd.endpoints, timeout=etcd.timeout, tls=tls, credentials=credentials) as store:
            yield store

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One agent at a time has this node's run_dir; a second one is told so."""
        run_dir = self._settings.run_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        with open(run_dir / "agent.lock", "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                pid = lock.read().strip() or "unknown"
                raise AlreadyRunning(
                    f"an agent of this node runs already (pid {pid} holds {run_dir}/agent.lock)"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    async def _examine_backends(self) -> None:
        while True:
            for name, backend in self._backends.items():
                self._sight.backends[name] = await backend.health()
            self._sight.ring()
            await asyncio.sleep(60.0)
