"""A playground with the words that the cluster tests are written in: datasets, writers, and what etcd has of them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drover.coordinator.addresses import joined
from drover.coordinator.cli.playground.machine import State
from drover.coordinator.keys import range_end
from tests.cluster import writer
from tests.cluster.writer import Acknowledged, Turn
from tests.playground import DROVER, Playground, eventually

ROOT = "/drover/"
COOPERATIVE = {"backend": "loopback", "size": "64MiB", "fs": "ext4", "failover": "any", "fencing": "cooperative"}
"""A small dataset that fails over without anybody's word."""


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Entry:
    value: str
    create_revision: int
    mod_revision: int


class Cluster:
    """All names that it gives are new ones: a test never meets what another one left."""

    def __init__(self, playground: Playground) -> None:
        self.playground = playground
        self._acknowledgements = playground.directory / "acknowledged"
        self._acknowledgements.mkdir()
        self._number = 0
        self._context = playground.context
        self._read: dict[str, int] = {}

    # What users do.

    def put(self, key: str, value: str) -> None:
        """By etcdctl, again where etcd had no leader. key: without the prefix."""

        def done() -> bool:
            try:
                self.playground.etcdctl("put", ROOT + key, "--", value)
            except AssertionError as error:
                if any(said in str(error) for said in ("request timed out", "leader changed", "deadline exceeded")):
                    return False
                raise
            return True

        eventually(done, f"etcd takes {key}", 30)

    def delete(self, key: str) -> None:
        self.playground.etcdctl("del", ROOT + key)

    def move(self, dataset: Dataset, node: str) -> None:
        self.put(f"desired/{dataset.name}", node)

    def drover(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [DROVER, *arguments, "--endpoints", ",".join(self.playground.endpoints)],
            capture_output=True,
            text=True,
            timeout=60,
            env=os.environ | self.playground.environment,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def name(self, word: str) -> str:
        self._number += 1
        return f"{word}-{self._number}"

    def dataset(self, on: str = "node-a", active: bool = True, word: str = "data", **spec: Any) -> Dataset:
        """A new one. active: wait until it is; spec: what differs from COOPERATIVE."""
        dataset = Dataset(self, self.name(word))
        dataset.declare(**spec)
        self.move(dataset, on)
        if active:
            dataset.active_on(on)
        return dataset

    def writer(self, dataset: Dataset, *others: Dataset) -> Writer:
        """A new workload that commits records to `dataset`, once it does so."""
        name = self.name("writer")
        made = Writer(dataset, name, self._acknowledgements / name)
        spec = {
            "command": [sys.executable, "-I", "-S", writer.__file__, str(made.file)],
            "datasets": [dataset.name, *(other.name for other in others)],
            "stop_grace_period": 5,
        }
        self.put(f"workloads/{name}", json.dumps(spec))
        made.goes_on()
        return made

    # What etcd has.

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """Any member's answer, from its JSON gateway; waits while none answers."""
        answers: list[Any] = []

        def answered() -> bool:
            for member in self.playground.members:
                with suppress(OSError):
                    answers.append(self.ask_member(member, path, body))
                    return True
            return False

        eventually(answered, f"etcd answers {path}", 15)
        return answers[0]

    def ask_member(self, member: str, path: str, body: dict[str, Any], timeout: float = 1.0) -> Any:
        """timeout: seconds. Raises OSError."""
        url = f"{self.playground.settings.scheme}://{joined(self.playground.address(member), 2379)}/v3/{path}"
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout, context=self._context) as reply:
            return json.load(reply)

    def entries(self, start: str) -> dict[str, Entry]:
        """All keys that begin so, by what follows."""
        key = ROOT + start
        found = self.ask("kv/range", {"key": _encoded(key), "range_end": _encoded(range_end(key))})
        return {
            _decoded(kv["key"]).removeprefix(key): Entry(
                _decoded(kv.get("value", "")), int(kv["create_revision"]), int(kv["mod_revision"])
            )
            for kv in found.get("kvs", [])
        }

    def entry(self, key: str) -> Entry | None:
        found = self.ask("kv/range", {"key": _encoded(ROOT + key)}).get("kvs", [])
        if not found:
            return None
        kv = found[0]
        return Entry(_decoded(kv.get("value", "")), int(kv["create_revision"]), int(kv["mod_revision"]))

    def revision(self) -> int:
        """etcd's, now."""
        return int(self.ask("kv/range", {"key": _encoded(ROOT)})["header"]["revision"])

    def record(self, key: str) -> dict[str, Any]:
        """Empty where there is none."""
        entry = self.entry(key)
        return dict(json.loads(entry.value)) if entry else {}

    def status(self, name: str) -> dict[str, Any]:
        return self.record(f"status/{name}")

    def incarnation(self, node: str) -> str:
        return str(self.record(f"nodes/{node}").get("incarnation", ""))

    def heartbeat(self, node: str) -> dict[str, Any]:
        return self.record(f"heartbeats/{node}")

    def silence(self, node: str) -> float:
        """Seconds since its newest heartbeat was sent."""
        return boottime() - float(self.heartbeat(node)["clock"])

    def says(self, name: str, *words: str, within: float = 10.0) -> dict[str, Any]:
        """Until the status of a dataset has all these words in its reason or its warning."""
        last: dict[str, Any] = {}

        def said() -> bool:
            nonlocal last
            last = self.status(name)
            text = f"{last.get('reason', '')} {last.get('warning', '')}"
            return all(word in text for word in words)

        _until(said, lambda: f"status/{name} says {words}, but {last}", within)
        return last

    def answers(self) -> bool:
        """Whether etcd does, with a majority."""
        return any(self.healthy(member) for member in self.playground.members)

    def healthy(self, member: str) -> bool:
        """Whether it answers a linearizable read."""
        try:
            self.ask_member(member, "kv/range", {"key": _encoded(ROOT)})
        except OSError:
            return False
        return True

    def leader(self) -> str:
        """The etcd member that leads."""
        for member in self.playground.members:
            if self.playground.state(member) is State.OFF:
                continue
            answer = self.ask_member(member, "maintenance/status", {})
            if answer["leader"] == answer["header"]["member_id"]:
                return member
        raise AssertionError("etcd has no leader")

    # Nodes.

    def log(self, node: str) -> str:
        """What its agent has said since the test began."""
        return self.playground.log(node)[self._read.get(node, 0) :]

    def until_all_joined(self, within: float = 30.0) -> None:
        """Every node is here in an incarnation that nobody has fenced, and has just sent a heartbeat."""

        def joined() -> bool:
            nodes, fences = self.entries("nodes/"), self.entries("fences/")
            beats = {name: json.loads(entry.value) for name, entry in self.entries("heartbeats/").items()}
            present = {name: json.loads(entry.value)["incarnation"] for name, entry in nodes.items()}
            return all(
                name in present
                and present[name] not in fences
                and name in beats
                and beats[name]["incarnation"] == present[name]
                and boottime() - beats[name]["clock"] < beats[name]["d_hard"] / 2
                for name in self.playground.nodes
            )

        eventually(joined, "all nodes have joined", within)

    # Between tests.

    def begin(self) -> None:
        self._read = {node: len(self.playground.log(node)) for node in self.playground.nodes}

    def tidy(self) -> None:
        """All machines and agents run and are heard; nothing is asked for, and nothing is held. No agent has failed."""
        playground = self.playground
        for name in (*playground.nodes, *playground.members):
            playground.heal(name)
            if playground.state(name) in (State.FROZEN, State.MACHINE_FROZEN):
                playground.thaw(name)
            if playground.state(name) is State.OFF:
                playground.start(name)
            if name in playground.nodes:
                if playground.service(name) == "hung":
                    playground.thaw_agent(name)
                playground.start_agent(name)
        eventually(self.answers, "etcd answers", 30)
        self.until_all_joined()
        for kind in ("workloads/", "desired/", "datasets/", "cordons/"):
            playground.etcdctl("del", "--prefix", ROOT + kind)
        eventually(self._nothing_held, f"nothing is held any more: {self.entries('owners/')}", 30)
        for node in playground.nodes:
            assert "Traceback" not in self.log(node), self.log(node)

    def _nothing_held(self) -> bool:
        owners = self.entries("owners/").values()
        return not any(json.loads(entry.value)["state"] in ("assigned", "active") for entry in owners)


