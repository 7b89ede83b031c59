"""The volume plugin of Docker Engines: a socket in /run/docker/plugins, which engines find by themselves.

The engine takes any error of Get as "no such volume", and then makes an empty local volume of that name (seen on
20.10.24). So Get, List and Path answer from the picture that this agent has, an error is only ever a definite one, and
the socket is not there before there is a picture. Mount is where to fail. A call that is repeated after its connection
broke has an empty body, and is never acted on. Names are not checked by the engine.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web

from drover.agent.api import docker_calls as calls
from drover.agent.api.docker_options import Defaults, WrongOption, dataset_of, difference, spec_of, volume_of
from drover.agent.api.errors import CannotListen
from drover.agent.sockets import restrict
from drover.agent.users import Users
from drover.coordinator.keys import Kind
from drover.coordinator.member import Member
from drover.coordinator.protocol.dataset import Dataset
from drover.coordinator.record import timestamp
from drover.coordinator.records import Asked, State, Trashed, refusal
from drover.coordinator.specs import DatasetSpec
from drover.coordinator.store import StoreError
from drover.coordinator.trash import name_in_trash
from drover.coordinator.txn import Delete, Put, Txn, absent, unchanged

log = logging.getLogger(__name__)

MOUNT_LIMIT = 90.0
"""Seconds: the engine gives up after 120, and then never unmounts."""
TRASH_DAYS = 7.0
_LOOK = 0.2
"""Seconds between two looks at the picture in memory while a Mount waits: the view wakes nobody for another node's
status, nor does anybody tell of the gate and of mounts here."""
_KIND = "application/vnd.docker.plugins.v1.2+json"

Body = dict[str, Any]


class Refused(Exception):
    """The engine shows the text to its user."""


class Volumes:
    """What an engine asks for, on one incarnation. path: where a dataset is mounted here; None: it is not."""

    def __init__(self, member: Member, users: Users, path: Callable[[str], Path | None], defaults: Defaults) -> None:
        self._member, self._users, self._path, self._defaults = member, users, path, defaults
        self._wake = asyncio.Event()
        member.view.subscribe(lambda _: self._wake.set())

    async def create(self, volume: str, options: Mapping[str, str]) -> None:
        """Declares a dataset; whoever mounts it first claims it. Two nodes may race. Raises Refused, StoreError."""
        view, keys = self._member.view, self._member.keys
        try:
            dataset, wanted = dataset_of(volume), spec_of(volume, options, self._defaults)
        except (ValueError, WrongOption) as wrong:
            raise Refused(str(wrong)) from None
        if impossible := refusal(wanted, (node.record for node in view.cluster.nodes.values())):
            raise Refused(impossible)
        key = keys.dataset(dataset)
        result = await self._member.store.txn(Txn((absent(key),), (Put(key, wanted.encode()),), (key,)))
        there = result.read[key]
        if not result.succeeded and there is not None:
            try:
                spec = DatasetSpec.decode(there.value)
            except ValueError as wrong:
                raise Refused(f"it is there already, and its spec cannot be used: {wrong}") from None
            if differs := difference(options, wanted, spec):
                raise Refused(differs)
        await self._shown(dataset, True)

    async def remove(self, volume: str) -> None:
        """To the trash or as its reclaim says; the name is free at once. Raises Refused, StoreError."""
        view, keys = self._member.view, self._member.keys
        d, spec = self._known(volume)
        busy = calls.users(d, view.status(d.name), view.cluster)
        if busy or self._users.counts(d.name):
            raise Refused(f"it is in use by {', '.join(busy) or 'a container here'}")
        desired = view.entry(Kind.DESIRED, d.name)
        trash: tuple[Put, ...] = ()
        tenure = d.tenure
        if spec.reclaim == "trash" and tenure and tenure.state is not State.DESTROYED and tenure.reclaim != "delete":
            now = datetime.now(UTC).replace(microsecond=0)
            until, by = now + timedelta(days=TRASH_DAYS), f"docker on {self._member.node}"
            trashed = Trashed(dataset=d.name, uid=tenure.uid, spec=spec, until=until, by=by, at=timestamp(now))
            trash = (Put(keys.trash(name_in_trash(tenure.uid)), trashed.encode()),)
        entry = view.entry(Kind.DATASETS, d.name)
        result = await self._member.store.txn(
            Txn(
                (unchanged(keys.dataset(d.name), entry), unchanged(keys.desired(d.name), desired)),
                (
                    Delete(keys.dataset(d.name)),
                    Delete(keys.desired(d.name)),
                    Delete(keys.asked(d.name)),
                    *trash,
                ),
            )
        )
        if not result.succeeded:
            raise Refused("it was changed by somebody else just now; try again")
        await self._shown(d.name, False)

    async def mount(self, volume: str, id: str) -> Path:
        """Brings it here, by a claim or a handover. Where that fails, or the caller goes, what was asked is taken back.
        Raises Refused, StoreError."""
        d, _ = self._known(volume)
        before, asked = d.desired if isinstance(d.desired, str) else None, 0
        waits = "for this node"
        self._users.add(d.name, id)
        try:
            async with asyncio.timeout(MOUNT_LIMIT):
                while True:
                    match self._decide(d.name):
                        case calls.Ready() if (path := self._path(d.name)) is not None:
                            return path
                        case calls.Refuse(reason):
                            raise Refused(reason)
                        case calls.Ask():
                            asked = await self._ask(d.name)
                        case calls.Wait(reason):
                            waits = reason
                    await self._turn()
        except BaseException as error:
            self._users.drop(d.name, id)
            if asked:
                await self._take_back(d.name, asked, before)
            if isinstance(error, TimeoutError):
                raise Refused(f"not within {MOUNT_LIMIT:.0f} s: {waits}") from None
            raise

    def unmount(self, volume: str, id: str) -> None:
        """Quick, and idempotent. The dataset stays here until another node asks."""
        try:
            self._users.drop(dataset_of(volume), id)
        except ValueError as wrong:
            raise Refused(str(wrong)) from None

    def get(self, volume: str) -> Body:
        """Raises Refused only where there is no such volume."""
        d = self._there(volume)
        spec, tenure, status = d.spec, d.tenure, self._member.view.status(d.name)
        if not isinstance(spec, DatasetSpec):
            reason = f"its spec cannot be used: {spec.reason}" if spec else ""
            return self._listed(d) | {"Status": {"dataset": d.name, "phase": "invalid", "reason": reason}}
        shown: Body = {
            "dataset": d.name,
            "backend": spec.backend,
            "size": spec.size,
            "phase": status.phase.value if status else "waiting",
            "reason": status.reason if status else "",
            "owner": tenure.node if tenure and tenure.held else "",
            "epoch": tenure.epoch if tenure else 0,
            "users": calls.users(d, status, self._member.view.cluster),
        }
        if not self._member.view.connected:
            shown["stale"] = "etcd does not answer: this is what was known last"
        return self._listed(d) | {"Status": shown}

    def volumes(self) -> list[Body]:
        view = self._member.view
        found = (view.dataset(name) for name in sorted(view.entries(Kind.DATASETS)))
        return [self._listed(d) for d in found if d.spec is not None]

    def _listed(self, d: Dataset) -> Body:
        name = volume_of(d.name, d.spec) if isinstance(d.spec, DatasetSpec) else d.name
        return {"Name": name, "Mountpoint": str(self._path(d.name) or "")}

    def _there(self, volume: str) -> Dataset:
        """Also where its spec cannot be used: to the engine, an error would mean that there is none."""
        try:
            d = self._member.view.dataset(dataset_of(volume))
        except ValueError:
            raise Refused("no such volume") from None
        if d.spec is None:
            raise Refused("no such volume")
        return d

    def _known(self, volume: str) -> tuple[Dataset, DatasetSpec]:
        d = self._there(volume)
        if not isinstance(d.spec, DatasetSpec):
            raise Refused(f"its spec cannot be used: {d.spec.reason}" if d.spec else "no such volume")
        return d, d.spec

    def _decide(self, dataset: str) -> calls.Answer:
        member, view = self._member, self._member.view
        here = member.live and not self._users.leaving(dataset) and self._path(dataset) is not None
        unit = view.unit(dataset)
        statuses = {d.name: status for d in unit if (status := view.status(d.name)) is not None}
        return calls.on_mount(member.node, member.incarnation, unit, dataset, statuses, view.cluster, here)

    async def _ask(self, dataset: str) -> int:
        """Put desired/<d>; the revision, or 0 where somebody else did just now. The same wish put again is none: the
        key is made anew. Raises StoreError."""
        view, keys, store = self._member.view, self._member.keys, self._member.store
        key, entry = keys.desired(dataset), view.entry(Kind.DESIRED, dataset)
        asked = Asked(by=f"docker on {self._member.node}")
        puts = (Put(key, self._member.node.encode()), Put(keys.asked(dataset), asked.encode()))
        compare = unchanged(key, entry)
        if entry is not None and view.dataset(dataset).desired == self._member.node:
            if not (await store.txn(Txn((compare,), (Delete(key),)))).succeeded:
                return 0
            compare = absent(key)
        result = await store.txn(Txn((compare,), puts))
        return result.revision if result.succeeded else 0

    async def _take_back(self, dataset: str, asked: int, before: str | None) -> None:
        """Unless it came here, or somebody else has said where it should be."""
        tenure, key = self._member.view.dataset(dataset).tenure, self._member.keys.desired(dataset)
        if tenure is not None and tenure.held and tenure.incarnation == self._member.incarnation:
            return
        entry = self._member.view.entry(Kind.DESIRED, dataset)
        if entry is None or entry.mod_revision != asked:
            return
        undo = Put(key, before.encode()) if before and before != self._member.node else Delete(key)
        try:
            async with asyncio.timeout(5.0):
                await self._member.store.txn(Txn((unchanged(key, entry),), (undo,)))
        except (StoreError, TimeoutError) as error:
            log.warning("%s is still desired on this node, though nobody waits for it: %s", dataset, error)

    async def _turn(self) -> None:
        self._wake.clear()
        try:
            async with asyncio.timeout(_LOOK):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _shown(self, dataset: str, there: bool) -> None:
        """Until this node's picture has it, so that a Get that follows is right. Raises Refused."""
        try:
            async with asyncio.timeout(10.0):
                while (self._member.view.dataset(dataset).spec is not None) != there:
                    await self._turn()
        except TimeoutError:
            raise Refused("etcd has taken it, but this node does not see it yet; try again") from None


