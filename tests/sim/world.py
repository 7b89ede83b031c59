"""One run: three machines with their agents, etcd, storage, users, and what goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from drover.coordinator.keys import Keys
from drover.coordinator.records import State
from drover.coordinator.specs import DatasetSpec, ProcessSpec
from drover.coordinator.timings import PROFILES
from drover.coordinator.txn import Delete, Put, Txn
from tests.sim.checks import Checks
from tests.sim.etcd import MEMBERS, Etcd, Odds, Sender
from tests.sim.links import Links
from tests.sim.loop import VirtualLoop, alone
from tests.sim.machine import Machine, MachineProcess
from tests.sim.scenarios import favoured
from tests.sim.storage import BLOCK, SHARED, Slowness, Storage
from tests.sim.transfer import SimIncoming, Wire
from tests.sim.truth import Backup

SIZE = 2**30
BEGINNING = 1_800_000_000.0
"""Unix time when a run begins."""
FAILOVER: tuple[Literal["none", "any"] | tuple[str, ...], ...] = ("any", "any", "any", ("a", "b"), ("b", "c"), "none")
"""What specs say, each as often."""


@dataclass(frozen=True)
class Line:
    """at: true time, seconds."""

    at: float
    who: str
    what: str


@dataclass
class Outcome:
    """Of one run. settled: seconds from the end of all trouble until every dataset was active; None: never was.
    states: how often each fault met each state. digest: of the whole trace."""

    seed: int
    favours: str
    broken: str
    settled: float | None
    faults: Counter[str]
    states: Counter[tuple[str, str]]
    digest: str
    events: int
    writes: int
    story: list[Line] = field(default_factory=list)


class World:
    """seed, favours: of everything; favours: the kinds of fault that shall happen often, or "". directory: for what
    agents leave on tmpfs."""

    def __init__(self, seed: int, directory: Path, favours: str = "") -> None:
        self.seed, self.favours = seed, favours
        self.rng = random.Random(f"{seed} {favours}" if favours else seed)
        self.loop = VirtualLoop()  # type: ignore[abstract]
        self.directory = directory
        self.keys = Keys()
        self.backups: list[Backup] = []
        """Of etcd, the oldest first."""
        self._ids = 1
        self.timings = PROFILES["default"]
        self.endpoints = [f"http://{name}:2379" for name in MEMBERS]
        self.story: list[Line] = []
        self.faults: Counter[str] = Counter()
        self.states: Counter[tuple[str, str]] = Counter()
        self.broken = ""
        self.doomed: set[str] = set()
        self._digest = hashlib.blake2b(digest_size=8)
        self._moves: dict[str, asyncio.Event] = {}
        self.trouble = True
        self.checks = Checks(self)
        self.etcd = Etcd(self.loop, self.rng, self.checks.committed, self.fault)
        self.storage = Storage(self)
        self.links = Links(self)
        self.promises = self.rng.random() < 0.8
        rate, rng = self.rng.uniform, self.rng
        self.machines = {
            name: Machine(
                self,
                name,
                armed,
                (rate(0.93, 1.07), rate(0.995, 1.005)),
                (rate(10, 1000), rate(10, 1000)),
                directory,
            )
            for name, armed in (("a", True), ("b", True), ("c", rng.random() < 0.5))
        }
        self.datasets = tuple("defghijk"[: favoured(favours).datasets if favours else 3])
        self.backends = {name: rng.choice((SHARED, SHARED, BLOCK)) for name in self.datasets}
        self.wire = Wire()
        self.under_way: dict[str, SimIncoming] = {}
        """By the name in their tickets: what machines expect of one another."""
        self.unlinked: dict[frozenset[str], float] = {}
        """Pairs of machines: until when nothing gets through between them."""
        self.grouped = rng.random() < 0.5
        self.cooperative = False
        self.deaths = 0
        """How often one machine dies in the end, and then what may be elsewhere must be."""
        self.hasty = False
        """What people do takes them a second, and most trouble is short."""
        self.reclaim = ""
        """What all specs say of the data; "": any."""
        self.requests: dict[str, int] = {}
        """How often something else was wanted of each."""
        self.groups = {name: self.group_of(name) for name in self.datasets}
        self.failover = {name: rng.choice(FAILOVER) for name in self.datasets}
        self.wanted = {name: rng.choice(list(self.machines)) for name in self.datasets}
        """Where each shall be in the end."""
        if self.grouped:
            self.backends["f"], self.wanted["f"] = self.backends["e"], self.wanted["e"]

    # What is said.

    def say(self, who: str, what: str) -> None:
        self.story.append(Line(self.loop.now, who, what))
        self._digest.update(f"{self.loop.now:.6f} {who} {what}\n".encode())

    def fault(self, kind: str, who: str) -> None:
        self.faults[kind] += 1
        self.states[self.state(who), kind] += 1
        self.say(who, f"FAULT {kind}")

    def state(self, who: str) -> str:
        """In what state a fault meets the protocol: how the node is, and how each dataset is from where it stands."""
        machine = self.machines.get(who)
        said = []
        for tenure in self.checks.tenures.values():
            at = "own" if tenure.node == who else "other's"
            mounted = machine is not None and any(m.token.uid == tenure.uid for m in machine.mounts.values())
            said.append(
                f"{at} {tenure.state}{' uncut' if tenure.unfenced else ''}{' mounted' if mounted else ''}"
                f"{' unborn' if not tenure.born else ''}"
            )
        return f"{machine.session if machine else 'etcd'}: {', '.join(sorted(said))}"

    def breach(self, what: str) -> None:
        if not self.broken:
            self.broken = what
            self.say("CHECK", what)

    def check(self) -> None:
        self.checks.writers()

    # Time.

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.loop.call_later(seconds, call, context=alone())

    def then(self, seconds: float, call: Callable[[], object]) -> None:
        """After so long, if there is still trouble then."""

        def now() -> None:
            if self.trouble:
                call()

        self.after(seconds, now)

    def lasts(self, low: float, high: float) -> float:
        """Seconds that something takes, at random; mostly few where all is hasty."""
        if self.hasty and self.rng.random() < 0.7:
            high = low + (high - low) / 6
        return self.rng.uniform(low, high)

    def linked(self, one: Machine, other: Machine) -> bool:
        pair = frozenset((one.name, other.name))
        return one.up and other.up and self.unlinked.get(pair, 0.0) <= self.loop.now

    def run_for(self, seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
        self.loop.run_until(self.loop.now + seconds, lambda: bool(self.broken) or enough())

    def guard_moves(self, machine: Machine) -> asyncio.Event:
        return self._moves.setdefault(machine.name, asyncio.Event())

    def guard_moved(self, machine: Machine) -> None:
        self.guard_moves(machine).set()
        if machine.agent is not None:
            machine.agent.gate_has_moved()

    def spawn(self, process: MachineProcess, main: Coroutine[Any, Any, None]) -> None:
        """It must not end by an exception."""
        task = self.loop.spawn(process, main)
        task.add_done_callback(lambda done: self.ended(process, done))

    def ended(self, process: MachineProcess, task: asyncio.Task[Any]) -> None:
        if process.dead or task.cancelled() or self.broken:
            return
        if (error := task.exception()) is not None:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            self.breach(f"{process.name} ended: {error!r}")

    # Users.

    def put(self, key: str, value: bytes) -> None:
        self.etcd.truth.apply(Txn((), (Put(key, value),)))

    def erase(self, key: str) -> None:
        self.etcd.truth.apply(Txn((), (Delete(key),)))

    def commit(self, txn: Txn) -> None:
        """What a command of a user does."""
        succeeded = self.etcd.truth.apply(txn).succeeded
        self.checks.committed(txn, succeeded, Sender("user", "", "command"))

    def keep_backups(self) -> None:
        """Now and then, while there is trouble."""
        if not self.etcd.lost:
            self.backups = [*self.backups[-4:], self.etcd.truth.backup()]
        self.then(self.rng.uniform(0.5, 2.0) if self.hasty else self.rng.uniform(3.0, 8.0), self.keep_backups)

    def other_id(self) -> str:
        """The cluster id of another etcd."""
        self._ids += 1
        return f"c{self._ids}"

    def random_id(self) -> str:
        return f"{self.rng.getrandbits(64):016x}"

    def declare(self, name: str, again: bool = False) -> None:
        """again: what it says of the data stays as it was. Until its node has taken a change of that up, who deletes
        the spec gets what it said before (`drover rm` refuses)."""
        rng = self.rng
        before = self.etcd.truth.entry(self.keys.dataset(name)) if again else None
        spec = DatasetSpec(
            backend=self.backends[name],
            size=SIZE,
            failover=self.failover[name],
            reclaim=DatasetSpec.decode(before.value).reclaim
            if before
            else self.reclaim or rng.choice(["retain", "delete"]),
            fencing="cooperative" if self.cooperative else "hard",
            group=self.groups[name],
        )
        self.put(self.keys.dataset(name), spec.encode())

    def group_of(self, name: str) -> str | None:
        """Of which it is in the beginning and in the end."""
        return "g" if self.grouped and name in ("e", "f") else None

    def delete(self, name: str) -> None:
        """Of a spec. What it says of the data now is what a user asks for."""
        key = self.keys.dataset(name)
        entry, tenure = self.etcd.truth.entry(key), self.checks.tenures.get(name)
        if entry is None:
            return
        asked = DatasetSpec.decode(entry.value).reclaim == "delete"
        if asked and tenure is not None and tenure.created == entry.create_revision:
            self.doomed.add(tenure.uid)
        self.say("user", f"deletes the spec of {name}")
        self.erase(key)

    def wish(self, name: str, to: str | None = None) -> None:
        to = to or self.rng.choice([*self.machines, *self.machines, "nod-b"])
        self.say("user", f"wants {name} on {to}")
        before = self.etcd.truth.entry(self.keys.desired(name))
        if before is None or before.value != to.encode():
            self.requests[name] = self.requests.get(name, 0) + 1
        self.put(self.keys.desired(name), to.encode())

    def begin(self) -> None:
        for name in self.datasets:
            self.declare(name)
            self.wish(name, self.rng.choice([*self.machines]))
            if self.rng.random() < 0.7:
                spec = ProcessSpec(command=("writer",), datasets=(name,))
                self.put(self.keys.workload(name), spec.encode())
        for machine in self.machines.values():
            self.after(self.rng.uniform(0.0, 1.0), machine.power_on)

    # The end of all trouble.

    def heal(self) -> None:
        self.say("user", "all trouble ends")
        self.trouble = False
        etcd, loop = self.etcd, self.loop
        etcd.odds, self.storage.slowness, self.wire = Odds(), Slowness(), Wire()
        self.unlinked.clear()
        etcd.expected.clear()
        etcd.back = min(etcd.back, loop.now)
        etcd.cut.clear()
        etcd.slow.clear()
        self.links.mend()
        for state in etcd.members.values():
            state.down = state.frozen = state.behind = 0.0
            state.old_term = False
        self.erase(self.keys.pause)
        for name in list(etcd.elsewhere):
            etcd.right_one(name)
        for machine in self.machines.values():
            machine.unkillable = 0.0
            if machine.asleep > loop.now:
                continue  # it goes on by itself
            for process in (machine.agent_process, machine.guard.process if machine.guard else None):
                if process is not None:
                    loop.go_on(process)
            if not machine.up:
                machine.power_on()
            elif machine.agent_process is None:
                machine.start_agent()
            elif machine.agent is not None and machine.agent.leaves:
                machine.end_agent()
                machine.start_agent()
        for name in self.datasets:
            changed = self.groups[name] != self.group_of(name)
            self.groups[name] = self.group_of(name)
            if changed or etcd.truth.entry(self.keys.dataset(name)) is None:
                self.declare(name, again=True)
            asked = etcd.truth.entry(self.keys.desired(name))
            if asked is None or asked.value.decode() not in self.machines:
                self.wish(name, self.rng.choice(list(self.machines)))

    def move(self) -> None:
        """Each to where it shall be in the end, as `drover move` does: the same value put again is no new request."""
        for name in self.datasets:
            self.erase(self.keys.desired(name))
            self.wish(name, self.wanted[name])

    def loses_one(self) -> None:
        """For good: a machine that is reset where it hangs, so that nobody has to say that it is dead."""
        lost = self.machines[self.rng.choice([name for name, machine in self.machines.items() if machine.armed])]
        self.fault("dies for good", lost.name)
        member = lost.agent._member if lost.agent is not None else None
        if member is not None and self.rng.random() < 0.7:
            self.etcd.expire(member.lease)
        lost.power_off(float("inf"))

    def finds_it_again(self) -> None:
        for machine in self.machines.values():
            machine.power_on()

    def unserved_elsewhere(self) -> list[str]:
        """Those that may be on a machine that is up and has the data, with all of their group, and are nowhere."""
        up = {name for name, machine in self.machines.items() if machine.up}
        unit = [name for name in self.datasets if self.groups[name]]
        return [n for n in self.unserved() if all(self._allows(m, up) for m in {n, *(unit if n in unit else ())})]

    def _allows(self, name: str, up: set[str]) -> bool:
        """Whether one of these machines may have it."""
        tenure = self.checks.tenures.get(name)
        if tenure is not None and tenure.copies:
            return bool(up & set(tenure.copies))
        entry = self.etcd.truth.entry(self.keys.dataset(name))
        who = DatasetSpec.decode(entry.value).failover if entry is not None else "none"
        return who == "any" or (who != "none" and bool(up & set(who)))

    def all_live(self) -> bool:
        known = {t.incarnation for t in self.checks.tenures.values() if t.held}
        now = {m.agent.incarnation for m in self.machines.values() if m.agent is not None}
        return known <= now and all(m.session == "live" for m in self.machines.values())

    def misplaced(self) -> list[str]:
        return [name for name in self.datasets if not self._served(name, self.wanted[name])]

    def unserved(self) -> list[str]:
        """Datasets that nobody has active and mounted."""
        return [name for name in self.datasets if not self._served(name)]

    def _served(self, name: str, at: str = "") -> bool:
        tenure = self.checks.tenures.get(name)
        if tenure is None or tenure.state is not State.ACTIVE or (at and tenure.node != at):
            return False
        mount = self.machines[tenure.node].mounts.get(name)
        return mount is not None and mount.token.epoch == tenure.epoch

    def outcome(self, settled: float | None) -> Outcome:
        return Outcome(
            self.seed,
            self.favours,
            self.broken,
            settled,
            self.faults,
            self.states,
            self._digest.hexdigest(),
            self.loop.events,
            self.checks.written,
            self.story,
        )
