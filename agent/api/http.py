"""/metrics, /healthz and /readyz, on threads of their own, so that no scrape holds up the event loop.

/healthz: 503 while anything in `Source.health()` is wrong. /readyz: 503 while the node takes no part in the cluster
(etcd or session); a sick back end leaves it ready for the datasets of the others. Both name what is wrong, by the same
names as gRPC health. Every answer is asked of the event loop; one that hangs is an answer too: 503, to scrapes as well.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from drover.agent.api.errors import CannotListen
from drover.agent.api.source import Source, unhealthy, unready
from drover.agent.telemetry import Telemetry
from drover.agent.tls import Files, server_context
from drover.coordinator.addresses import host_port
from drover.coordinator.rotation import Current

log = logging.getLogger(__name__)

T = TypeVar("T")


@asynccontextmanager
async def serving(
    source: Source,
    telemetry: Telemetry,
    listen: str,
    tls: Files | None = None,
    anyone: bool = False,
    patience: float = 2.0,
) -> AsyncIterator[int]:
    """Serves until the block is left; yields the port (of interest where `listen` asks for port 0).

    tls: None: plain text. anyone: who asks needs no certificate; else one of our CA. patience: seconds that the event
    loop gets to answer. Raises CannotListen.
    """
    loop = asyncio.get_running_loop()
    app = _App(source, telemetry, asker(loop, patience))
    try:
        secured = await asyncio.to_thread(_secured, tls, anyone) if tls else None
        server = _Server(listen, app, secured)
    except OSError as error:
        raise CannotListen(f"cannot listen on {listen} (listen.http): {error.strerror or error}") from None
    # Not the loop's own executor: that may be full of calls that wait for storage.
    with ThreadPoolExecutor(2, "http") as threads, server:
        running = loop.run_in_executor(threads, server.serve_forever)
        try:
            yield server.server_port
        finally:
            await loop.run_in_executor(threads, server.shutdown)
            await running


def _secured(files: Files, anyone: bool) -> Current[ssl.SSLContext]:
    return Current((files.ca, files.cert, files.key), lambda: server_context(files, anyone=anyone))


Ask = Callable[[Callable[[], Any]], Any]


def asker(loop: asyncio.AbstractEventLoop, patience: float) -> Ask:
    """For other threads. patience: seconds that the event loop gets to answer."""

    def ask(question: Callable[[], T]) -> T:
        """Called in a server's thread; answered in the event loop. Raises TimeoutError."""

        async def answer() -> T:
            return question()

        future = asyncio.run_coroutine_threadsafe(answer(), loop)
        try:
            return future.result(patience)
        except TimeoutError:
            future.cancel()
            raise

    return ask


class _App:
    """The WSGI application."""

    def __init__(self, source: Source, telemetry: Telemetry, ask: Ask) -> None:
        self._source = source
        self._telemetry = telemetry
        self._ask = ask

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path not in ("/metrics", "/healthz", "/readyz"):
            return _text(start_response, "404 Not Found", "There is /metrics, /healthz and /readyz.\n")
        try:
            if path == "/metrics":
                now = self._ask(self._source.gauges)
                return _answer(start_response, "200 OK", self._telemetry.text(now), CONTENT_TYPE_PLAIN_0_0_4)
            wrong: dict[str, str] = self._ask(lambda: unhealthy(self._source))
        except TimeoutError:
            return _text(start_response, "503 Service Unavailable", "The agent's event loop does not answer.\n")
        failing = wrong if path == "/healthz" else unready(wrong)
        said = json.dumps({"ok": not failing, "wrong": wrong})
        return _text(
            start_response, "503 Service Unavailable" if failing else "200 OK", f"{said}\n", "application/json"
        )


def _text(start_response: StartResponse, status: str, text: str, kind: str = "text/plain") -> Iterable[bytes]:
    return _answer(start_response, status, text.encode(), f"{kind}; charset=utf-8")


def _answer(start_response: StartResponse, status: str, body: bytes, kind: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


class _Handler(WSGIRequestHandler):
    timeout = 10
    """Seconds that a client may keep a thread waiting."""

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not worth a line each."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, listen: str, app: WSGIApplication, secured: Current[ssl.SSLContext] | None) -> None:
        self._secured = secured
        host, port = host_port(listen)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)
        self.set_app(app)

    def get_request(self) -> tuple[socket.socket, Any]:
        """The handshake comes with the first read, on the client's own thread."""
        plain, address = super().get_request()
        if self._secured is None:
            return plain, address
        try:
            context = self._secured.get()
            return context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address
        except OSError:
            plain.close()
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off, or whose certificate is none of ours, is not worth more."""
        error = sys.exc_info()[1]
        log.log(logging.DEBUG if isinstance(error, OSError) else logging.ERROR, "%s: %r", client_address, error)

    def server_bind(self) -> None:
        """Without the base's reverse look-up of the address, which waits for DNS."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()
