"""A machine in virtual time: its clocks, what it has mounted, the guard, and how it fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from drover.coordinator.mark import MarkFile
from drover.coordinator.protocol.clock import Deadline, Instant
from drover.coordinator.protocol.history import Mark
from drover.coordinator.protocol.session import Ended
from tests.model.agent import Agent, T

if TYPE_CHECKING:
    from tests.model.world import World


class Disk(MarkFile):
    """The node's mark, without a file: it survives all that happens to the machine."""

    def __init__(self) -> None:
        super().__init__(Path())
        self._mark: Mark | None = None

    def load(self) -> Mark | None:
        return self._mark

    def save(self, mark: Mark) -> None:
        self._mark = mark


@dataclass
class Node:
    """One machine and its agent. mounted: epochs, by dataset, of what can be written here now."""

    world: World
    name: str
    armed: bool
    saved: Path
    rates: tuple[float, float]
    skew: float = 0.0
    """Of its wall clock, seconds."""
    boot: int = 1
    lives: int = 0
    """Of agents, over all boots."""
    down_until: float = 0.0
    """The agent does not run until then."""
    paused_until: float = 0.0
    cut_until: float = 0.0
    slow_until: float = 0.0
    mounted: dict[str, int] = field(default_factory=dict)
    marks: Disk = field(default_factory=Disk)
    agent: Agent | None = None
    sent: Instant | None = None
    """What the guard reads from shared memory: when the newest heartbeat that was answered had been sent."""
    longer: float = 0.0
    """And by how much longer than usual its deadlines are."""

    @property
    def clock(self) -> Instant:
        boot, raw = self.rates
        return Instant(boot=100 + boot * self.world.now, raw=5000 + raw * self.world.now)

    @property
    def cut(self) -> bool:
        return self.world.now < self.cut_until

    @property
    def until(self) -> Deadline | None:
        return self.sent.plus(T.d_soft + self.longer) if self.sent else None

    def writes(self, dataset: str, epoch: int) -> None:
        self.mounted[dataset] = epoch
        self.world.check()

    def step(self) -> None:
        self._guard()
        if self.world.now < self.down_until or self.world.now < self.paused_until:
            return
        if (agent := self.agent) is None:
            if not self.cut:
                self.agent = Agent(self)
            return
        agent.step()
        if not isinstance(agent.state, Ended):
            self.sent, self.longer = agent.state.sent, agent.state.longer

    def _guard(self) -> None:
        """Where it is armed, nothing writes past D_io, whatever the agent does."""
        if self.armed and self.sent is not None and self.sent.plus(T.d_io + self.longer).passed(self.clock):
            self.mounted.clear()

    def crash(self, seconds: float) -> None:
        """The machine: nothing writes any more, and its agent comes back in another boot."""
        self.agent, self.boot = None, self.boot + 1
        self.mounted.clear()
        self.sent, self.longer = None, 0.0
        self.saved.unlink(missing_ok=True)
        self.down_until = self.world.now + seconds

    def kill_agent(self, seconds: float) -> None:
        """What is mounted stays, for the next agent of this boot."""
        self.agent = None
        self.down_until = self.world.now + seconds
