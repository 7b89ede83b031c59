"""What a node tells of a snapshot is what is in it, on real file systems, and the disk is asked for it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from drover.agent.api import copies, rpc
from drover.agent.examining import Entry, Examiner, _read
from drover.agent.receiving import Receiver
from drover.agent.sight import Sight
from drover.agent.storage import btrfs_ioctl, mounts
from drover.agent.storage.base import NotFound, Volume
from drover.agent.storage.btrfs import BtrfsBackend
from drover.agent.storage.btrfs_place import Place
from drover.coordinator.cli.connection import Access
from drover.coordinator.cli.examined import NotTold, examined
from drover.coordinator.identity import Peer, Role

MiB = 1 << 20


class Unused:
    """Looking and reading takes no helper."""

    async def run(self, dataset: str, function: str, arguments: Mapping[str, Any], timeout: float) -> Any:
        raise AssertionError(function)


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


async def test_over_grpc_a_snapshot_is_told_by_its_guid_and_one_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    with btrfs(tmp_path / "image", tmp_path / "at") as at:
        backend = BtrfsBackend({"pool": str(at)}, "node-a", Unused())
        place = Place(str(at), "notes", "cafe")
        for path in (place.snapshots, os.path.dirname(place.snapshot("000001.000001"))):
            os.makedirs(path)
        btrfs_ioctl.create(place.live)
        for number in range(1200):
            (Path(place.live) / f"file-{number}").write_text(str(number))
        btrfs_ioctl.snapshot(place.live, place.snapshot("000001.000001"), read_only=True)
        (snapshot,) = await backend.snapshots(Volume("notes", "cafe", 0))
        receiver = Receiver(lambda: None, {"btrfs": backend}, lambda: None)
        read: list[int] = []
        asked = {"dataset": "notes", "uid": "cafe", "guid": snapshot.guid}
        async with rpc.serving(Sight("node-a"), "127.0.0.1:0", receiver=receiver) as port:
            address, access = f"127.0.0.1:{port}", Access(None, None)
            async with examined("node-a", address, access, asked, read.append) as entries:
                found = [entry async for entry in entries]
            with pytest.raises(NotTold, match="no snapshot none") as gone:
                async with examined("node-a", address, access, asked | {"guid": "none"}, read.append) as entries:
                    await anext(entries)
    assert len(found) == 1201
    assert len(read) > 2
    assert read[-1] == sum(len(str(number)) for number in range(1200))
    assert gone.value.gone


@pytest.mark.parametrize(("role", "allowed"), [(Role.NODE, True), (Role.OPERATOR, True), (Role.OBSERVER, False)])
def test_observers_do_not_see_what_files_there_are(monkeypatch: pytest.MonkeyPatch, role: Role, allowed: bool) -> None:
    monkeypatch.setattr(copies, "caller", lambda _: Peer("ann", role))
    assert (copies._refuses({}) == "") is allowed
