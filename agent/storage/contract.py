"""The suite that a back end must pass whose volumes move by detaching here and attaching there (exclusive block, shared
file). For back ends outside this repository, too; needs pytest, pytest-asyncio and root:

    from drover.agent.storage.contract import Contract
    from drover.agent.storage.two_nodes import Traits, two_nodes

    class TestMine(Contract):
        @pytest.fixture
        async def nodes(self, tmp_path):
            async with two_nodes(lambda node, runner: Mine({...}, node, runner), tmp_path, Traits(...)) as nodes:
                yield nodes

Each test's name is a promise. The helpers, their cgroups, the mounts and what is killed are real.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from drover.agent.storage.base import (
    Away,
    Busy,
    Foreign,
    GateClosed,
    HelperDied,
    Mounted,
    NotFound,
    Superseded,
    Token,
)
from drover.agent.storage.contract_common import Common
from drover.agent.storage.two_nodes import TwoNodes, write_synced, writer

MOMENTS = (0.0, 0.001, 0.004, 0.015)
"""Seconds after its beginning at which a job's helper is killed."""


def newer(token: Token) -> Token:
    """The next epoch, of another incarnation."""
    return replace(token, epoch=token.epoch + 1, incarnation=f"incarnation-{token.epoch + 1}")


async def insist(verb: Callable[[], Awaitable[Any]]) -> None:
    """Once with a helper that may be killed half-way, then again. The kill may also come when that one has answered
    already, and meet it in the next job."""
    for _ in range(2):
        with suppress(HelperDied):
            await verb()
    await verb()


