"""Doing what a schedule says, to an arena: each fault is a context, which ends when the fault does."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from drover.coordinator.cli.errors import NotPossible
from drover.coordinator.cli.playground import blockdev, network
from drover.coordinator.cli.playground.lock import locked
from drover.coordinator.cli.playground.machine import State
from tests.chaos.arena import Arena
from tests.chaos.schedule import MOVE, Act, Role

_THROTTLE = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_iops_device")
_SLOW = 10
"""Writes a second that a slow disk takes: one commit is about three."""

NONSENSE: tuple[tuple[str, str], ...] = (
    ("datasets/nonsense", "{"),
    ("datasets/nonsense", json.dumps({"backend": "loopback", "size": "-1"})),
    ("datasets/no such name!", json.dumps({"backend": "loopback", "size": "64MiB"})),
    ("datasets/wrong-field", json.dumps({"backend": "loopback", "size": "64MiB", "colour": "green"})),
    ("desired/nobody-knows-it", "node-a"),
    ("workloads/nonsense", "[1, 2"),
    ("workloads/nonsense", json.dumps({"command": [], "datasets": []})),
    ("workloads/impossible", json.dumps({"command": ["/no/such/program"], "datasets": ["nothing"]})),
    ("no-such-kind/x", "y" * 5000),
    ("cordons/", "\ufffd"),
)


@dataclass(frozen=True)
class Stage:
    """Where it happens. datasets: those that are moved about. owner: who has one now, as far as is known."""

    arena: Arena
    datasets: Sequence[str]
    owner: Callable[[str], str]

    def node(self, act: Act) -> str:
        nodes = self.arena.playground.nodes
        if act.role is Role.OWNER and (owner := self.owner(self.dataset(act))) in nodes:
            return owner
        return nodes[act.number % len(nodes)]

    def dataset(self, act: Act) -> str:
        return self.datasets[act.number % len(self.datasets)]

    def members(self, act: Act) -> list[str]:
        members = self.arena.playground.members
        if act.role is Role.ALL:
            return members
        leader = self.arena.leader() if act.role is Role.LEADER else None
        return [leader or members[act.number % len(members)]]

    def target(self, act: Act) -> str:
        """For the record."""
        if act.kind is MOVE or act.kind.name in ("desired flaps",):
            return self.dataset(act)
        if act.role in (Role.OWNER, Role.NODE):
            return self.node(act)
        return "all" if act.role is Role.ALL else self.members(act)[0]


Nemesis = Callable[[Stage, Act, str], AbstractContextManager[None]]


def _others(stage: Stage, act: Act) -> str:
    nodes = stage.arena.playground.nodes
    return nodes[act.other % len(nodes)]


def _put(stage: Stage, key: str, value: str) -> None:
    """Raises NotPossible where etcd does not answer now: nobody waits for it while other faults are due."""
    if not stage.arena.put(key, value):
        raise NotPossible("etcd did not answer")


@contextmanager
def _move(stage: Stage, act: Act, dataset: str) -> Iterator[None]:
    _put(stage, f"desired/{dataset}", _others(stage, act))
    yield


@contextmanager
def _power_cut(stage: Stage, act: Act, node: str) -> Iterator[None]:
    stage.arena.cut_power(node)
    yield
    stage.arena.switch_on(node)


@contextmanager
def _power_cut_with_leader(stage: Stage, act: Act, node: str) -> Iterator[None]:
    leader = stage.arena.leader()
    both = [node, leader] if leader else [node]
    stage.arena.cut_power(*both)
    yield
    stage.arena.switch_on(*both)


@contextmanager
def _kill_agent(stage: Stage, act: Act, node: str) -> Iterator[None]:
    stage.arena.playground.kill_agent(node)
    yield


@contextmanager
def _stop_agent(stage: Stage, act: Act, node: str) -> Iterator[None]:
    stage.arena.playground.freeze_agent(node)
    yield
    with suppress(NotPossible):
        stage.arena.playground.thaw_agent(node)


def _guard(first: signal.Signals, last: signal.Signals | None = None) -> Nemesis:
    @contextmanager
    def signalled(stage: Stage, act: Act, node: str) -> Iterator[None]:
        pid = stage.arena.guard(node)
        if pid is None:
            raise NotPossible(f"the guard of {node} does not run")
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, first)
            yield
            if last is not None:
                with suppress(ProcessLookupError):  # the agent has killed what does not answer
                    signal.pidfd_send_signal(handle, last)
        finally:
            os.close(handle)

    return signalled


def _freeze(whole: bool) -> Nemesis:
    @contextmanager
    def frozen(stage: Stage, act: Act, name: str) -> Iterator[None]:
        stage.arena.playground.freeze(name, whole)
        yield
        if stage.arena.playground.state(name) is not State.OFF:
            stage.arena.playground.thaw(name)

    return frozen


def _partition(separate: str, one_way: bool = False) -> Nemesis:
    @contextmanager
    def cut(stage: Stage, act: Act, name: str) -> Iterator[None]:
        stage.arena.playground.partition(name, separate, one_way)
        yield
        stage.arena.playground.heal(name)

    return cut


@contextmanager
def _one_pair(stage: Stage, act: Act, node: str) -> Iterator[None]:
    """With any other machine; every third time only what the node sends is lost."""
    playground = stage.arena.playground
    others = [name for name in (*playground.nodes, *playground.members) if name != node]
    one, other = (
        playground.layout.port(playground.settings.machine(m)) for m in (node, others[act.other % len(others)])
    )
    pairs = {(one, other)} if act.number % 3 == 0 else {(one, other), (other, one)}
    with locked(playground.directory):
        network.cut(playground.layout, pairs)
    yield
    playground.heal(node)


@contextmanager
def _jump(stage: Stage, act: Act, node: str) -> Iterator[None]:
    stage.arena.jump(node, act.seconds)
    yield


@contextmanager
def _etcd_killed(stage: Stage, act: Act, name: str) -> Iterator[None]:
    members = stage.arena.playground.members if name == "all" else [name]
    for member in members:
        with suppress(NotPossible):
            stage.arena.cut_power(member)
    yield
    stage.arena.switch_on(*members)


@contextmanager
def _etcd_stopped(stage: Stage, act: Act, name: str) -> Iterator[None]:
    members = stage.arena.playground.members if name == "all" else [name]
    frozen = []
    for member in members:
        with suppress(NotPossible):
            stage.arena.playground.freeze(member)
            frozen.append(member)
    yield
    for member in frozen:
        if stage.arena.playground.state(member) is not State.OFF:
            stage.arena.playground.thaw(member)


def _network(**behaviour: float) -> Nemesis:
    @contextmanager
    def slowed(stage: Stage, act: Act, name: str) -> Iterator[None]:
        members = stage.arena.playground.members if name == "all" else [name]
        for member in members:
            stage.arena.behave(member, **behaviour)
        yield
        for member in members:
            stage.arena.behave(member)

    return slowed


@contextmanager
def _full(stage: Stage, act: Act, name: str) -> Iterator[None]:
    filler = stage.arena.playground.layout.shared / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**20))
    yield
    filler.unlink()


@contextmanager
def _slow_disks(stage: Stage, act: Act, name: str) -> Iterator[None]:
    if not _THROTTLE.exists():
        raise NotPossible("this computer has no cgroup v1 with blkio, by which single devices can be slowed")
    homes = stage.arena.playground.layout.directory
    numbers = [
        (Path("/sys/block") / loop.name / "dev").read_text().strip() for loop in blockdev.loops() if loop.below(homes)
    ]
    try:
        for number in numbers:
            _THROTTLE.write_text(f"{number} {_SLOW}")
        yield
    finally:  # also where the run is broken off: the numbers are used again by others
        for number in numbers:
            _THROTTLE.write_text(f"{number} 0")


@contextmanager
def _flap(stage: Stage, act: Act, dataset: str) -> Iterator[None]:
    nodes = stage.arena.playground.nodes
    for turn in range(12):
        _put(stage, f"desired/{dataset}", nodes[(act.other + turn * 7) % len(nodes)])
    yield


@contextmanager
def _nonsense(stage: Stage, act: Act, node: str) -> Iterator[None]:
    for key, value in NONSENSE:
        _put(stage, key, value)
    _put(stage, f"desired/{stage.dataset(act)}", ("nobody", "node a", "\n", "")[act.other % 4])
    yield


@contextmanager
def _made_and_deleted(stage: Stage, act: Act, node: str) -> Iterator[None]:
    spec = {"backend": "loopback", "size": "32MiB", "fs": "ext4", "failover": "any", "reclaim": "delete"}
    _put(stage, "datasets/passing", json.dumps(spec))
    _put(stage, "desired/passing", node)
    yield
    stage.arena.delete("datasets/passing")


NEMESES: dict[str, Nemesis] = {
    "move": _move,
    "power cut": _power_cut,
    "power cut, etcd leader too": _power_cut_with_leader,
    "agent killed": _kill_agent,
    "agent stopped": _stop_agent,
    "guard killed": _guard(signal.SIGKILL),
    "guard stopped": _guard(signal.SIGSTOP, signal.SIGCONT),
    "processes frozen": _freeze(whole=False),
    "machine frozen": _freeze(whole=True),
    "cut off from etcd": _partition("etcd"),
    "cut off from etcd, one way": _partition("etcd", one_way=True),
    "cut off from nodes": _partition("nodes"),
    "cut off from all": _partition("all"),
    "cut off from all, one way": _partition("all", one_way=True),
    "one pair cut": _one_pair,
    "clock jumps ahead": _jump,
    "leader killed": _etcd_killed,
    "leader stopped 8 s": _etcd_stopped,
    "member killed": _etcd_killed,
    "member cut off from members": _partition("etcd"),
    "member cut off from all, one way": _partition("all", one_way=True),
    "all of etcd killed, 3 s": _etcd_killed,
    "all of etcd killed, 10 s": _etcd_killed,
    "all of etcd killed, 60 s": _etcd_killed,
    "all of etcd stopped": _etcd_stopped,
    "slow network to etcd": _network(delay=0.25, jitter=0.2),
    "losses on the way to etcd": _network(stall=0.1),
    "connections to etcd reset": _network(reset=0.03),
    "answers of etcd lost": _network(swallow=True),
    "image directory full": _full,
    "slow disks": _slow_disks,
    "desired flaps": _flap,
    "nonsense in etcd": _nonsense,
    "dataset made and deleted": _made_and_deleted,
}
