"""What others see of an agent, through real gRPC and real HTTP; behind it a Source that the test holds in its hands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from drover.agent.api import http, rpc
from drover.agent.api.errors import CannotListen
from drover.agent.api.source import Bell, DatasetView, NodeView, Progress, Session
from drover.agent.api.v1 import drover_pb2, drover_pb2_grpc
from drover.agent.room import Measure
from drover.agent.rounds import Round
from drover.agent.storage.base import Usage
from drover.agent.telemetry import Gauges, Telemetry
from drover.coordinator.cli import agents
from drover.coordinator.cli.connection import Access
from drover.coordinator.records import Phase
from tests.etcd import free_ports

LOCAL = "127.0.0.1:0"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


class FakeSource:
    def __init__(self) -> None:
        self.views: dict[str, DatasetView] = {}
        self.wrong: dict[str, str | None] = {"etcd": None, "session": None, "backend.loopback": None}
        self.mounts: dict[str, Measure] = {}
        self.bell = Bell()
        self.subscribers = 0
        self.forgotten = asyncio.Event()

    def datasets(self) -> list[DatasetView]:
        return list(self.views.values())

    def node(self) -> NodeView:
        return NodeView("node-a", "boot.1", Session.LIVE, 3.5, {"btrfs": 7 << 30})

    def used(self) -> dict[str, int]:
        return {"pgdata": 3 << 30}

    def health(self) -> dict[str, str | None]:
        return self.wrong

    def gauges(self) -> Gauges:
        counts = Counter((view.phase.value, view.backend) for view in self.views.values())
        return Gauges(
            datasets=counts,
            margin=3.5,
            connected=self.wrong["etcd"] is None,
            looks={"loopback": 2},
            known_bugs=6,
            mounts=self.mounts,
        )

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        self.subscribers += 1
        end = self.bell.subscribe(wake)

        def ended() -> None:
            self.subscribers -= 1
            self.forgotten.set()
            end()

        return ended

    def put(self, *views: DatasetView) -> None:
        self.views |= {view.name: view for view in views}
        self.bell.ring()

    def remove(self, name: str) -> None:
        del self.views[name]
        self.bell.ring()

    def say(self, name: str, wrong: str | None) -> None:
        self.wrong[name] = wrong
        self.bell.ring()


PGDATA = DatasetView(
    "pgdata",
    Phase.MOVING,
    "loopback",
    10 << 30,
    reason="handing over to node-b",
    warning="desired/pgdata: ignored",
    node="node-a",
    epoch=7,
    path="/srv/drover/pgdata",
    desired="node-b",
    progress=Progress("sending snapshot 3", 5, 9),
    here=True,
    since="2026-01-02T03:04:05.678Z",
)
MEDIA = DatasetView("media", Phase.WAITING, "loopback", 1 << 20)


@pytest.fixture
def free_port() -> int:
    return free_ports(1)[0]


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
async def channel(source: FakeSource) -> AsyncIterator[grpc.aio.Channel]:
    async with rpc.serving(source, LOCAL, grace=0) as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel


@pytest.fixture
async def get(source: FakeSource) -> AsyncIterator[Callable[[str], tuple[int, str]]]:
    telemetry = Telemetry("node-a")
    async with http.serving(source, telemetry, LOCAL, patience=0.3) as port:
        yield lambda path: fetch(f"http://127.0.0.1:{port}{path}")
    telemetry.close()


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


Get = Callable[[str], tuple[int, str]]


# Datasets and node


async def test_list_tells_everything_of_every_dataset_in_order_of_name(
    source: FakeSource, channel: grpc.aio.Channel
) -> None:
    source.put(PGDATA, MEDIA)
    answer = await drover_pb2_grpc.DatasetsStub(channel).List(drover_pb2.ListRequest(), timeout=5)
    media, pgdata = answer.datasets
    assert media == drover_pb2.Dataset(name="media", phase=drover_pb2.PHASE_WAITING, backend="loopback", size=1 << 20)
    assert not media.HasField("progress")
    assert pgdata == drover_pb2.Dataset(
        name="pgdata",
        phase=drover_pb2.PHASE_MOVING,
        reason="handing over to node-b",
        warning="desired/pgdata: ignored",
        node="node-a",
        epoch=7,
        path="/srv/drover/pgdata",
        size=10 << 30,
        backend="loopback",
        desired="node-b",
        progress=drover_pb2.Progress(what="sending snapshot 3", done=5, total=9),
        here=True,
        since="2026-01-02T03:04:05.678Z",
        used=3 << 30,
    )


async def test_list_of_names_tells_of_these_only(source: FakeSource, channel: grpc.aio.Channel) -> None:
    source.put(PGDATA, MEDIA)
    request = drover_pb2.ListRequest(names=["media", "unknown"])
    answer = await drover_pb2_grpc.DatasetsStub(channel).List(request, timeout=5)
    assert [dataset.name for dataset in answer.datasets] == ["media"]


async def test_get_tells_who_the_node_is_and_how_long_it_may_write(channel: grpc.aio.Channel) -> None:
    answer = await drover_pb2_grpc.NodeStub(channel).Get(drover_pb2.GetNodeRequest(), timeout=5)
    assert answer == drover_pb2.NodeState(
        name="node-a",
        incarnation="boot.1",
        session=drover_pb2.SESSION_LIVE,
        deadline_margin_seconds=3.5,
        free={"btrfs": 7 << 30},
    )


async def watched(channel: grpc.aio.Channel, *names: str) -> AsyncGenerator[str, None]:
    """Each event as text."""
    call = drover_pb2_grpc.DatasetsStub(channel).Watch(drover_pb2.WatchRequest(names=names), timeout=30)
    try:
        async for event in call:
            match event.WhichOneof("event"):
                case "changed":
                    yield f"{event.changed.name} {drover_pb2.Phase.Name(event.changed.phase)} {event.changed.epoch}"
                case "removed":
                    yield f"{event.removed} removed"
                case kind:
                    yield str(kind)
    finally:
        call.cancel()


async def test_watch_sends_the_present_picture_and_then_changes(source: FakeSource, channel: grpc.aio.Channel) -> None:
    source.put(PGDATA, MEDIA)
    async with aclosing(watched(channel)) as events:
        assert [await anext(events) for _ in range(3)] == ["media PHASE_WAITING 0", "pgdata PHASE_MOVING 7", "synced"]
        source.put(replace(MEDIA, phase=Phase.STARTING, epoch=1))
        assert await anext(events) == "media PHASE_STARTING 1"
        source.bell.ring()  # nothing has changed, nothing is said
        source.remove("pgdata")
        assert await anext(events) == "pgdata removed"


async def test_watch_of_names_tells_of_these_only(source: FakeSource, channel: grpc.aio.Channel) -> None:
    source.put(PGDATA)
    async with aclosing(watched(channel, "media")) as events:
        assert await anext(events) == "synced"
        source.put(replace(PGDATA, epoch=8))
        source.put(MEDIA)
        assert await anext(events) == "media PHASE_WAITING 0"


async def test_a_slow_watcher_gets_the_last_of_many_changes(source: FakeSource, channel: grpc.aio.Channel) -> None:
    """Each change is large, so that the stream's window is full after few of them, and the rest has to wait."""
    source.put(PGDATA)
    async with aclosing(watched(channel)) as events:
        assert [await anext(events), await anext(events)] == ["pgdata PHASE_MOVING 7", "synced"]
        changes = 300
        for epoch in range(1, changes + 1):
            source.put(replace(PGDATA, epoch=epoch, reason="x" * 100_000))
            await asyncio.sleep(0)
        seen = []
        async for event in events:
            seen.append(int(event.split()[-1]))
            if seen[-1] == changes:
                break
    assert seen == sorted(seen)
    assert len(seen) < changes / 3


