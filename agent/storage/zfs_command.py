"""Running zfs and zpool. Standard library only.

Features are found by running, never by a version: zfs-fuse 0.7 and OpenZFS 2.x differ in most of what is newer than
2011. zfs-fuse also ends with status 0 where nothing was done, and some of its commands abort; so whatever has an effect
is looked at afterwards.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drover.agent.storage import filesystems
from drover.agent.storage.base import NoRoom, StorageError

TIMEOUT = 120.0
"""Seconds that one command may take: a pool that writes out everything that is dirty."""
_FULL = ("out of space", "quota exceeded", "No space left")
_NO_DAEMON = ("failed to initialize ZFS library", "ZFS modules are not loaded", "/dev/zfs")


class Failed(StorageError):
    """said: on its standard error, on one line."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said

    @property
    def absent(self) -> bool:
        """There is no such dataset."""
        return "does not exist" in self.said

    @property
    def busy(self) -> bool:
        return "busy" in self.said

    @property
    def no_zfs(self) -> bool:
        """Neither module nor daemon runs, so no pool is imported."""
        return any(word in self.said for word in _NO_DAEMON)


@dataclass(frozen=True)
class Zfs:
    """programs: the directory of zfs and zpool; "": where programs are."""

    programs: str = ""

    def find(self, program: str) -> str:
        """Raises StorageError."""
        if (found := shutil.which(program, path=self.programs or filesystems.PATH)) is None:
            where = f" in {self.programs}" if self.programs else ""
            raise StorageError(f"{program} is not installed{where}: install zfsutils-linux (or zfs-fuse)")
        return found

    def zfs(self, *arguments: str, timeout: float = TIMEOUT) -> str:
        """What it printed. Raises Failed, NoRoom, StorageError."""
        return self.run("zfs", arguments, timeout)

    def zpool(self, *arguments: str, timeout: float = TIMEOUT) -> str:
        return self.run("zpool", arguments, timeout)

    def run(self, program: str, arguments: Sequence[str], timeout: float) -> str:
        command, shown = [self.find(program), *arguments], " ".join((program, *arguments))
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd="/",
            env=os.environ | {"LC_ALL": "C"},
        )
        try:
            printed, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()  # and not waited for: it may hang in the kernel
            message = f"'{shown}' did not end within {timeout:g} s: is the pool suspended? See zpool status"
            raise Failed(message, "") from None
        if process.returncode == 0:
            return printed
        said = "; ".join(errors.strip().splitlines()[:3])
        how = f"was killed by signal {-process.returncode}" if process.returncode < 0 else "failed"
        if any(word in said for word in _FULL):
            raise NoRoom(f"no room: '{shown}' {how}: {said}; delete something or enlarge the pool")
        raise Failed(f"'{shown}' {how}: {said or 'it said nothing'}", said)

    def properties(self, names: Sequence[str], *of: str, deep: bool = False) -> Iterator[tuple[str, str, str, str]]:
        """Dataset, property, value, source of each, of datasets and, where deep, of all that is below them. Numbers are
        exact. Raises Failed."""
        recursive = ("-r",) if deep else ()
        told = self.zfs("get", "-H", "-p", *recursive, "-o", "name,property,value,source", ",".join(names), *of)
        for line in told.splitlines():
            dataset, name, value, source = line.split("\t")
            yield dataset, name, value, source

    def set(self, dataset: str, name: str, value: str) -> None:
        """And looks whether it is so. Raises Failed, NoRoom."""
        self.zfs("set", f"{name}={value}", dataset)
        [(_, _, now, _)] = self.properties([name], dataset)
        if now != value:
            raise Failed(f"{name} of {dataset} is {now!r} and not {value!r}, though 'zfs set' said nothing", "")
