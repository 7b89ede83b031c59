"""A plain folder passes the contract of local copies, on the file system that is here; and what is true of it only."""

from __future__ import annotations

import asyncio
import mmap
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drover.agent.storage import mounts
from drover.agent.storage.base import NotBlank, Runner, Volume
from drover.agent.storage.contract_carry import carry, copies, move
from drover.agent.storage.contract_copies import TreesContract
from drover.agent.storage.directory import DirectoryBackend
from drover.agent.storage.directory_place import Place, State
from drover.agent.storage.two_nodes import Traits, TwoNodes, two_nodes, write_synced

MiB = 1 << 20


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """An ext4 of its own, in memory: each round syncs a whole file system, and others write to the one that is here."""
    root = Path(tempfile.mkdtemp(dir="/dev/shm"))
    with (root / "image").open("wb") as file:
        file.truncate(512 * MiB)
    subprocess.run(["mkfs.ext4", "-q", root / "image"], check=True, timeout=30)
    (root / "disk").mkdir()
    subprocess.run(["mount", "-o", "loop", root / "image", root / "disk"], check=True, timeout=30)
    yield root / "disk"
    mounts.unmount(str(root / "disk"))
    shutil.rmtree(root)


@pytest.fixture
def folders(disk: Path) -> Iterator[Path]:
    """One folder a node, called as it is."""
    made = Path(tempfile.mkdtemp(dir=disk))
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def nodes(folders: Path, tmp_path: Path) -> AsyncIterator[TwoNodes]:
    def lose(volume: Volume) -> None:
        for name in ("a", "b"):
            for tree in ("live", "copy"):
                shutil.rmtree(folders / name / volume.uid / tree, ignore_errors=True)

    def make(name: str, runner: Runner) -> DirectoryBackend:
        (folders / name).mkdir()
        return DirectoryBackend({"folder": str(folders / name)}, name, runner)

    traits = Traits(32 * MiB, 64 * MiB, MiB // 2, None, True, lose, lambda _: "", Path, enforced=False)
    async with two_nodes(make, tmp_path, traits) as nodes:
        yield nodes


def tree(path: Path) -> dict[bytes, object]:
    """All that there is to be known of it, by name."""
    found: dict[bytes, object] = {}
    links: dict[int, bytes] = {}
    root = os.fsencode(path)
    for directory, names, files in sorted(os.walk(root)):
        for name in sorted([*names, *files]):
            at = os.path.join(directory, name)
            it = os.lstat(at)
            content: object = None
            if stat.S_ISREG(it.st_mode):
                content = Path(os.fsdecode(at)).read_bytes()
            elif stat.S_ISLNK(it.st_mode):
                content = os.readlink(at)
            names_ = os.listxattr(at, follow_symlinks=False)
            attributes = {key: os.getxattr(at, key, follow_symlinks=False) for key in names_}
            first = links.setdefault(it.st_ino, os.path.relpath(at, root))
            about = (it.st_mode, it.st_uid, it.st_gid, it.st_mtime_ns, it.st_rdev, it.st_nlink, first)
            found[os.path.relpath(at, root)] = (about, attributes, content)
    return found


@pytest.mark.long
class TestDirectory(TreesContract):
    """All of the contract; what a folder has of its own is below, and shows in seconds that it works."""


class TestFolder:
    async def test_everything_that_a_file_system_has_survives_there_and_back(
        self, nodes: TwoNodes, folders: Path
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        at = nodes.a.path(volume)
        (at / "file").write_text("data")
        os.link(at / "file", at / "link")
        (at / "deep" / "er").mkdir(parents=True)
        os.link(at / "file", at / "deep" / "er" / "third")
        (at / "to nowhere").symlink_to("/does/not/exist")
        (at / "outside").symlink_to(folders)
        odd = os.fsencode(at)
        for name in (b"new\nline", b"not utf-8 \xff\xfe", b" leading", b"-rf", b"a\\b", b"*", b"tab\t", b"x" * 255):
            Path(os.fsdecode(os.path.join(odd, name))).write_bytes(name)
        with (at / "sparse").open("wb") as file:
            file.truncate(64 * MiB)
            file.seek(32 * MiB)
            file.write(b"x" * 4096)
        os.setxattr(at / "file", "user.colour", b"blue\0")
        os.setxattr(at / "deep", "trusted.secret", b"\x01")
        # An ACL as the kernel keeps it (linux/posix_acl_xattr.h): rw- for user 33, and what goes with it.
        entries = ((1, 7, -1), (2, 6, 33), (4, 5, -1), (16, 7, -1), (32, 5, -1))
        acl = b"\x02\0\0\0" + b"".join(
            tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + (who & 0xFFFFFFFF).to_bytes(4, "little")
            for tag, bits, who in entries
        )
        os.setxattr(at / "deep", "system.posix_acl_access", acl)
        os.setxattr(at / "deep", "system.posix_acl_default", acl)
        os.mknod(at / "null", 0o620 | stat.S_IFCHR, os.makedev(1, 3))
        os.mkfifo(at / "fifo", 0o640)
        os.mknod(at / "socket", 0o600 | stat.S_IFSOCK)
        (at / "empty").mkdir(mode=0o1777)
        os.chown(at / "deep", 12345, 54321)
        os.chmod(at / "sparse", 0o4751)
        for path in (at / "file", at / "deep" / "er", at / "deep"):
            os.utime(path, ns=(1, 1_234_567_890_123_456_789))
        os.utime(at / "to nowhere", ns=(1, 987_654_321), follow_symlinks=False)
        before = tree(at)
        outside = os.stat(folders / "a").st_mode
        following, _ = await move(nodes.a, nodes.b, volume, token)
        assert tree(nodes.b.path(volume)) == before
        assert (nodes.b.path(volume) / "sparse").stat().st_blocks < 100
        (nodes.b.path(volume) / "link").unlink()
        (nodes.b.path(volume) / "outside").unlink()
        (nodes.b.path(volume) / "outside").mkdir()
        (nodes.b.path(volume) / "outside" / "a").write_text("inside")
        changed = tree(nodes.b.path(volume))
        await move(nodes.b, nodes.a, volume, following)
        assert tree(nodes.a.path(volume)) == changed
        assert os.stat(folders / "a").st_mode == outside
        assert (folders / "a").is_dir()

    async def test_what_is_written_again_with_the_same_size_and_time_arrives(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        file = nodes.a.path(volume) / "file"
        file.write_text("first")
        written = file.stat()
        await carry(nodes.a, nodes.b, volume, token, await copies(nodes.a).snapshot(volume, token))
        file.write_text("again")
        os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))
        await move(nodes.a, nodes.b, volume, token)
        assert (nodes.b.path(volume) / "file").read_text() == "again"

    async def test_what_is_stored_through_a_mapping_without_a_new_time_arrives(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        file = nodes.a.path(volume) / "mapped"
        write_synced(file, 4096)
        with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 4096) as mapped:
            mapped[0:1] = b"1"
            await carry(nodes.a, nodes.b, volume, token, await copies(nodes.a).snapshot(volume, token))
            mapped[0:6] = b"stored"
        await move(nodes.a, nodes.b, volume, token)
        assert (nodes.b.path(volume) / "mapped").read_bytes()[:6] == b"stored"

    @pytest.mark.long
    async def test_names_that_changed_places_do_not_share_what_they_are_links_of(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        at = nodes.a.path(volume)
        for name in ("one", "two"):
            (at / name).mkdir()
            (at / name / "file").write_text(f"the content of {name}")
        os.link(at / "one" / "file", at / "linked")
        await carry(nodes.a, nodes.b, volume, token, await copies(nodes.a).snapshot(volume, token))
        (at / "one").rename(at / "three")
        (at / "two").rename(at / "one")
        (at / "three").rename(at / "two")
        before = tree(at)
        await move(nodes.a, nodes.b, volume, token)
        assert tree(nodes.b.path(volume)) == before

    @pytest.mark.long
    async def test_rounds_under_a_workload_that_makes_and_removes_files_arrive(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        busy = "cd $0; while :; do for i in 1 2 3 4 5 6 7 8 9; do head -c 99999 /dev/zero > f$i; done; rm f*; done"
        process = subprocess.Popen(["sh", "-c", busy, str(nodes.a.path(volume))])  # noqa: ASYNC220
        try:
            for _ in range(3):
                await carry(nodes.a, nodes.b, volume, token, await copies(nodes.a).snapshot(volume, token))
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)
        await nodes.a.backend.unpublish(volume)
        await nodes.a.publish(volume, token)
        before = tree(nodes.a.path(volume))
        await move(nodes.a, nodes.b, volume, token)
        assert tree(nodes.b.path(volume)) == before

    async def test_after_the_clock_was_set_the_content_of_all_files_is_compared(
        self, nodes: TwoNodes, folders: Path
    ) -> None:
        volume, token = await nodes.volume()
        at = Place(str(folders / "a"), volume.dataset, volume.uid)
        await copies(nodes.a).snapshot(volume, token)
        made = State.read(at).marks[-1]
        assert made.since == made.at
        for other in (replace(made, boot="another"), replace(made, ahead=made.ahead + 60)):
            assert other.since is None

    @pytest.mark.parametrize("sealed", [pytest.param(False, marks=pytest.mark.long), True])
    async def test_what_was_written_in_an_earlier_epoch_only_is_set_aside_before_the_next_one_comes(
        self, nodes: TwoNodes, folders: Path, sealed: bool
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        following, _ = await move(nodes.a, nodes.b, volume, token)
        await nodes.a.publish(volume, token)  # as a node does that does not know of the handover
        (nodes.a.path(volume) / "diverged").write_text("data")
        await nodes.a.backend.unpublish(volume)
        if sealed:
            await copies(nodes.a).seal(volume, token)
        await move(nodes.b, nodes.a, volume, following)
        assert list(nodes.a.path(volume).iterdir()) == []
        assert (folders / "a" / volume.uid / "diverged-1" / "diverged").read_text() == "data"

    async def test_what_is_there_without_a_record_is_left_alone(self, nodes: TwoNodes, folders: Path) -> None:
        volume, token = nodes.unmade()
        stranger = folders / "a" / volume.uid
        stranger.mkdir()
        (stranger / "file").write_text("data")
        with pytest.raises(NotBlank):
            await nodes.a.backend.create(volume, token)
        assert (stranger / "file").read_text() == "data"


@pytest.mark.parametrize(
    ("settings", "says"),
    [({}, "folder: must be"), ({"folder": "rel"}, "absolute"), ({"folder": "/proc"}, "proc"), ({"pool": "/"}, "pool")],
)
def test_wrong_settings_are_said_in_one_line(settings: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says) as wrong:
        DirectoryBackend(settings, "a", None)  # type: ignore[arg-type]
    assert "\n" not in str(wrong.value)
