"""btrfs passes the contract of local copies, on real file systems; and what is true of btrfs only."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from drover.agent.storage import btrfs_ioctl, loopdev, mounts
from drover.agent.storage.base import NoRoom, NotBlank, Runner, TellsChanges, Volume
from drover.agent.storage.btrfs import BtrfsBackend
from drover.agent.storage.contract_carry import carry, copies, move
from drover.agent.storage.contract_copies import CopiesContract, ReadableContract
from drover.agent.storage.contract_named import NamedContract
from drover.agent.storage.two_nodes import Traits, TwoNodes, two_nodes, write_synced

MiB = 1 << 20


class Pools:
    """One file system a node, with quotas."""

    def __init__(self, root: Path) -> None:
        self.at = {name: root / f"pool-{name}" for name in ("a", "b")}
        for name, path in self.at.items():
            image = root / f"{name}.img"
            with image.open("wb") as file:
                file.truncate(512 * MiB)
            subprocess.run(
                ["mkfs.btrfs", "-q", "-m", "single", image], check=True, stdout=subprocess.DEVNULL, timeout=30
            )
            path.mkdir()
            subprocess.run(["mount", "-o", "loop", image, path], check=True, timeout=30)
            subprocess.run(["btrfs", "quota", "enable", path], check=True, timeout=30)
            (path / "drover").mkdir()

    def pool(self, name: str) -> Path:
        return self.at[name] / "drover"

    def lose(self, volume: Volume) -> None:
        for name in self.at:
            directory = self.pool(name) / volume.uid
            for path in (directory / "live", directory / "next", *directory.glob("snapshots/*/data")):
                if path.exists():
                    btrfs_ioctl.delete(str(path))

    def close(self) -> None:
        for path in self.at.values():
            mounts.unmount(str(path))


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    """For all tests of this file: each makes volumes of its own."""
    pools = Pools(tmp_path_factory.mktemp("btrfs"))
    yield pools
    pools.close()


@pytest.fixture
async def nodes(pools: Pools, tmp_path: Path) -> AsyncIterator[TwoNodes]:
    def make(name: str, runner: Runner) -> BtrfsBackend:
        return BtrfsBackend({"pool": str(pools.pool(name))}, name, runner)

    traits = Traits(32 * MiB, 64 * MiB, MiB // 2, None, True, pools.lose, lambda _: "", Path)
    async with two_nodes(make, tmp_path, traits) as nodes:
        yield nodes
    for name in pools.at:
        for record in pools.pool(name).glob("*/volume.json"):
            for path in _subvolumes(record.parent):
                btrfs_ioctl.delete(str(path))
            shutil.rmtree(record.parent)


def _subvolumes(directory: Path) -> list[Path]:
    found = (
        *directory.glob("*"),
        *directory.glob("incoming/*"),
        *directory.glob("snapshots/*/*"),
        *directory.glob("named/*/*"),
    )
    return [path for path in found if btrfs_ioctl.info(str(path))]


class TestBtrfs(CopiesContract, ReadableContract, NamedContract):
    async def test_a_volume_cannot_outgrow_its_size(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        with pytest.raises(OSError, match="quota"):
            write_synced(nodes.a.path(volume) / "file", 2 * volume.size)
        following, _ = await move(nodes.a, nodes.b, volume, token)
        (nodes.b.path(volume) / "file").unlink()
        await copies(nodes.b).presync(volume)
        with pytest.raises(OSError, match="quota"):
            write_synced(nodes.b.path(volume) / "file", 2 * volume.size)
        assert following.epoch == 2

    async def test_no_writable_copy_ever_says_that_it_was_received(self, nodes: TwoNodes, pools: Pools) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        following, _ = await move(nodes.a, nodes.b, volume, token)
        await move(nodes.b, nodes.a, volume, following)
        for name in pools.at:
            for path in _subvolumes(pools.pool(name) / volume.uid):
                found = btrfs_ioctl.info(str(path))
                assert found
                assert found.read_only or not found.received

    async def test_it_can_be_received_again_where_the_last_time_was_cut_off_at_its_end(
        self, nodes: TwoNodes, pools: Pools
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        following, _ = await move(nodes.a, nodes.b, volume, token)
        (pools.pool("a") / volume.uid / "incoming").rmdir()
        back, _ = await move(nodes.b, nodes.a, volume, following)
        assert back.epoch == 3

    async def test_the_deadline_finds_what_was_bound_from_a_pool_that_somebody_unmounted_lazily(
        self, nodes: TwoNodes, pools: Pools, tmp_path: Path
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        where = nodes.a.path(volume)
        there, kept = str(pools.at["a"]), str(tmp_path / "kept")
        os.mkdir(kept)
        mounts.mount(there, kept, "none", mounts.MS_BIND)
        mounts.unmount(there, mounts.MNT_DETACH)
        try:
            assert await nodes.a.cut() == []
            assert str(where) not in {mount.path for mount in mounts.table()}
        finally:
            mounts.mount(kept, there, "none", mounts.MS_BIND)
            mounts.unmount(kept)

    async def test_what_is_there_without_a_record_is_left_alone(self, nodes: TwoNodes, pools: Pools) -> None:
        volume, token = nodes.unmade()
        stranger = pools.pool("a") / volume.uid
        stranger.mkdir()
        (stranger / "file").write_text("data")
        with pytest.raises(NotBlank):
            await nodes.a.backend.create(volume, token)
        (stranger / "file").unlink()
        stranger.rmdir()

    async def test_a_full_target_says_so_and_keeps_what_it_had(self, nodes: TwoNodes, pools: Pools) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        first = await copies(nodes.a).snapshot(volume, token)
        await carry(nodes.a, nodes.b, volume, token, first)
        write_synced(nodes.a.path(volume) / "file", 16 * MiB)
        rubbish = pools.at["b"] / "rubbish"
        free = os.statvfs(pools.at["b"]).f_bavail * 4096
        with rubbish.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free - 8 * MiB, 0))
        try:
            with pytest.raises((NoRoom, subprocess.CalledProcessError)):
                await carry(nodes.a, nodes.b, volume, token, await copies(nodes.a).snapshot(volume, token))
        finally:
            rubbish.unlink()
            btrfs_ioctl.sync(str(pools.at["b"]))
        await copies(nodes.b).discard(volume)
        assert list(await copies(nodes.b).snapshots(volume)) == [first]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "pool: must be an absolute path, not None"),
        ({"pool": "/no/such"}, "pool: there is no directory /no/such"),
        ({"pool": "/proc"}, "pool: /proc is not on btrfs"),
        ({"pool": "/tmp", "size": 1}, "size: unknown key; there is pool"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_the_key(settings: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError) as error:
        BtrfsBackend(settings, "a", runner=None)  # type: ignore[arg-type]
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


def test_size_is_counted_with_what_a_snapshot_shares(pools: Pools) -> None:
    path = str(pools.pool("a") / "counted")
    btrfs_ioctl.create(path)
    write_synced(Path(path) / "file", MiB)
    btrfs_ioctl.snapshot(path, f"{path}-2", read_only=False)
    btrfs_ioctl.sync(path)
    try:
        assert all((btrfs_ioctl.referenced(p) or 0) >= MiB for p in (path, f"{path}-2"))
    finally:
        btrfs_ioctl.delete(path)
        btrfs_ioctl.delete(f"{path}-2")


@pytest.mark.parametrize("waits", [True, False])
async def test_what_the_target_has_said_to_have_survives_a_power_cut_and_what_it_has_not_may_not(
    tmp_path: Path, waits: bool
) -> None:
    """waits: for the check that makes it durable; without it, this very test loses data."""
    pools = Pools(tmp_path)
    pool = tmp_path / "pool-b"
    try:

        def make(name: str, runner: Runner) -> BtrfsBackend:
            return BtrfsBackend({"pool": str(pools.pool(name))}, name, runner)

        traits = Traits(32 * MiB, 64 * MiB, MiB // 2, None, True, pools.lose, lambda _: "")
        async with two_nodes(make, tmp_path / "nodes", traits) as nodes:
            volume, token = await nodes.volume()
            await nodes.a.publish(volume, token)
            write_synced(nodes.a.path(volume) / "file", 4 * MiB)
            taken = await copies(nodes.a).snapshot(volume, token)
            await carry(nodes.a, nodes.b, volume, token, taken, checked=waits)
            [loop] = [loop for loop in loopdev.scan() if loop.image == str(tmp_path / "b.img")]
            loopdev.cut_off(loop)
        mounts.unmount(str(pool))
        await asyncio.to_thread(subprocess.run, ["mount", "-o", "loop", str(tmp_path / "b.img"), str(pool)], check=True)
        directory = pools.pool("b") / volume.uid
        whole = [file.stat().st_blocks * 512 for file in directory.glob("*/**/file") if "next" not in file.parts]
        assert (whole == [4 * MiB]) is waits
    finally:
        pools.close()


async def test_what_has_changed_since_the_newest_snapshot_is_told_and_that_nothing_has(nodes: TwoNodes) -> None:
    volume, token = await nodes.volume()
    await nodes.a.publish(volume, token)
    backend = nodes.a.backend
    assert isinstance(backend, TellsChanges)
    write_synced(nodes.a.path(volume) / "file", 1 << 20)
    taken = await copies(nodes.a).snapshot(volume, token)
    assert await backend.changed(volume, taken) == 0
    (nodes.a.path(volume) / "file").read_bytes()
    await copies(nodes.a).presync(volume)
    assert await backend.changed(volume, taken) == 0
    write_synced(nodes.a.path(volume) / "file", 2 << 20)
    assert await backend.changed(volume, taken) != 0
    await copies(nodes.a).presync(volume)
    assert (await backend.changed(volume, taken) or 0) >= 2 << 20
    again = await copies(nodes.a).snapshot(volume, token)
    assert await backend.changed(volume, again) == 0
