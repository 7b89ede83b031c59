"""ZFS passes the contract of local copies, on real pools; and what is true of ZFS only."""

from __future__ import annotations

import itertools
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from drover.agent.storage import mounts
from drover.agent.storage.base import NotBlank, Runner, Volume
from drover.agent.storage.contract_carry import carry, copies, move
from drover.agent.storage.contract_copies import CopiesContract
from drover.agent.storage.loopdev import until
from drover.agent.storage.two_nodes import Traits, TwoNodes, two_nodes, write_synced
from drover.agent.storage.zfs import ZfsBackend
from drover.agent.storage.zfs_command import Failed
from tests.zfs import Node, zfs_nodes

MiB = 1 << 20


class Pools:
    """One ZFS a node."""

    def __init__(self, directory: Path, nodes: dict[str, Node]) -> None:
        self.at, self._directory, self._numbers = nodes, directory, itertools.count()
        self._read: list[Path] = []

    def backend(self, name: str, runner: Runner) -> ZfsBackend:
        node = self.at[name]
        return ZfsBackend({"root": node.root, "programs": str(node.programs)}, name, runner)

    def directory(self) -> Path:
        """Another one each time."""
        return self._directory / f"test-{next(self._numbers)}"

    def lose(self, volume: Volume) -> None:
        for node in self.at.values():
            for name in ("next", "old", "data"):
                try:
                    node.zfs.zfs("destroy", "-r", f"{node.root}/{volume.uid}/{name}")
                except Failed as error:
                    if not error.absent:
                        raise

    def file(self, aside: str) -> Path:
        """What was set aside, where it can be read."""
        [node] = [one for one in self.at.values() if aside.startswith(f"{one.root}/")]
        path = self.directory()
        node.zfs.zfs("set", f"mountpoint={path}", aside)
        node.zfs.zfs("mount", aside)
        self._read.append(path)
        return path

    def close_files(self) -> None:
        for path in {mount.path for mount in mounts.table()} & {str(path) for path in self._read}:
            mounts.unmount(path)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    """For all tests of this file: each makes volumes of its own."""
    directory = tmp_path_factory.mktemp("zfs")
    with zfs_nodes(directory, "a", "b") as nodes:
        yield Pools(directory, nodes)


