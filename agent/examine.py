"""`drover-agent examine`: prints what is found on this machine, for `drover doctor`. Changes nothing, needs no agent
that runs, and says what it could not look at."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import json
import os
import socket
import stat
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import drover
from drover.agent.backends import make_backends
from drover.agent.cgroups import CONTAINERS, CgroupError, Cgroups
from drover.agent.config import Settings
from drover.agent.config_errors import ConfigError
from drover.agent.guard.settings import NOTHING, REBOOT
from drover.agent.storage import loopdev, mounts
from drover.agent.storage.base import Backend, Remarking, StorageError
from drover.agent.tls import client_context
from drover.agent.tokens import Nothing, volumes
from drover.coordinator import direct
from drover.coordinator.addresses import host_port, reachable
from drover.coordinator.certificates import Certificate, Unusable
from drover.coordinator.examination import (
    BackendState,
    CertificateState,
    CgroupState,
    ClockState,
    DeviceState,
    EtcdAccess,
    Examination,
    WatchdogState,
)
from drover.coordinator.reports import VolumeReport
from drover.coordinator.secrets import redacted

T = TypeVar("T")

TIMEKEEPERS = ("chronyd", "systemd-timesyn", "ntpd", "ptp4l", "phc2sys")
"""Programs that keep the time, as the kernel shortens their names."""
_PATIENCE = 5.0
"""Seconds for what asks a back end or the agent."""
_UNSYNCHRONISED, _SHIFT, _TICK = 0x0040, 65536.0, 10000
"""Linux, timex.h: STA_UNSYNC, the unit of `freq`, microseconds of a tick."""


async def examine(settings: Settings) -> Examination:
    """Raises nothing for what is found: it is in the answer."""
    look = _Look()
    backends = look("back ends", lambda: make_backends(settings, Nothing())) or {}
    running = look("the agent", lambda: _held(settings.run_dir / "agent.lock")) or False
    states: dict[str, BackendState] = {}
    found: tuple[VolumeReport, ...] = ()
    for name, backend in backends.items():
        states[name] = await _backend(backend)
        try:
            async with asyncio.timeout(_PATIENCE):
                found += tuple(await volumes(name, backend))
        except (StorageError, OSError, TimeoutError) as error:
            look.unknown[f"volumes of {name}"] = str(error) or f"no answer within {_PATIENCE:g} s"
    directories = _directories(settings)
    return Examination(
        node=settings.node,
        version=drover.__version__,
        machine=settings.machine_id,
        kernel=os.uname().release,
        root=os.geteuid() == 0,
        prefix=settings.prefix,
        settings=redacted(settings.model_dump(mode="json")),
        etcd=_access(settings),
        plain=settings.overheard,
        certificates=tuple(_certificates(settings)),
        running=running,
        ready=await asyncio.to_thread(_ready, settings, look) if running else None,
        metrics=await asyncio.to_thread(_metrics, settings, look) if running else "",
        taken=() if running else tuple(filter(_taken, (settings.listen.grpc, settings.listen.http))),
        memory=tuple(name for name in ("run_dir", "state_dir") if _in_memory(getattr(settings, name))),
        clock=look("the clock", clock),
        reset=settings.guard.reset,
        watchdog=look("the watchdog", lambda: _watchdog(settings.guard.reset)),
        cgroups=look("cgroups", lambda: _cgroups(settings.cgroup)),
        backends=states,
        volumes=found,
        devices=look("devices", lambda: _devices(directories)) or (),
        mounts=look("mounts", lambda: _mounts(settings.mount_root)) or (),
        loose=look("loose files", lambda: _loose(directories)) or (),
        unknown=look.unknown,
    )


class _Look:
    """Looks at one thing after the other; what cannot be looked at is noted."""

    def __init__(self) -> None:
        self.unknown: dict[str, str] = {}

    def __call__(self, topic: str, found: Callable[[], T]) -> T | None:
        try:
            return found()
        except (OSError, ValueError, ConfigError, CgroupError, StorageError) as error:
            self.unknown[topic] = str(error)
            return None


def _access(settings: Settings) -> EtcdAccess:
    etcd = settings.etcd
    files = (etcd.tls.ca, etcd.tls.cert, etcd.tls.key) if etcd.tls else (None, None, None)
    ca, cert, key = (str(path) if path else "" for path in files)
    return EtcdAccess(
        endpoints=etcd.endpoints,
        ca=ca,
        cert=cert,
        key=key,
        user=etcd.user,
        password_file=str(etcd.password_file or ""),
    )


async def _backend(backend: Backend) -> BackendState:
    try:
        async with asyncio.timeout(_PATIENCE):
            wrong = await backend.health() or ""
            capacity = await backend.capacity()
            remark = await backend.remark() if isinstance(backend, Remarking) else ""
    except (StorageError, OSError, TimeoutError) as error:
        return BackendState(wrong=str(error) or f"no answer within {_PATIENCE:g} s")
    return BackendState(wrong=wrong, remark=remark, size=capacity.size, free=capacity.free)


def _held(lock: Path) -> bool:
    """Whether a process holds it. Raises OSError where that cannot be told."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _certificates(settings: Settings) -> Iterator[CertificateState]:
    now = datetime.now(UTC)
    for table, tls in (("tls", settings.tls), ("etcd.tls", settings.etcd.tls)):
        for key, path in (("ca", tls.ca), ("cert", tls.cert)) if tls else ():
            if path is None:
                continue
            try:
                found = Certificate.read(path)
            except Unusable as error:
                yield CertificateState(setting=f"{table}.{key}", file=str(path), wrong=str(error))
                continue
            yield CertificateState(
                setting=f"{table}.{key}",
                file=str(path),
                role=found.peer.role if found.peer else "",
                name=found.peer.name if found.peer else "",
                expires=f"{found.expires:%Y-%m-%d %H:%M} UTC",
                left=(found.expires - now).total_seconds(),
                due=found.due(now),
            )


