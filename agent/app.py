"""Wiring, and nothing else: which parts an agent has, and how one incarnation follows another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from drover.agent.alone import Name, alone
from drover.agent.api import http, promises
from drover.agent.backends import examine, make_backends
from drover.agent.caretaker import Caretaker
from drover.agent.cgroups import Cgroups
from drover.agent.config import Settings
from drover.agent.connect import connect
from drover.agent.copying import Copier
from drover.agent.describe import guard_settings, node_record
from drover.agent.execute import Executor
from drover.agent.export import close, exports
from drover.agent.gatekeeper import Gatekeeper
from drover.agent.guard.client import Guard
from drover.agent.halt import until_decided
from drover.agent.helper.pool import HelperPool
from drover.agent.ignored import IgnoredInput
from drover.agent.janitor import Janitor
from drover.agent.leave import Hands, Leave
from drover.agent.local import Local
from drover.agent.machine import boot_id
from drover.agent.ports import asking, asking_ready, serve_volumes, serving, watch_expiry
from drover.agent.preparer import Preparer
from drover.agent.promise import Promiser
from drover.agent.receiving import Receiver
from drover.agent.reporter import Reporter
from drover.agent.runtimes import make_runtimes
from drover.agent.sight import Sight
from drover.agent.snapshots import Snapshots
from drover.agent.standbys import Means, Standbys
from drover.agent.storage.base import Backend, Family
from drover.agent.storage.mounts import outsiders
from drover.agent.systemd import Systemd
from drover.agent.telemetry import Telemetry, resource
from drover.agent.transfer.meter import Meter
from drover.agent.transfer.path import TcpDataPath, data_path
from drover.agent.users import Users
from drover.agent.worker import Shared
from drover.agent.workers import Workers
from drover.agent.workloads.base import Runtime
from drover.coordinator.clock import read_clock
from drover.coordinator.etcd import Etcd
from drover.coordinator.join import Applicant, Joining, Refused
from drover.coordinator.keys import Keys
from drover.coordinator.mark import MARK, MarkFile
from drover.coordinator.member import Lost, Member
from drover.coordinator.promising import Ask, Promises
from drover.coordinator.protocol.clock import Deadline
from drover.coordinator.protocol.session import Loss
from drover.coordinator.store import OtherEtcd, WentBack

log = logging.getLogger(__name__)

_AGAIN = 0.5
"""Seconds before it is looked again at what does not end."""

E = TypeVar("E", bound=Exception)


def first(group: BaseExceptionGroup[E]) -> E:
    """The reason in a group, however deep."""
    error = group.exceptions[0]
    return first(error) if isinstance(error, BaseExceptionGroup) else error


class Agent:
    """One agent: the parts that outlive an incarnation, and the loop that takes a new one where the last was fenced."""

    def __init__(self, settings: Settings, systemd: Systemd | None = None) -> None:
        self._settings, self._systemd = settings, systemd or Systemd()
        self._keys = Keys(settings.prefix)
        self._name = Name(settings.node, settings.machine_id)
        self._cgroups = Cgroups.find(settings.cgroup)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exports = exports(settings.otlp, os.environ, resource(settings.node), self._collect)
        self._telemetry = Telemetry(settings.node, self._exports.readers, tracer=self._exports.tracer)
        self._sight = Sight(settings.node)
        self._member: Member | None = None
        self._workers: Workers | None = None
        self._gatekeeper: Gatekeeper | None = None
        self._marks = MarkFile(settings.state_dir / MARK)
        self._backends: Mapping[str, Backend] = {}
        self._data_path: TcpDataPath | None = None
        self._receiver: Receiver | None = None
        self._runtimes: Mapping[str, Runtime] = {}
        self._reporter: Reporter | None = None
        self._preparer: Preparer | None = None
        self._leave = Leave(self._keys, settings.on_shutdown, settings.shutdown_timeout, settings.reboot_grace)
        self._promiser = Promiser(
            settings.node,
            settings.machine_id,
            lambda: self._member,
            lambda: self._sight.halted,
            willing=settings.etcd_away.promises,
        )

    async def run(self) -> None:
        """Until cancelled; then everything that is mounted and runs is left as it is, for the next agent.

        Raises AlreadyRunning, ConfigError, Refused, NotOurCluster, Denied, CannotListen.
        """
        settings, self._loop = self._settings, asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(close, self._telemetry.close, self._exports.close)
            stack.enter_context(self._exports.logging())
            stack.enter_context(alone(settings.run_dir))
            stack.callback(self._name.close)
            self._cgroups.make("agent")
            if not self._systemd.started_us:  # a unit's process stays in the cgroup that its journal and limits go by
                self._cgroups.enter("agent")
            guard = self._sight.guard = stack.enter_context(Guard(settings.run_dir))
            helpers = await stack.enter_async_context(HelperPool(self._cgroups, guard, left_over=True))
            self._backends = make_backends(settings, helpers)
            self._runtimes = make_runtimes(settings, self._cgroups, self.gate)
            for runtime in self._runtimes.values():
                stack.callback(runtime.close)
            timings, ring = settings.timings, self._sight.ring
            gatekeeper = self._gatekeeper = Gatekeeper(guard, self._runtimes, timings, self._telemetry, ring)
            await guard.start(guard_settings(settings, self._cgroups.root, self._backends))
            watch_expiry(settings, self._telemetry)
            receiver = self._receiver = Receiver(lambda: self._member, self._backends, lambda: self._data_path)
            doors = serving(
                settings,
                self._sight,
                self._telemetry,
                receiver,
                self._leave,
                lambda: self._preparer,
                self._promiser.give,
            )
            await stack.enter_async_context(doors)
            async with asyncio.TaskGroup() as group:
                if any(backend.family is Family.LOCAL_COPIES for backend in self._backends.values()):
                    meter = Meter(self._telemetry, self._sight.backend_of)
                    self._sight.speeds = lambda: meter.speeds
                    self._data_path = stack.enter_context(data_path(settings, helpers, meter))
                    group.create_task(self._data_path.run())
                group.create_task(self._systemd.keep(self._sight, timings.d_soft))
                group.create_task(guard.keep(gatekeeper.turned))
                group.create_task(examine(self._backends, self._sight))
                living = group.create_task(self._live(guard, gatekeeper, helpers))
                group.create_task(self._leave_if_asked(living, gatekeeper))

    async def _leave_if_asked(self, living: asyncio.Task[None], gatekeeper: Gatekeeper) -> None:
        """This machine shuts down: whatever is left of the time is for ending in good order."""

        async def end() -> None:
            self._sight.leaving = "this machine shuts down"
            living.cancel()
            await asyncio.wait([living])
            self._sight.ring()

        async def settled() -> None:
            if self._reporter is not None:
                await self._reporter.settled()

        def wake() -> None:
            if self._workers is not None:
                self._workers.wake(None)

        await self._leave.run(
            Hands(
                member=lambda: self._member,
                wake=wake,
                parted=lambda: self._workers is not None and self._workers.parted,
                settled=settled,
                end=end,
                left_over=gatekeeper.left_over,
                etcd=self._etcd,
            )
        )

    def gate(self) -> Deadline | None:
        return self._gatekeeper.gate(self._member) if self._gatekeeper else None

    async def _live(self, guard: Guard, gatekeeper: Gatekeeper, helpers: HelperPool) -> None:
        while True:
            try:
                async with self._etcd() as store, asyncio.TaskGroup() as group:
                    following = group.create_task(store.follow_files())
                    try:
                        await self._live_on(store, guard, gatekeeper, helpers)
                    finally:
                        following.cancel()
            except* WentBack as reasons:
                await self._halt(first(reasons), gatekeeper)

    async def _live_on(self, store: Etcd, guard: Guard, gatekeeper: Gatekeeper, helpers: HelperPool) -> None:
        """One incarnation after the other. Raises WentBack."""
        while True:
            joining = Joining(
                store,
                self._keys,
                self._applicant(guard),
                self._settings.run_dir / "session.json",
                read_clock,
                gatekeeper.left_over,
                self._marks,
                self._name.hold,
            )
            member = Member(
                store,
                self._keys,
                await joining.run(),
                node_record(self._settings, self._backends),
                self._settings.timings,
                self._settings.run_dir / "session.json",
                gatekeeper,
                compacts=self._settings.compact == "auto",
                promised=self._promises(),
            )
            try:
                async with asyncio.TaskGroup() as group:
                    marking = group.create_task(self._marks.keep(lambda: store.revision))
                    try:
                        await self._live_once(member, gatekeeper, helpers)
                    finally:
                        marking.cancel()
            except* Lost as lost:
                await self._after(first(lost), gatekeeper)

    async def _halt(self, error: WentBack, gatekeeper: Gatekeeper) -> None:
        """Everything here stops, and nothing is done until somebody has decided which etcd is the truth."""
        log.error("halted: %s", error)
        self._member = None
        self._sight.halted = str(error)
        self._sight.ring()
        if not isinstance(error, OtherEtcd):
            try:
                self._marks.broken(str(error))
            except OSError as why:
                log.error("a restart of this agent may not know that etcd went back: %s", why)
        while left := await gatekeeper.left_over():
            log.error("halted, but not stopped yet: %s", "; ".join(left))
            await asyncio.sleep(_AGAIN)
        log.warning("halted, and nothing here writes")
        await until_decided(self._etcd, self._keys, self._marks)
        self._sight.halted = ""
        self._sight.ring()

    async def _after(self, lost: Lost, gatekeeper: Gatekeeper) -> None:
        """The incarnation is dead to the cluster: nothing of it may be left before the node joins again."""
        self._sight.ended = True
        self._sight.ring()
        while await gatekeeper.left_over():
            await asyncio.sleep(_AGAIN)
        self._telemetry.session_lost(lost.ended.loss)
        if lost.ended.loss is Loss.STRANGER:
            raise Refused(
                f"{lost.ended.detail}. Everything here was stopped. Give one of the two another name"
            ) from None

    async def _live_once(self, member: Member, gatekeeper: Gatekeeper, helpers: HelperPool) -> None:
        self._member = member
        ignored = IgnoredInput(member.view, member.node, self._telemetry)
        reporter = self._reporter = Reporter(member, lambda dataset: self._told(ignored, dataset))

        def wake(dataset: str) -> None:
            workers.wake(dataset)

        local = Local(self._backends, wake)
        allowed = frozenset(self._settings.workloads.allow)
        docker = self._settings.docker
        users = Users(self._settings.run_dir / "docker.json", docker.engine) if docker.socket else None
        execute = Executor(
            member,
            self._backends,
            self._runtimes,
            local,
            self._settings.mount_root,
            self._telemetry,
            helpers,
            users=users,
            ask_ready=asking_ready(self._settings, member, self._telemetry.spans).ask,
            outsiders=self._outsiders,
        )
        copies = self._local_copies(member, execute, wake)
        self._sight.copying = lambda: execute.copying
        shared = Shared(member, execute, reporter, allowed, self._leave, users)
        workers = self._workers = Workers(shared)
        janitor = Janitor(member.view, self._runtimes)
        preparer = self._preparer = Preparer(member.view, member.node, self._runtimes, allowed)

        def changed(workload: str) -> None:
            workers.wake_workload(workload)
            janitor.wake()

        for runtime in self._runtimes.values():
            runtime.on_change(changed)
        self._sight.show(member, reporter, local)
        async with asyncio.TaskGroup() as group:
            group.create_task(member.run())
            group.create_task(gatekeeper.keep(member, lambda: workers.wake(None), local.forget_all))
            await self._picture(member)
            group.create_task(reporter.run())
            group.create_task(ignored.run())
            group.create_task(local.run())
            for part in copies:
                group.create_task(part.run())
            group.create_task(workers.run())
            group.create_task(janitor.run())
            group.create_task(preparer.run())
            for kind in allowed & self._runtimes.keys():
                group.create_task(self._runtimes[kind].run())
            if users is not None:
                users.changed = workers.wake
                group.create_task(serve_volumes(self._settings, member, users, local))

    def _local_copies(
        self, member: Member, execute: Executor, wake: Callable[[str], None]
    ) -> Sequence[Copier | Standbys | Caretaker | Snapshots]:
        """What sends them, and looks after them, in one incarnation."""
        if self._data_path is None or self._receiver is None:
            return ()
        ask = asking(self._settings, member, self._telemetry.spans)

        def changed(name: str) -> None:
            wake(name)
            standbys.wake(name)

        copier = execute.copier = Copier(ask, self._data_path, changed, self._sight.ring)
        standbys = Standbys(Means(member, self._backends, ask, self._data_path, lambda: execute.copying))
        return copier, standbys, Caretaker(member, self._backends, self._receiver), Snapshots(member, self._backends)

    @staticmethod
    async def _picture(member: Member) -> None:
        """Nothing is decided before the whole picture is there: an empty one would stop everything."""
        while True:
            with contextlib.suppress(TimeoutError):
                return await member.view.ready(10.0)
            log.warning("waiting for etcd: it does not show what this cluster has")

    def _told(self, ignored: IgnoredInput, dataset: str) -> None:
        ignored.look(dataset)
        self._sight.ring()

    def _outsiders(self, paths: Sequence[Path]) -> list[str]:
        return outsiders(paths, self._cgroups.owns)

    def _collect(self, collect: Callable[[], None]) -> None:
        """In a thread of an exporter; left out where the event loop does not answer."""
        if self._loop is None:
            return
        with contextlib.suppress(TimeoutError):
            self._telemetry.export(http.asker(self._loop, 2.0)(self._sight.gauges), collect)

    # Making the parts.

    def _applicant(self, guard: Guard) -> Applicant:
        settings = self._settings
        return Applicant(
            settings.node,
            settings.machine_id,
            boot_id(),
            settings.timings,
            node_record(self._settings, self._backends),
            guard.armed,
            guard.until,
        )

    def _promises(self) -> Promises:
        away = self._settings.etcd_away
        return Promises(self._promiser.given, self._ask(), away.at_most if away.promises else 0.0)

    def _ask(self) -> Ask:
        return promises.asking(self._settings.tls.files if self._settings.tls else None)

    def _etcd(self) -> Etcd:
        return connect(self._settings.etcd, self._keys.cluster, self._telemetry.etcd_call)
