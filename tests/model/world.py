"""Three nodes that run the real session, observer, placement, ownership, planner and join on etcd's model, in virtual
time, with everything going wrong that may: lost replies, requests that commit late, partitions, machines that halt,
crashes, and pauses of the cluster.

After every event the promises are checked; `Breach` says which one was broken, and when. Seeded: a run can be repeated.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from drover.coordinator.records import LeaseRecord, Pause, State, Tenure
from drover.coordinator.specs import DatasetSpec
from drover.coordinator.store import LeaseGone
from drover.coordinator.txn import Delete, Put, Txn, TxnResult
from tests.model.agent import EPOCH, KEYS, SIZE, TRUE, Agent, T, Variant
from tests.model.machine import Node
from tests.model.store import ModelCluster, ModelStore


class Breach(AssertionError):
    """A promise was broken."""


@dataclass
class Request:
    """A transaction under way. commits, answers: when; None: never. Only the life that sent it hears the answer."""

    txn: Txn
    sender: Node
    incarnation: str
    life: int
    commits: float | None
    answers: float | None
    heard: Callable[[TxnResult], None]
    result: TxnResult | None = None


class World:
    """The cluster, its users, and what goes wrong."""

    def __init__(
        self, seed: int, directory: Path, runner: asyncio.Runner, variant: Variant = TRUE, calm: bool = False
    ) -> None:
        """calm: nothing goes wrong but what the test does, and what it makes `interfere` do to a request."""
        self.rng, self.variant, self.runner = random.Random(seed), variant, runner
        self.now = 0.0
        self.etcd = ModelCluster(lambda: self.now)
        self.store = ModelStore(self.etcd)
        self.requests: list[Request] = []
        self.calm = calm
        self.interfere: Callable[[Request], None] = lambda _: None
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.newest: dict[str, tuple[int, str]] = {}
        rate = self.rng.uniform
        self.nodes = [
            Node(
                self,
                name,
                armed,
                directory / f"{seed}-{name}.json",
                (rate(0.93, 1.07), rate(0.995, 1.005)),
                rate(-2, 2),
            )
            for name, armed in (("a", True), ("b", True), ("c", False))
        ]
        self.datasets = ("d", "e", "f")
        for name in self.datasets:
            self.declare(name)
            self.wish(name)

    def put(self, key: str, value: bytes) -> None:
        self.etcd.apply(Txn((), (Put(key, value),)))

    def declare(self, name: str) -> None:
        reclaim = self.rng.choice(["retain", "delete"])
        spec = DatasetSpec(
            backend="loopback", size=SIZE, failover="any", reclaim=reclaim, group=None if name == "d" else "g"
        )
        self.put(KEYS.dataset(name), spec.encode())

    def wish(self, name: str, to: str | None = None) -> None:
        self.put(KEYS.desired(name), (to or self.rng.choice(["a", "b", "c", "a", "b", "c", "nod-b"])).encode())

    def maintain(self, seconds: float) -> None:
        """The cluster is paused."""
        until = EPOCH + timedelta(seconds=self.now + seconds)
        self.put(KEYS.pause, Pause(until=until).encode())

    def resume(self) -> None:
        self.etcd.apply(Txn((), (Delete(KEYS.pause),)))

    def change_ones_mind(self, name: str) -> None:
        """Off it shall go; no, it shall stay. Sometimes its agent restarts in between."""
        rng = self.rng
        if (tenure := self.tenure(name)) is None:
            return
        holder = next(n for n in self.nodes if n.name == tenure.node)
        self.wish(name)
        back = self.now + rng.uniform(1.0, 3.5)
        self.later.append((back, lambda: self.wish(name, holder.name)))
        if rng.random() < 0.5:
            self.later.append((back + 0.1, lambda: holder.kill_agent(0.1)))

    def slow_down_and_cut(self, node: Node) -> None:
        """Answers are under way for long; then nothing gets through any more."""
        cut = self.now + self.rng.uniform(1.0, 4.0)
        node.slow_until = cut
        self.later.append((cut, lambda: setattr(node, "cut_until", cut + 12.0)))

    def send(self, node: Node, agent: Agent, txn: Txn, heard: Callable[[TxnResult], None]) -> None:
        rng, now = self.rng, self.now
        fate = rng.random()
        commits: float | None = now + rng.uniform(0.0, 0.05)
        answers: float | None = now + rng.uniform(0.05, 0.2)
        if node.cut:
            commits, answers = (now + rng.uniform(0.5, 8.0) if fate < 0.3 else None), None
        elif now < node.slow_until:
            answers = now + rng.uniform(3.0, T.d_soft - 0.1)
        elif self.calm:
            pass
        elif fate < 0.07:
            answers = None
        elif fate < 0.2:
            commits, answers = now + rng.uniform(1.0, 6.0), None
        request = Request(txn, node, agent.identity.incarnation, agent.number, commits, answers, heard)
        self.interfere(request)
        self.requests.append(request)

    def _deliver(self) -> None:
        open_ = []
        for request in sorted(self.requests, key=lambda r: r.commits or 0.0):
            if request.commits is not None and request.result is None and request.commits <= self.now:
                self._apply(request)
            waits = request.commits is not None and request.result is None
            node, agent = request.sender, request.sender.agent
            if request.result is not None and request.answers is not None and agent and agent.number == request.life:
                if self.now < max(request.answers, node.paused_until):
                    waits = True
                else:
                    request.heard(request.result)
            if waits:
                open_.append(request)
        sent = [r for r in self.requests if r.commits is not None and r.result is None and r not in open_]
        self.requests = open_ + sent

    def _apply(self, request: Request) -> None:
        fenced = self.etcd.entry(KEYS.fence(request.incarnation)) is not None
        try:
            request.result = self.etcd.apply(request.txn)
        except LeaseGone:
            request.result = TxnResult(False, self.etcd.revision)
            request.answers = None
        if fenced and request.result.succeeded:
            raise self.breach(f"a transaction of {request.incarnation} committed after its fence")
        self.check()

    def breach(self, what: str) -> Breach:
        return Breach(f"at {self.now:.2f} s: {what}")

    def tenure(self, name: str) -> Tenure | None:
        entry = self.etcd.entry(KEYS.owner(name))
        return Tenure.decode(entry.value) if entry else None

    def check(self) -> None:
        for name in self.datasets:
            writers = [n for n in self.nodes if name in n.mounted]
            if len(writers) > 1:
                raise self.breach(f"{' and '.join(n.name for n in writers)} write {name}")
            tenure = self.tenure(name)
            if tenure is None:
                if name in self.newest:
                    raise self.breach(f"the tenure of {name} is gone")
                continue
            for node in writers:
                if tenure.state is State.ACTIVE and node.mounted[name] < tenure.epoch:
                    raise self.breach(
                        f"{node.name} writes epoch {node.mounted[name]} of {name}, {tenure.epoch} is active"
                    )
            epoch, incarnation = self.newest.get(name, (0, ""))
            if tenure.epoch < epoch or (tenure.epoch == epoch and tenure.incarnation != incarnation):
                raise self.breach(f"{name} went from epoch {epoch} of {incarnation} to {tenure.epoch}")
            self.newest[name] = (tenure.epoch, tenure.incarnation)
            if (lease := self.etcd.entry(KEYS.lease(name))) is not None:
                said = LeaseRecord.decode(lease.value)
                if (said.incarnation, said.epoch) != (tenure.incarnation, tenure.epoch) or not tenure.held:
                    raise self.breach(f"leases/{name} says {said}, the tenure {tenure}")

    def trouble(self) -> None:
        """Something happens to somebody."""
        rng = self.rng
        node, name = rng.choice(self.nodes), rng.choice(self.datasets)
        match rng.randrange(11):
            case 9:
                self.maintain(rng.uniform(2.0, 25.0))
                self.later.append((self.now + rng.uniform(1.0, 20.0), self.resume))
            case 10:
                self.resume()
            case 0:
                node.crash(rng.uniform(1.0, 15.0))
            case 1 if node.agent:
                node.kill_agent(rng.uniform(0.3, 10.0))
            case 2 | 3:
                node.paused_until = self.now + rng.uniform(1.0, 15.0)
            case 4:
                node.cut_until = self.now + rng.uniform(1.0, 15.0)
            case 5 if node.agent:
                self.etcd.expire(node.agent.lease)
            case 6:
                self.slow_down_and_cut(node)
            case 7:
                self.wish(name)
            case 8:
                self.etcd.apply(Txn((), (Delete(KEYS.dataset(name)),)))
                if rng.random() < 0.9:
                    self.declare(name)

    def run(self, seconds: float) -> None:
        self.until(lambda: False, seconds)

    def until(self, so: Callable[[], bool], seconds: float) -> None:
        """Until it is so, but not for longer."""
        end = self.now + seconds
        while self.now < end and not so():
            self.now += self.rng.uniform(0.02, 0.3)
            if not self.calm and self.rng.random() < 0.07:
                self.trouble()
            if not self.calm and self.rng.random() < 0.07:
                self.change_ones_mind(self.rng.choice(self.datasets))
            for due, act in [one for one in self.later if one[0] <= self.now]:
                self.later.remove((due, act))
                act()
            self._deliver()
            for node in self.rng.sample(self.nodes, len(self.nodes)):
                node.step()
                self.check()

    def heal(self) -> None:
        """Nothing is wrong from now on, and every dataset is wanted somewhere."""
        for node in self.nodes:
            node.down_until = node.paused_until = node.cut_until = node.slow_until = 0.0
        self.calm, self.later, self.interfere = True, [], lambda _: None
        self.resume()
        for name in self.datasets:
            self.declare(name)
            self.put(KEYS.desired(name), self.rng.choice(["a", "b", "c"]).encode())

    def unserved(self) -> list[str]:
        """Datasets that nobody has active and mounted."""
        served = [n for n in self.datasets if (t := self.tenure(n)) and t.state is State.ACTIVE]
        return [n for n in self.datasets if n not in served or not any(n in node.mounted for node in self.nodes)]