async def test_a_dataset_that_goes_and_comes_while_the_watcher_is_busy_is_told_as_it_is_by_now(
    source: FakeSource,
) -> None:
    source.put(MEDIA, PGDATA)
    stream = rpc._Datasets(source).Watch(drover_pb2.WatchRequest(), None)
    async with aclosing(stream):
        assert (await anext(stream)).changed.name == "media"
        source.remove("media")
        source.remove("pgdata")
        source.put(replace(PGDATA, epoch=8))
        assert (await anext(stream)).changed.epoch == 8
        assert (await anext(stream)).removed == "media"
        assert (await anext(stream)).WhichOneof("event") == "synced"
    assert source.subscribers == 0


async def test_a_watcher_that_leaves_is_forgotten(source: FakeSource, channel: grpc.aio.Channel) -> None:
    async with aclosing(watched(channel)) as events:
        assert await anext(events) == "synced"
        assert source.subscribers == 1
    await asyncio.wait_for(source.forgotten.wait(), 5)


async def test_a_watcher_that_leaves_without_having_read_all_is_forgotten(
    source: FakeSource, channel: grpc.aio.Channel
) -> None:
    source.put(*(replace(PGDATA, name=f"d{n}", reason="x" * 100_000) for n in range(300)))
    async with aclosing(watched(channel)) as events:
        assert await anext(events) == "d0 PHASE_MOVING 7"
    await asyncio.wait_for(source.forgotten.wait(), 5)


