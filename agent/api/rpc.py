"""The agent's gRPC server: datasets and node (proto/drover/v1), health (grpc.health.v1), reflection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from drover.agent.api.ahead import Workloads
from drover.agent.api.copies import Copies
from drover.agent.api.errors import CannotListen
from drover.agent.api.promises import Give, Promises
from drover.agent.api.source import DatasetView, Progress, Source, reported, unhealthy
from drover.agent.api.tracing import Called
from drover.agent.api.v1 import drover_pb2, drover_pb2_grpc
from drover.agent.examining import Examiner
from drover.agent.preparer import Preparer
from drover.agent.receiving import Receiver
from drover.agent.spans import Spans
from drover.agent.tls import Files, server_context
from drover.coordinator.rotation import Current

_OPTIONS = (("grpc.so_reuseport", 0),)
"""Two agents on one port must be an error, not a lottery."""


@asynccontextmanager
async def serving(
    source: Source,
    listen: str,
    tls: Files | None = None,
    grace: float = 0.5,
    receiver: Receiver | None = None,
    preparer: Callable[[], Preparer | None] | None = None,
    give: Give | None = None,
    spans: Spans = Spans(None),  # noqa: B008 - has no state
) -> AsyncIterator[int]:
    """Serves until the block is left; yields the port (of interest where `listen` asks for port 0).

    tls: who asks needs a certificate of our CA; None: plain text. grace: seconds that requests under way get at the
    end. receiver, preparer: for other agents that send datasets and workloads here. give: for those that ask for a
    promise. spans: told of calls that belong to a trace. Raises CannotListen.
    """
    server = grpc.aio.server(options=_OPTIONS, interceptors=[Called(spans)])
    drover_pb2_grpc.add_DatasetsServicer_to_server(_Datasets(source), server)
    drover_pb2_grpc.add_NodeServicer_to_server(_Node(source), server)
    if receiver is not None:
        copies = Copies(receiver, Examiner(receiver.backends), tls is not None)
        drover_pb2_grpc.add_CopiesServicer_to_server(copies, server)
    if preparer is not None:
        drover_pb2_grpc.add_WorkloadsServicer_to_server(Workloads(preparer, tls is not None), server)
    if give is not None:
        drover_pb2_grpc.add_PromisesServicer_to_server(Promises(give, tls is not None), server)
    health_pb2_grpc.add_HealthServicer_to_server(_Health(source), server)
    parts = {"Copies": receiver, "Workloads": preparer, "Promises": give}
    left_out = {name for name, there in parts.items() if there is None}
    known = drover_pb2.DESCRIPTOR.services_by_name.items()
    services = [service.full_name for name, service in known if name not in left_out]
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = (
            server.add_secure_port(listen, await asyncio.to_thread(_credentials, tls))
            if tls
            else server.add_insecure_port(listen)
        )
    except (OSError, RuntimeError) as error:
        raise CannotListen(f"cannot listen on {listen} (listen.grpc): {error}") from None
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace)


def _credentials(files: Files) -> grpc.ServerCredentials:
    """gRPC asks for the configuration at every new connection."""

    def read() -> grpc.ServerCertificateConfiguration:
        server_context(files)  # says what is wrong with them; gRPC would not
        ca, cert, key = (path.read_bytes() for path in (files.ca, files.cert, files.key))
        return grpc.ssl_server_certificate_configuration([(key, cert)], ca)

    current = Current((files.ca, files.cert, files.key), read)
    return grpc.dynamic_ssl_server_credentials(current.get(), current.get, require_client_authentication=True)


@contextmanager
def _subscribed(source: Source) -> Iterator[asyncio.Event]:
    """An event that is set after each change. Many changes set it once: whoever is slow sees the last state only."""
    changed = asyncio.Event()
    end = source.subscribe(changed.set)
    try:
        yield changed
    finally:
        end()


class _Datasets(drover_pb2_grpc.DatasetsServicer):
    def __init__(self, source: Source) -> None:
        self._source = source

    async def List(self, request: drover_pb2.ListRequest, context: Any) -> drover_pb2.ListResponse:
        views, used = _chosen(self._source, request.names), self._source.used()
        return drover_pb2.ListResponse(datasets=[_dataset(views[name], used.get(name)) for name in sorted(views)])

    async def Watch(
        self, request: drover_pb2.WatchRequest, context: Any
    ) -> AsyncGenerator[drover_pb2.DatasetEvent, None]:
        """What has been sent is compared with what is: memory is one view a dataset, however slow the reader."""
        sent: dict[str, DatasetView] = {}
        synced = False
        with _subscribed(self._source) as changed:
            while True:
                changed.clear()
                now = _chosen(self._source, request.names)
                outdated = False
                for name in sorted(sent.keys() | now.keys()):
                    if changed.is_set():  # while the reader was busy: it gets what is by now
                        changed.clear()
                        now, outdated = _chosen(self._source, request.names), True
                    if (event := _difference(sent, name, now.get(name))) is not None:
                        yield event
                if outdated:
                    continue
                if not synced:
                    synced = True
                    yield drover_pb2.DatasetEvent(synced=drover_pb2.Synced())
                await changed.wait()


def _chosen(source: Source, names: Collection[str]) -> dict[str, DatasetView]:
    return {view.name: view for view in source.datasets() if not names or view.name in names}


def _difference(sent: dict[str, DatasetView], name: str, now: DatasetView | None) -> drover_pb2.DatasetEvent | None:
    """What is to be told of one dataset, noted in `sent`; None: nothing new."""
    if sent.get(name) == now:
        return None
    if now is None:
        del sent[name]
        return drover_pb2.DatasetEvent(removed=name)
    sent[name] = now
    return drover_pb2.DatasetEvent(changed=_dataset(now))


def _dataset(view: DatasetView, used: int | None = None) -> drover_pb2.Dataset:
    progress = view.progress
    return drover_pb2.Dataset(
        name=view.name,
        phase=drover_pb2.Phase.Value(f"PHASE_{view.phase.name}"),
        reason=view.reason,
        warning=view.warning,
        node=view.node,
        epoch=view.epoch,
        path=view.path,
        size=view.size,
        backend=view.backend,
        desired=view.desired,
        progress=_progress(progress) if progress else None,
        here=view.here,
        since=view.since,
        used=used,
    )


def _progress(progress: Progress) -> drover_pb2.Progress:
    return drover_pb2.Progress(
        what=progress.what,
        done=progress.done,
        total=progress.total,
        to=progress.to,
        rounds=[drover_pb2.Round(bytes=one.bytes, seconds=one.seconds, full=one.full) for one in progress.rounds],
        predicted_seconds=progress.predicted,
        last=progress.last,
    )


class _Node(drover_pb2_grpc.NodeServicer):
    def __init__(self, source: Source) -> None:
        self._source = source

    async def Get(self, request: drover_pb2.GetNodeRequest, context: Any) -> drover_pb2.NodeState:
        view = self._source.node()
        return drover_pb2.NodeState(
            name=view.name,
            incarnation=view.incarnation,
            session=drover_pb2.Session.Value(f"SESSION_{view.session.name}"),
            deadline_margin_seconds=view.margin,
            unhealthy=unhealthy(self._source),
            free=view.free,
        )


class _Health(health_pb2_grpc.HealthServicer):
    """The service "" is the agent as a whole. Every answer is read from `Source.health()`: grpcio's own servicer keeps
    what it was told last, which would be a second truth."""

    def __init__(self, source: Source) -> None:
        self._source = source

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        """Status NOT_FOUND where there is no such service, as the health protocol has it."""
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service[:100]!r}")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last: int | None = None
        with _subscribed(self._source) as changed:
            while True:
                changed.clear()
                if (status := self._status(request.service)) != last:
                    last = status
                    yield health_pb2.HealthCheckResponse(status=status)
                await changed.wait()

    def _status(self, service: str) -> int:
        response = health_pb2.HealthCheckResponse
        wrong = unhealthy(self._source)
        verdicts = {"": not wrong} | {f"drover.{name}": name not in wrong for name in reported(self._source)}
        if service not in verdicts:
            return response.SERVICE_UNKNOWN
        return response.SERVING if verdicts[service] else response.NOT_SERVING
