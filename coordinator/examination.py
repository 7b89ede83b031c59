"""What an agent's program finds on its own machine: `drover-agent examine` prints it, `drover doctor` judges it.

Facts only. What could not be looked at stands in `unknown`, by topic, with the reason.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from drover.coordinator.record import Record
from drover.coordinator.reports import VolumeReport


class EtcdAccess(Record):
    """How the agent reaches etcd: names of files, not what is in them."""

    endpoints: tuple[str, ...]
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""


class CertificateState(Record):
    """A certificate of the settings. role, name: whose it is; "" where it does not say, or is an authority's. left:
    seconds until it expires. due: less than a third of its life is left. wrong: why it cannot be read, or ""."""

    setting: str
    file: str
    wrong: str = ""
    role: str = ""
    name: str = ""
    expires: str = ""
    left: float = 0
    due: bool = False


class ClockState(Record):
    """ppm: by how many parts in a million the kernel corrects CLOCK_REALTIME against the oscillator, which
    CLOCK_MONOTONIC_RAW shows as it is. kept_by: daemons that set the time and run."""

    synchronised: bool
    ppm: float
    kept_by: tuple[str, ...] = ()


class WatchdogState(Record):
    """A watchdog device. held_by: processes that have it open, like `drover-guard (12)`."""

    path: str
    there: bool
    identity: str = ""
    nowayout: bool = False
    held_by: tuple[str, ...] = ()


class CgroupState(Record):
    """root: the directory of Drover's; "" where there is no cgroup v2. controllers: those that it can have. datasets,
    workloads: cgroups that are there, and whether processes are in them."""

    root: str = ""
    wrong: str = ""
    controllers: tuple[str, ...] = ()
    datasets: dict[str, bool] = Field(default_factory=dict)
    workloads: dict[str, bool] = Field(default_factory=dict)


class BackendState(Record):
    """wrong, remark: "" for nothing. size, free: bytes of its pool; None: not known."""

    wrong: str = ""
    remark: str = ""
    size: int | None = None
    free: int | None = None


class DeviceState(Record):
    """A block device whose data is a back end's. mounted: where, in any mount namespace; "" for nowhere."""

    device: str
    backing: str
    mounted: str = ""


class Examination(Record):
    """settings: as they are in force, secrets removed. plain: addresses of `listen` that other machines reach without
    TLS. running: an agent has this node's run_dir. ready: what that agent's /readyz says, by name; None: it was not
    asked. metrics: what its /metrics says. taken: addresses of `listen` that something else has. memory: directories
    that are kept in memory only. mounts: below mount_root. loose: files in a back end's directory that belong to
    nothing."""

    node: str
    version: str
    machine: str = ""
    kernel: str = ""
    root: bool = False
    prefix: str
    settings: dict[str, Any] = Field(default_factory=dict)
    etcd: EtcdAccess
    plain: tuple[str, ...] = ()
    certificates: tuple[CertificateState, ...] = ()
    running: bool = False
    ready: dict[str, str] | None = None
    metrics: str = ""
    taken: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()
    clock: ClockState | None = None
    reset: str = ""
    watchdog: WatchdogState | None = None
    cgroups: CgroupState | None = None
    backends: dict[str, BackendState] = Field(default_factory=dict)
    volumes: tuple[VolumeReport, ...] = ()
    devices: tuple[DeviceState, ...] = ()
    mounts: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    unknown: dict[str, str] = Field(default_factory=dict)