@dataclass(frozen=True)
class Dataset:
    cluster: Cluster
    name: str

    def declare(self, **spec: Any) -> None:
        self.cluster.put(f"datasets/{self.name}", json.dumps(COOPERATIVE | spec))

    @property
    def owner(self) -> dict[str, Any]:
        return self.cluster.record(f"owners/{self.name}")

    @property
    def node(self) -> str:
        return str(self.owner.get("node", ""))

    @property
    def epoch(self) -> int:
        return int(self.owner.get("epoch", 0))

    @property
    def status(self) -> dict[str, Any]:
        return self.cluster.status(self.name)

    @property
    def image(self) -> Path:
        return self.cluster.playground.directory / "shared" / f"{self.owner['uid']}.img"

    @property
    def path(self) -> str:
        """Where it is mounted on its node."""
        return f"/srv/drover/{self.name}"

    def active_on(self, *nodes: str, within: float = 15.0) -> str:
        """Until people are told that it is active on one of these, in the newest epoch; returns which."""
        last: dict[str, Any] = {}

        def active() -> bool:
            nonlocal last
            last = self.status
            return last.get("phase") == "active" and last["node"] in nodes and last["epoch"] == self.epoch

        _until(active, lambda: f"{self.name} is active on {' or '.join(nodes)}, but {last}, {self.owner}", within)
        return str(last["node"])

    def says(self, *words: str, within: float = 10.0) -> dict[str, Any]:
        return self.cluster.says(self.name, *words, within=within)

    def read(self, file: str) -> str:
        """A file in it, on the node that has it."""
        return self.cluster.playground.exec(self.node, "cat", f"{self.path}/{file}").stdout


