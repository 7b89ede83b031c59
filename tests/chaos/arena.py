"""A playground made for harm: a proxy in front of every etcd member, a small directory of its own for the images, and
agents that can be given other clocks, blind storage, or a fault that the checker must find."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from drover.coordinator.cli.errors import CliError
from drover.coordinator.cli.playground import syscalls
from drover.coordinator.cli.playground.layout import Layout, Profile, Settings
from drover.coordinator.cli.playground.machine import State
from tests.chaos import proxy
from tests.chaos.record import until
from tests.cluster.cluster import Cluster
from tests.playground import Playground

PROXY_PORT = 2378
_MUTANTS = Path(__file__).parent / "mutants"
_ROOM = 96
"""MiB that the directory of the images has beyond them."""


class Arena:
    """As long as the context lasts. changes: what `mutants/sitecustomize.py` is told. images: MiB of all datasets.
    reset: nodes are armed."""

    cluster: Cluster

    def __init__(
        self,
        directory: Path,
        nodes: int,
        images: int,
        timings: Profile | None,
        reset: bool,
        changes: Mapping[str, Any],
        tls: bool = False,
    ) -> None:
        self.directory = directory
        self.playground = Playground(
            directory, nodes=nodes, etcd=3, agents=False, timings=timings, reset=reset, tls=tls
        )
        self._tls = tls
        self._nodes, self._images, self._changes = nodes, images, changes
        self._stack = ExitStack()
        self._off: set[str] = set()
        self._proxies: dict[str, tuple[subprocess.Popen[str], IO[str]]] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._prepare(stack)
            stack.enter_context(self.playground)
            stack.callback(self._end_proxies)
            for member in self.playground.members:
                self.start_proxy(member)
            for node in self.playground.nodes:
                self.playground.start_agent(node)
            self.cluster = Cluster(self.playground)
            self.cluster.until_all_joined()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def _prepare(self, stack: ExitStack) -> None:
        """What `up` takes over: settings that were saved before, and a directory of a limited size."""
        layout = Layout.of(self.directory)
        layout.shared.mkdir(parents=True)
        told = self.directory / "changes.json"
        told.write_text(json.dumps({**self._changes, "jumps": str(self.directory)}))
        environment = {"PYTHONPATH": f"{_MUTANTS}:{_MUTANTS.parents[2]}", "CHAOS_CHANGES": str(told)}
        layout.save(Settings(self._nodes, 3, "", environment=environment, etcd_port=PROXY_PORT, tls=self._tls))
        syscalls.mount("tmpfs", layout.shared, "tmpfs", data=f"size={self._images + _ROOM}m,mode=755")
        stack.callback(syscalls.unmount, layout.shared, syscalls.MNT_DETACH)

    # The proxies.

    def start_proxy(self, member: str) -> None:
        """Anew after each start of the member: it dies with it."""
        self._end_proxy(member)
        process = self.playground.popen(member, sys.executable, "-IS", str(proxy.__file__), str(PROXY_PORT), "2379")
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n", f"the proxy of {member} did not start"
        self._proxies[member] = (process, process.stdin)

    def behave(self, member: str, **behaviour: float) -> None:
        """How a proxy treats what goes through it from now on; nothing where its member is off."""
        if found := self._proxies.get(member):
            with suppress(BrokenPipeError):
                found[1].write(json.dumps(behaviour) + "\n")
                found[1].flush()

    def _end_proxy(self, member: str) -> None:
        if found := self._proxies.pop(member, None):
            found[0].kill()
            found[0].communicate()

    def _end_proxies(self) -> None:
        for member in list(self._proxies):
            self._end_proxy(member)

    # Machines, with all that belongs to them.

    def cut_power(self, *names: str) -> None:
        for name in names:
            self.playground.kill(name)
            self._off.add(name)

    def switch_on(self, *names: str) -> None:
        """Those that are off, with agent or proxy."""
        for name in names:
            self._off.discard(name)
            if self.playground.state(name) is not State.OFF:
                continue
            self.playground.start(name)
            if name in self.playground.members:
                self.start_proxy(name)
            else:
                self.playground.start_agent(name)

    def revive(self) -> list[str]:
        """Switches nodes on that nobody switched off: their guards have reset them."""
        reset = [n for n in self.playground.nodes if n not in self._off and self.playground.state(n) is State.OFF]
        self.switch_on(*reset)
        return reset

    def mend(self) -> None:
        """Everything runs and is heard again."""
        playground = self.playground
        for name in (*playground.nodes, *playground.members):
            playground.heal(name)
            if playground.state(name) in (State.FROZEN, State.MACHINE_FROZEN):
                playground.thaw(name)
            self.switch_on(name)
            if playground.service(name) == "hung":
                playground.thaw_agent(name)
        for member in playground.members:
            self.behave(member)

    def guard(self, node: str) -> int | None:
        """Its PID, as this computer counts; None: it does not run now."""
        for pid in self.playground.place(node).group.pids():
            with suppress(OSError):
                if b"drover.agent.guard.main" in Path("/proc", str(pid), "cmdline").read_bytes():
                    return pid
        return None

    # What users do, without waiting for an etcd that is away.

    def put(self, key: str, value: str) -> bool:
        """False: nobody answered. key: without the prefix."""
        return self._asked("kv/put", {"key": _encoded(f"/drover/{key}"), "value": _encoded(value)})

    def delete(self, key: str) -> bool:
        return self._asked("kv/deleterange", {"key": _encoded(f"/drover/{key}")})

    def _asked(self, path: str, body: dict[str, str]) -> bool:
        for member in self.playground.members:
            try:
                self.cluster.ask_member(member, path, body, 0.5)
            except OSError:
                continue
            return True
        return False

    def leader(self) -> str | None:
        """etcd's; None: it has none that answers."""
        for member in self.playground.members:
            with suppress(OSError):
                answer = self.cluster.ask_member(member, "maintenance/status", {})
                if answer.get("leader") == answer["header"]["member_id"]:  # absent where there is none
                    return member
        return None

    def jump(self, node: str, seconds: float) -> None:
        """Its CLOCK_BOOTTIME, as agents see it, is ahead by so much more from now on: as after a suspend."""
        file = self.directory / f"jump-{node}"
        before = file.read_text() if file.exists() else ""
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:  # in one piece: agents read it all the time
            os.pwrite(descriptor, f"{float(before or 0) + seconds:020.3f}".encode(), 0)
        finally:
            os.close(descriptor)

    def etcd_is_back(self, within: float) -> bool:
        return until(self._healthy, within)

    def _healthy(self) -> bool:
        with suppress(OSError, CliError):
            return all(self.cluster.healthy(member) for member in self.playground.members)
        return False


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
