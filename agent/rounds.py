"""When copying while a dataset is in use has come far enough to stop its workload for the rest (pure).

What is left is known only by sending it, so the last round foretells the next: as much will be left, and take as long.
"""

from __future__ import annotations

from dataclasses import dataclass

SHRINKS = 0.7
"""A round that takes more than this share of the one before does not make the rest smaller."""
LATER = 60.0
"""Seconds after which a move that was given up as things are is looked at again."""
MOST = 8
"""Rounds after which it is enough."""


@dataclass(frozen=True)
class Round:
    """bytes: of the stream. seconds: from the snapshot to the target's answer that it is durable there. full: nothing
    was common, so it was all."""

    bytes: int
    seconds: float
    full: bool


@dataclass(frozen=True)
class Again:
    """Another round. because: "" at once; else the move is given up as things are, and looked at again later."""

    because: str = ""


@dataclass(frozen=True)
class CutOver:
    """Stop the workload for the rest. predicted: seconds that this part of the storage takes."""

    predicted: float
    because: str


Verdict = Again | CutOver


@dataclass(frozen=True)
class Copying:
    """A dataset on its way to node `to`, in this epoch. base: guid of what the target has as the epoch's end, whole and
    durable; None: not yet. sent: bytes of the round that goes on; full: it is all of it, as nothing is common. trouble:
    why it has begun anew."""

    to: str
    epoch: int
    rounds: tuple[Round, ...] = ()
    verdict: Verdict = Again()
    base: str | None = None
    sent: int = 0
    full: bool = False
    trouble: str = ""

    @property
    def words(self) -> str:
        """For people, beside where it goes."""
        if self.trouble:
            return f"copying failed and begins again: {self.trouble}"
        if isinstance(self.verdict, Again) and self.verdict.because:
            return (
                f"given up for now, as longer_cutover says: {self.verdict.because}; it is tried again each minute; "
                "allow a longer max_cutover, or longer_cutover: accept"
            )
        if isinstance(self.verdict, Again):
            return "copying, while it is in use"
        return f"copying the last increment: {self.verdict.because}"


def verdict(rounds: tuple[Round, ...], max_cutover: float, gives_up: bool = False) -> Verdict:
    """max_cutover: seconds that the last increment may take. gives_up: rather than to let it take longer."""
    if not rounds or (len(rounds) == 1 and rounds[0].full):
        return Again()
    last = rounds[-1].seconds
    if last <= max_cutover:
        return CutOver(last, f"the rest takes {last * 1000:.0f} ms")
    longer = f"the rest takes {last * 1000:.0f} ms, more than {max_cutover * 1000:.0f} ms"
    why = ""
    if len(rounds) >= MOST:
        why = f"{longer}, after {len(rounds)} rounds"
    elif len(rounds) > 1 and last > SHRINKS * rounds[-2].seconds:
        why = f"{longer}, and the last round made it no smaller"
    return CutOver(last, why) if why and not gives_up else Again(why)
