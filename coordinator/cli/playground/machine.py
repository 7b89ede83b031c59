"""One machine, a node or an etcd member: switched on, frozen, thawed, cut off from its power."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from drover.coordinator.addresses import joined
from drover.coordinator.cli.errors import Failed, NotPossible
from drover.coordinator.cli.playground import blockdev, engine, etcd, filesystems, network, tools, zfs
from drover.coordinator.cli.playground.cgroup import Group, mount_point
from drover.coordinator.cli.playground.devices import Devices
from drover.coordinator.cli.playground.init import SERVICE_PID, Boot, Companion
from drover.coordinator.cli.playground.layout import DATA_PORT, GRPC_PORT, HTTP_PORT, Kind, Layout, Machine, Settings

_MACHINE_ID, _BOOT_ID = Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id")
_BOOT_LIMIT = 20.0
_POOL_SIZE = 64 << 30


class State(StrEnum):
    """What a machine does now, as far as looking at it tells."""

    RUNNING = "running"
    FROZEN = "frozen"
    """Its processes stand still; its kernel still answers the network and writes dirty pages."""
    MACHINE_FROZEN = "machine frozen"
    """Nothing of it moves: no process, no packet, no write."""
    OFF = "off"


@dataclass(frozen=True)
class Place:
    """One machine of one playground."""

    layout: Layout
    settings: Settings
    machine: Machine

    @property
    def home(self) -> Path:
        return self.layout.home(self.machine)

    @property
    def group(self) -> Group:
        return base(self.layout).child(self.machine.name)

    def first_process(self) -> int | None:
        """PID 1 of the machine, as this computer counts; None: it is off."""
        for pid in self.group.child("init").pids():
            if _inner_pid(pid) == 1:
                return pid
        return None

    def service(self) -> int | None:
        """The agent's PID (or etcd's), as this computer counts; None: it does not run now."""
        if not (first := self.first_process()):
            return None
        try:
            inner = int(Path(f"/proc/{first}/root{SERVICE_PID}").read_text())
        except (FileNotFoundError, ProcessLookupError):
            return None
        return next((pid for pid in self.group.pids() if _inner_pid(pid) == inner), None)

    def state(self) -> State:
        if not self.first_process():
            return State.OFF
        if not self.group.frozen():
            return State.RUNNING
        return State.FROZEN if network.port_state(self.layout, self.machine) else State.MACHINE_FROZEN

    def devices(self) -> list[blockdev.Loop]:
        """Loop devices that the machine attached."""
        return [loop for loop in blockdev.loops() if loop.below(self.home)]

    def running(self) -> int:
        """PID of its first process. Raises NotPossible where it is off or frozen."""
        first = self.first_process()
        if not first:
            raise NotPossible(f"{self.machine.name} is off", self._try("start"))
        if self.group.frozen():
            raise NotPossible(f"{self.machine.name} is frozen", self._try("thaw"))
        return first

    def _try(self, verb: str) -> str:
        return f"First: drover playground {verb} {self.layout.directory} {self.machine.name}"


def base(layout: Layout) -> Group:
    """The cgroup of the whole playground. Raises NotPossible."""
    return Group(mount_point() / layout.cgroup)


def start(places: Sequence[Place]) -> None:
    """Switches machines on, side by side; what is left of their last life is removed first.

    Raises NotPossible where one is on already, Failed.
    """
    for place in places:
        if place.first_process():
            raise NotPossible(f"{place.machine.name} is running already")
        _clear(place)
    layout = places[0].layout
    base(layout).make()
    base(layout).delegate()
    network.plug_in(layout, [place.machine for place in places])
    started = [(place, _boot(place)) for place in places]
    for place, process in started:
        try:
            _, said = process.communicate(timeout=_BOOT_LIMIT)
        except subprocess.TimeoutExpired:
            raise Failed(f"{place.machine.name} was not up after {_BOOT_LIMIT:.0f} s", outcome="") from None
        if process.returncode:
            raise Failed(said.strip() or f"{place.machine.name} did not start", outcome="")


def power_cut(place: Place, soft: bool = False) -> None:
    """Ends the machine as a power cut does: what was not synced is lost, and peers hear nothing. soft: its processes
    are killed and no more, so the kernel writes what is dirty and closes their connections.

    Raises NotPossible where it is off already, Failed with what could not be ended.
    """
    layout, machine = place.layout, place.machine
    if not place.first_process():
        raise NotPossible(f"{machine.name} is off already")
    devices = Devices(place.devices())
    if not soft:
        # In this order: nothing inside sees the cut, and nothing is flushed or said because of it.
        place.group.freeze()
        network.set_port(layout, machine, up=False)
        devices.cut()
    _release(place)
    place.group.kill()
    devices.detach()
    _clear(place)


def freeze(place: Place, whole: bool) -> None:
    """Stops all processes of a machine, as if userland hung; whole: the machine hangs, link and disks included.

    Raises NotPossible where it is off, Failed.
    """
    if not place.first_process():
        place.running()
    if not place.group.freeze() and whole:
        place.group.thaw()
        raise Failed(f"{place.machine.name}: a process is in the kernel and cannot be frozen now", "Try again.")
    if whole:
        network.set_port(place.layout, place.machine, up=False)
        filesystems.hold(place.group.pids(), place.devices())


def thaw(place: Place) -> None:
    """Undoes either kind of freeze. Idempotent. Raises NotPossible where it is off."""
    if not place.first_process():
        place.running()
    _release(place)
    network.set_port(place.layout, place.machine, up=True)
    place.group.thaw()


def _release(place: Place) -> None:
    """A file system that is held when its last process dies is held for ever."""
    if place.group.frozen():
        filesystems.release(place.group.pids(), place.devices())


def _clear(place: Place) -> None:
    """Removes what is left of a machine that is off."""
    place.group.kill()
    Devices(place.devices() + blockdev.orphans(place.layout.directory)).detach()
    place.group.remove()
    network.unplug(place.layout, place.machine)


def _boot(place: Place) -> subprocess.Popen[str]:
    layout, settings, machine = place.layout, place.settings, place.machine
    place.home.mkdir(parents=True, exist_ok=True)
    environment = {"PATH": tools.service_path(), "HOME": "/root", "LANG": "C.UTF-8"}
    (place.home / "boot-id").write_text(f"{uuid.uuid4()}\n")
    binds = [(str(place.home / "boot-id"), str(_BOOT_ID))]
    machine_id = place.home / "machine-id"
    if not machine_id.exists():
        machine_id.write_text(f"{uuid.uuid4().hex}\n")
    if _MACHINE_ID.exists():
        binds.append((str(machine_id), str(_MACHINE_ID)))
    images: list[tuple[str, str]] = []
    companions: list[Companion] = []
    if machine.kind is Kind.NODE:
        environment |= {"DROVER_MACHINE_ID": machine_id.read_text().strip(), **settings.environment}
        (place.home / "state").mkdir(exist_ok=True)
        (place.home / "shared").mkdir(exist_ok=True)
        layout.shared.mkdir(exist_ok=True)
        binds.append((str(layout.shared), str(place.home / "shared")))
        (place.home / "agent.toml").write_text(_agent_settings(place))
        if settings.btrfs:
            images.append(_pool(place))
        service = [tools.find("drover-agent"), "--config", str(place.home / "agent.toml")]
        if settings.zfs:
            service = zfs.after(service)
            companions.append(Companion("zfs", zfs.command(place.home), str(place.home / "zfs.log")))
        if settings.docker:
            companions.append(Companion("engine", engine.command(place.home), str(layout.engine_log(machine))))
    else:
        service = etcd.command(layout, settings, machine)
    place.group.make()
    boot = Boot(
        name=machine.name,
        cgroup=str(place.group.path),
        netns=str(layout.netns(machine)),
        address=f"{settings.address(machine)}/{settings.prefix}{' nodad' if settings.ipv6 else ''}",
        binds=binds,
        images=images,
        service=service,
        environment=environment,
        log=str(layout.log(machine)),
        hold=machine.kind is Kind.NODE and not settings.agents,
        companions=companions,
    )
    return subprocess.Popen(
        [*tools.python("init"), boot.encode()],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        close_fds=False,  # the lock: see lock.py
    )


def _pool(place: Place) -> tuple[str, str]:
    """A node's own btrfs: image and mount point. Sparse, so that it takes what is written to it."""
    image, mounted = place.home / "pool.img", place.layout.pool(place.machine)
    mounted.mkdir(exist_ok=True)
    if not image.exists():
        made = image.with_suffix(".new")
        with made.open("wb") as file:
            file.truncate(_POOL_SIZE)
        tools.run(["mkfs.btrfs", "--quiet", str(made)])
        made.rename(image)
    return str(image), str(mounted)


