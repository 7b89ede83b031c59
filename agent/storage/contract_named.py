"""The suite for back ends that take snapshots for users (named.py). Each test's name is a promise."""

from __future__ import annotations

import secrets
from dataclasses import replace

import pytest

from drover.agent.storage.base import Busy, Foreign, GateClosed, NotFound, Superseded, Token, Volume
from drover.agent.storage.contract import MOMENTS, insist, newer
from drover.agent.storage.named import NamedSnapshots
from drover.agent.storage.two_nodes import Node, TwoNodes


def snapshots(node: Node) -> NamedSnapshots:
    assert isinstance(node.backend, NamedSnapshots)
    return node.backend


async def names(node: Node, volume: Volume) -> list[str]:
    return [one.name for one in await snapshots(node).named(volume)]


class NamedContract:
    """Beside the suite of its family. Subclasses give the fixture `nodes`."""

    async def test_a_named_snapshot_is_of_one_moment_and_taking_it_again_takes_no_other(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        assert await snapshots(nodes.a).named(volume) == []
        (nodes.a.path(volume) / "file").write_text("before")
        first = await snapshots(nodes.a).take(volume, token, "monday")
        (nodes.a.path(volume) / "file").write_text("after")
        again = await snapshots(nodes.a).take(volume, token, "monday")
        assert (again.guid, again.taken) == (first.guid, first.taken)
        await snapshots(nodes.a).take(volume, token, "tuesday")
        assert await names(nodes.a, volume) == ["monday", "tuesday"]
        assert (nodes.a.path(volume) / "file").read_text() == "after"

    async def test_removing_one_leaves_the_others_and_can_be_asked_again(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        for name in ("one", "two"):
            await snapshots(nodes.a).take(volume, token, name)
        for _ in range(2):
            await snapshots(nodes.a).remove(volume, token, "one")
            assert await names(nodes.a, volume) == ["two"]

    async def test_a_clone_begins_with_what_the_snapshot_has_and_neither_writes_to_the_other(
        self, nodes: TwoNodes
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        (nodes.a.path(volume) / "file").write_text("then")
        await snapshots(nodes.a).take(volume, token, "then")
        (nodes.a.path(volume) / "file").write_text("now")
        new = Volume("copy", secrets.token_hex(8), nodes.traits.larger)
        mine = Token("cluster-1", new.uid, 1, "incarnation-1")
        made = [await snapshots(nodes.a).clone(volume, "then", new, mine) for _ in range(2)]
        assert made[0] == made[1] != ""
        new = replace(new, object=made[0])
        await nodes.a.publish(new, mine)
        assert (nodes.a.path(new) / "file").read_text() == "then"
        (nodes.a.path(new) / "file").write_text("the clone's")
        assert (nodes.a.path(volume) / "file").read_text() == "now"
        await nodes.a.backend.unpublish(volume)
        await nodes.a.backend.destroy(volume, token)
        assert (nodes.a.path(new) / "file").read_text() == "the clone's"

    async def test_restore_keeps_what_was_there_as_a_snapshot_and_can_be_undone(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        file = nodes.a.path(volume) / "file"
        file.write_text("good")
        await snapshots(nodes.a).take(volume, token, "good")
        file.write_text("bad")
        with pytest.raises(Busy):
            await snapshots(nodes.a).restore(volume, token, "good", "before")
        await nodes.a.backend.unpublish(volume)
        for _ in range(2):
            await snapshots(nodes.a).restore(volume, token, "good", "before")
        await nodes.a.publish(volume, token)
        assert file.read_text() == "good"
        file.write_text("written since")
        await nodes.a.backend.unpublish(volume)
        await snapshots(nodes.a).restore(volume, token, "before", "later")
        await nodes.a.publish(volume, token)
        assert file.read_text() == "bad"
        assert sorted(await names(nodes.a, volume)) == ["before", "good", "later"]

    async def test_what_is_not_there_is_not_found_and_changes_nothing(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        (nodes.a.path(volume) / "kept").write_text("data")
        await nodes.a.backend.unpublish(volume)
        new, mine = nodes.unmade("copy")
        for verb in (
            lambda: snapshots(nodes.a).restore(volume, token, "none", "before"),
            lambda: snapshots(nodes.a).clone(volume, "none", new, mine),
        ):
            with pytest.raises(NotFound):
                await verb()
        assert await names(nodes.a, volume) == []
        await nodes.a.publish(volume, token)
        assert (nodes.a.path(volume) / "kept").read_text() == "data"

    async def test_neither_the_past_nor_another_cluster_nor_a_closed_gate_touches_them(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await snapshots(nodes.a).take(volume, token, "kept")
        backend = snapshots(nodes.a)
        other, later = replace(token, cluster="cluster-2"), replace(token, incarnation="another")
        for wrong, refusal in ((other, Foreign), (later, Superseded)):
            for verb in (
                lambda wrong=wrong: backend.take(volume, wrong, "more"),
                lambda wrong=wrong: backend.remove(volume, wrong, "kept"),
                lambda wrong=wrong: backend.restore(volume, wrong, "kept", "before"),
            ):
                with pytest.raises(refusal):
                    await verb()
        with pytest.raises(Superseded):
            await backend.take(volume, newer(token), "more")
        nodes.gate.close()
        with pytest.raises(GateClosed):
            await backend.take(volume, token, "more")
        assert await names(nodes.a, volume) == ["kept"]

    @pytest.mark.parametrize("moment", MOMENTS)
    async def test_what_a_killed_helper_left_half_done_of_them_is_finished_by_asking_again(
        self, nodes: TwoNodes, moment: float
    ) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        file = nodes.a.path(volume) / "file"
        file.write_text("good")
        nodes.a.runner.kill_after = moment
        await insist(lambda: snapshots(nodes.a).take(volume, token, "good"))
        file.write_text("bad")
        await nodes.a.backend.unpublish(volume)
        nodes.a.runner.kill_after = moment
        await insist(lambda: snapshots(nodes.a).restore(volume, token, "good", "before"))
        await nodes.a.publish(volume, token)
        assert file.read_text() == "good"
        assert sorted(await names(nodes.a, volume)) == ["before", "good"]
        new, mine = nodes.unmade("copy")
        nodes.a.runner.kill_after = moment
        await insist(lambda: snapshots(nodes.a).clone(volume, "before", new, mine))
        await nodes.a.publish(new, mine)
        assert (nodes.a.path(new) / "file").read_text() == "bad"
        nodes.a.runner.kill_after = moment
        await insist(lambda: snapshots(nodes.a).remove(volume, token, "good"))
        assert await names(nodes.a, volume) == ["before"]