class Contract(Common):
    """Subclasses give the fixture `nodes`."""

    async def test_data_written_on_one_node_is_there_on_the_other_and_back(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        lines = ""
        for node in (nodes.a, nodes.b, nodes.a):
            mounted = await node.publish(volume, token)
            assert mounted.path == node.path(volume)
            assert os.path.ismount(mounted.path)
            file = mounted.path / "log"
            assert (file.read_text() if lines else "") == lines
            lines += f"epoch {token.epoch}\n"
            file.write_text(lines)
            await node.backend.unpublish(volume)
            assert not os.path.ismount(mounted.path)
            token = newer(token)

    async def test_every_volume_is_told_with_its_token_and_who_had_it_last(self, nodes: TwoNodes) -> None:
        first, token = await nodes.volume()
        await nodes.a.publish(first, token)
        await nodes.a.backend.unpublish(first)
        second, another = await nodes.volume()
        await nodes.b.publish(second, newer(another))
        told = {stored.volume.uid: stored for stored in await nodes.b.backend.stored()}
        assert (told[first.uid].volume.dataset, told[first.uid].token) == (first.dataset, token)
        assert (told[second.uid].volume.dataset, told[second.uid].token) == (second.dataset, newer(another))
        assert told[first.uid].born
        assert told[second.uid].born
        assert told[first.uid].holder != told[second.uid].holder
        assert told[first.uid].volume.size > 0

    async def test_publish_is_busy_while_the_other_node_has_it_and_says_where(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        with pytest.raises(Busy) as busy:
            await nodes.b.publish(volume, newer(token))
        assert busy.value.by
        assert busy.value.by in str(busy.value)
        assert await nodes.b.here(volume) == Away()
        (nodes.a.path(volume) / "still").write_text("writable")

    async def test_an_older_epoch_is_refused_and_nothing_is_touched(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.b.publish(volume, newer(token))
        await nodes.b.backend.unpublish(volume)
        before = nodes.traits.stored(volume)
        for verb in (
            lambda: nodes.a.publish(volume, token),
            lambda: nodes.a.backend.create(volume, token),
            lambda: nodes.a.backend.destroy(volume, token),
        ):
            with pytest.raises(Superseded, match="newer than ours"):
                await verb()
        assert await nodes.a.here(volume) == Away()
        assert nodes.traits.stored(volume) == before

    async def test_the_same_epoch_of_another_incarnation_is_refused(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        with pytest.raises(Superseded):
            await nodes.b.publish(volume, replace(token, incarnation="a stranger"))

    async def test_another_clusters_volume_is_refused_and_nothing_is_touched(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        theirs = replace(token, cluster="cluster-2", epoch=9)
        before = nodes.traits.stored(volume)
        for verb in (
            lambda: nodes.b.publish(volume, theirs),
            lambda: nodes.b.backend.create(volume, theirs),
            lambda: nodes.b.backend.destroy(volume, theirs),
        ):
            with pytest.raises(Foreign, match="cluster-1"):
                await verb()
        assert nodes.traits.stored(volume) == before

    async def test_a_newer_epoch_takes_over_what_is_mounted_and_shuts_the_old_one_out(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        first = await nodes.a.publish(volume, token)
        assert await nodes.a.publish(volume, newer(token)) == first
        await nodes.a.backend.unpublish(volume)
        with pytest.raises(Superseded):
            await nodes.a.publish(volume, token)

    async def test_missing_data_is_not_found_and_never_an_empty_file_system(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        assert await nodes.b.backend.reach(volume) is None
        nodes.traits.lose(volume)
        for verb in (lambda: nodes.b.publish(volume, token), lambda: nodes.b.backend.create(volume, token)):
            with pytest.raises(NotFound):
                await verb()
        assert await nodes.b.backend.reach(volume)
        assert await nodes.b.here(volume) == Away()

    async def test_destroy_is_busy_while_it_is_published_on_any_node(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        for node in (nodes.a, nodes.b):
            with pytest.raises(Busy):
                await node.backend.destroy(volume, newer(token))
        (nodes.a.path(volume) / "still").write_text("writable")

    async def test_a_new_dataset_under_an_old_name_is_another_volume(self, nodes: TwoNodes) -> None:
        old, old_token = await nodes.volume("reused")
        await nodes.a.publish(old, old_token)
        (nodes.a.path(old) / "old").write_text("data")
        await nodes.a.backend.unpublish(old)
        new, new_token = await nodes.volume("reused")
        assert new.object != old.object
        await nodes.b.publish(new, new_token)
        assert not (nodes.b.path(new) / "old").exists()
        await nodes.b.backend.unpublish(new)
        await nodes.b.backend.destroy(new, new_token)
        await nodes.b.publish(old, newer(old_token))
        assert (nodes.b.path(old) / "old").read_text() == "data"

    @pytest.mark.parametrize("moment", MOMENTS)
    async def test_whatever_a_killed_helper_left_half_done_is_finished_by_asking_again(
        self, nodes: TwoNodes, moment: float
    ) -> None:
        volume, token = nodes.unmade()
        a, b = nodes.a, nodes.b
        a.runner.kill_after = moment
        await insist(lambda: a.backend.create(volume, token))
        a.runner.kill_after = moment
        await insist(lambda: a.publish(volume, token))
        (a.path(volume) / "kept").write_text("data")
        a.runner.kill_after = moment
        await insist(lambda: a.backend.unpublish(volume))
        assert await a.here(volume) == Away()
        b.runner.kill_after = moment
        await insist(lambda: b.publish(volume, newer(token)))
        assert (b.path(volume) / "kept").read_text() == "data"
        await b.backend.unpublish(volume)
        b.runner.kill_after = moment
        await insist(lambda: b.backend.destroy(volume, newer(token)))
        assert await b.backend.reach(volume)

    async def test_unpublish_of_what_is_not_here_does_nothing(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        await nodes.b.backend.unpublish(volume)
        assert isinstance(await nodes.a.here(volume), Mounted)

    async def test_reach_touches_nothing(self, nodes: TwoNodes) -> None:
        volume, _ = await nodes.volume()
        before, jobs = nodes.traits.stored(volume), nodes.b.runner.jobs
        assert await nodes.b.backend.reach(volume) is None
        assert (nodes.traits.stored(volume), nodes.b.runner.jobs) == (before, jobs)

    async def test_usage_counts_what_is_written(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        before = await nodes.a.usage(volume)
        write_synced(nodes.a.path(volume) / "file", 4 << 20)
        after = await nodes.a.usage(volume)
        assert after.used - before.used >= 4 << 20
        assert after.inodes_used == before.inodes_used + 1
        assert 0.7 * nodes.traits.size < after.size <= nodes.traits.size

    async def test_cut_leaves_nothing_and_what_was_synced_is_there_afterwards(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        write_synced(nodes.a.path(volume) / "synced", 1 << 20)
        assert await nodes.a.cut() == []
        assert await nodes.a.here(volume) == Away()
        before = nodes.traits.stored(volume)
        os.sync()
        assert nodes.traits.stored(volume) == before
        await nodes.b.publish(volume, newer(token))
        assert (nodes.b.path(volume) / "synced").stat().st_size == 1 << 20

    async def test_after_a_cut_no_byte_of_a_writer_that_goes_on_reaches_the_storage(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        with writer(nodes.a.path(volume)) as process:
            unsure = await nodes.a.cut()
            assert f"({process.pid})" in unsure[0]
            before = nodes.traits.stored(volume)
            os.sync()
            await asyncio.sleep(0.3)  # the writer tries every 10 ms
            assert nodes.traits.stored(volume) == before
            assert process.poll() is None
        assert await nodes.a.cut() == []
        assert nodes.traits.stored(volume) == before
        await nodes.b.publish(volume, newer(token))
        assert (nodes.b.path(volume) / "written").stat().st_size > 0

    async def test_cut_of_nothing_is_certain_and_spares_the_other_node(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        assert await nodes.b.cut() == []
        write_synced(nodes.a.path(volume) / "still", 1 << 20)

    async def test_behind_a_closed_gate_nothing_is_done(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        before = nodes.traits.stored(volume)
        nodes.gate.close()
        for verb in (
            lambda: nodes.a.publish(volume, newer(token)),
            lambda: nodes.a.backend.destroy(volume, newer(token)),
        ):
            with pytest.raises(GateClosed):
                await verb()
        assert await nodes.a.here(volume) == Away()
        assert nodes.traits.stored(volume) == before
