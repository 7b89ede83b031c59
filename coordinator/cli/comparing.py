"""Compares what two nodes tell of a snapshot, as it comes: two streams in the same order."""

from __future__ import annotations

import stat
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFREG: "a file",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Entry:
    """As the agents' API has it (proto/drover/v1, Entry)."""

    path: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    digest: str
    error: str = ""

    @property
    def place(self) -> tuple[bytes, ...]:
        """By this both streams are in order."""
        return () if self.path == b"." else tuple(self.path.split(b"/"))


@dataclass(frozen=True)
class Difference:
    """path: for people. what: is different about it."""

    path: str
    what: str


async def compare(
    source: tuple[str, AsyncIterator[Entry]], copy: tuple[str, AsyncIterator[Entry]]
) -> AsyncGenerator[Difference, None]:
    """source, copy: a node and what it tells. Of a directory that is on one of them only, what is below is left out."""
    (here, ours), (there, theirs) = source, copy
    one, other = await _next(ours), await _next(theirs)
    left_out: tuple[bytes, ...] | None = None
    while one is not None or other is not None:
        if one is not None and other is not None and one.place == other.place:
            if what := _what(here, one, there, other):
                yield Difference(_words(one.path), what)
            one, other = await _next(ours), await _next(theirs)
            continue
        ahead = other is None or (one is not None and one.place < other.place)
        entry = one if ahead else other
        assert entry is not None
        if left_out is None or entry.place[: len(left_out)] != left_out:
            left_out = entry.place if stat.S_ISDIR(entry.mode) else None
            yield Difference(_words(entry.path), f"only on {here if ahead else there}")
        if ahead:
            one = await _next(ours)
        else:
            other = await _next(theirs)


async def _next(entries: AsyncIterator[Entry]) -> Entry | None:
    return await anext(entries, None)


def _what(here: str, one: Entry, there: str, other: Entry) -> str:
    if wrong := [f"cannot be read on {node}: {it.error}" for node, it in ((here, one), (there, other)) if it.error]:
        return "; ".join(wrong)
    if stat.S_IFMT(one.mode) != stat.S_IFMT(other.mode):
        return f"{_kind(one)} on {here}, {_kind(other)} on {there}"
    found = {
        "mode": one.mode != other.mode,
        "owner": (one.uid, one.gid) != (other.uid, other.gid),
        "size": one.size != other.size,
        "time": one.mtime_ns != other.mtime_ns,
        "content": one.digest != other.digest,
    }
    different = [name for name, differs in found.items() if differs]
    return f"another {', '.join(different)}" if different else ""


def _kind(entry: Entry) -> str:
    return _KINDS.get(stat.S_IFMT(entry.mode), "something else")


def _words(path: bytes) -> str:
    return path.decode(errors="backslashreplace")
