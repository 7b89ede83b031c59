"""The playground's etcd members: real ones, each on a machine of its own."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from drover.coordinator.addresses import joined
from drover.coordinator.cli.errors import Failed
from drover.coordinator.cli.playground import secrets, tools
from drover.coordinator.cli.playground.layout import CLIENT_PORT, PEER_PORT, Layout, Machine, Settings
from drover.coordinator.keys import Keys, Kind, range_end

_PAUSE = 0.03
"""Seconds between two questions to a member that does not answer yet."""


def command(layout: Layout, settings: Settings, machine: Machine) -> list[str]:
    """Raises NotPossible where etcd is not installed."""
    members = settings.etcd_machines()
    scheme = settings.scheme
    client, peer = (f"{scheme}://{joined(settings.address(machine), port)}" for port in (CLIENT_PORT, PEER_PORT))
    cluster = ",".join(f"{member.name}={scheme}://{joined(settings.address(member), PEER_PORT)}" for member in members)
    fast = ["--heartbeat-interval", "50", "--election-timeout", "500"] if settings.etcd_fast else []
    return [
        *(tools.find("etcd"), "--name", machine.name, "--data-dir", str(layout.home(machine) / "data")),
        *(
            "--listen-client-urls",
            f"{client},{scheme}://{joined(settings.loopback, CLIENT_PORT)}",
            "--advertise-client-urls",
            client,
        ),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", cluster, "--initial-cluster-token", layout.id, "--initial-cluster-state", "new"),
        *("--auto-compaction-mode", "periodic", "--auto-compaction-retention", "10m"),
        *(
            "--logger",
            "zap",
            "--log-outputs",
            "stderr",
            *fast,
            *(_certificates(layout, machine) if settings.tls else ()),
        ),
    ]


def wait_until(ready: Callable[[], bool], deadline: float, complaint: Callable[[], str]) -> None:
    """Asks until the answer is yes. deadline: of time.monotonic(). Raises Failed with the complaint."""
    while not ready():
        if time.monotonic() >= deadline:
            raise Failed(complaint(), outcome="")
        time.sleep(_PAUSE)


def _certificates(layout: Layout, machine: Machine) -> Iterator[str]:
    """Whoever connects shows a certificate of the playground's authority."""
    files = {
        "trusted-ca-file": "ca.crt",
        "cert-file": f"{machine.name}.crt",
        "key-file": f"{machine.name}.key",
    }
    for which in ("", "peer-"):
        for flag, file in files.items():
            yield from (f"--{which}{flag}", str(layout.certificates / file))
        yield f"--{which}client-cert-auth"


def answers(layout: Layout, settings: Settings) -> bool:
    """Whether a majority has a leader: each member answers a linearizable read."""
    context = secrets.context(layout, settings)
    return all(_range(endpoint, "x", "y", context) is not None for endpoint in settings.endpoints)


def nodes_present(layout: Layout, settings: Settings) -> set[str]:
    """Nodes whose agents have joined."""
    start = Keys().under(Kind.NODES)
    context = secrets.context(layout, settings)
    found = (_range(endpoint, start, range_end(start), context) for endpoint in settings.endpoints)
    keys: list[str] = next((answer for answer in found if answer is not None), [])
    return {key.removeprefix(start) for key in keys}


def _range(endpoint: str, start: str, end: str, context: ssl.SSLContext | None) -> list[str] | None:
    """Keys in [start, end), by etcd's JSON gateway: it needs no library. None: no answer within a second."""
    import http.client  # 25 ms that most commands can do without

    body = {"key": _encoded(start), "range_end": _encoded(end), "keys_only": True}
    member = urlsplit(endpoint).netloc
    connection = (
        http.client.HTTPSConnection(member, timeout=1, context=context)
        if context
        else http.client.HTTPConnection(member, timeout=1)
    )
    try:
        connection.request("POST", "/v3/kv/range", json.dumps(body))
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    if response.status != http.client.OK:
        return None
    return [base64.b64decode(entry["key"]).decode(errors="replace") for entry in answer.get("kvs", [])]


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
