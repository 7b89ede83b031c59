"""All doors of one agent: what listens where, and under which certificate."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from drover.agent import control
from drover.agent.api import docker_volume, http, rpc
from drover.agent.api.ahead import AskingReady
from drover.agent.api.copies import Asking
from drover.agent.api.docker_options import Defaults
from drover.agent.api.promises import Give
from drover.agent.config import Settings
from drover.agent.config_errors import ConfigError
from drover.agent.copying import Ask
from drover.agent.leave import Leave
from drover.agent.local import Local
from drover.agent.preparer import Preparer
from drover.agent.receiving import Receiver
from drover.agent.sight import Sight
from drover.agent.spans import Spans
from drover.agent.storage.base import Mounted
from drover.agent.telemetry import Telemetry
from drover.agent.users import Users
from drover.coordinator.certificates import expires
from drover.coordinator.member import Member
from drover.coordinator.rotation import Current

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def serving(
    settings: Settings,
    sight: Sight,
    telemetry: Telemetry,
    receiver: Receiver,
    leave: Leave,
    preparer: Callable[[], Preparer | None],
    give: Give,
) -> AsyncIterator[None]:
    """gRPC, HTTP and the socket of `drover-agent shutdown`. Raises CannotListen."""
    listen, files = settings.listen, settings.tls.files if settings.tls else None
    if settings.overheard:
        log.warning("insecure: anybody on the network can listen in at %s: set [tls]", ", ".join(settings.overheard))
    plain, anyone = listen.http_clients == "plain", listen.http_clients == "any"
    async with (
        rpc.serving(sight, listen.grpc, files, receiver=receiver, preparer=preparer, give=give, spans=telemetry.spans),
        http.serving(sight, telemetry, listen.http, None if plain else files, anyone),
        control.serving(settings.run_dir, leave, settings.group),
    ):
        yield


def watch_expiry(settings: Settings, telemetry: Telemetry) -> None:
    """Of this node's certificates. Raises ConfigError."""
    own, etcd = settings.tls, settings.etcd.tls
    for name, key, path in (("node", "tls.cert", own and own.cert), ("etcd", "etcd.tls.cert", etcd and etcd.cert)):
        if path:
            try:
                telemetry.certificate(name, Current([path], partial(expires, path)).get)
            except (OSError, ValueError) as error:
                raise ConfigError(key, str(error)) from None


def asking(settings: Settings, member: Member, spans: Spans) -> Ask:
    """Asks other nodes' agents to receive, at the addresses that they tell."""
    files = settings.tls.files if settings.tls else None
    return Asking(settings.node, _addresses(member), files, spans).ask


def asking_ready(settings: Settings, member: Member, spans: Spans) -> AskingReady:
    """What asks other nodes' agents whether they are ready for a workload."""
    return AskingReady(_addresses(member), settings.tls.files if settings.tls else None, spans)


def _addresses(member: Member) -> Callable[[str], str]:
    def address(node: str) -> str:
        found = member.view.cluster.nodes.get(node)
        return found.record.grpc if found else ""

    return address


async def serve_volumes(settings: Settings, member: Member, users: Users, local: Local) -> None:
    """The plugin of Docker Engines, in one incarnation, until cancelled."""

    def path(dataset: str) -> Path | None:
        here = local.seen(dataset)
        return here.path if isinstance(here, Mounted) else None

    docker = settings.docker
    volumes = docker_volume.Volumes(member, users, path, Defaults(docker.backend, docker.size))
    async with docker_volume.serving(volumes, Path(docker.socket), settings.group):
        await asyncio.Event().wait()
