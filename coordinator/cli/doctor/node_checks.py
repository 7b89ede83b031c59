"""What is wrong with this node. Pure: what was found on the machine, and etcd's picture where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable

from drover.coordinator.cli.doctor.findings import Finding, failing, note, ok, warning
from drover.coordinator.cli.output import listing
from drover.coordinator.cli.picture import Picture
from drover.coordinator.examination import Examination
from drover.coordinator.identity import Role
from drover.coordinator.sizes import format_size

DRIFT, TOO_MUCH = 500.0, 10_000.0
"""Parts in a million by which a clock runs wrong: what NTP can mend, and the 1 % that the protocol bears."""
FULL, NEARLY = 0.95, 0.8


def agent(it: Examination, picture: Picture | None) -> list[Finding]:
    if not it.running:
        where = "" if it.root else " (as far as this user can see)"
        return [failing("agent", f"no agent of {it.node} runs here{where}", "systemctl start drover-agent")]
    if it.ready is None:
        return [note("agent", "it runs; it was not asked how it is")]
    if not it.ready:
        return [ok("agent", f"{it.node} runs and is well, {it.version}")]
    todo = "Look at its log: journalctl -u drover-agent"
    return [failing("agent", f"{name}: {why}", todo) for name, why in sorted(it.ready.items())]


def backends(it: Examination, picture: Picture | None) -> list[Finding]:
    found: list[Finding] = []
    for name, state in sorted(it.backends.items()):
        if state.wrong:
            found.append(failing("back ends", f"{name}: {state.wrong}", "Datasets on it cannot be brought up here."))
        elif state.size and state.free is not None and (used := 1 - state.free / state.size) >= NEARLY:
            judged = failing if used >= FULL else warning
            what = f"{name}: its pool is {100 * used:.0f} % full, {format_size(state.free)} free"
            found.append(judged("back ends", what, "Enlarge the pool, or remove datasets."))
        else:
            found.append(ok("back ends", f"{name} is well"))
        if state.remark:
            found.append(note("back ends", f"{name}: {state.remark}"))
    return found or [warning("back ends", "this node has none: it can own nothing", "[backends.NAME] in agent.toml")]


def clock(it: Examination, picture: Picture | None) -> list[Finding]:
    if it.clock is None:
        return []
    ppm = abs(it.clock.ppm)
    if ppm > DRIFT:
        todo = "Deadlines bear 1 % (10,000 ppm) between machines: replace the machine, or its clock source."
        what = f"it runs wrong by {ppm:,.0f} parts in a million"
        return [(failing if ppm >= TOO_MUCH else warning)("clock", what, todo)]
    if not it.clock.synchronised:
        by = f", though {listing(it.clock.kept_by)} runs" if it.clock.kept_by else ""
        todo = "Run chrony or systemd-timesyncd. Safety does not rest on it; pauses, the trash and logs do."
        return [warning("clock", f"its time of day is not synchronised{by}", todo)]
    return [ok("clock", f"synchronised, corrected by {ppm:.0f} parts in a million")]


def cgroups(it: Examination, picture: Picture | None) -> list[Finding]:
    if it.cgroups is None:
        return []
    if it.cgroups.wrong:
        todo = "Without cgroup v2 nothing can be stopped for certain, and no agent starts."
        return [failing("cgroups", it.cgroups.wrong, todo)]
    if picture is None:
        return [ok("cgroups", it.cgroups.root)]
    mine = set(picture.held_by(it.node))
    found = []
    for name, populated in sorted(it.cgroups.datasets.items()):
        if name not in mine:
            where = f"{it.cgroups.root}/datasets/{name}"
            if populated:
                todo = f"Look who that is: cat {where}/cgroup.procs. After a move it may be so for a moment."
                found.append(warning("leftovers", f"processes run for {name}, which this node does not have", todo))
            else:
                what = f"an empty cgroup of {name}, which is not here"
                found.append(note("leftovers", what, f"Harmless: rmdir {where}"))
    return found or [ok("cgroups", it.cgroups.root)]


def guard(it: Examination, picture: Picture | None) -> list[Finding]:
    """What resets this machine, and what that means."""
    if it.reset in ("", "none"):
        todo = 'With [guard] reset = "/dev/watchdog" silence of this node is proof, also for fencing: hard.'
        what = "nothing resets this machine: when it falls silent, datasets with fencing: hard wait for a person"
        return [note("guard", what, todo)]
    node = picture.nodes.get(it.node) if picture else None
    found: list[Finding] = []
    if it.reset == "reboot":
        found.append(note("guard", "it resets this machine itself, which does not help where the guard hangs, too"))
    elif it.watchdog is not None and not it.watchdog.there:
        todo = "Load its kernel module (modprobe softdog, where there is no hardware)."
        found.append(failing("guard", f"there is no watchdog {it.watchdog.path}", todo))
    elif it.watchdog is not None and it.running and it.root and not it.watchdog.held_by:
        found.append(failing("guard", f"nobody has {it.watchdog.path} open", "Restart the agent; look at its log."))
    elif it.watchdog is not None and it.watchdog.nowayout:
        found.append(note("guard", "the watchdog never lets go: stopping the agent resets this machine"))
    if it.running and node and node.heartbeat and not node.heartbeat.armed:
        found.append(failing("guard", "its heartbeats do not say that a reset is armed", "Look at the agent's log."))
    return found or [ok("guard", f"{it.watchdog.path if it.watchdog else it.reset} is armed")]


def addresses(it: Examination, picture: Picture | None) -> list[Finding]:
    todo = "See what has it: ss -ltnp. Or choose another in [listen]."
    found = [failing("ports", f"something else listens on {address}", todo) for address in it.taken]
    if it.plain:
        todo = "Whoever reaches these sees what this node has: listen on loopback, or set the table [tls]."
        found.append(warning("INSECURE", f"the agent answers without TLS at {listing(it.plain)}", todo))
    return found


def certificates(it: Examination, picture: Picture | None) -> list[Finding]:
    """Those that this node shows, and those that it believes."""
    found: list[Finding] = []
    for one in it.certificates:
        what = f"{one.file} ({one.setting})"
        todo = "drover ca renew, then copy it over the old one: the agent takes it up by itself."
        if one.wrong:
            found.append(failing("certificates", f"{one.wrong} ({one.setting})", "Put it there: drover ca issue."))
        elif one.left <= 0:
            found.append(failing("certificates", f"{what} has expired: {one.expires}", todo))
        elif one.due:
            found.append(warning("certificates", f"{what} expires soon: {one.expires}", todo))
        if one.setting == "tls.cert" and not one.wrong and (one.role, one.name) != (Role.NODE, it.node):
            whose = f"that of {one.role} {one.name}" if one.name else "nobody's"
            todo = f"No other node believes it: drover ca issue node {it.node}"
            found.append(failing("certificates", f"{what} is {whose}, not that of node {it.node}", todo))
    return found or ([ok("certificates", f"{len(it.certificates)} are good")] if it.certificates else [])


def directories(it: Examination, picture: Picture | None) -> list[Finding]:
    found = []
    if "run_dir" not in it.memory:
        todo = "Put it on a tmpfs (/run/drover): what is in it must not outlive the boot."
        found.append(warning("directories", "run_dir survives a reboot", todo))
    if "state_dir" in it.memory:
        todo = "Put it on a disk: it holds how far etcd had come, by which an etcd that went back is found out."
        found.append(warning("directories", "state_dir does not survive a reboot", todo))
    return found


def leftovers(it: Examination, picture: Picture | None) -> list[Finding]:
    """What is here and belongs to no dataset that this node has."""
    loose = [note("leftovers", f"no record says whose these are: {listing(it.loose)}", "Delete them by hand.")]
    if picture is None:
        unknown = note("leftovers", "not looked for: without etcd nobody knows what belongs here")
        return [unknown, *(loose if it.loose else [])]
    names = set(picture.held_by(it.node))
    mine = {d.tenure.uid for name in names if (d := picture.datasets[name]).tenure}
    known = {d.tenure.uid for d in picture.datasets.values() if d.tenure}
    moment = "If it is still so in a minute, unmount and detach it by hand."
    found: list[Finding] = loose if it.loose else []
    for device in it.devices:
        if os.path.basename(device.backing).partition(".")[0] not in mine:
            mounted = f", mounted at {device.mounted}" if device.mounted else ""
            what = f"{device.device} on {device.backing}{mounted} is of no dataset here"
            found.append(warning("leftovers", what, moment))
    found += [
        warning("leftovers", f"{path} is mounted and no dataset of this node", moment)
        for path in it.mounts
        if os.path.basename(path) not in names
    ]
    lost = [f"{one.dataset} ({one.backend}, uid {one.uid})" for one in it.volumes if one.uid not in known]
    if lost:
        todo = "Of another cluster, or of one that etcd has lost. Delete it by hand once you know that nobody wants it."
        found.append(note("leftovers", f"volumes that no dataset has: {listing(lost)}", todo))
    return found or [ok("leftovers", "none")]


def not_told(it: Examination, picture: Picture | None) -> list[Finding]:
    again = "" if it.root else "Give the command as root."
    return [note(topic, f"could not be looked at: {why}", again) for topic, why in sorted(it.unknown.items())]


CHECKS: tuple[Callable[[Examination, Picture | None], list[Finding]], ...] = (
    agent,
    backends,
    clock,
    cgroups,
    guard,
    addresses,
    certificates,
    directories,
    leftovers,
    not_told,
)
