"""The end of a machine's block devices: cut off, then detached for certain."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from drover.coordinator.cli.errors import Failed
from drover.coordinator.cli.playground import filesystems
from drover.coordinator.cli.playground.blockdev import Loop, clear, loops, shrink, still

_PATIENCE = 0.5
"""Seconds after which a device that does not go is looked at: its file system may be held, with no process left."""


class Devices:
    """Loop devices, held open from before a machine's end until they are detached: a number that somebody else gets
    meanwhile is not touched."""

    def __init__(self, found: Iterable[Loop]) -> None:
        self._held: list[tuple[Loop, int]] = []
        for loop in found:
            with suppress(OSError):  # detached meanwhile
                descriptor = os.open(loop.device, os.O_RDONLY | os.O_CLOEXEC)
                if loop in loops():
                    self._held.append((loop, descriptor))
                else:
                    os.close(descriptor)

    def cut(self) -> None:
        """From here on no write reaches an image: the devices have one sector left, all others are an I/O error, also
        for a mounted file system. 15 ms each, side by side. Raises OSError."""
        if self._held:
            with ThreadPoolExecutor(len(self._held)) as pool:
                for result in [pool.submit(shrink, descriptor) for _, descriptor in self._held]:
                    result.result()

    def detach(self, timeout: float = 10.0) -> None:
        """Until all are gone. timeout: seconds. Raises Failed with what is left."""
        waited, self._held = self._held, []
        for _, descriptor in waited:
            try:
                clear(descriptor)
            finally:
                os.close(descriptor)
        begun = time.monotonic()
        looked = False
        while left := [loop for loop, _ in waited if still(loop)]:
            passed = time.monotonic() - begun
            if passed >= timeout:
                names = ", ".join(f"{loop.device} ({loop.image})" for loop in left)
                raise Failed(
                    f"still in use by somebody outside the playground: {names}",
                    "Find out by whom: grep loop /proc/*/mountinfo",
                    outcome="",
                )
            if passed >= _PATIENCE and not looked:
                looked = True
                for loop in left:
                    _let_go(loop)
            time.sleep(0.001)  # the kernel tells nobody when a file system has gone


def _let_go(loop: Loop) -> None:
    """Ends a file system that is held and mounted nowhere, because its machine was killed while it was frozen. Cut off
    first: it must not write now, when another machine may have the image."""
    with suppress(OSError):  # gone meanwhile, or it is not so: then the time limit says what is left
        descriptor = os.open(loop.device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if still(loop):
                shrink(descriptor)
                filesystems.release_lost(loop)
        finally:
            os.close(descriptor)
