"""What many runs came to: the table of faults that were survived, and the story of a run that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.sim.world import Outcome

LAST = 80
"""Lines of a story that are told."""


def repeat(outcome: Outcome) -> str:
    """The arguments that repeat this run."""
    return f"--seed {outcome.seed}" + (f' --favour "{outcome.favours}"' if outcome.favours else "")


@dataclass
class Report:
    """runs, events, writes: how many. faults: of each kind. met: the states of the protocol that each kind has met.
    settled: seconds, by run. failed: runs, by what repeats them, and what was broken."""

    runs: int = 0
    events: int = 0
    writes: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    met: dict[str, set[str]] = field(default_factory=dict)
    settled: list[float] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        self.runs += 1
        self.events += outcome.events
        self.writes += outcome.writes
        self.faults += outcome.faults
        for state, fault in outcome.states:
            self.met.setdefault(fault, set()).add(state)
        if outcome.settled is not None:
            self.settled.append(outcome.settled)
        if outcome.broken:
            self.failed[repeat(outcome)] = outcome.broken

    @property
    def pairs(self) -> int:
        """Distinct pairs of a state and a fault."""
        return sum(len(states) for states in self.met.values())

    def lines(self) -> Iterator[str]:
        yield f"{'fault':36} {'injected':>9} {'states met':>11}"
        for fault, count in sorted(self.faults.items(), key=lambda one: -one[1]):
            yield f"{fault:36} {count:9,} {len(self.met.get(fault, ())):11,}"
        yield f"{'in all':36} {sum(self.faults.values()):9,} {self.pairs:11,}"
        yield f"{self.runs:,} runs, {self.events:,} events, {self.writes:,} acknowledged writes"
        if self.settled:
            times = sorted(self.settled)
            at = [times[int(share * (len(times) - 1))] for share in (0.5, 0.9, 0.99, 1.0)]
            yield "every dataset active again after the end of all trouble: " + ", ".join(
                f"{name} {seconds:.1f} s" for name, seconds in zip(("median", "p90", "p99", "longest"), at, strict=True)
            )
        yield f"broken promises: {len(self.failed)}"
        for how, what in self.failed.items():
            yield f"  {how}: {what}"


def table(report: Report) -> Iterator[str]:
    """As docs/safety.md shows it: kinds of fault, how often each was injected, in how many states of the protocol."""
    kinds = sorted(report.faults.items(), key=lambda one: -one[1])
    half = (len(kinds) + 1) // 2
    yield "| fault | injected | states | fault | injected | states |"
    yield "|---|--:|--:|---|--:|--:|"
    for n in range(half):
        cells = [f"{kind} | {count:,} | {len(report.met.get(kind, ())):,}" for kind, count in kinds[n::half]]
        yield f"| {' | '.join(cells)} |" if len(cells) == 2 else f"| {cells[0]} | | | |"
    yield ""
    yield f"{sum(report.faults.values()):,} faults of {len(kinds)} kinds, {report.pairs:,} pairs of state and fault,"
    yield f"in {report.runs:,} runs of {report.events:,} events"
    yield f"with {report.writes:,} acknowledged writes. Promises broken: {len(report.failed)}."


def story(outcome: Outcome, last: int = LAST) -> Iterator[str]:
    """Of one run, as it is told to people."""
    told: Sequence[str] = [f"{line.at:9.3f} s  {line.who:12} {line.what}" for line in outcome.story]
    left_out = max(0, len(told) - last)
    if left_out:
        yield f"… {left_out} lines before"
    yield from told[left_out:]
    yield f"seed {outcome.seed}: {outcome.broken or 'every promise was kept'}"
