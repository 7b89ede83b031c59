"""PostgreSQL in a container, and a client outside that commits to it, whatever happens.

The image is made of what tools/setup has unpacked: 80 MB, in a second, kept in .cache.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from drover.coordinator.cli.playground import tools
from tests.cluster.docker import Engines
from tests.playground import eventually

CACHE = Path(__file__).parents[2] / ".cache"
ROOT = CACHE / "root"
LIBRARIES = next(ROOT.glob("usr/lib/*-linux-gnu"), ROOT)
SERVER = Path("usr/lib/postgresql/15")
PORT = 5432
IMAGE = "postgres:tests"
_PROGRAMS = ["postgres", "initdb", "psql", "pg_ctl", "pg_checksums", "pg_amcheck", "pg_isready", "pg_controldata"]
_MODULES = ["plpgsql.so", "dict_snowball.so", "amcheck.so"]
_APPLETS = ["sh", "cat", "chown", "cp", "env", "grep", "id", "ls", "mkdir", "rm", "sleep", "su", "sync", "tail", "test"]
_START = """#!/bin/sh
set -e
mkdir -p "$PGDATA" && chown 999:999 "$PGDATA"
export PATH=/usr/lib/postgresql/15/bin:/bin
[ -s "$PGDATA/PG_VERSION" ] || su postgres -s /bin/sh -c "initdb -k -A trust -U postgres --no-sync >/dev/null &&
  echo host all all all trust >> $PGDATA/pg_hba.conf && sync"
exec su postgres -s /bin/sh -c "exec postgres -c listen_addresses='*' -c unix_socket_directories=/tmp"
"""
ENVIRONMENT = os.environ | {"LD_LIBRARY_PATH": str(LIBRARIES)}


def image() -> Path:
    """The image's file system, as a tar file."""
    made = CACHE / f"postgres-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]}.tar"
    if not made.exists():
        new = made.with_suffix(f".{os.getpid()}")
        with tarfile.open(new, "w") as tar:
            _fill(tar)
        new.rename(made)
    return made


def _fill(tar: tarfile.TarFile) -> None:
    programs = [ROOT / SERVER / "bin" / name for name in _PROGRAMS]
    modules = [ROOT / SERVER / "lib" / name for name in _MODULES]
    for path in (*programs, *modules):
        tar.add(path, str(path.relative_to(ROOT)))
    tar.add(ROOT / "usr/share/postgresql/15", "usr/share/postgresql/15")
    tar.add("/usr/share/zoneinfo", "usr/share/zoneinfo")
    tar.add("/usr/lib/locale/C.utf8", "usr/lib/locale/C.utf8")
    for library in sorted({found for path in (*programs, *modules) for found in _needed(path)}):
        loader = library.parent.name.startswith("lib64")
        where = library.relative_to("/") if loader else Path("usr/lib", LIBRARIES.name, library.name)
        tar.add(library.resolve(), str(where))
    tar.add(tools.find("busybox"), "bin/busybox")
    for applet in _APPLETS:
        link = tarfile.TarInfo(f"bin/{applet}")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)
    texts = {
        "start": (_START, 0o755),
        "etc/passwd": ("root:x:0:0::/:/bin/sh\npostgres:x:999:999::/tmp:/bin/sh\n", 0o644),
        "etc/group": ("root:x:0:\npostgres:x:999:\n", 0o644),
    }
    for name, (text, mode) in texts.items():
        file = tarfile.TarInfo(name)
        file.size, file.mode = len(text), mode
        tar.addfile(file, io.BytesIO(text.encode()))
    tmp = tarfile.TarInfo("tmp")
    tmp.type, tmp.mode = tarfile.DIRTYPE, 0o1777
    tar.addfile(tmp)


def _needed(path: Path) -> list[Path]:
    """The libraries that a program is loaded with, and the loader itself."""
    said = subprocess.run(["ldd", str(path)], env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    assert "not found" not in said, said
    return [Path(found) for found in re.findall(r"(?:=> |^\t)(/\S+)", said, re.MULTILINE)]


def load(engines: Engines, nodes: Sequence[str]) -> None:
    """Every engine has the image."""
    tar = str(image())
    changes = ('ENTRYPOINT ["/start"]', "ENV PGDATA=/data/pg")
    options = [word for change in changes for word in ("--change", change)]
    for node in nodes:
        engines.docker(node, "import", *options, tar, IMAGE)


def run(engines: Engines, name: str, **spec: Any) -> None:
    """As a workload on the dataset of that name."""
    told = {
        "kind": "docker",
        "image": IMAGE,
        "volumes": [f"{name}:/data"],
        "ports": [f"{PORT}:{PORT}"],
        "stop_signal": "SIGINT",
        "healthcheck": {"test": ["CMD", f"/{SERVER}/bin/pg_isready", "-h", "127.0.0.1"], "interval": "1s"},
    }
    engines.etcdctl("put", f"/drover/workloads/{name}", json.dumps(told | spec))


class Client:
    """Commits one number after the other, on whichever of these addresses answers, from outside the cluster.

    It knows nothing of moves: what is not answered it sends again. acknowledged: what the server has committed.
    """

    def __init__(self, addresses: Sequence[str], port: int = PORT) -> None:
        self._where = f"host={','.join(addresses)} port={port} user=postgres dbname=postgres connect_timeout=2"
        self.acknowledged: list[tuple[int, float]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def sql(self, statement: str) -> str | None:
        """What it answered; None: nothing, or an error."""
        command = [str(ROOT / SERVER / "bin/psql"), "-XAtqc", statement, self._where]
        try:
            done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=10)
        except subprocess.TimeoutExpired:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def __enter__(self) -> Self:
        make = "create table if not exists written (n int primary key)"
        eventually(lambda: self.sql(make) is not None, "PostgreSQL answers", 30, 0.1)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join(30)

    def _work(self) -> None:
        number = 0
        while not self._stopped.is_set():
            if self.sql(f"insert into written values ({number}) on conflict do nothing") is not None:
                self.acknowledged.append((number, time.monotonic()))
                number += 1
            self._stopped.wait(0.02)

    def goes_on(self, within: float = 30.0) -> None:
        """Until it has been answered a few times more."""
        before = len(self.acknowledged)
        eventually(lambda: len(self.acknowledged) > before + 3, "commits go on", within, 0.02)

    def gap(self, since: float) -> float:
        """The longest time without an answer since then (monotonic), in seconds."""
        times = [at for _, at in self.acknowledged if at >= since]
        return max((after - before for before, after in pairwise(times)), default=0.0)

    def all_there(self) -> None:
        """Every commit that was acknowledged."""
        numbers = (self.sql("select n from written") or "").split()
        lost = {number for number, _ in self.acknowledged} - {int(number) for number in numbers}
        assert not lost, f"{len(lost)} acknowledged commits are gone: {sorted(lost)[:10]}"
