"""What the storage contract says of every family: one node, one epoch. Each test's name is a promise."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace

import pytest

from drover.agent.storage.base import Away, Busy, Mounted, NotFound, StorageError, Volume
from drover.agent.storage.two_nodes import TwoNodes


class Common:
    """Subclasses give the fixture `nodes`; the suites of the families are subclasses of this."""

    async def test_create_twice_makes_one_volume(self, nodes: TwoNodes) -> None:
        volume, token = nodes.unmade()
        assert await nodes.a.backend.create(volume, token) == await nodes.a.backend.create(volume, token) != ""

    async def test_create_leaves_a_volume_that_has_data_alone(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        (nodes.a.path(volume) / "kept").write_text("data")
        await nodes.a.backend.unpublish(volume)
        await nodes.a.backend.create(volume, token)
        await nodes.a.publish(volume, token)
        assert (nodes.a.path(volume) / "kept").read_text() == "data"

    async def test_publish_twice_is_publish_once(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        first = await nodes.a.publish(volume, token)
        assert await nodes.a.publish(volume, token) == first == await nodes.a.here(volume)
        await nodes.a.backend.unpublish(volume)
        assert await nodes.a.here(volume) == Away()

    async def test_a_volume_that_was_never_created_is_not_found(self, nodes: TwoNodes) -> None:
        volume, token = nodes.unmade()
        with pytest.raises(NotFound):
            await nodes.a.publish(volume, token)
        assert await nodes.a.backend.reach(volume)

    async def test_destroy_is_final_and_can_be_asked_again(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        for _ in range(2):
            await nodes.a.backend.destroy(volume, token)
        with pytest.raises(NotFound):
            await nodes.a.publish(volume, token)

    async def test_grow_keeps_the_data_and_gives_the_room(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        (nodes.a.path(volume) / "kept").write_text("data")
        before = await nodes.a.usage(volume)
        larger = replace(volume, size=nodes.traits.larger)
        if nodes.traits.grows_mounted:
            for _ in range(2):
                await nodes.a.backend.grow(larger)
        else:
            with pytest.raises(StorageError, match="published the next time"):
                await nodes.a.backend.grow(larger)
            await nodes.a.backend.unpublish(volume)
            await nodes.a.publish(larger, token)
        after = await nodes.a.usage(volume)
        gained = nodes.traits.larger - nodes.traits.size if nodes.traits.enforced else 0
        assert after.size - before.size >= 0.8 * gained
        assert (nodes.a.path(volume) / "kept").read_text() == "data"
        here = await nodes.a.here(volume)
        assert isinstance(here, Mounted)
        assert here.size >= nodes.traits.larger

    async def test_shrinking_is_refused_and_says_what_the_data_needs(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        with pytest.raises(StorageError, match=r"cannot shrink .* the data needs [\d.]+ \w+"):
            await nodes.a.backend.grow(replace(volume, size=nodes.traits.size // 2))

    async def test_unpublish_of_a_busy_mount_says_who_and_works_once_they_are_gone(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        process = subprocess.Popen(["sleep", "60"], cwd=nodes.a.path(volume))  # noqa: ASYNC220
        try:
            with pytest.raises(Busy, match=rf"sleep \({process.pid}\)") as busy:
                await nodes.a.backend.unpublish(volume)
            assert f"sleep ({process.pid})" in busy.value.by
        finally:
            process.kill()
            process.wait()
        await nodes.a.backend.unpublish(volume)
        assert await nodes.a.here(volume) == Away()

    async def test_look_is_local_and_takes_milliseconds_for_200_datasets(self, nodes: TwoNodes) -> None:
        volume, token = await nodes.volume()
        await nodes.a.publish(volume, token)
        others = [Volume(f"other-{n}", f"uid-{n}", nodes.traits.size) for n in range(199)]
        jobs, times = nodes.a.runner.jobs, []
        for _ in range(7):
            started = time.perf_counter()
            found = await nodes.a.backend.look([volume, *others])
            times.append(time.perf_counter() - started)
            assert isinstance(found["pgdata"], Mounted)
            assert [found[other.dataset] for other in others] == [Away()] * 199
        assert nodes.a.runner.jobs == jobs
        assert min(times) < 0.02

    async def test_refusals_say_what_would_do(self, nodes: TwoNodes) -> None:
        traits, backend = nodes.traits, nodes.a.backend
        assert backend.limits.refuse(traits.size, traits.fs) == ""
        assert "at least" in backend.limits.refuse(traits.too_small, traits.fs)
        assert "fat" in backend.limits.refuse(traits.size, "fat")

    async def test_a_sound_node_is_healthy_and_tells_its_capacity(self, nodes: TwoNodes) -> None:
        assert await nodes.a.backend.health() is None
        capacity = await nodes.a.backend.capacity()
        if capacity.size is not None and capacity.free is not None:
            assert 0 <= capacity.free <= capacity.size
