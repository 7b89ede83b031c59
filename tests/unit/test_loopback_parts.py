"""What loopback is made of: tokens, sidecars, the mount table, loop devices, the words between agent and helper."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drover.agent.helper.wire import error_from_wire, error_to_wire, line
from drover.agent.storage import loopdev, mounts
from drover.agent.storage.base import Busy, Damaged, Foreign, StorageError, Superseded, Token, check_token
from drover.agent.storage.sidecar import Sidecar

RECORD = Sidecar("pgdata", "u1", 1 << 30, "xfs", "cluster-1", 3, "incarnation-3", "node-a", True)

tokens = st.builds(Token, st.sampled_from("cd"), st.sampled_from("uv"), st.integers(1, 3), st.sampled_from(["i", "j"]))


def refusal(stored: Token, mine: Token) -> type[StorageError] | None:
    try:
        check_token(stored, mine)
    except StorageError as error:
        return type(error)
    return None


@given(tokens, tokens)
def test_only_the_same_or_a_newer_token_of_the_same_volume_may_touch_data(stored: Token, mine: Token) -> None:
    allowed = replace(mine, epoch=0) == replace(stored, epoch=0, incarnation=mine.incarnation) and (
        mine.epoch > stored.epoch or mine == stored
    )
    assert (refusal(stored, mine) is None) == allowed


@given(tokens, tokens)
def test_of_two_different_tokens_at_most_one_gets_past_the_other(one: Token, other: Token) -> None:
    if one != other:
        assert refusal(one, other) is not None or refusal(other, one) is not None


@given(tokens, tokens)
def test_whose_volume_it_is_comes_before_how_new_it_is(stored: Token, mine: Token) -> None:
    if (stored.cluster, stored.uid) != (mine.cluster, mine.uid):
        assert refusal(stored, mine) is Foreign
    else:
        assert refusal(stored, mine) in (None, Superseded)


def test_a_refused_token_says_what_can_be_done_and_that_is_enough() -> None:
    mine = Token("c", "u", 3, "i")
    with pytest.raises(Foreign, match="copy it into a new dataset"):
        check_token(Token("other", "u", 1, "i"), mine)
    restored = Token("c", "u", 7, "j")
    with pytest.raises(Superseded, match="set the epoch in the token that is stored with the data to 2"):
        check_token(restored, mine)
    check_token(replace(restored, epoch=2), mine)


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "u1.json")
    assert Sidecar.read(path) is None
    RECORD.write(path)
    assert Sidecar.read(path) == RECORD
    assert os.listdir(tmp_path) == ["u1.json"]


def test_a_record_that_cannot_be_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = str(tmp_path / "u1.json")
    RECORD.write(path)
    with limited_files(64), pytest.raises(OSError) as error:
        replace(RECORD, epoch=4).write(path)
    assert error.value.errno == errno.EFBIG
    assert Sidecar.read(path) == RECORD
    assert os.listdir(tmp_path) == ["u1.json"]


class limited_files:
    """No file of this process may become larger than so many bytes."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._size, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: {**record, "format": 2},
        lambda record: {key: value for key, value in record.items() if key != "epoch"},
        lambda record: [],
    ],
    ids=["of a newer format", "incomplete", "something else"],
)
def test_a_record_that_is_not_understood_is_damage_and_not_absence(
    tmp_path: Path, change: Callable[[dict[str, object]], object]
) -> None:
    path = tmp_path / "u1.json"
    RECORD.write(str(path))
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(Damaged, match=r"u1\.json"):
        Sidecar.read(str(path))


@pytest.mark.parametrize("name", ["with space", "back\\slash", "tab\tand ünïcode", "plain"])
def test_the_mount_table_gives_paths_as_they_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir()
    mounts.mount("none", str(path), "tmpfs")
    try:
        [mount] = [mount for mount in mounts.table() if mount.path == str(path)]
        assert (mount.fs, mount.root) == ("tmpfs", "/")
        assert mounts.leads_to(str(path), mount)
        assert not mounts.leads_to(str(tmp_path), mount)
    finally:
        mounts.unmount(str(path))
    assert not mounts.leads_to(str(path), mount)


def test_a_refused_mount_is_an_error_with_number_and_path(tmp_path: Path) -> None:
    with pytest.raises(OSError) as error:
        mounts.mount("none", str(tmp_path), "no-such-fs")
    assert (error.value.errno, error.value.filename) == (errno.ENODEV, str(tmp_path))


def test_loop_devices_that_are_attached_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    def cycle(number: int) -> set[str]:
        path = tmp_path / f"{number}.img"
        path.write_bytes(b"")
        os.truncate(path, 1 << 20)
        with path.open("r+b") as image:
            for _ in range(10):
                loop = loopdev.attach(image.fileno(), direct_io=False)
                assert loop.backing == str(path)
                assert loopdev.backed_by(image.fileno()) == [loop]
                assert loop.size() == 1 << 20
                assert loopdev.detach(loop, 5)
        return {loop.backing for loop in loopdev.scan()}

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(cycle, range(4)))
    assert not [loop for loop in loopdev.scan() if loop.backing.startswith(str(tmp_path))]


def test_a_cut_device_shows_one_sector_and_says_that_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(1 << 20))
    with path.open("r+b") as image:
        loop = loopdev.attach(image.fileno(), direct_io=False)
    try:
        assert not loopdev.is_cut(loop)
        loopdev.cut_off(loop)
        assert loopdev.is_cut(loop)
        assert loop.size() == loopdev.CUT_SIZE
    finally:
        assert loopdev.detach(loop, 5)


def test_a_device_with_an_open_file_is_not_said_to_be_detached(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(1 << 20))
    with path.open("r+b") as image:
        loop = loopdev.attach(image.fileno(), direct_io=False)
    descriptor = os.open(loop.path, os.O_RDONLY)
    try:
        assert not loopdev.detach(loop, 0.05)
        assert loop.attached()
    finally:
        os.close(descriptor)
    assert loopdev.until(lambda: not loop.attached(), 5)


def test_an_image_that_was_removed_is_still_known_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(1 << 20))
    with path.open("r+b") as image:
        attached = loopdev.attach(image.fileno(), direct_io=False)
    path.unlink()
    [loop] = [loop for loop in loopdev.scan() if loop.name == attached.name]
    try:
        assert loop.backing == f"{path} (deleted)"
        assert loop.image == str(path)
    finally:
        assert loopdev.detach(loop, 5)


def test_an_error_survives_the_way_from_helper_to_agent() -> None:
    message = json.loads(line(error_to_wire(Busy("in use", by="somebody"), "f")))
    error = error_from_wire(message)
    assert isinstance(error, Busy)
    assert (str(error), error.by) == ("in use", "somebody")


def test_a_helper_cannot_make_the_agent_raise_whatever_it_likes() -> None:
    with pytest.raises(ValueError, match="no StorageError"):
        error_from_wire({"class": "builtins:SystemExit", "args": [0]})
