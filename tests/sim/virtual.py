"""What the product's modules see of time and chance while they are simulated: `virtual()` puts it in their place."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from unittest.mock import patch

from drover.agent import app, copying, describe, execute, leave, local, reporter, testify, worker
from drover.agent.copying import Ask
from drover.coordinator import depart, etcd, etcd_members, member, mirror, observers
from drover.coordinator.cli import recover
from drover.coordinator.protocol.clock import Instant
from drover.coordinator.txn import Txn
from tests.sim.loop import VirtualLoop
from tests.sim.machine import MemoryPage, here
from tests.sim.network import SimMember
from tests.sim.transfer import asking
from tests.sim.world import BEGINNING

AUDIT = 20.0
"""Seconds between two listings of a watched range: a lost event is found so much sooner than in a real cluster."""


class _Time:
    """Stands for the module `time`."""

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME
    CLOCK_MONOTONIC_RAW = time.CLOCK_MONOTONIC_RAW

    @staticmethod
    def clock_gettime(which: int) -> float:
        now = here().clock()
        return now.boot if which == time.CLOCK_BOOTTIME else now.raw

    @staticmethod
    def monotonic() -> float:
        return asyncio.get_running_loop().time()

    @staticmethod
    def time() -> float:
        return BEGINNING + _loop().now


class _Datetime(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _Datetime:
        return cls.fromtimestamp(_Time.time(), tz or UTC)


class Chance:
    """Stands for the modules `random` and `secrets`."""

    def __init__(self) -> None:
        self.random = random.Random(0)

    def uniform(self, low: float, high: float) -> float:
        return self.random.uniform(low, high)

    def token_hex(self, size: int) -> str:
        return f"{self.random.getrandbits(8 * size):0{2 * size}x}"


CHANCE = Chance()


def _loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


@contextlib.contextmanager
def _on_mount_event(call: object) -> Iterator[None]:
    machine = here()
    assert callable(call)
    machine.mount_events.append(call)
    try:
        yield
    finally:
        if call in machine.mount_events:
            machine.mount_events.remove(call)


def _read_clock() -> Instant:
    return here().clock()


def _boot_id() -> str:
    return here().boot_id


def _as_it_is(txn: Txn) -> Txn:
    """To protobuf and back costs more than all else, and is tested on real etcd."""
    return txn


def _asking(settings: object, member: object, spans: object) -> Ask:
    return asking(here())


def _page(path: Path) -> MemoryPage:
    return here().page


def _order(self: worker.Worker) -> int:
    return hash(tuple(sorted(self.names)))


@contextlib.contextmanager
def virtual() -> Iterator[Chance]:
    """For as many runs as come; each sets the seed of what is yielded."""
    with ExitStack() as stack:
        for module in (mirror, worker, execute, copying):
            stack.enter_context(patch.object(module, "time", _Time))
        stack.enter_context(patch.object(app, "asking", _asking))
        stack.enter_context(patch.object(app, "read_clock", _read_clock))
        made = member.Member.__init__
        stack.enter_context(patch.object(made, "__defaults__", (_read_clock, *(made.__defaults__ or ())[1:])))
        stack.enter_context(patch.object(depart.depart, "__defaults__", (_read_clock,)))
        for module in [module for name, module in sys.modules.items() if name.startswith("drover.")]:
            for chance in (random, secrets):
                if vars(module).get(chance.__name__) is chance:
                    stack.enter_context(patch.object(module, chance.__name__, CHANCE))
        stack.enter_context(patch.object(recover, "now", _Datetime.now))
        for module in (member, observers, reporter, describe, leave):
            stack.enter_context(patch.object(module, "datetime", _Datetime))
        for module in (app, describe):
            stack.enter_context(patch.object(module, "boot_id", _boot_id))
        stack.enter_context(patch.object(local, "_on_mount_event", _on_mount_event))
        stack.enter_context(patch.object(etcd_members, "Member", SimMember))
        for module in (etcd, etcd_members):
            stack.enter_context(patch.object(module, "txn_request", _as_it_is))
        stack.enter_context(patch.object(testify, "Page", _page))
        stack.enter_context(patch.object(worker.Worker, "__hash__", _order))
        defaults = mirror.Mirror.__init__.__kwdefaults__
        assert defaults is not None
        stack.enter_context(patch.dict(defaults, audit=AUDIT))
        yield CHANCE
