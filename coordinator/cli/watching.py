"""What `move --wait` shows while copies are on their way: each round as a line when it is over, and the one that goes
on as a bar, or as a line now and then where standard output is no terminal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Self

from drover.coordinator.cli import output
from drover.coordinator.cli.connection import Access
from drover.coordinator.cli.output import milliseconds, plain, seconds
from drover.coordinator.sizes import format_size

if TYPE_CHECKING:  # gRPC and rich are imported when they are needed
    from rich.progress import Progress, TaskID

    from drover.coordinator.cli.agents import Copying, Round

_EVERY = 10.0
"""Seconds between two lines about a round that goes on, where there are no bars."""
_AGAIN = 1.0
"""Seconds before an agent that does not answer is asked again."""


def over(number: int, round_: Round) -> str:
    """`round 2  14 MiB in 58 ms  241 MiB/s`"""
    took = milliseconds(round(round_.seconds * 1000))
    rate = f"{format_size(round(round_.bytes / max(round_.seconds, 1e-6)))}/s"
    return f"round {number}  {format_size(round_.bytes)} in {took}  {rate}" + ("  all of it" if round_.full else "")


def going(copying: Copying, elapsed: float) -> str:
    """`1.2 GiB of 3.1 GiB  262 MiB/s  7 s left`; elapsed: seconds since the round began, as far as was seen."""
    of = f" of about {format_size(copying.total)}" if copying.total else ""
    parts = [f"{format_size(copying.sent)}{of}"]
    rate = copying.sent / elapsed if elapsed > 0.5 else 0.0
    if rate:
        parts.append(f"{format_size(round(rate))}/s")
    if rate and copying.total > copying.sent:
        parts.append(f"{seconds((copying.total - copying.sent) / rate)} left")
    return "  ".join(parts)


def rest(copying: Copying) -> str:
    """What is expected of the last increment; "" where nothing is known."""
    if not copying.predicted:
        return ""
    return f"the last increment takes about {milliseconds(max(1, round(copying.predicted * 1000)))}"


class Board:
    """Lines and bars of one move. names: shown in front where several datasets move. rounds: all that were seen.
    silent: nothing is printed."""

    def __init__(self, names: Sequence[str], silent: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.rounds: dict[str, tuple[Round, ...]] = {}
        self._front = {name: f"{name}  " if len(names) > 1 else "" for name in names}
        self._silent, self._clock = silent, clock
        self._began: dict[str, tuple[int, float]] = {}
        self._said: dict[str, float] = {}
        self._rest: dict[str, str] = {}
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if not self._silent and output.terminal():
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (
                TextColumn("  {task.description}", markup=False),
                BarColumn(20),
                TextColumn("{task.fields[words]}"),
            )
            self._bars = Progress(*columns, transient=True)
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    def say(self, text: str) -> None:
        if not self._silent:
            output.say(plain(text))

    def show(self, states: Mapping[str, Copying]) -> None:
        """What an agent tells, of those that it copies."""
        for name, copying in states.items():
            if name in self._front:
                self._over(name, copying)
                self._going(name, copying)
        for name in [name for name in self._tasks if name not in states]:
            self._remove(name)

    def _over(self, name: str, copying: Copying) -> None:
        known = self.rounds.get(name, ())
        if len(copying.rounds) < len(known):
            self.say(f"  {self._front[name]}begins again")
            known = ()
        if copying.rounds != known:
            self._remove(name)
        self.rounds[name] = copying.rounds
        for number, round_ in enumerate(copying.rounds[len(known) :], len(known) + 1):
            self.say(f"  {self._front[name]}{over(number, round_)}")
        if copying.rounds != known and (text := rest(copying)) and text != self._rest.get(name):
            self._rest[name] = text
            self.say(f"  {self._front[name]}{text}" + ("; it comes next" if copying.last else ""))

    def _going(self, name: str, copying: Copying) -> None:
        now, number = self._clock(), len(copying.rounds) + 1
        if self._began.get(name, (0, 0.0))[0] != number:
            self._began[name] = (number, now)
            self._said[name] = now
        if not copying.sent:
            return
        words = going(copying, now - self._began[name][1])
        label = f"{self._front[name]}round {number}"
        if self._bars is not None:
            total = float(max(copying.total, copying.sent)) if copying.total else None
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(plain(label), total=total, words="")
            self._bars.update(self._tasks[name], completed=copying.sent, total=total, words=words)
        elif now - self._said[name] >= _EVERY:
            self._said[name] = now
            self.say(f"  {label}  {words}")

    def _remove(self, name: str) -> None:
        if self._bars is not None and (task := self._tasks.pop(name, None)) is not None:
            self._bars.remove_task(task)


async def watch(board: Board, names: Sequence[str], node: str, address: str, access: Access) -> None:
    """Shows what the node that sends tells of these datasets, until cancelled. Says once where it does not answer."""
    from drover.coordinator.cli.agents import NotHeard, asking

    said = False
    while True:
        try:
            async with asking(node, address, access) as agent, aclosing(agent.copying(names)) as states:
                async for found in states:
                    board.show(found)
        except NotHeard as error:
            if not said:
                board.say(f"  no rounds are shown: {error}")
            said = True
        await asyncio.sleep(_AGAIN)
