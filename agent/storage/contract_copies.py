"""The suite that a back end with local copies must pass: as contract.py, but data is only where a copy is.

What travels between the nodes does so through a pipe here. Each test's name is a promise.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from drover.agent.storage.base import (
    Away,
    Busy,
    Damaged,
    Foreign,
    GateClosed,
    Mounted,
    NotFound,
    Readable,
    Snapshot,
    StorageError,
    Superseded,
    Volume,
)
from drover.agent.storage.contract import MOMENTS, insist, newer
from drover.agent.storage.contract_carry import carry, copies, move
from drover.agent.storage.contract_common import Common
from drover.agent.storage.two_nodes import Node, TwoNodes, write_synced


class TreesContract(Common):
    """What holds where there are no snapshots, too. Subclasses give the fixture `nodes`."""

    async def test_data_goes_from_a_to_b_and_back_and_after_the_first_time_only_what_has_changed(
        self, nodes: TwoNodes
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        write_synced(nodes.a.path(volume) / "large", 4 << 20)
        increments, lines, at = [], "", nodes.a
        for node in (nodes.b, nodes.a, nodes.b, nodes.a):
            lines += f"epoch {token.epoch}\n"
            (at.path(volume) / "log").write_text(lines)
            token, increment = await move(at, node, volume, token)
            assert (node.path(volume) / "log").read_text() == lines
            assert (node.path(volume) / "large").stat().st_size == 4 << 20
            increments.append(increment)
            at = node
        assert increments == [False, True, True, True]

    async def test_nothing_can_be_written_after_the_end_of_an_epoch_and_publish_takes_the_end_back(
        self, nodes: TwoNodes
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        (nodes.a.path(volume) / "kept").write_text("data")
        with pytest.raises(Busy):
            await copies(nodes.a).seal(volume, token)
        await nodes.a.backend.unpublish(volume)
        last = await copies(nodes.a).seal(volume, token)
        assert await copies(nodes.a).seal(volume, token) == last
        assert (await copies(nodes.a).snapshots(volume))[-1] == last
        await nodes.a.publish(volume, token)
        assert (nodes.a.path(volume) / "kept").read_text() == "data"
        (nodes.a.path(volume) / "more").write_text("data")
        await nodes.a.backend.unpublish(volume)
        again = await copies(nodes.a).seal(volume, token)
        assert again.guid != last.guid

    async def test_a_snapshot_is_of_one_moment_and_has_one_guid_on_all_nodes(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        taken = [await copies(nodes.a).snapshot(volume, token) for _ in range(2)]
        assert len({one.guid for one in taken}) == 2
        for one in taken:
            await carry(nodes.a, nodes.b, volume, token, one)
        assert list(await copies(nodes.b).snapshots(volume)) == taken == list(await copies(nodes.a).snapshots(volume))

    @pytest.mark.parametrize("most", [0, 40, 5000, -30])
    async def test_a_stream_that_was_cut_off_leaves_nothing_and_can_be_sent_again(
        self, nodes: TwoNodes, most: int
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        write_synced(nodes.a.path(volume) / "file", 1 << 20)
        taken = await copies(nodes.a).snapshot(volume, token)
        with pytest.raises(Damaged):
            await carry(nodes.a, nodes.b, volume, token, taken, most)
        assert list(await copies(nodes.b).snapshots(volume)) == []
        await carry(nodes.a, nodes.b, volume, token, taken)
        assert list(await copies(nodes.b).snapshots(volume)) == [taken]

    async def test_another_snapshot_than_the_one_that_was_said_does_not_count(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        taken = await copies(nodes.a).snapshot(volume, token)
        with pytest.raises((Damaged, subprocess.CalledProcessError)):
            await carry(nodes.a, nodes.b, volume, token, replace(taken, guid="another"))
        assert list(await copies(nodes.b).snapshots(volume)) == []

    async def test_a_working_copy_is_continued_only_if_its_epoch_is_the_one_that_wrote_last(
        self, nodes: TwoNodes
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        (nodes.a.path(volume) / "kept").write_text("data")
        await nodes.a.backend.unpublish(volume)
        with pytest.raises(NotFound, match="written in epoch 2"):
            await copies(nodes.a).materialise(volume, replace(newer(token), epoch=3), None, 2)
        await copies(nodes.a).materialise(volume, newer(token), None, 1)
        with pytest.raises(Superseded):
            await nodes.a.publish(volume, token)
        await nodes.a.publish(volume, newer(token))
        assert (nodes.a.path(volume) / "kept").read_text() == "data"

    async def test_without_its_base_there_is_no_working_copy(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await copies(nodes.b).expect(volume, token, ())
        with pytest.raises(NotFound):
            await copies(nodes.b).materialise(volume, newer(token), "no such", 1)
        with pytest.raises(StorageError):
            await nodes.b.publish(volume, newer(token))
        assert await nodes.b.here(volume) == Away()

    async def test_what_an_earlier_sender_still_sends_is_refused(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        taken = await copies(nodes.a).snapshot(volume, token)
        await copies(nodes.b).expect(volume, newer(token), ())
        with pytest.raises(Superseded):
            await carry(nodes.a, nodes.b, volume, token, taken)
        for verb in (
            lambda: copies(nodes.b).expect(volume, token, ()),
            lambda: nodes.b.backend.destroy(volume, token),
            lambda: copies(nodes.b).materialise(volume, token, None, 0),
        ):
            with pytest.raises(Superseded):
                await verb()

    async def test_another_clusters_volume_is_refused(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        theirs = replace(token, cluster="cluster-2", epoch=9)
        for verb in (
            lambda: nodes.a.publish(volume, theirs),
            lambda: nodes.a.backend.create(volume, theirs),
            lambda: nodes.a.backend.destroy(volume, theirs),
            lambda: copies(nodes.a).expect(volume, theirs, ()),
            lambda: copies(nodes.a).materialise(volume, theirs, None, 0),
            lambda: copies(nodes.a).snapshot(volume, theirs),
        ):
            with pytest.raises(Foreign, match="cluster-1"):
                await verb()

    async def test_a_node_that_has_it_mounted_receives_nothing(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        with pytest.raises(Busy):
            await copies(nodes.a).expect(volume, newer(token), ())
        (nodes.a.path(volume) / "still").write_text("writable")

    async def test_what_a_later_epoch_left_behind_is_set_aside_told_and_goes_only_when_it_is_discarded(
        self, nodes: TwoNodes
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        taken = await copies(nodes.a).snapshot(volume, token)
        (nodes.a.path(volume) / "besides").write_text("data")
        promoted = newer(token)
        with pytest.raises(Busy):
            await copies(nodes.a).set_aside(volume, promoted)
        await nodes.a.backend.unpublish(volume)
        assert await copies(nodes.a).diverged(volume) == []
        path = await copies(nodes.a).set_aside(volume, promoted)
        assert (nodes.traits.file(path) / "besides").read_text() == "data"
        assert await copies(nodes.a).set_aside(volume, promoted) == ""
        (told,) = await copies(nodes.a).diverged(volume)
        assert (told.epoch, told.path) == (token.epoch, path)
        assert (kept := list(await copies(nodes.a).snapshots(volume))) in ([taken], [])
        with pytest.raises(Superseded):
            await copies(nodes.a).discard_diverged(volume, token, told.guid)
        await copies(nodes.a).discard_diverged(volume, promoted, "another")
        assert await copies(nodes.a).diverged(volume) == [told]
        for _ in range(2):
            await copies(nodes.a).discard_diverged(volume, promoted, told.guid)
            assert await copies(nodes.a).diverged(volume) == []
        assert list(await copies(nodes.a).snapshots(volume)) == kept

    async def test_the_holders_own_working_copy_is_never_set_aside(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await copies(nodes.a).materialise(volume, newer(token), None, token.epoch)
        with pytest.raises(Superseded):
            await copies(nodes.a).set_aside(volume, token)
        assert await copies(nodes.a).set_aside(volume, newer(token)) == ""
        await nodes.a.publish(volume, newer(token))

    async def test_prune_keeps_the_newest_and_what_it_is_told_to(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        taken = [await copies(nodes.a).snapshot(volume, token) for _ in range(4)]
        await copies(nodes.a).prune(volume, {taken[1].guid})
        assert list(await copies(nodes.a).snapshots(volume)) == [taken[1], taken[3]]

    async def test_every_copy_is_told_with_its_token(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        await move(nodes.a, nodes.b, volume, token)
        told = [next(iter(await node.backend.stored())) for node in (nodes.a, nodes.b)]
        assert [one.token.epoch for one in told] == [1, 2]
        assert {(one.volume.uid, one.volume.dataset, one.born) for one in told} == {(volume.uid, "pgdata", True)}

    async def test_destroy_takes_all_copies_of_a_node(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        following, _ = await move(nodes.a, nodes.b, volume, token)
        with pytest.raises(Busy):
            await nodes.b.backend.destroy(volume, following)
        await nodes.b.backend.unpublish(volume)
        for node in (nodes.a, nodes.b):
            for _ in range(2):
                await node.backend.destroy(volume, following)
            assert await node.backend.reach(volume)
            assert list(await node.backend.stored()) == []

    async def test_a_new_dataset_under_an_old_name_is_another_volume(self, nodes: TwoNodes) -> None:
        old, old_token = await nodes.volume("reused")
        await nodes.a.publish(old, old_token)
        (nodes.a.path(old) / "old").write_text("data")
        await nodes.a.backend.unpublish(old)
        new, new_token = await nodes.volume("reused")
        await nodes.a.publish(new, new_token)
        assert not (nodes.a.path(new) / "old").exists()

    @pytest.mark.parametrize("moment", MOMENTS)
    async def test_whatever_a_killed_helper_left_half_done_is_finished_by_asking_again(
        self, nodes: TwoNodes, moment: float
    ) -> None:
        volume, token = nodes.unmade()
        a, b = nodes.a, nodes.b

        async def killed(node: Node, verb: object) -> None:
            node.runner.kill_after = moment
            await insist(verb)  # type: ignore[arg-type]

        await killed(a, lambda: a.backend.create(volume, token))
        await killed(a, lambda: a.publish(volume, token))
        (a.path(volume) / "kept").write_text("data")
        await killed(a, lambda: a.backend.unpublish(volume))
        await killed(a, lambda: copies(a).seal(volume, token))
        last = await copies(a).seal(volume, token)
        await killed(b, lambda: copies(b).expect(volume, token, ()))
        await carry(a, b, volume, token, last)
        following = newer(token)
        await killed(b, lambda: copies(b).materialise(volume, following, last.guid, 1))
        await killed(b, lambda: b.publish(volume, following))
        assert (b.path(volume) / "kept").read_text() == "data"
        await b.backend.unpublish(volume)
        await killed(b, lambda: b.backend.destroy(volume, following))
        assert await b.backend.reach(volume)

    async def test_missing_data_is_not_found_and_never_an_empty_file_system(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        nodes.traits.lose(volume)
        for verb in (lambda: nodes.a.publish(volume, token), lambda: nodes.a.backend.create(volume, token)):
            with pytest.raises(NotFound):
                await verb()
        assert await nodes.a.here(volume) == Away()

    async def test_cut_leaves_nothing_mounted_and_spares_the_other_node(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        write_synced(nodes.a.path(volume) / "synced", 1 << 20)
        assert await nodes.b.cut() == []
        assert isinstance(await nodes.a.here(volume), Mounted)
        assert await nodes.a.cut() == []
        assert await nodes.a.here(volume) == Away()
        await nodes.a.publish(volume, token)
        assert (nodes.a.path(volume) / "synced").stat().st_size == 1 << 20

    async def test_cut_names_who_still_holds_it(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        process = subprocess.Popen(["sleep", "60"], cwd=nodes.a.path(volume))  # noqa: ASYNC220
        try:
            assert f"sleep ({process.pid})" in (await nodes.a.cut())[0]
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert await nodes.a.cut() == []

    async def test_usage_counts_what_is_written(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        before = await nodes.a.usage(volume)
        write_synced(nodes.a.path(volume) / "file", 4 << 20)
        await copies(nodes.a).presync(volume)
        after = await nodes.a.usage(volume)
        if not nodes.traits.enforced:
            assert 0 < after.used <= after.size
            return
        assert after.used - before.used >= 4 << 20
        assert after.size == nodes.traits.size
        assert before.free - after.free >= 4 << 20
        assert after.free <= after.size - after.used

    async def test_behind_a_closed_gate_nothing_is_done(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        nodes.gate.close()
        for verb in (
            lambda: nodes.a.publish(volume, token),
            lambda: nodes.a.backend.destroy(volume, token),
            lambda: copies(nodes.a).seal(volume, token),
            lambda: copies(nodes.b).expect(volume, token, ()),
        ):
            with pytest.raises(GateClosed):
                await verb()
        assert await nodes.a.here(volume) == Away()


class CopiesContract(TreesContract):
    """All of it, for back ends whose snapshots are snapshots. Subclasses give the fixture `nodes`."""

    async def test_a_working_copy_of_an_earlier_epoch_is_set_aside_and_never_used_again(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        taken = await copies(nodes.a).snapshot(volume, token)
        await carry(nodes.a, nodes.b, volume, token, taken)
        (nodes.a.path(volume) / "diverged").write_text("data")
        await nodes.a.backend.unpublish(volume)
        promoted = newer(token)
        await copies(nodes.b).materialise(volume, promoted, taken.guid, token.epoch)
        await nodes.b.publish(volume, promoted)
        (nodes.b.path(volume) / "promoted").write_text("data")
        later = newer(promoted)
        aside = await copies(nodes.a).materialise(volume, later, taken.guid, token.epoch)
        assert (nodes.traits.file(aside) / "diverged").read_text() == "data"
        await nodes.a.publish(volume, later)
        assert list(nodes.a.path(volume).iterdir()) == []


def readable(node: Node) -> Callable[[Volume, Snapshot], AbstractAsyncContextManager[Path]]:
    assert isinstance(node.backend, Readable)
    return node.backend.readable


class ReadableContract:
    """For those that are `Readable` besides. Subclasses give the fixture `nodes`."""

    async def test_a_snapshot_that_is_being_read_is_as_it_was_taken_and_not_pruned(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        (nodes.a.path(volume) / "file").write_text("then")
        taken = await copies(nodes.a).snapshot(volume, token)
        (nodes.a.path(volume) / "file").write_text("now")
        newest = await copies(nodes.a).snapshot(volume, token)
        async with readable(nodes.a)(volume, taken) as path:
            assert (path / "file").read_text() == "then"
            await copies(nodes.a).prune(volume, ())
            assert list(await copies(nodes.a).snapshots(volume)) == [taken, newest]
            assert (path / "file").read_text() == "then"
        await copies(nodes.a).prune(volume, ())
        assert list(await copies(nodes.a).snapshots(volume)) == [newest]
        with pytest.raises(NotFound):
            async with readable(nodes.a)(volume, taken):
                pass
