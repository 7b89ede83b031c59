"""Sends a tree to another node and receives one, by rsync: `python -m drover.agent.storage.directory_rsync`. What runs
at either end of the data path, talking both ways. Standard library only.

rsync takes a file of the same size and time for the same file. That misses what is written twice within a tick of the
kernel's clock, and stores through a mapping, which leave the time as it was while the page is dirty. So before rsync
begins, the sender names all files whose status has changed since the last mark that the two have in common, and the
receiver gives its own of that name a time that no file has: rsync compares their content.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from drover.agent.storage.base import StorageError
from drover.agent.storage.directory_io import make_tree
from drover.agent.storage.directory_place import PAST, Place, State, alone
from drover.agent.storage.filesystems import PATH
from drover.agent.storage.sidecar import sync_directory
from drover.agent.storage.snapshot_names import order

_SERVER = ("--server", "-lHogDtpAXrxSe.iLsfxCIvu", "--delete", "--numeric-ids", "--modify-window=-1", ".")
"""What the other end runs for _CLIENT; after `e.`: what both ends can do, as rsync 3.2 and later. A modify window of -1
compares times to the nanosecond (rsync(1)): else what was made there in the same second keeps its own time."""
_CLIENT = ("-aHAXSx", "--numeric-ids", "--delete", "--modify-window=-1")
_BRIDGE = "sh -c 'exec 5<&0; cat <&5 >&4 3<&- 5<&- & exec cat <&3 4>&- 5<&-' -"
"""In place of a remote shell: rsync's own ends to the descriptors 4 and 3."""
_SLACK = 2.0
"""Seconds before a mark whose changes are compared as well: clocks of files tick coarsely."""
_LENGTH = struct.Struct("!I")
_BATCH = 1 << 16
_PARTLY, _VANISHED = 23, 24
"""Exit statuses of rsync."""
_GOES_ON = re.compile(r"file has vanished|No data available \(61\)|some files(/attrs)? (vanished|were not transferred)")
_NEVER = 0, 987_654_321
"""Access and modification time, ns, of a file whose content is to be compared."""


def send(at: Place, guid: str, parent: str | None) -> int:
    """parent: the mark that both have; None: the content of all files is compared. Returns the exit status."""
    state, tree = State.read(at), at.tree
    common, this = state.mark(parent) if parent else None, state.mark(guid)
    since = common.since if common else None
    if this is None:
        raise StorageError(f"{guid} is not what is here of {at.dataset}")
    out = os.fdopen(os.dup(1), "wb")
    past = [*state.past, *(one.guid for one in state.marks)]
    header = json.dumps({"guid": guid, "sealed": this.sealed, "past": past}).encode()
    out.write(_LENGTH.pack(len(header)) + header)
    batch: list[bytes] = []
    size = 0
    for path in _changed(os.fsencode(tree), b"", 0.0 if since is None else since - _SLACK):
        batch.append(path)
        size += len(path) + 1
        if size > _BATCH:
            _say(out.write, batch)
            size = 0
    _say(out.write, batch)
    out.write(_LENGTH.pack(0))
    out.close()
    os.dup2(0, 3)
    os.dup2(1, 4)
    done = subprocess.run(
        [program(), *_CLIENT, "-e", _BRIDGE, f"{tree}/", "there:"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(3, 4),
        check=False,
    )
    lines = done.stderr.decode(errors="replace").splitlines()
    if (
        not this.sealed
        and done.returncode in (_PARTLY, _VANISHED)
        and all(_GOES_ON.search(line) for line in lines if line)
    ):
        return 0  # while it is in use files go away and get shorter; they are looked at again in the next round
    sys.stderr.write("".join(f"{line}\n" for line in lines[-20:]))
    return done.returncode


def _say(write: object, batch: list[bytes]) -> None:
    if batch:
        payload = b"\0".join(batch)
        write(_LENGTH.pack(len(payload)) + payload)  # type: ignore[operator]
        batch.clear()


def _changed(root: bytes, below: bytes, since: float) -> Iterator[bytes]:
    """Regular files whose status has changed then or later, by their path below root. What vanishes is left out."""
    with (
        suppress(FileNotFoundError, NotADirectoryError),
        os.scandir(os.path.join(root, below) if below else root) as it,
    ):
        for entry in it:
            path = os.path.join(below, entry.name) if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _changed(root, path, since)
            elif entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    if entry.stat(follow_symlinks=False).st_ctime >= since:
                        yield path


def receive(at: Place, size: int) -> int:
    """Into the copy. It counts as torn from the first byte on, until `directory_io.received` has found it whole."""
    with alone(at) as lock:
        header = json.loads(_read(_LENGTH.unpack(_read(_LENGTH.size))[0]))
        state = _begun(at, State.read(at), header["past"])
        make_tree(at.copy, at.uid, size)
        root = os.open(at.copy, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        while length := _LENGTH.unpack(_read(_LENGTH.size))[0]:
            for path in _read(length).split(b"\0"):
                with suppress(OSError):  # not there, or something else there: rsync sees that
                    _mark(root, path)
        done = subprocess.run([program(), *_SERVER, f"{at.copy}/"], pass_fds=(lock,), check=False)
        well = done.returncode == 0 or (not header["sealed"] and done.returncode in (_PARTLY, _VANISHED))
        if well:
            replace(state, arrived=header["guid"]).write(at)
        return 0 if well else done.returncode


def _begun(at: Place, state: State, past: list[str]) -> State:
    """past: what the tree that comes has come from. An end of an epoch here that is not among it has diverged."""
    if state.marks and state.marks[-1].sealed and state.marks[-1].guid not in past and os.path.isdir(at.copy):
        os.rename(at.copy, at.diverged(order(state.marks[-1].name)[0]))
        sync_directory(at.directory)
        state = State()
    state = replace(state, torn=True, arrived="", past=tuple(past[-PAST:]))
    state.write(at)
    return state


def _read(length: int) -> bytes:
    """Exactly so many bytes of the standard input: the rest is rsync's. Raises EOFError."""
    found = b""
    while len(found) < length:
        if not (piece := os.read(0, length - len(found))):
            raise EOFError
        found += piece
    return found


def _mark(root: int, path: bytes) -> None:
    """Never by a symbolic link: what is outside is not touched. Raises OSError."""
    *directories, name = path.split(b"/")
    at = os.dup(root)
    try:
        for directory in directories:
            inside = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = inside
        if stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
            os.utime(name, ns=_NEVER, dir_fd=at, follow_symlinks=False)
    finally:
        os.close(at)


def program() -> str:
    """Raises StorageError."""
    if (found := shutil.which("rsync", path=PATH)) is None:
        raise StorageError("rsync is not installed: install it")
    return found


def main() -> int:
    what = json.loads(sys.argv[2])
    try:
        if sys.argv[1] == "send":
            return send(Place(**what["place"]), what["guid"], what["parent"])
        return receive(Place(**what["place"]), what["size"])
    except (StorageError, EOFError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