@pytest.fixture
async def nodes(pools: Pools) -> AsyncIterator[TwoNodes]:
    traits = Traits(32 * MiB, 64 * MiB, MiB // 2, None, True, pools.lose, lambda _: "", pools.file)
    async with two_nodes(pools.backend, pools.directory(), traits) as nodes:
        yield nodes
    pools.close_files()
    for node in pools.at.values():
        uids = node.zfs.zfs("list", "-H", "-o", "name", "-r", node.root).splitlines()
        for name in [uid for uid in uids if uid.count("/") == node.root.count("/") + 1]:
            assert until(lambda node=node, name=name: destroyed(node, name), 5)  # type: ignore[misc]


def destroyed(node: Node, name: str) -> bool:
    """Not where it is still busy: FUSE tells its daemon late that something was unmounted."""
    try:
        node.zfs.zfs("destroy", "-R", name)
    except Failed as error:
        return error.absent
    return True


class TestZfsInShort:
    """What a change breaks first; the whole of the contract takes a minute."""

    test_data_goes_from_a_to_b_and_back = (
        CopiesContract.test_data_goes_from_a_to_b_and_back_and_after_the_first_time_only_what_has_changed
    )
    test_a_stream_that_was_cut_off_leaves_nothing = (
        CopiesContract.test_a_stream_that_was_cut_off_leaves_nothing_and_can_be_sent_again
    )
    test_the_end_of_an_epoch = (
        CopiesContract.test_nothing_can_be_written_after_the_end_of_an_epoch_and_publish_takes_the_end_back
    )
    test_cut_names_who_still_holds_it = CopiesContract.test_cut_names_who_still_holds_it


@pytest.mark.long
class TestZfs(CopiesContract):
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

    async def test_nothing_is_mounted_but_by_drover(self, nodes: TwoNodes, pools: Pools) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        following, _ = await move(nodes.a, nodes.b, volume, token)
        await nodes.b.backend.unpublish(volume)
        for node in pools.at.values():
            node.zfs.zfs("mount", "-a")
        assert not [mount for mount in mounts.table() if volume.uid in mount.source]
        await nodes.b.publish(volume, following)

    async def test_another_programs_snapshot_on_the_target_does_not_stop_the_next_increment(
        self, nodes: TwoNodes, pools: Pools
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        await carry(nodes.a, nodes.b, volume, token, await copies(nodes.a).snapshot(volume, token))
        theirs = f"{pools.at['b'].root}/{volume.uid}/data@autosnap_2026-01-01"
        pools.at["b"].zfs.zfs("snapshot", theirs)
        write_synced(nodes.a.path(volume) / "file", MiB)
        assert await carry(nodes.a, nodes.b, volume, token, await copies(nodes.a).snapshot(volume, token))

    async def test_a_file_system_without_a_record_is_left_alone(self, nodes: TwoNodes, pools: Pools) -> None:
        volume, token = nodes.unmade()
        pools.at["a"].zfs.zfs("create", f"{pools.at['a'].root}/{volume.uid}")
        with pytest.raises(NotBlank):
            await nodes.a.backend.create(volume, token)

    async def test_what_is_read_only_since_the_deadline_can_be_written_once_it_is_published_again(
        self, nodes: TwoNodes, pools: Pools
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        assert await nodes.a.cut() == []
        root = pools.at["a"].root
        assert pools.at["a"].zfs.zfs("get", "-H", "-o", "value", "readonly", f"{root}/{volume.uid}/data") == "on\n"
        await nodes.a.publish(volume, token)
        write_synced(nodes.a.path(volume) / "file", MiB)

    @pytest.mark.zfs_fuse
    async def test_what_the_target_has_said_to_have_survives_that_its_machine_stops(
        self, nodes: TwoNodes, pools: Pools, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        write_synced(nodes.a.path(volume) / "file", 4 * MiB)
        taken = await copies(nodes.a).snapshot(volume, token)
        await carry(nodes.a, nodes.b, volume, token, taken)
        daemon = pools.at["b"].daemon
        assert daemon
        daemon.send_signal(signal.SIGSTOP)
        try:
            with zfs_nodes(tmp_path_factory.mktemp("again"), "c", image=pools.at["b"].image) as again:
                shown = again["c"].zfs.zfs("list", "-H", "-t", "snapshot", "-o", "name")
        finally:
            daemon.send_signal(signal.SIGCONT)
        assert f"{volume.uid}/data@{taken.name}" in shown


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "root: must be the name of a ZFS file system such as tank/drover, not None"),
        ({"root": "/tank"}, "root: must be the name of a ZFS file system such as tank/drover, not '/tank'"),
        ({"root": "tank/drover", "programs": "bin"}, "programs: must be an absolute path, not 'bin'"),
        ({"root": "tank/drover", "programs": "/no/such"}, "programs: zfs is not installed in /no/such"),
        ({"root": "tank/drover", "size": 1}, "size: unknown key; there are root and programs"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_the_key(settings: dict[str, object], line: str) -> None:
    with pytest.raises(ValueError) as error:
        ZfsBackend(settings, "a", runner=None)  # type: ignore[arg-type]
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("root", "says"), [("no-such-pool/drover", "is not there"), ("{pool}/no-such", "is not there")]
)
async def test_a_root_that_is_not_there_is_told(pools: Pools, root: str, says: str) -> None:
    node = pools.at["a"]
    settings = {"root": root.format(pool=node.pool), "programs": str(node.programs)}
    backend = ZfsBackend(settings, "a", runner=None)  # type: ignore[arg-type]
    assert says in (await backend.health() or "")
