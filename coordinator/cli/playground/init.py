"""PID 1 of a machine, and what starts it. Standard library only: runs as a script, 15 ms and 11 MB.

`main` goes into the machine's cgroup and namespaces, forks PID 1, and ends with 0 once that is ready, else with 1 and
the reason on standard error. PID 1 keeps one service running, as systemd does with Restart=always, and reaps orphans.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from drover.coordinator.cli.playground import syscalls

NAMESPACES = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWPID
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWCGROUP
)
"""A machine's own, beside its network."""
RESTART_AFTER = 0.2
"""Seconds between the service's end and its next start."""
RUN = Path("/run/playground")
SERVICE_PID = RUN / "service.pid"
"""The service's PID as the machine counts; absent while it does not run."""
HOLD = RUN / "hold"
"""While it exists the service is not started. SIGHUP tells PID 1 to look."""

_READY = b"ready"


@dataclass(frozen=True)
class Companion:
    """Something that a machine keeps running beside its service. name: of its cgroup."""

    name: str
    command: list[str]
    log: str


@dataclass(frozen=True)
class Boot:
    """What a machine starts with. cgroup: its directory, which becomes its root. address: with prefix length.
    binds: (source, target), both existing; images: the same, of file systems. service: a command; empty: none.
    hold: the service waits to be started."""

    name: str
    cgroup: str
    netns: str
    address: str
    binds: list[tuple[str, str]]
    images: list[tuple[str, str]]
    service: list[str]
    environment: dict[str, str]
    log: str
    hold: bool
    companions: list[Companion] = field(default_factory=list)

    def encode(self) -> str:
        return json.dumps(asdict(self))


def main() -> NoReturn:
    boot = Boot(**json.loads(sys.argv[1]))
    boot = replace(boot, companions=[Companion(**one) for one in json.loads(sys.argv[1])["companions"]])
    try:
        _enter(boot)
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(reader)
            _first_process(boot, writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            said = answer.read()
    except OSError as error:
        sys.exit(f"{boot.name}: {error}")
    if said != _READY:
        sys.exit(f"{boot.name} did not start: {said.decode() or 'its first process died'}")
    sys.exit(0)


def _enter(boot: Boot) -> None:
    """The cgroup first: it becomes the root of the cgroup namespace. Then a leaf, so that the root can have
    controllers."""
    group = Path(boot.cgroup)
    (group / "cgroup.procs").write_text("0")
    descriptor = os.open(boot.netns, os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(descriptor, syscalls.CLONE_NEWNET)
    os.close(descriptor)
    syscalls.unshare(NAMESPACES)
    for leaf in ("init", "service", "exec", *(companion.name for companion in boot.companions)):
        (group / leaf).mkdir(exist_ok=True)
    (group / "init/cgroup.procs").write_text("0")


def _first_process(boot: Boot, writer: int) -> NoReturn:
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGHUP})
        _furnish(boot)
        null = os.open("/dev/null", os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.dup2(writer, 3)
        os.closerange(4, 1 << 16)  # the playground's lock, above all
        os.write(3, _READY)
        os.close(3)
    except (OSError, subprocess.SubprocessError):
        os.write(writer, traceback.format_exc().encode())
        os._exit(1)
    _keep_running(boot)


def leave_foreign_mounts(needed: Sequence[Path] = ()) -> None:
    """In a mount namespace of one's own: what came along must not be kept in use by this machine, neither others'
    network namespaces nor loop devices, except what `needed` is on."""
    syscalls.mount("none", Path("/"), flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        left, _, right = line.partition(" - ")
        target = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left.split()[4])
        foreign = right.split()[1].startswith("/dev/loop") and not any(path.is_relative_to(target) for path in needed)
        if foreign or target.startswith("/run/netns/"):
            try:
                syscalls.unmount(Path(target), syscalls.MNT_DETACH)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINVAL):  # whose it was has removed it meanwhile
                    raise


def _furnish(boot: Boot) -> None:
    leave_foreign_mounts([Path(needed) for needed in (*boot.service[:1], boot.log, sys.executable)])
    syscalls.mount("proc", Path("/proc"), "proc")
    for directory in (Path("/run"), Path("/srv")):
        syscalls.mount("tmpfs", directory, "tmpfs", data="mode=755")
    for directory in (RUN, Path("/run/lock"), Path("/run/netns"), Path("/run/docker/plugins")):
        directory.mkdir(parents=True)
    if boot.hold:
        HOLD.touch()
    syscalls.mount("cgroup2", Path("/sys/fs/cgroup"), "cgroup2")
    for source, target in boot.binds:
        syscalls.bind(Path(source), Path(target))
    for image, target in boot.images:
        command = ["mount", "-o", "loop,noatime", image, target]
        subprocess.run(command, check=True, env=boot.environment, timeout=10)
    socket.sethostname(boot.name)
    commands = ["link set dev lo up", f"addr add dev eth0 {boot.address}", "link set dev eth0 up"]
    subprocess.run(
        ["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True, env=boot.environment, timeout=10
    )


def _keep_running(boot: Boot) -> NoReturn:
    """The service, and what runs beside it, each of which is started again when it has ended."""
    service = Companion("service", boot.service, boot.log)
    not_before = {one.name: 0.0 for one in (service, *boot.companions) if one.command}
    running: dict[int, str] = {}
    while True:
        waits = []
        for one in (service, *boot.companions):
            if one.name not in not_before or one.name in running.values() or (one is service and HOLD.exists()):
                continue
            if (wait := not_before[one.name] - time.monotonic()) > 0:
                waits.append(wait)
                continue
            pid = _start(one, boot.environment)
            running[pid] = one.name
            if one is service:
                new = SERVICE_PID.with_suffix(".new")
                new.write_text(str(pid))
                new.rename(SERVICE_PID)
        wanted = {signal.SIGCHLD, signal.SIGHUP}
        if waits:
            signal.sigtimedwait(wanted, min(waits))
        else:
            signal.sigwaitinfo(wanted)
        for pid in _ended():
            if (name := running.pop(pid, None)) is None:
                continue
            if name == service.name:
                SERVICE_PID.unlink(missing_ok=True)
            not_before[name] = time.monotonic() + RESTART_AFTER


def _ended() -> list[int]:
    found: list[int] = []
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        found.append(pid)


def _start(one: Companion, environment: dict[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        Path(f"/sys/fs/cgroup/{one.name}/cgroup.procs").write_text("0")
        os.setsid()
        log = os.open(one.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(one.command[0], one.command, environment)
    except OSError:
        traceback.print_exc()
    os._exit(127)
