"""One run: an arena, datasets with their writers, a schedule of faults, and everything written down for the checker."""

from __future__ import annotations

import heapq
import json
import random
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from drover.coordinator.cli.errors import CliError
from drover.coordinator.cli.playground.layout import Profile
from drover.coordinator.record import InvalidRecord
from drover.coordinator.records import Tenure
from drover.coordinator.timings import PROFILES
from tests.chaos import restore, writer
from tests.chaos.arena import Arena
from tests.chaos.history import About, Clock, Fault, Jump, Outcome, Reading, Run, save, save_about
from tests.chaos.nemeses import NEMESES, Stage
from tests.chaos.record import Devices, Lines, Watch, now, until
from tests.chaos.schedule import Act
from tests.cluster.cluster import Cluster

SERVED_WITHIN = 90.0
"""Seconds after the last fault in which everything must be served again: back-offs have grown to 30 s."""
RESET = "machine reset by its guard"
"""Not a fault that is injected: what an armed node does where its ladder fails."""
RESTORED = "etcd restored from a snapshot"
"""Once, when all other faults have ended."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a run is made of. skew: how fast nodes' clocks run. restore: at the end etcd goes
    back to a snapshot, and is recovered. how: the writers' way to acknowledge."""

    seed: int
    acts: Sequence[Act]
    seconds: float
    nodes: int = 4
    timings: Profile = "default"
    armed: bool = False
    restore: bool = False
    blind: bool = False
    tls: bool = False
    mutant: str = ""
    how: str = writer.SYNCED
    skew: dict[str, float] = field(default_factory=dict)

    def workloads(self) -> dict[str, list[str]]:
        """Each writer with its datasets: two have one writer, and so are a unit."""
        return {"one": ["alpha"], "two": ["beta", "gamma"], "three": ["delta"], "four": ["epsilon"]}

    def specs(self) -> dict[str, dict[str, str]]:
        common = {"backend": "loopback", "size": "64MiB", "fs": "ext4", "failover": "any", "fencing": "cooperative"}
        other = {} if self.blind else {"size": "300MiB", "fs": "xfs"}  # xfs refuses a second device of one uuid
        names = [name for names in self.workloads().values() for name in names]
        return dict.fromkeys(names, common) | {"delta": common | other, "epsilon": common | {"fencing": "hard"}}


