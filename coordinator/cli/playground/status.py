"""What a playground looks like now, by looking at it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drover.coordinator.cli.output import table
from drover.coordinator.cli.playground import agent, network, secrets
from drover.coordinator.cli.playground.layout import Layout, Settings
from drover.coordinator.cli.playground.machine import Place, State
from drover.coordinator.cli.playground.up import is_up

HOST = "this computer"


@dataclass(frozen=True)
class Look:
    """One machine. service: its agent, or etcd. cannot_reach, cannot_hear: where a partition takes its packets."""

    name: str
    kind: str
    address: str
    state: State
    pid: int | None
    service: str
    service_pid: int | None
    cannot_reach: list[str]
    cannot_hear: list[str]
    devices: dict[str, str]
    log: str


def look(place: Place, cuts: set[network.Cut]) -> Look:
    port = place.layout.port(place.machine)
    names = {place.layout.port(other): other.name for other in place.settings.machines()} | {network.UPLINK_PORT: HOST}
    state, service = place.state(), place.service()
    return Look(
        name=place.machine.name,
        kind=place.machine.kind,
        address=place.settings.address(place.machine),
        state=state,
        pid=place.first_process(),
        service=_service(place, state, service),
        service_pid=service,
        cannot_reach=sorted(names.get(target, target) for source, target in cuts if source == port),
        cannot_hear=sorted(names.get(source, source) for source, target in cuts if target == port),
        devices={str(loop.device): loop.image for loop in place.devices()},
        log=str(place.layout.log(place.machine)),
    )


def status(layout: Layout) -> dict[str, Any]:
    """As `status --json` prints it. Raises NotPossible."""
    settings = layout.settings()
    cuts = network.cuts(layout) if is_up(layout, settings) else set()
    looks = [look(Place(layout, settings, machine), cuts) for machine in settings.machines()]
    return {
        "directory": str(layout.directory),
        "id": layout.id,
        "up": is_up(layout, settings),
        "subnet": str(settings.network) if settings.subnet else None,
        "endpoints": settings.endpoints,
        "machines": [asdict(one) for one in looks],
    }


def rendered(found: dict[str, Any]) -> str:
    """For people."""
    rows = [
        [one["name"], one["address"], one["state"], one["service"], _partition(one), ", ".join(one["devices"])]
        for one in found["machines"]
    ]
    head = ["NAME", "ADDRESS", "STATE", "SERVICE", "PARTITION", "DEVICES"]
    return f"{found['directory']} is {'up' if found['up'] else 'down'}\n\n{table(head, rows)}"


def environment(layout: Layout, settings: Settings) -> dict[str, str]:
    """What etcdctl and drover need to find the cluster."""
    endpoints = ",".join(settings.endpoints)
    return {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": endpoints, "DROVER_ENDPOINTS": endpoints} | secrets.environment(
        layout, settings
    )


def _partition(one: dict[str, Any]) -> str:
    reach, hear = one["cannot_reach"], one["cannot_hear"]
    both = sorted(set(reach) & set(hear))
    parts = [("cut from", both), ("cannot reach", set(reach) - set(both)), ("cannot hear", set(hear) - set(both))]
    return "; ".join(f"{word} {', '.join(sorted(names))}" for word, names in parts if names)


def _service(place: Place, state: State, pid: int | None) -> str:
    if state is State.OFF:
        return "off"
    if not pid:
        return "stopped" if agent.held(place) else "starting"
    return "hung" if _process_state(pid) == "T" else "running"


def _process_state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