# Health


async def checked(channel: grpc.aio.Channel, service: str) -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer: health_pb2.HealthCheckResponse = await stub.Check(request, timeout=5)
    return answer.status


async def test_health_is_told_for_the_whole_and_for_each_part(source: FakeSource, channel: grpc.aio.Channel) -> None:
    services = ("", "drover.etcd", "drover.session", "drover.backend.loopback")
    assert [await checked(channel, service) for service in services] == [SERVING] * 4
    source.say("backend.loopback", "directory /images is missing")
    statuses = [await checked(channel, service) for service in services]
    assert statuses == [NOT_SERVING, SERVING, SERVING, NOT_SERVING]


async def test_health_of_an_unknown_service_is_not_found(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await checked(channel, "drover.nothing")
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


async def test_health_watchers_are_told_of_each_turn(source: FakeSource, channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    call = stub.Watch(health_pb2.HealthCheckRequest(service="drover.etcd"), timeout=30)
    statuses = aiter(call)
    assert (await anext(statuses)).status == SERVING
    source.say("etcd", "no member answers")
    assert (await anext(statuses)).status == NOT_SERVING
    source.say("etcd", None)
    assert (await anext(statuses)).status == SERVING
    call.cancel()


async def test_an_agent_that_has_not_told_of_etcd_and_session_yet_is_not_healthy(
    source: FakeSource, channel: grpc.aio.Channel, get: Get
) -> None:
    source.wrong.clear()
    assert await checked(channel, "drover.etcd") == NOT_SERVING
    status, body = await asyncio.to_thread(get, "/readyz")
    assert status == 503
    assert json.loads(body)["wrong"] == {"etcd": "not known yet", "session": "not known yet"}


async def test_reflection_lists_the_services_and_describes_them(channel: grpc.aio.Channel, source: FakeSource) -> None:
    def ask(port: int) -> tuple[set[str], list[str]]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as blocking:
            database = ProtoReflectionDescriptorDatabase(blocking)
            file = database.FindFileContainingSymbol("drover.v1.Datasets")
            return set(database.get_services()), [method.name for method in file.service[0].method]

    async with rpc.serving(source, LOCAL, grace=0) as port:
        services, methods = await asyncio.wait_for(asyncio.to_thread(ask, port), 10)
    assert services == {
        "drover.v1.Datasets",
        "drover.v1.Node",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert methods == ["List", "Watch"]


# HTTP


async def test_a_scrape_is_readable_by_prometheus_and_shows_what_the_source_says(source: FakeSource, get: Get) -> None:
    source.put(PGDATA, MEDIA, replace(MEDIA, name="more"))
    status, body = await asyncio.to_thread(get, "/metrics")
    assert status == 200
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    assert samples["drover_datasets", "loopback", "waiting"] == 2
    assert samples["drover_datasets", "loopback", "moving"] == 1
    assert samples["drover_deadline_margin_seconds",] == 3.5
    assert samples["drover_etcd_connected",] == 1


async def test_a_mount_that_hangs_hangs_no_scrape(source: FakeSource) -> None:
    let = threading.Event()

    def good() -> Usage:
        return Usage(size=100, used=60, inodes=10, inodes_used=4, free=35)

    def hanging() -> Usage:
        let.wait(30)
        return good()

    source.mounts = {"pgdata": good, "media": hanging}
    telemetry = Telemetry("node-a")
    async with http.serving(source, telemetry, LOCAL) as port:
        scrape = asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/metrics")
        status, body = await asyncio.wait_for(scrape, timeout=2)
        assert status == 200
        assert "drover_datasets_unowned 0" in body
        assert 'drover_dataset_used_bytes{dataset="media"}' not in body
        let.set()
    telemetry.close()


class Witness(Collector):
    """Sees how many scrapes read the registry at a time."""

    def __init__(self) -> None:
        self.inside = self.most = 0

    def collect(self) -> Iterator[Metric]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.05)
        self.inside -= 1
        yield Metric("witness", "", "gauge")


async def test_scrapes_at_the_same_time_are_written_one_by_one(source: FakeSource) -> None:
    """The exporter gives one scrape what it collected for another (2 of 2000, 8 at a time, without this)."""
    telemetry, witness = Telemetry("node-a"), Witness()
    telemetry.registry.register(witness)
    async with http.serving(source, telemetry, LOCAL) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        answers = await asyncio.gather(*(asyncio.to_thread(fetch, url) for _ in range(4)))
    assert [status for status, _ in answers] == [200] * 4
    assert witness.most == 1
    telemetry.close()


async def test_healthz_and_readyz_name_what_is_wrong(source: FakeSource, get: Get) -> None:
    async def answers() -> list[tuple[int, dict[str, object]]]:
        said = [await asyncio.to_thread(get, path) for path in ("/healthz", "/readyz")]
        return [(status, json.loads(body)) for status, body in said]

    assert await answers() == [(200, {"ok": True, "wrong": {}})] * 2
    source.say("backend.loopback", "directory /images is missing")
    wrong = {"backend.loopback": "directory /images is missing"}
    assert await answers() == [(503, {"ok": False, "wrong": wrong}), (200, {"ok": True, "wrong": wrong})]
    source.say("session", "fenced by node-b")
    assert [status for status, _ in await answers()] == [503, 503]


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
async def test_an_event_loop_that_hangs_is_told_as_such(path: str, get: Get) -> None:
    """The loop is held up on purpose, for longer than the server is patient."""
    answer = asyncio.get_running_loop().run_in_executor(None, get, path)
    time.sleep(0.6)  # noqa: ASYNC251
    assert await answer == (503, "The agent's event loop does not answer.\n")


async def test_a_slow_client_holds_up_neither_the_event_loop_nor_others(get: Get, source: FakeSource) -> None:
    telemetry = Telemetry("node-a")
    async with http.serving(source, telemetry, LOCAL) as port:
        _, slow = await asyncio.open_connection("127.0.0.1", port)
        slow.write(b"GET /metr")
        await slow.drain()
        status, _ = await asyncio.wait_for(asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/healthz"), 5)
        assert status == 200
    slow.close()
    telemetry.close()


async def test_another_path_is_not_found(get: Get) -> None:
    assert await asyncio.to_thread(get, "/") == (404, "There is /metrics, /healthz and /readyz.\n")


# Listening


async def test_a_port_that_is_taken_is_an_error_that_names_it(source: FakeSource) -> None:
    telemetry = Telemetry("node-a")
    async with rpc.serving(source, LOCAL, grace=0) as taken:
        with pytest.raises(CannotListen, match=rf"^cannot listen on 127\.0\.0\.1:{taken} \(listen\.grpc\)"):
            async with rpc.serving(source, f"127.0.0.1:{taken}"):
                pass
        with pytest.raises(CannotListen, match=rf"^cannot listen on 127\.0\.0\.1:{taken} \(listen\.http\)"):
            async with http.serving(source, telemetry, f"127.0.0.1:{taken}"):
                pass
    telemetry.close()


async def test_after_the_end_the_ports_are_free_again(source: FakeSource) -> None:
    telemetry = Telemetry("node-a")
    async with rpc.serving(source, LOCAL, grace=0) as first, http.serving(source, telemetry, LOCAL) as second:
        pass
    async with (
        rpc.serving(source, f"127.0.0.1:{first}", grace=0) as third,
        http.serving(source, telemetry, f"127.0.0.1:{second}") as fourth,
    ):
        assert (third, fourth) == (first, second)
    telemetry.close()


async def test_an_error_inside_the_block_comes_out_as_itself(source: FakeSource) -> None:
    telemetry = Telemetry("node-a")
    with pytest.raises(KeyError, match="mine"):
        async with rpc.serving(source, LOCAL, grace=0), http.serving(source, telemetry, LOCAL):
            raise KeyError("mine")
    telemetry.close()


METHODS = ("Datasets/List", "Datasets/Watch", "Node/Get", "Nonsense/Get")


async def test_bytes_that_are_no_request_end_their_own_call_and_nothing_else(
    source: FakeSource, channel: grpc.aio.Channel
) -> None:
    source.put(PGDATA)
    chance = random.Random(7)
    for number in range(60):
        sent = chance.randbytes(chance.choice((0, 1, 8, 300, 100_000)))
        method: Any = channel.unary_stream(f"/drover.v1.{METHODS[number % len(METHODS)]}")
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in method(sent, timeout=0.1):
                pass
    listed = await drover_pb2_grpc.DatasetsStub(channel).List(drover_pb2.ListRequest(), timeout=5)
    assert [dataset.name for dataset in listed.datasets] == ["pgdata"]


async def test_the_command_line_reads_the_api_from_the_agent_and_sees_how_far_copies_are(source: FakeSource) -> None:
    rounds = (Round(300, 2.0, True), Round(14, 0.1, False))
    progress = Progress("round 3", 5, 14, "node-b", rounds, 0.1, True)
    source.put(replace(PGDATA, progress=progress), MEDIA)
    async with rpc.serving(source, LOCAL, grace=0) as port:
        async with agents.asking("node-a", f"127.0.0.1:{port}", Access(None, None)) as agent:
            async with aclosing(agent.copying(["pgdata"])) as states:
                copying = (await anext(states))["pgdata"]
                assert (copying.to, copying.sent, copying.total, copying.predicted) == ("node-b", 5, 14, 0.1)
                assert [(one.bytes, one.seconds, one.full) for one in copying.rounds] == [
                    (300, 2.0, True),
                    (14, 0.1, False),
                ]
                assert copying.last
                source.put(replace(PGDATA, progress=None))
                assert await anext(states) == {}
            assert await agent.used("pgdata") == 3 << 30
            assert await agent.used("media") is None
            source.say("backend.loopback", "the directory is gone")
            assert await agent.room() == agents.Room({"btrfs": 7 << 30}, {"backend.loopback": "the directory is gone"})


async def test_an_agent_that_is_not_there_is_not_heard_and_says_which(free_port: int) -> None:
    with pytest.raises(agents.NotHeard, match="node-a's agent does not answer"):
        async with agents.asking("node-a", f"127.0.0.1:{free_port}", Access(None, None)):
            pytest.fail("nobody listens there")
    with pytest.raises(agents.NotHeard, match="tells nobody where"):
        async with agents.asking("node-a", "", Access(None, None)):
            pytest.fail("there is no address")