class Chaos:
    """The run itself. directory: where its history goes; it must be empty or not there."""

    def __init__(self, plan: Plan, directory: Path, say: Say) -> None:
        self._plan, self._directory, self._say = plan, directory, say
        self._jumps: defaultdict[str, list[Jump]] = defaultdict(list)
        self._base = now()
        self._snapshot: Path | None = None

    def run(self) -> Path:
        """Returns the directory. Raises AssertionError, CliError where the cluster could not be started."""
        (self._directory / "writers").mkdir(parents=True)
        home = Path(tempfile.mkdtemp(prefix="drover-chaos-", dir="/var/tmp"))
        plan = self._plan
        changes = {"mutant": plan.mutant, "blind": plan.blind, "skew": plan.skew, "base": self._base}
        try:
            with Arena(home / "playground", plan.nodes, 640, plan.timings, plan.armed, changes, plan.tls) as arena:
                self._in(arena)
        finally:
            self._keep_logs(home / "playground")
            shutil.rmtree(home, ignore_errors=True)
        return self._directory

    def _in(self, arena: Arena) -> None:
        cluster, playground = arena.cluster, arena.playground
        files = {name: Lines(self._directory / f"{name}.jsonl") for name in ("changes", "samples", "tokens", "faults")}
        with ExitStack() as stack:
            for file in files.values():
                stack.enter_context(closing(file))
            watch = Watch(playground.endpoints, cluster.revision(), files["changes"], context=playground.context)
            devices = Devices(
                playground.layout.shared, playground.layout.directory / "nodes", files["samples"], files["tokens"]
            )
            stack.callback(devices.finish)
            watch.start()
            devices.start()
            began = now()
            save_about(self._directory, self._about(began))  # of a run that breaks off, too
            self._furnish(arena)
            stage = Stage(arena, list(self._plan.specs()), watch.owner)
            self._harm(stage, files["faults"])
            arena.mend()
            if self._snapshot is not None:
                watch = self._go_back(arena, watch, files)
            outcomes = self._recover(arena)
            self._stop_writers(arena)
            self._finish(cluster, watch)
        save(self._directory, "outcomes", outcomes)
        save(self._directory, "final", self._last_readings(cluster))
        save_about(self._directory, self._about(began))
        (self._directory / "clocks.json").write_text(json.dumps({"wall": time.time(), "boot": now()}))

    def _finish(self, cluster: Cluster, watch: Watch) -> None:
        if not watch.finish(cluster.revision()):
            self._say(f"etcd's history was not heard of to its end: it stops at revision {watch.revision}")

    def _go_back(self, arena: Arena, watch: Watch, files: Mapping[str, Lines]) -> Watch:
        """All of etcd is replaced by the snapshot, then recovered; the watch on what comes after."""
        assert self._snapshot is not None
        if not arena.etcd_is_back(30):
            self._say("etcd does not come back before it is restored")
        self._finish(arena.cluster, watch)
        began = now()
        self._say("         etcd is restored from a snapshot")
        restore.go_back(arena, self._snapshot)
        arena.etcd_is_back(30)
        watch = Watch(
            arena.playground.endpoints,
            arena.cluster.revision(),
            files["changes"],
            era=1,
            context=arena.playground.context,
        )
        watch.start()
        self._note(files["faults"], Fault(RESTORED, "all", began, now(), restore.recover(arena)))
        return watch

    def _about(self, began: float) -> About:
        plan = self._plan
        return About(
            seed=plan.seed,
            nodes=tuple(f"node-{letter}" for letter in "abcdefgh"[: plan.nodes]),
            datasets=tuple(plan.specs()),
            d_io=PROFILES[plan.timings].d_io,
            began=began,
            ended=now(),
            clocks=self._clocks(),
            mutant=plan.mutant or ("acknowledges unsynced" if plan.how == writer.UNSYNCED else ""),
            blind=plan.blind,
            armed=plan.armed,
        )

    def _clocks(self) -> dict[str, Clock]:
        changed = self._plan.skew.keys() | self._jumps.keys()
        return {n: Clock(self._plan.skew.get(n, 1.0), self._base, tuple(self._jumps[n])) for n in changed}

    def _furnish(self, arena: Arena) -> None:
        """Datasets, spread over the nodes, and their writers, all of them at work."""
        cluster, nodes = arena.cluster, arena.playground.nodes
        for number, (name, spec) in enumerate(self._plan.specs().items()):
            cluster.put(f"datasets/{name}", json.dumps(spec))
            cluster.put(f"desired/{name}", nodes[number % len(nodes)])
        log = str(self._directory.resolve() / "writers")
        for name, datasets in self._plan.workloads().items():
            command = [sys.executable, "-I", "-S", str(writer.__file__), log, self._plan.how, *datasets]
            workload: dict[str, Any] = {"command": command, "datasets": datasets, "stop_grace_period": 2}
            cluster.put(f"workloads/{name}", json.dumps(workload))
        missing = self._unserved(arena, now(), 60.0)
        assert not missing, f"never served: {missing}"

    def _harm(self, stage: Stage, lines: Lines) -> None:
        """The schedule, in one thread: what takes longer than planned puts off what follows."""
        start = now()
        ending: list[tuple[float, int, Act, str, float, AbstractContextManager[None]]] = []
        for number, act in enumerate(self._plan.acts):
            while ending and ending[0][0] <= max(act.at, now() - start):
                self._end(start, heapq.heappop(ending), lines)
            _sleep_until(start + act.at)
            self._revive(stage.arena, lines)
            if self._plan.restore and self._snapshot is None and act.at > self._plan.seconds / 2:
                self._snapshot = restore.snapshot(stage.arena)
            self._begin(stage, act, number, start, ending, lines)
        while ending:
            self._end(start, heapq.heappop(ending), lines)
        _sleep_until(start + self._plan.seconds)

    def _revive(self, arena: Arena, lines: Lines) -> None:
        began = now()
        for node in arena.revive():
            self._say(f"         {node} was reset by its guard")
            self._note(lines, Fault(RESET, node, began, now()))

    def _begin(self, stage: Stage, act: Act, number: int, start: float, ending: list[Any], lines: Lines) -> None:
        began, target = now(), stage.target(act)
        nemesis = NEMESES[act.kind.name](stage, act, target)
        if act.kind.name != "move":
            self._say(f"{began - start:7.1f}  {act.kind.name} {target} {act.seconds or ''}")
        if act.kind.name == "clock jumps ahead":
            self._jumps[target].append(Jump(began, act.seconds))
        try:
            nemesis.__enter__()
        except (CliError, OSError, AssertionError) as error:
            self._note(lines, Fault(act.kind.name, target, began, now(), f"not done: {error}"))
            return
        heapq.heappush(ending, (now() - start + act.seconds, number, act, target, began, nemesis))

    def _end(
        self, start: float, one: tuple[float, int, Act, str, float, AbstractContextManager[None]], lines: Lines
    ) -> None:
        due, _, act, target, began, nemesis = one
        _sleep_until(start + due)
        note = ""
        try:
            nemesis.__exit__(None, None, None)
        except (CliError, OSError, AssertionError) as error:
            note = f"not ended as planned: {error}"
        self._note(lines, Fault(act.kind.name, target, began, now(), note))

    def _note(self, lines: Lines, fault: Fault) -> None:
        if fault.note:
            self._say(f"         {fault.name} {fault.target}: {fault.note}")
        lines.add(fault)

    def _recover(self, arena: Arena) -> list[Outcome]:
        """Every dataset is written to again."""
        began = now()
        if not arena.etcd_is_back(30):
            self._say("etcd does not come back")
        missing = self._unserved(arena, began, SERVED_WITHIN)
        self._say(
            f"all faults have ended; served again after {now() - began:.1f} s" + (f", but {missing}" * bool(missing))
        )
        outcomes = []
        for name in self._plan.specs():
            said = ""
            if name in missing:
                said = f"status {arena.cluster.status(name)}, tenure {arena.cluster.record(f'owners/{name}')}"
            outcomes.append(Outcome(name, None if name in missing else now() - began, said))
        return outcomes

    def _unserved(self, arena: Arena, since: float, within: float) -> list[str]:
        """Datasets that no write to was acknowledged since then."""
        missing = list(self._plan.specs())

        def served() -> bool:
            arena.revive()
            missing[:] = [name for name in missing if self._last_ack(name) <= since]
            return not missing

        until(served, within, 0.3)
        return missing

    def _last_ack(self, name: str) -> float:
        try:
            with (self._directory / "writers" / f"{name}.acks.jsonl").open("rb") as file:
                file.seek(max(file.seek(0, 2) - 1000, 0))
                lines = [line for line in file.read().splitlines() if line.startswith(b'{"uid') and line.endswith(b"}")]
        except FileNotFoundError:
            return 0.0
        return float(json.loads(lines[-1])["began"]) if lines else 0.0

    def _stop_writers(self, arena: Arena) -> None:
        """And nothing is moved any more."""
        keys = [f"workloads/{name}" for name in self._plan.workloads()] + [f"desired/{n}" for n in self._plan.specs()]
        for key in keys:
            until(partial(arena.delete, key), 30.0)
        until(lambda: all(now() - self._last_ack(name) > 1.0 for name in self._plan.specs()), 30.0)

    def _last_readings(self, cluster: Cluster) -> list[Reading]:
        """What is there at the end, read where it is mounted."""
        found = []
        for name in self._plan.specs():
            try:
                tenure = Tenure.decode(json.dumps(cluster.record(f"owners/{name}")).encode())
                at = now()
                content = cluster.playground.exec(tenure.node, "cat", f"/srv/drover/{name}/{writer.RECORDS}").stdout
            except (AssertionError, InvalidRecord, CliError) as error:
                self._say(f"{name} cannot be read at the end: {error}")
                continue
            runs, damaged = writer.runs(content.encode())
            found.append(
                Reading(
                    name,
                    tenure.uid,
                    "",
                    tenure.node,
                    tenure.epoch,
                    tenure.incarnation,
                    at,
                    tuple(Run(**run) for run in runs),
                    damaged,
                )
            )
        return found

    def _keep_logs(self, playground: Path) -> None:
        for log in (*playground.glob("nodes/*/agent.log"), *playground.glob("etcd/*/etcd.log")):
            shutil.copy(log, self._directory / f"{log.parent.name}.log")


def skew(seed: int, nodes: int) -> dict[str, float]:
    """Some nodes' clocks run up to 0.4 % too fast or too slow: the protocol allows 1 %."""
    rng = random.Random(f"{seed} skew")
    names = [f"node-{letter}" for letter in "abcdefgh"[:nodes]]
    return {name: round(1 + rng.uniform(-0.004, 0.004), 5) for name in rng.sample(names, nodes // 2)}


def _sleep_until(moment: float) -> None:
    time.sleep(max(moment - now(), 0))
