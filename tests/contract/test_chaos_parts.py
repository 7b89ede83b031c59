"""The parts of chaos runs do what their histories rest on: a proxy that loses answers only, a watch without holes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.chaos import proxy
from tests.chaos.history import ERA, load, save_about
from tests.chaos.record import Lines, Watch
from tests.etcd import EtcdCluster, free_ports
from tests.playground import eventually
from tests.unit.chaos_world import sound


@contextmanager
def echoing() -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers with what it hears: its port, and what it has heard."""
    heard: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection: socket.socket) -> None:
            with closing(connection):
                while data := connection.recv(100):
                    heard.append(data)
                    connection.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1], heard
        server.shutdown(socket.SHUT_RDWR)


class Proxy:
    def __init__(self, target: int) -> None:
        (self.port,) = free_ports(1)
        self._process = subprocess.Popen(
            [sys.executable, "-IS", str(proxy.__file__), str(self.port), str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"

    def behave(self, **behaviour: float) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(behaviour) + "\n")
        self._process.stdin.flush()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=5)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def said(connection: socket.socket, data: bytes) -> bytes:
    """What comes back; b"": the connection has ended."""
    try:
        connection.sendall(data)
        return connection.recv(100)
    except ConnectionError:
        return b""


def test_a_proxy_that_swallows_answers_lets_requests_through_and_ends_what_it_has_spoiled() -> None:
    with echoing() as (port, heard), closing(Proxy(port)) as between, closing(between.connect()) as connection:
        assert said(connection, b"one") == b"one"
        between.behave(swallow=True)
        connection.settimeout(0.05)
        asked = 0

        def swallowed() -> bool:
            nonlocal asked
            asked += 1
            try:
                return said(connection, b"two %d" % asked) == b""
            except TimeoutError:
                return True

        eventually(swallowed, "an answer does not come")
        eventually(lambda: heard[-1].startswith(b"two"), "the request has got through")
        between.behave()
        connection.settimeout(5)
        eventually(lambda: said(connection, b"three") == b"", "the connection ends")
        with closing(between.connect()) as another:
            assert said(another, b"four") == b"four"


def test_a_proxy_that_resets_ends_connections() -> None:
    with echoing() as (port, _), closing(Proxy(port)) as between, closing(between.connect()) as connection:
        between.behave(reset=1.0)
        eventually(lambda: said(connection, b"one") == b"", "the connection ends")


@pytest.fixture
def three() -> Iterator[EtcdCluster]:
    with EtcdCluster(3) as cluster:
        yield cluster


def put(cluster: EtcdCluster) -> int:
    """Its revision. Whoever answers takes it."""
    taken: list[int] = []

    def done() -> bool:
        for member in cluster.members:
            with suppress(OSError):
                answer = member.ask("/v3/kv/put", {"key": "L2Ryb3Zlci94", "value": "eQ=="}, 0.3)  # /drover/x, y
                taken.append(int(answer["header"]["revision"]))
                return True
        return False

    eventually(done, "etcd takes it", 20)
    return taken[0]


def test_a_watch_hears_every_revision_once_though_members_hang_and_die(three: EtcdCluster, tmp_path: Path) -> None:
    first = put(three)
    lines = Lines(tmp_path / "changes.jsonl")
    watch = Watch(three.endpoints, first - 1, lines, era=1, silence=0.5)
    watch.start()
    revision = first
    for hangs in three.members:
        hangs.freeze()
        revision = [put(three) for _ in range(2)][-1]
        hangs.thaw()
    three.members[0].kill()
    revision = put(three)
    assert watch.finish(revision)
    lines.close()
    save_about(tmp_path, sound().about)
    heard = load(tmp_path).changes
    assert [change.revision for change in heard] == [ERA + n for n in range(first, revision + 1)]
    assert {change.value for change in heard} == {"y"}
