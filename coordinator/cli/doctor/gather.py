"""Gathers what is judged: this machine by `drover-agent examine`, etcd member by member, and the cluster's keys."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from drover.coordinator.cli import connection
from drover.coordinator.cli.connection import Connection
from drover.coordinator.cli.picture import Picture, doubt, take
from drover.coordinator.etcd_rpc import Credentials, Tls
from drover.coordinator.etcd_survey import EtcdFacts, NotTold, survey
from drover.coordinator.examination import EtcdAccess, Examination
from drover.coordinator.keys import Keys, range_end
from drover.coordinator.record import InvalidRecord
from drover.coordinator.store import Store, StoreError
from drover.coordinator.txn import Entry

SETTINGS = Path("/etc/drover/agent.toml")
"""Where an agent looks for its settings."""
_PATIENCE = 30.0
"""Seconds that an examination of this machine may take."""


@dataclass(frozen=True)
class NoNode:
    """Nothing of this machine was examined. why: what is said. broken: it should have been."""

    why: str
    broken: bool = False


@dataclass(frozen=True)
class Seen:
    """entries: all keys below the prefix. doubts: why this etcd is not the cluster's own; "" for none."""

    picture: Picture
    entries: tuple[Entry, ...]
    doubts: str


@dataclass(frozen=True)
class Facts:
    node: Examination | NoNode
    etcd: EtcdFacts | NotTold
    cluster: Seen | NotTold


def agent_program() -> str | None:
    """Beside this command, else where programs are."""
    beside = Path(sys.argv[0]).with_name("drover-agent")
    return str(beside) if beside.is_file() else shutil.which("drover-agent")


def examined(config: Path | None) -> Examination | NoNode:
    """config: the agent's settings; None: where it looks for them."""
    path = config or Path(os.environ.get("DROVER_CONFIG") or SETTINGS)
    program = agent_program()
    if program is None or (config is None and not path.exists()):
        return NoNode("this machine is no node: nothing of it was examined (--config names an agent's settings)")
    own = {k: v for k, v in os.environ.items() if k != "DROVER_PREFIX"}
    command = [program, "examine", "--config", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, env=own, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return NoNode(f"{program} examine: {error}", broken=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return NoNode(said[-1] if said else f"{program} examine ended with {done.returncode}", broken=True)
    try:
        return Examination.decode(done.stdout.encode())
    except InvalidRecord as error:
        return NoNode(f"{program} is of another version: {error}", broken=True)


def access(etcd: EtcdAccess) -> connection.Access:
    """As the agent's settings have it; what cannot be read is left out. Raises OSError."""
    files = [Path(name) if name else None for name in (etcd.ca, etcd.cert, etcd.key)]
    tls = Tls(*files) if any(files) else None
    credentials = None
    if etcd.user and etcd.password_file:
        credentials = Credentials(etcd.user, Path(etcd.password_file).read_text().strip())
    return connection.Access(tls, credentials)


async def gather(where: Connection, node: Examination | NoNode) -> Facts:
    """Raises Usage."""
    etcd, cluster = await asyncio.gather(_etcd(where), _cluster(where))
    return Facts(node, etcd, cluster)


async def _etcd(where: Connection) -> EtcdFacts | NotTold:
    found = where.access or connection.from_environment()
    try:
        return await survey(where.endpoints, found.tls, found.credentials, where.keys.cluster)
    except (OSError, ValueError) as error:
        return NotTold(str(error))


async def _cluster(where: Connection) -> Seen | NotTold:
    try:
        async with connection.open_store(where) as store:
            return await _seen(store, where.keys)
    except StoreError as error:
        return NotTold(str(error))


async def _seen(store: Store, keys: Keys) -> Seen:
    picture = await take(store, keys)
    found = await store.range(keys.root, range_end(keys.root))
    return Seen(picture, found.entries, await doubt(store, keys) if found.entries else "")
