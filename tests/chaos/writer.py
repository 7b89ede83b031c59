"""The workload of a run: commits numbered records to its datasets and reads back what is there when it starts.

Runs on a node, by path, with the standard library only. Arguments: the directory of its log, which is outside the node
and survives its power cuts, how it acknowledges, and the names of its datasets. A record is a line

    sequence writer epoch began checksum

appended and synced; only then it is acknowledged, in the log. Lines of the log are as `history.py` reads them.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
import zlib
from pathlib import Path
from typing import Any, NoReturn

PAUSE = 0.02
"""Seconds between two records: more would only make the machine busy."""
RECORDS = "records"
SYNCED, UNSYNCED = "synced", "unsynced"
"""How it acknowledges. Unsynced is the fault that the checker must find: a promise made before the data is safe."""


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def record(sequence: int, writer: str, epoch: int, began: float) -> bytes:
    text = f"{sequence} {writer} {epoch} {began:.6f}"
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()


def parse(line: bytes) -> tuple[int, str] | None:
    """(sequence, writer) of a whole record; None: it is none."""
    text, _, checksum = line.decode(errors="replace").rstrip("\n").rpartition(" ")
    if checksum != f"{zlib.crc32(text.encode()):08x}":
        return None
    sequence, writer, _, _ = text.split(" ")
    return int(sequence), writer


def runs(content: bytes) -> tuple[list[dict[str, Any]], int]:
    """What a dataset holds, shortened (see `history.Run`), and how many whole lines are no records."""
    found: list[dict[str, Any]] = []
    damaged = 0
    for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
        one = parse(line)
        if one is None:
            damaged += 1
        elif found and found[-1]["writer"] == one[1] and found[-1]["last"] + 1 == one[0]:
            found[-1]["last"] = one[0]
        else:
            found.append({"writer": one[1], "first": one[0], "last": one[0]})
    return found, damaged


def stored(path: str) -> dict[str, Any]:
    """The back end's record beside the image that is mounted at `path`."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[4] == path:
            device = os.path.basename(right.split()[1])
            image = Path(f"/sys/block/{device}/loop/backing_file").read_text().strip()
            found: dict[str, Any] = json.loads(Path(image).with_suffix(".json").read_text())
            return found
    raise SystemExit(f"nothing is mounted at {path}")


class Log:
    """Appends whole lines."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":  # the last one was torn: it stays so
            os.write(self._file, b"\n")

    def say(self, line: str) -> None:
        os.write(self._file, f"{line}\n".encode())


class Dataset:
    """One dataset of this writer. Its records are appended to one file."""

    def __init__(self, name: str, path: str, log: str) -> None:
        began = now()
        self.writer = f"{socket.gethostname()}/{os.getpid()}/{time.monotonic_ns()}"
        record_of = stored(path)
        self.uid, self.epoch = record_of["uid"], int(record_of["epoch"])
        self._acks = Log(os.path.join(log, f"{name}.acks.jsonl"))
        self.file = os.open(os.path.join(path, RECORDS), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        content = os.pread(self.file, os.fstat(self.file).st_size, 0)
        whole = content[: content.rfind(b"\n") + 1]
        os.ftruncate(self.file, len(whole))  # one half written was never acknowledged
        os.fsync(self.file)
        directory = os.open(path, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        found, damaged = runs(whole)
        self.sequence = found[-1]["last"] if found else 0
        reading = {
            "dataset": name,
            "uid": self.uid,
            "writer": self.writer,
            "node": socket.gethostname(),
            "epoch": self.epoch,
            "incarnation": record_of["incarnation"],
            "at": began,
            "runs": found,
            "damaged": damaged,
        }
        Log(os.path.join(log, f"{name}.readings.jsonl")).say(json.dumps(reading))

    def write(self, synced: bool) -> None:
        self.sequence += 1
        began = now()
        os.write(self.file, record(self.sequence, self.writer, self.epoch, began))
        if synced:
            os.fsync(self.file)
        self._acks.say(
            f'{{"uid":"{self.uid}","writer":"{self.writer}","epoch":{self.epoch},"sequence":{self.sequence},'
            f'"began":{began:.6f},"done":{now():.6f}}}'
        )


def main() -> NoReturn:
    log, how, *names = sys.argv[1:]
    paths = {name: os.environ["DROVER_PATH_" + re.sub(r"[^A-Z0-9]", "_", name.upper())] for name in names}
    datasets = [Dataset(name, path, log) for name, path in paths.items()]
    while True:
        for dataset in datasets:
            dataset.write(how == SYNCED)
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
