"""Who may use an agent's sockets."""

from __future__ import annotations

import grp
import socket
import stat
from pathlib import Path

import pytest

from drover.agent import control
from drover.agent.leave import Leave
from drover.agent.sockets import restrict
from drover.coordinator.keys import Keys

GROUP = grp.getgrgid(1).gr_name


def seen(path: Path) -> tuple[int, int]:
    found = path.stat()
    return stat.S_IMODE(found.st_mode), found.st_gid


@pytest.mark.parametrize(("group", "mode", "number"), [(GROUP, 0o660, 1), ("there-is-none", 0o600, 0)])
def test_a_socket_is_for_root_and_the_group_that_there_is(tmp_path: Path, group: str, mode: int, number: int) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        restrict(path, group)
        assert seen(path) == (mode, number)


async def test_the_agents_own_socket_is(tmp_path: Path) -> None:
    async with control.serving(tmp_path, Leave(Keys(), "keep", 1.0, 1.0), GROUP):
        assert seen(tmp_path / control.SOCKET) == (0o660, 1)