@dataclass(frozen=True)
class Writer:
    """A workload that commits records to a dataset."""

    dataset: Dataset
    name: str
    file: Path

    @property
    def promised(self) -> list[Acknowledged]:
        return writer.acknowledged(self.file)

    @property
    def turns(self) -> list[Turn]:
        return writer.turns(self.promised)

    @property
    def last(self) -> Acknowledged | None:
        """Cheaply: the file grows."""
        promised = self.promised
        return promised[-1] if promised else None

    @property
    def count(self) -> int:
        return self.file.read_bytes().count(b"\n") if self.file.exists() else 0

    def goes_on(self, on: str | None = None, records: int = 20, within: float = 15.0) -> Turn:
        """Until so many records more have been acknowledged, by a writer on that node; the newest writer."""
        began, state = boottime(), ""

        def more() -> bool:
            nonlocal state
            last = self.turns[-1:]
            state = f"the last writer is {last}"
            new = [a for a in self.promised[-2 * records :] if a.began > began]
            return len([a for a in new if on is None or a.node == on]) >= records

        _until(more, lambda: f"{self.name} goes on{f' on {on}' if on else ''}, but {state}", within)
        return self.turns[-1]

    def check(self) -> None:
        """Every promise was kept so far. The dataset must be mounted where etcd says."""
        promised = self.promised
        writer.check(promised, self.dataset.read(writer.RECORDS))


def _until(condition: Callable[[], bool], what: Callable[[], str], within: float) -> None:
    """As `eventually`, with words that are made when they are needed. within: seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not within {within} s: {what()}"
        time.sleep(0.03)


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")
