"""Network namespaces with a name, where `ip -n NAME` finds them."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from drover.coordinator.cli.playground import syscalls
from drover.coordinator.cli.playground.layout import NETNS
from drover.coordinator.cli.playground.lock import locked

_ALWAYS_THERE = Path("/var")
"""Locked while /run/netns is made or removed. Not /run: that is locked while a subnet is chosen, for its switch."""


def add(namespace: Path) -> None:
    """As `ip netns add`: /run/netns is mounted on itself first, so that nobody's next `ip netns add` does it, over the
    namespaces that are there: they could not be removed any more. Raises OSError, NotPossible."""
    with locked(_ALWAYS_THERE, inherited=False):
        NETNS.mkdir(exist_ok=True)
        with locked(NETNS, inherited=False):  # that command's own lock
            _be_a_mount_point()
        os.close(os.open(namespace, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))

    def make() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        syscalls.bind(Path("/proc/thread-self/ns/net"), namespace)

    syscalls.in_thread(make)


def remove(namespace: Path) -> None:
    """Its name; it ends when nobody is inside. Idempotent. Raises OSError, NotPossible."""
    try:
        syscalls.unmount(namespace, syscalls.MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # not mounted: half made, or half removed
            raise
    namespace.unlink(missing_ok=True)
    with locked(_ALWAYS_THERE, inherited=False), suppress(OSError):  # in use, or gone: it is left, or was
        if not any(NETNS.iterdir()):
            with suppress(OSError):
                syscalls.unmount(NETNS)
            NETNS.rmdir()


def _be_a_mount_point() -> None:
    """Shared, as that command has it."""
    shared = syscalls.MS_REC | syscalls.MS_SHARED
    try:
        syscalls.mount("none", NETNS, flags=shared)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        syscalls.bind(NETNS, NETNS)
        syscalls.mount("none", NETNS, flags=shared)