def _agent_settings(place: Place) -> str:
    settings, address = place.settings, place.settings.address(place.machine)
    endpoints = ", ".join(f'"{endpoint}"' for endpoint in settings.agent_endpoints)
    timings = f'timings = "{settings.timings}"\n' if settings.timings else ""
    pool = f'[backends.btrfs]\npool = "{place.layout.pool(place.machine)}"\n\n' if settings.btrfs else ""
    pool += zfs.settings() if settings.zfs else ""
    if settings.folders:
        folder = place.home / "folder"
        folder.mkdir(exist_ok=True)
        pool += f'[backends.directory]\nfolder = "{folder}"\n\n'
    docker = (
        f'\n[docker]\nsocket = "/run/docker/plugins/drover.sock"\nengine = "{engine.SOCKET}"\nbackend = "loopback"\n'
        'size = "320MiB"\n'
        if settings.docker
        else ""
    )
    tls = f"[etcd.tls]\n{_files(place)}\n[tls]\n{_files(place)}\n" if settings.tls else ""
    kinds = ("process", "docker") if settings.docker else ("process",)
    reset = '[guard]\nreset = "reboot"\n\n' if settings.reset else ""
    return f"""\
node = "{place.machine.name}"
address = "{address}"
run_dir = "/run/drover"
state_dir = "{place.home / "state"}"
mount_root = "/srv/drover"
{"" if settings.tls else "insecure = true"}
{timings}
[listen]
grpc = "{joined(address, GRPC_PORT)}"
http = "{joined(address, HTTP_PORT)}"
data = "{joined(address, DATA_PORT)}"

[etcd]
endpoints = [{endpoints}]

{tls}[backends.loopback]
directory = "{place.home / "shared"}"

{pool}{reset}[workloads]
allow = [{", ".join(f'"{kind}"' for kind in kinds)}]
{docker}"""


def _files(place: Place) -> str:
    files = {"ca": "ca.crt", "cert": f"{place.machine.name}.crt", "key": f"{place.machine.name}.key"}
    return "".join(f'{key} = "{place.layout.certificates / file}"\n' for key, file in files.items())


def _inner_pid(pid: int) -> int | None:
    """As the machine itself counts; None: it is none of the machine's own (in a container, or gone)."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                numbers = line.split()[1:]
                return int(numbers[1]) if len(numbers) == 2 else None
    except (FileNotFoundError, ProcessLookupError):
        pass
    return None
