"""Records while a run goes on: every change in etcd, every loop device's counter, what is stored beside the images."""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from drover.coordinator.cli.playground import blockdev
from drover.coordinator.keys import Keys, Kind
from tests.chaos.history import ERA, Change, Device, Sample, Token, encode

KEYS = Keys()

SILENCE = 3.0
"""Seconds without an event after which another member is asked: heartbeats come every second."""
_EVERY = 0.2
"""Seconds between two looks at the devices."""


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lines:
    """A file of events, written as they come: what a run that was ended has seen is kept."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("w", buffering=1)

    def add(self, event: object) -> None:
        self._file.write(encode(event))

    def close(self) -> None:
        self._file.close()


class Watch:
    """Follows all of etcd from one revision on, through whatever happens to its members. `revision`: up to where.
    era: how often etcd was restored before. silence: see SILENCE. context: None: in plain text."""

    def __init__(
        self,
        endpoints: Sequence[str],
        after: int,
        lines: Lines,
        era: int = 0,
        silence: float = SILENCE,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._context = context
        self._endpoints, self._lines, self._era, self._silence = endpoints, lines, era, silence
        self._owners: dict[str, str] = {}
        self.revision = after
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def owner(self, dataset: str) -> str:
        """The node that had it last; "": nobody was heard to have it."""
        return self._owners.get(KEYS.owner(dataset), "")

    def finish(self, revision: int, timeout: float = 30.0) -> bool:
        """Until everything up to a revision has been heard of; False: it was not in time. timeout: seconds."""
        deadline = time.monotonic() + timeout
        while self.revision < revision and time.monotonic() < deadline:
            time.sleep(0.05)
        self._ended.set()
        self._thread.join(self._silence + 2)
        return self.revision >= revision

    def _run(self) -> None:
        turn = 0
        while not self._ended.is_set():
            turn += 1
            with suppress(OSError, http.client.HTTPException, ValueError):
                self._follow(self._endpoints[turn % len(self._endpoints)])
            self._ended.wait(0.1)

    def _follow(self, endpoint: str) -> None:
        """Until the stream ends. An event that leaves a hole is not taken: it is asked for again."""
        member = urlsplit(endpoint).netloc
        connection = (
            http.client.HTTPSConnection(member, timeout=self._silence, context=self._context)
            if self._context
            else http.client.HTTPConnection(member, timeout=self._silence)
        )
        try:
            asked = {"key": "AA==", "range_end": "AA==", "start_revision": str(self.revision + 1)}
            connection.request("POST", "/v3/watch", json.dumps({"create_request": asked}))
            stream = connection.getresponse()
            while not self._ended.is_set() and (line := stream.readline()):
                heard = now()
                result = json.loads(line).get("result", {})
                if not self._take(result.get("events", []), heard):
                    return
        finally:
            connection.close()

    def _take(self, events: list[dict[str, Any]], heard: float) -> bool:
        for event in events:
            entry = event["kv"]
            revision = int(entry["mod_revision"])
            if revision > self.revision + 1:
                return False
            if revision < self.revision:
                continue
            deleted = event.get("type") == "DELETE"
            key, value = _decoded(entry["key"]), None if deleted else _decoded(entry.get("value", ""))
            if key.startswith(KEYS.under(Kind.OWNERS)) and value:
                self._owners[key] = json.loads(value)["node"]
            self._lines.add(Change(self._era * ERA + revision, heard, key, value))
            self.revision = revision
        return True


class Devices:
    """Looks at the loop devices of a playground, and at the records beside its images, several times a second."""

    def __init__(self, shared: Path, homes: Path, samples: Lines, tokens: Lines) -> None:
        self._shared, self._homes, self._samples, self._tokens = shared, homes, samples, tokens
        self._known: dict[str, tuple[int, Token]] = {}
        self._node: dict[int, str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="devices", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self._ended.set()
        self._thread.join(5)

    def _run(self) -> None:
        last: tuple[Device, ...] | None = None
        while not self._ended.wait(_EVERY):
            at = now()
            devices = tuple(self._look())
            self._read_tokens()  # whoever attached a device had stored its token before
            if devices or last:
                self._samples.add(Sample(at, now(), devices))
            last = devices

    def _look(self) -> Iterator[Device]:
        for loop in blockdev.loops():
            image = Path(loop.image)
            if image.suffix != ".img" or not (self._shared / image.name).exists():
                continue
            with suppress(OSError):  # detached meanwhile
                sequence = int(Path("/sys/block", loop.name, "diskseq").read_text())
                if image.is_relative_to(self._homes):
                    self._node[sequence] = image.relative_to(self._homes).parts[0]
                # The path is lost when the machine's mount namespace ends: the number says whose it was.
                if node := self._node.get(sequence):
                    yield Device(sequence, image.stem, node, loop.written())

    def _read_tokens(self) -> None:
        for file in self._shared.glob("*.json"):
            with suppress(OSError, ValueError):
                changed = os.stat(file).st_mtime_ns
                if self._known.get(file.stem, (0, None))[0] == changed:
                    continue
                at, stored = now(), json.loads(file.read_text())
                token = Token(at, file.stem, stored["epoch"], stored["incarnation"], stored["holder"])
                before = self._known.get(file.stem)
                self._known[file.stem] = (changed, token)
                if before is None or (before[1].epoch, before[1].incarnation) != (token.epoch, token.incarnation):
                    self._tokens.add(token)


def until(condition: Callable[[], bool], within: float, every: float = 0.1) -> bool:
    """Whether it came true in time. within, every: seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
    return True


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode(errors="replace")
