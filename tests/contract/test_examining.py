"""What a node tells of a snapshot is what is in it, on real file systems, and the disk is asked for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest

from drover.agent.examining import Entry, Examiner, _read
from drover.agent.storage import mounts
from drover.agent.storage.base import NotFound

MiB = 1 << 20


@contextmanager
def btrfs(image: Path, at: Path) -> Iterator[Path]:
    """A small one whose data is checksummed."""
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(128 * MiB)
        subprocess.run(["mkfs.btrfs", "-q", "-m", "single", image], check=True, stdout=subprocess.DEVNULL, timeout=30)
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, at], check=True, timeout=30)
    try:
        yield at
    finally:
        mounts.unmount(str(at))


async def told(path: Path) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    async with aclosing(_read(str(path))) as batches:
        async for batch in batches:
            found |= {os.fsdecode(entry.path): entry for entry in batch.entries}
    return found


async def test_every_kind_of_entry_is_told_and_any_change_of_one_shows(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "directory" / "below").mkdir(parents=True)
    (root / "file").write_bytes(b"data")
    os.symlink("file", root / "link")
    os.mkfifo(root / "pipe")
    (root / os.fsdecode(b"no\xfftext")).write_bytes(b"")
    os.setxattr(root / "directory", "user.colour", b"red")
    before = await told(root)
    assert list(before) == [".", "directory", "directory/below", "file", "link", os.fsdecode(b"no\xfftext"), "pipe"]
    assert before == await told(root)
    times = os.stat(root / "file")
    (root / "file").write_bytes(b"gone")
    os.utime(root / "file", ns=(times.st_atime_ns, times.st_mtime_ns))
    os.setxattr(root / "directory", "user.colour", b"blue")
    os.chmod(root / "pipe", 0o600)
    after = await told(root)
    assert [path for path in before if before[path] != after[path]] == ["directory", "file", "pipe"]
    assert before["file"].digest != after["file"].digest


async def test_what_does_not_agree_with_the_file_systems_checksums_is_an_error_of_that_file(tmp_path: Path) -> None:
    image, content = tmp_path / "image", os.urandom(MiB)
    with btrfs(image, tmp_path / "at") as at:
        (at / "good").write_bytes(b"good" * 4096)
        (at / "rotten").write_bytes(content)
    raw = image.read_bytes()
    place = raw.index(content[:4096])
    with image.open("r+b") as file:
        file.seek(place + 100)
        file.write(b"rot")
    with btrfs(image, tmp_path / "at") as at:
        found = await told(at)
    assert found["good"].error == ""
    assert found["rotten"].error == "Input/output error"


async def test_a_snapshot_that_is_not_here_is_not_found() -> None:
    with pytest.raises(NotFound):
        async with aclosing(Examiner({}).examine("d", "cafe", "guid")) as batches:
            await anext(batches)
