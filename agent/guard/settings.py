"""What the agent writes down for its guard, and the files that they share. Standard library only."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from drover.agent.guard.ladder import Cut

NOTHING, REBOOT = "none", "reboot"


@dataclass(frozen=True)
class GuardSettings:
    """cgroups: the root of Drover's. resets: what resets this machine where the ladder fails: NOTHING, REBOOT (by the
    guard) or the path of a watchdog device. reset_within: seconds between D_io and D_hard. testify: the command that
    tells the cluster that this node has stopped, where the agent cannot. version: of the code."""

    cgroups: str
    cuts: tuple[Cut, ...]
    resets: str
    reset_within: float
    testify: tuple[str, ...]
    version: str

    def text(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> GuardSettings:
        read = json.loads(text)
        cuts = tuple(Cut(**cut) for cut in read.pop("cuts"))
        return cls(**read | {"cuts": cuts, "testify": tuple(read["testify"])})

    @property
    def digest(self) -> int:
        return zlib.crc32(self.text().encode()) + 1


@dataclass(frozen=True)
class Files:
    """Below run_dir, which must not outlive the boot."""

    run_dir: Path

    @property
    def page(self) -> Path:
        return self.run_dir / "gate"

    @property
    def settings(self) -> Path:
        return self.run_dir / "guard.json"

    @property
    def lock(self) -> Path:
        """Held by the guard as long as it runs."""
        return self.run_dir / "guard.lock"

    @property
    def record(self) -> Path:
        """What the last round of the ladder came to."""
        return self.run_dir / "ladder.json"

    @property
    def agent(self) -> Path:
        """The agent's settings, as it read them."""
        return self.run_dir / "agent.json"

    @property
    def session(self) -> Path:
        """Of the agent: which incarnation it is."""
        return self.run_dir / "session.json"


@dataclass(frozen=True)
class LadderRecord:
    """round: on the page. at: CLOCK_BOOTTIME when it ended, seconds. incarnation: what it stopped, if known."""

    round: int
    reason: str
    left: tuple[str, ...]
    seconds: float
    at: float
    incarnation: str

    @classmethod
    def load(cls, path: Path) -> LadderRecord | None:
        try:
            read = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        return cls(**read | {"left": tuple(read["left"])})

    def save(self, path: Path) -> None:
        write(path, json.dumps(asdict(self)))


def write(path: Path, text: str) -> None:
    """All of it or nothing."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    os.replace(new, path)
