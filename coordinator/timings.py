"""The deadlines of a node, and how long others wait for it. No I/O, no clock."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_D_HARD = 120.0
"""The largest d_hard that any node may use: what is waited for where the real one is not known. Seconds."""

MAX_PAUSE = 6 * 3600.0
"""The longest time from now on for which a node may promise to go on writing without etcd while the cluster is paused.
Seconds."""


class Timings(BaseModel):
    """In seconds; the protocol's table. They travel in each heartbeat."""

    model_config = ConfigDict(frozen=True)

    heartbeat: Annotated[float, Field(gt=0)] = 1.0
    d_soft: Annotated[float, Field(gt=0)] = 4.5
    d_io: Annotated[float, Field(gt=0)] = 5.5
    d_hard: Annotated[float, Field(gt=0, le=MAX_D_HARD)] = 6.5
    wait: Annotated[float, Field(gt=0)] = 7.0
    lease_ttl: Annotated[int, Field(ge=5)] = 10
    """TTL of the session's etcd lease: what people look at hangs on it, never safety."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 2 * self.heartbeat < self.d_soft < self.d_io < self.d_hard:
            raise ValueError("timings must satisfy 2 * heartbeat < d_soft < d_io < d_hard")
        if self.wait < (needed := required_wait(self.d_hard)):
            raise ValueError(f"wait must be at least 1.02 * d_hard + 0.3 = {needed:.2f}, not {self.wait}")
        return self


def required_wait(d_hard: float) -> float:
    """W for a heartbeat's D_hard: clocks may differ by 1 % either way, and scheduling takes its part. Seconds."""
    return 1.02 * d_hard + 0.3


PROFILES: dict[str, Timings] = {
    "fast": Timings(heartbeat=0.5, d_soft=3.0, d_io=3.6, d_hard=4.6, wait=5.0),
    "default": Timings(),
    "relaxed": Timings(heartbeat=3.0, d_soft=20.0, d_io=24.0, d_hard=28.0, wait=30.0, lease_ttl=35),
}