def _asked(settings: Settings, page: str) -> bytes:
    """What this node's own agent says, whatever its status. Raises OSError, ValueError; their texts name the URL."""
    files = settings.tls.files if settings.tls and settings.listen.http_clients != "plain" else None
    url = f"{'https' if files else 'http'}://{reachable(settings.listen.http)}/{page}"
    try:
        with direct.opened(url, _PATIENCE, client_context(files) if files else None) as reply:
            return reply.read()
    except urllib.error.HTTPError as error:
        return error.read()
    except (OSError, ValueError) as error:
        raise OSError(f"{url}: {error}") from None


def _metrics(settings: Settings, look: _Look) -> str:
    return look("the agent's metrics", lambda: _asked(settings, "metrics").decode(errors="replace")) or ""


def _ready(settings: Settings, look: _Look) -> dict[str, str] | None:
    if (said := look("what the agent says", lambda: _asked(settings, "readyz"))) is None:
        return None
    try:
        wrong = json.loads(said)["wrong"]
        return {str(name): str(why) for name, why in wrong.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"agent": said.decode(errors="replace").strip()[:300]}


def _taken(listen: str) -> bool:
    """Whether something else listens there. Of another host, or port 0: no."""
    host, port = host_port(listen)
    if not port:
        return False
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe, suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def _in_memory(directory: Path) -> bool:
    """Whether it is, or would be made, on a file system that a reboot empties."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    device = os.stat(there).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    return any(mount.fs in ("tmpfs", "ramfs") for mount in mounts.of_device(number))


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), as far as it is read."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", ctypes.c_long * 2),
        ("tick", ctypes.c_long),
        ("rest", ctypes.c_long * 20),
    )


def clock() -> ClockState:
    """From adjtimex(2), which needs no privilege to read. Raises OSError."""
    timex = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(ctypes.byref(timex)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "adjtimex")
    running = {name for pid in _pids() if (name := _command(pid)) in TIMEKEEPERS}
    return ClockState(
        synchronised=not timex.status & _UNSYNCHRONISED,
        ppm=round(timex.freq / _SHIFT + (timex.tick - _TICK) * 1e6 / _TICK, 3),
        kept_by=tuple(sorted(running)),
    )


def _watchdog(reset: str) -> WatchdogState | None:
    if reset in (NOTHING, REBOOT):
        return None
    try:
        found = os.stat(reset)
    except FileNotFoundError:
        return WatchdogState(path=reset, there=False)
    device = os.path.basename(os.path.realpath(reset))
    if stat.S_ISCHR(found.st_mode):
        number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        device = next((it.name for it in Path("/sys/class/watchdog").glob("*") if _text(it / "dev") == number), device)
    about = Path("/sys/class/watchdog") / device
    return WatchdogState(
        path=reset,
        there=True,
        identity=_text(about / "identity"),
        nowayout=_text(about / "nowayout") == "1",
        held_by=tuple(f"{_command(pid)} ({pid})" for pid in _pids() if _opens(pid, found)),
    )


def _opens(pid: int, file: os.stat_result) -> bool:
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{name}"), file):
                    return True
    return False


def _cgroups(name: str) -> CgroupState:
    try:
        cgroups = Cgroups.find(name)
    except CgroupError as error:
        return CgroupState(wrong=str(error))
    top = next(it for it in (cgroups.root, *cgroups.root.parents) if it.is_dir())
    wrong = "" if os.access(top, os.W_OK) or os.geteuid() != 0 else f"{top} cannot be written to, even by root"
    return CgroupState(
        root=str(cgroups.root),
        wrong=wrong,
        controllers=tuple(_text(top / "cgroup.controllers").split()),
        datasets={it: cgroups.populated(f"datasets/{it}") for it in cgroups.names("datasets")},
        workloads={
            it: cgroups.populated(f"{kind}/{it}") for kind in ("workloads", CONTAINERS) for it in cgroups.names(kind)
        },
    )


def _directories(settings: Settings) -> tuple[str, ...]:
    """Those that back ends keep images in."""
    tables = settings.backends.values()
    return tuple(os.path.realpath(path) for table in tables if isinstance(path := table.get("directory"), str))


def _devices(directories: tuple[str, ...]) -> tuple[DeviceState, ...]:
    """Loop devices on images in these directories."""
    found = [loop for loop in loopdev.scan() if os.path.dirname(loop.image) in directories]
    table = {mount.device: mount.path for mount in mounts.table()}
    states = []
    for loop in found:
        with suppress(FileNotFoundError):  # detached meanwhile
            states.append(DeviceState(device=loop.path, backing=loop.image, mounted=table.get(loop.number(), "")))
    return tuple(states)


def _mounts(root: Path) -> tuple[str, ...]:
    return tuple(sorted({it.path for it in mounts.table() if os.path.dirname(it.path) == os.path.realpath(root)}))


def _loose(directories: tuple[str, ...]) -> tuple[str, ...]:
    """Images without a record of whose they are."""
    found: list[str] = []
    for directory in directories:
        names = set(os.listdir(directory))
        found += (f"{directory}/{it}" for it in names if it.endswith(".img") and f"{it[:-4]}.json" not in names)
    return tuple(sorted(found))


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _command(pid: int) -> str:
    return _text(Path(f"/proc/{pid}/comm"))


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
