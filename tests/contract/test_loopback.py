"""Loopback passes the storage contract, on real loop devices; and what is true of loopback only."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from drover.agent.storage import loopdev, mounts
from drover.agent.storage.base import (
    Attached,
    Away,
    Busy,
    Damaged,
    Foreign,
    NoRoom,
    NotBlank,
    Runner,
    StorageError,
    Superseded,
    Volume,
)
from drover.agent.storage.contract import Contract, newer
from drover.agent.storage.loopback import LoopbackBackend
from drover.agent.storage.two_nodes import Traits, TwoNodes, two_nodes, write_synced

MiB = 1 << 20


class Shared:
    """One directory with images, which each node sees under a path of its own, as in a playground."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "shared"
        self.directory.mkdir()
        self.seen = {name: root / "nodes" / name / "shared" for name in ("a", "b")}

    def attach(self) -> None:
        for path in self.seen.values():
            path.mkdir(parents=True)
            mounts.mount(str(self.directory), str(path), "none", mounts.MS_BIND)

    def detach(self) -> None:
        for path in self.seen.values():
            mounts.unmount(str(path))

    def image(self, volume: Volume) -> Path:
        return self.directory / f"{volume.uid}.img"

    def sidecar(self, volume: Volume) -> Path:
        return self.directory / f"{volume.uid}.json"

    def lose(self, volume: Volume) -> None:
        self.image(volume).unlink()

    def stored(self, volume: Volume) -> str:
        """Of the sidecar and of all blocks of the image that are not zero; holes are passed over."""
        digest = hashlib.sha256(self.sidecar(volume).read_bytes())
        with self.image(volume).open("rb") as image:
            end, at = os.fstat(image.fileno()).st_size, 0
            while at < end:
                try:
                    at = os.lseek(image.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                hole = os.lseek(image.fileno(), at, os.SEEK_HOLE)
                for block in range(at, hole, 4096):
                    if any(data := os.pread(image.fileno(), 4096, block)):
                        digest.update(f"{block}:".encode() + data)
                at = hole
        return digest.hexdigest()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    shared = Shared(tmp_path)
    shared.attach()
    yield shared
    left = [loop for loop in loopdev.scan() if loop.image.startswith(str(tmp_path))]
    shared.detach()
    assert left == []


def traits(shared: Shared, fs: str) -> Traits:
    may_resize = int(Path("/proc/self/status").read_text().split("CapEff:")[1].split()[0], 16) & (1 << 24)
    if fs == "xfs":
        return Traits(300 * MiB, 400 * MiB, 299 * MiB, None, True, shared.lose, shared.stored)
    return Traits(32 * MiB, 64 * MiB, 8 * MiB, "ext4", bool(may_resize), shared.lose, shared.stored)


@pytest.fixture
async def nodes(shared: Shared, request: pytest.FixtureRequest) -> AsyncIterator[TwoNodes]:
    """fs: the class's."""

    def make(name: str, runner: Runner) -> LoopbackBackend:
        return LoopbackBackend({"directory": str(shared.seen[name])}, name, runner)

    async with two_nodes(make, shared.root, traits(shared, request.cls.fs)) as nodes:
        yield nodes


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def namespace(script: str) -> Iterator[int]:
    """A process in a mount namespace of its own, in which this shell script has run; its number."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{script}; echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/") as process:
        try:
            assert process.stdout
            assert process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


class TestXfs(Contract):
    fs = "xfs"

    async def test_while_what_was_severed_is_still_mounted_on_this_computer_it_is_busy_and_not_damaged(
        self, nodes: TwoNodes, shared: Shared
    ) -> None:
        volume, token = await nodes.volume()
        there = await nodes.a.publish(volume, token)
        write_synced(there.path / "kept", MiB)
        # As it is when the agent of node a hangs: the mount stands, and a process of its workload is in it.
        with namespace(f"cd {there.path}") as pid:
            await nodes.b.backend.sever(volume, newer(token), "a")
            for _ in range(2):
                with pytest.raises(
                    Busy, match=rf"with its UUID is still mounted .* {there.device} .*\({pid}\)"
                ) as busy:
                    await nodes.b.publish(volume, newer(token))
                assert str(shared.seen["a"] / f"{volume.uid}.img") in str(busy.value)
            assert await nodes.b.here(volume) == Away()
        assert await nodes.a.cut() == []
        mounted = await nodes.b.publish(volume, newer(token))
        assert (mounted.path / "kept").stat().st_size == MiB


class TestExt4(Contract):
    fs = "ext4"

    async def test_direct_io_is_on_and_autoclear_is_off(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        mounted = await nodes.a.publish(volume, token)
        [loop] = [loop for loop in loopdev.scan() if loop.path == mounted.device]
        assert loop.direct_io()
        assert Path(f"/sys/block/{loop.name}/loop/autoclear").read_text().strip() == "0"

    async def test_what_holds_the_image_is_named_by_the_path_of_its_node(self, nodes: TwoNodes, shared: Shared) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        with pytest.raises(Busy) as busy:
            await nodes.b.publish(volume, newer(token))
        assert busy.value.by == str(shared.seen["a"] / f"{volume.uid}.img")

    async def test_an_image_that_losetup_attached_is_busy(self, nodes: TwoNodes, shared: Shared) -> None:
        volume, token = await nodes.volume()
        device = output("losetup", "--find", "--show", shared.image(volume)).strip()
        try:
            with pytest.raises(Busy, match=f"losetup -d {device}"):
                await nodes.a.publish(volume, token)
            with pytest.raises(Busy):
                await nodes.a.backend.destroy(volume, token)
        finally:
            output("losetup", "-d", device)
        await nodes.a.publish(volume, token)

    async def test_of_two_nodes_that_publish_at_once_one_is_busy(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        for _ in range(5):
            results = await asyncio.gather(
                nodes.a.publish(volume, token), nodes.b.publish(volume, token), return_exceptions=True
            )
            assert sorted(isinstance(result, Busy) for result in results) == [False, True], results
            for node in (nodes.a, nodes.b):
                await node.backend.unpublish(volume)

    async def test_a_device_that_was_left_attached_is_adopted(self, nodes: TwoNodes, shared: Shared) -> None:
        volume, token = await nodes.volume()
        with (shared.seen["a"] / f"{volume.uid}.img").open("r+b") as image:
            loop = loopdev.attach(image.fileno(), direct_io=True)
        assert await nodes.a.here(volume) == Attached(loop.path)
        assert (await nodes.a.publish(volume, token)).device == loop.path

    async def test_a_device_that_was_cut_off_is_attached_anew(self, nodes: TwoNodes, shared: Shared) -> None:
        volume, token = await nodes.volume()
        with (shared.seen["a"] / f"{volume.uid}.img").open("r+b") as image:
            loopdev.cut_off(loopdev.attach(image.fileno(), direct_io=True))
        mounted = await nodes.a.publish(volume, token)
        assert mounted.size == volume.size
        (mounted.path / "file").write_bytes(os.urandom(MiB))

    async def test_after_sever_no_write_of_the_other_node_arrives_and_the_volume_can_be_published_here(
        self, nodes: TwoNodes
    ) -> None:
        volume, token = await nodes.volume()
        there = await nodes.a.publish(volume, token)
        write_synced(there.path / "kept", MiB)
        with pytest.raises(Superseded):
            await nodes.b.backend.sever(volume, replace(token, epoch=0), "a")
        write_synced(there.path / "kept too", MiB)
        await nodes.b.backend.sever(volume, newer(token), "a")
        with pytest.raises(OSError):
            write_synced(there.path / "lost", MiB)
        here = await nodes.b.publish(volume, newer(token))
        assert sorted(file.name for file in here.path.glob("kept*")) == ["kept", "kept too"]
        assert await nodes.a.cut() == []
        write_synced(here.path / "still", MiB)

    async def test_an_image_without_a_record_is_left_alone(self, nodes: TwoNodes, shared: Shared) -> None:
        volume, token = await nodes.volume()
        record = shared.sidecar(volume).read_bytes()
        shared.sidecar(volume).unlink()
        for verb in (lambda: nodes.a.publish(volume, token), lambda: nodes.a.backend.destroy(volume, token)):
            with pytest.raises(Foreign, match="no record of whose it is"):
                await verb()
        with pytest.raises(NotBlank, match="left alone"):
            await nodes.a.backend.create(volume, token)
        shared.sidecar(volume).write_bytes(record)
        await nodes.a.publish(volume, token)

    async def test_a_record_that_cannot_be_read_stops_everything(self, nodes: TwoNodes, shared: Shared) -> None:
        volume, token = await nodes.volume()
        shared.sidecar(volume).write_text('{"format": 1, "uid":')
        for verb in (
            lambda: nodes.a.publish(volume, token),
            lambda: nodes.a.backend.create(volume, token),
            lambda: nodes.a.backend.destroy(volume, token),
        ):
            with pytest.raises(Damaged, match="put it back"):
                await verb()
        assert shared.image(volume).exists()

    async def test_the_record_says_whose_it_is_and_who_had_it_last(self, nodes: TwoNodes, shared: Shared) -> None:
        volume, token = await nodes.volume()
        await nodes.b.publish(volume, newer(token))
        assert json.loads(shared.sidecar(volume).read_text()) == {
            "format": 1,
            "dataset": "pgdata",
            "uid": volume.uid,
            "size": volume.size,
            "fs": "ext4",
            "cluster": token.cluster,
            "epoch": 2,
            "incarnation": "incarnation-2",
            "holder": "b",
            "formatted": True,
        }

    async def test_a_half_made_image_is_made_anew(self, nodes: TwoNodes, shared: Shared) -> None:
        volume, token = await nodes.volume()
        record = json.loads(shared.sidecar(volume).read_text())
        shared.sidecar(volume).write_text(json.dumps(record | {"formatted": False}))
        with shared.image(volume).open("r+b") as image:
            image.write(b"half an mkfs" * 1000)
        await nodes.a.backend.create(volume, token)
        await nodes.a.publish(volume, token)

    async def test_a_volume_larger_than_what_is_free_is_refused_and_leaves_nothing(
        self, nodes: TwoNodes, shared: Shared
    ) -> None:
        volume, token = nodes.unmade()
        with pytest.raises(NoRoom, match=r"no room for 1 PiB in .* \(it would not fit; .* free\)"):
            await nodes.a.backend.create(replace(volume, size=1 << 50), token)
        assert list(shared.directory.iterdir()) == []

    async def test_a_mount_that_somebody_elses_namespace_inherited_does_not_hold_it(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        with namespace("true"):
            await nodes.a.backend.unpublish(volume)
            assert await nodes.a.here(volume) == Away()

    async def test_a_mount_made_on_purpose_in_another_namespace_is_busy_and_named(
        self, nodes: TwoNodes, tmp_path: Path
    ) -> None:
        volume, token = await nodes.volume()
        mounted = await nodes.a.publish(volume, token)
        other = tmp_path / "other"
        other.mkdir()
        with namespace(f"mount --bind {mounted.path} {other}; umount {mounted.path}") as pid:
            with pytest.raises(Busy, match=rf"the mount {other} in the namespace of process {pid}"):
                await nodes.a.backend.unpublish(volume)
        await nodes.a.backend.unpublish(volume)

    async def test_what_is_mounted_over_it_is_not_unmounted_in_its_place(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        mounted = await nodes.a.publish(volume, token)
        mounts.mount("none", str(mounted.path), "tmpfs")
        try:
            with pytest.raises(Busy, match="inside it"):
                await nodes.a.backend.unpublish(volume)
            at = [mount.fs for mount in mounts.table() if mount.path == str(mounted.path)]
            assert at == ["ext4", "tmpfs"]
        finally:
            mounts.unmount(str(mounted.path))

    async def test_a_path_that_something_else_is_mounted_at_is_busy(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        path = nodes.a.path(volume)
        path.mkdir(parents=True)
        mounts.mount("none", str(path), "tmpfs")
        try:
            with pytest.raises(Busy, match="is taken"):
                await nodes.a.publish(volume, token)
            assert await nodes.a.here(volume) == Away()
        finally:
            mounts.unmount(str(path))

    async def test_a_damaged_file_system_is_left_as_it_is_and_says_what_to_do(
        self, nodes: TwoNodes, shared: Shared
    ) -> None:
        volume, token = await nodes.volume()
        with shared.image(volume).open("r+b") as image:
            image.write(os.urandom(MiB))
        before = shared.image(volume).read_bytes()
        with pytest.raises(Damaged, match="on a copy of the image, or restore a backup"):
            await nodes.a.publish(volume, token)
        assert shared.image(volume).read_bytes() == before
        assert await nodes.a.here(volume) == Away()

    async def test_a_file_system_that_noted_errors_is_checked_before_it_is_mounted(
        self, nodes: TwoNodes, shared: Shared
    ) -> None:
        volume, token = await nodes.volume()
        output("debugfs", "-w", "-R", "ssv state 2", shared.image(volume))
        await nodes.a.publish(volume, token)
        await nodes.a.backend.unpublish(volume)
        assert "Filesystem state:         clean" in output("dumpe2fs", "-h", shared.image(volume))

    async def test_two_copies_of_an_image_that_are_one_device_too_many_are_refused(
        self, nodes: TwoNodes, shared: Shared
    ) -> None:
        volume, token = await nodes.volume()
        for _ in range(2):
            with (shared.seen["a"] / f"{volume.uid}.img").open("r+b") as image:
                loopdev.attach(image.fileno(), direct_io=True)
        with pytest.raises(Busy, match="more than once"):
            await nodes.a.publish(volume, token)
        await nodes.a.backend.unpublish(volume)
        await nodes.a.publish(volume, token)


class TestFullDirectory:
    """On a small file system of its own."""

    fs = "ext4"

    @pytest.fixture
    def shared(self, tmp_path: Path) -> Iterator[Shared]:
        shared = Shared(tmp_path)
        mounts.mount("none", str(shared.directory), "tmpfs", data="size=40m")
        shared.attach()
        yield shared
        shared.detach()
        mounts.unmount(str(shared.directory))

    def fill(self, shared: Shared, leave: int) -> Path:
        found = os.statvfs(shared.directory)
        rubbish = shared.directory / "rubbish"
        with rubbish.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - leave)
        return rubbish

    async def test_create_says_so_and_leaves_no_rubbish(self, nodes: TwoNodes, shared: Shared) -> None:
        rubbish = self.fill(shared, leave=4 * MiB)
        volume, token = nodes.unmade()
        with pytest.raises(NoRoom, match=r"no room for 32 MiB .*4 MiB free"):
            await nodes.a.backend.create(volume, token)
        assert list(shared.directory.iterdir()) == [rubbish]

    async def test_publish_with_a_token_that_cannot_be_stored_says_so_and_changes_nothing(
        self, nodes: TwoNodes, shared: Shared
    ) -> None:
        volume, token = await nodes.volume()
        before = shared.stored(volume)
        rubbish = self.fill(shared, leave=0)
        with pytest.raises(NoRoom, match="0 B free"):
            await nodes.a.publish(volume, newer(token))
        assert await nodes.a.here(volume) == Away()
        assert shared.stored(volume) == before
        assert not [path for path in shared.directory.iterdir() if path.suffix == ".tmp"]
        rubbish.unlink()
        await nodes.a.publish(volume, newer(token))

    async def test_what_is_made_or_grown_can_be_written_in_full_when_the_directory_has_filled_up(
        self, nodes: TwoNodes, shared: Shared
    ) -> None:
        made, token = await nodes.volume()
        await nodes.a.publish(made, token)
        volume = replace(made, size=made.size + 4 * MiB)
        with suppress(StorageError):  # some kernels grow ext4 at the next publish only
            await nodes.a.backend.grow(volume)
        await nodes.a.backend.unpublish(volume)
        mounted = await nodes.a.publish(volume, token)
        assert mounted.size == volume.size
        self.fill(shared, leave=0)
        with (mounted.path / "file").open("wb") as file:
            free = os.statvfs(mounted.path)
            for _ in range(free.f_bavail * free.f_frsize // MiB):
                file.write(os.urandom(MiB))
            file.flush()
            os.fsync(file.fileno())
        await nodes.a.backend.unpublish(volume)
        again = await nodes.a.publish(volume, token)
        assert (again.path / "file").stat().st_size > 24 * MiB

    async def test_grow_beyond_what_is_free_is_refused_and_changes_nothing(
        self, nodes: TwoNodes, shared: Shared
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        with pytest.raises(NoRoom):
            await nodes.a.backend.grow(replace(volume, size=1 << 40))
        assert shared.image(volume).stat().st_size == volume.size


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "directory: must be an absolute path, not None"),
        ({"directory": "images"}, "directory: must be an absolute path, not 'images'"),
        ({"directory": "/no/such"}, "directory: there is no directory /no/such"),
        ({"directory": "/tmp", "direct_io": "yes"}, "direct_io: must be true or false"),
        ({"directory": "/tmp", "dir": "/tmp"}, "dir: unknown key; there are directory and direct_io"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_the_key(settings: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError) as error:
        LoopbackBackend(settings, "a", runner=None)  # type: ignore[arg-type]
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_refusals_name_the_other_file_system_where_it_would_do() -> None:
    refuse = LoopbackBackend.limits.refuse
    assert refuse(100 * MiB, None) == "size 100 MiB is too small: xfs needs at least 300 MiB; ask for more, or for ext4"
    assert refuse(MiB, "ext4") == "size 1 MiB is too small: ext4 needs at least 16 MiB; ask for more"
    assert refuse(300 * MiB, "xfs") == ""


async def test_health_says_that_the_directory_is_missing(tmp_path: Path) -> None:
    directory = tmp_path / "images"
    directory.mkdir()
    backend = LoopbackBackend({"directory": str(directory)}, "a", runner=None)  # type: ignore[arg-type]
    assert await backend.health() is None
    directory.rmdir()
    assert "is missing" in (await backend.health() or "")