@asynccontextmanager
async def serving(volumes: Volumes, socket: Path, group: str) -> AsyncIterator[None]:
    """Until the block is left; for root and this group. Raises CannotListen."""

    async def answer(request: web.Request) -> web.Response:
        try:
            said = await _answer(volumes, request.path.removeprefix("/"), await request.read())
        except Refused as refused:
            said = {"Err": str(refused)}
        except StoreError as error:
            said = {"Err": f"etcd does not take it: {error}"}
        return web.Response(text=json.dumps(said), content_type=_KIND)

    app = web.Application()
    app.router.add_post("/{method:.*}", answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            socket.parent.mkdir(parents=True, exist_ok=True)
            await web.UnixSite(runner, str(socket)).start()
            restrict(socket, group)
        except OSError as error:
            raise CannotListen(f"cannot listen on {socket} (docker.socket): {error.strerror}") from None
        yield
    finally:
        await runner.cleanup()


async def _answer(volumes: Volumes, method: str, body: bytes) -> Body:
    if method == "Plugin.Activate":
        return {"Implements": ["VolumeDriver"]}
    if method == "VolumeDriver.Capabilities":
        return {"Capabilities": {"Scope": "global"}}
    if not body.strip():
        raise Refused("the request is empty: a connection broke in the middle of a call; give the command again")
    try:
        asked = json.loads(body)
        name, id = str(asked.get("Name", "")), str(asked.get("ID", ""))
        options = {str(k): str(v) for k, v in (asked.get("Opts") or {}).items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise Refused(f"the request cannot be read: {error}") from None
    done: Mapping[str, Callable[[], Awaitable[object]]] = {
        "VolumeDriver.Create": lambda: volumes.create(name, options),
        "VolumeDriver.Remove": lambda: volumes.remove(name),
    }
    match method:
        case "VolumeDriver.Mount":
            return {"Mountpoint": str(await volumes.mount(name, id)), "Err": ""}
        case "VolumeDriver.Unmount":
            volumes.unmount(name, id)
        case "VolumeDriver.Get":
            return {"Volume": volumes.get(name), "Err": ""}
        case "VolumeDriver.Path":
            return {"Mountpoint": volumes.get(name)["Mountpoint"], "Err": ""}
        case "VolumeDriver.List":
            return {"Volumes": volumes.volumes(), "Err": ""}
        case _ if method in done:
            await done[method]()
        case _:
            raise Refused(f"there is no call {method}")
    return {"Err": ""}
